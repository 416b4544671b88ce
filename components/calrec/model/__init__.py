"""A name, a folder, a URI or "scratch" → a base model; save and load."""
