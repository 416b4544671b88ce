"""A version of the registry behind HTTP: queries in, ranked items with reasons out."""
