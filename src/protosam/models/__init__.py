"""Neural models: what turns a slice and its prompts into a mask, and slices into a volume."""
