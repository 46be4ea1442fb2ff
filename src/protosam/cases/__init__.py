"""Corrected cases on disk, the layouts of others, and who may be learnt from."""
