"""Prompts that nobody has to click: by one example (P²SAM), by training (ProMISe)."""
