"""Local paths, gs:// and https://: files and folders wherever they lie."""
