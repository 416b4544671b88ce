"""Arrays of rows of different lengths, and loops over them as machine code."""
