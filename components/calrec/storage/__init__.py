"""Local paths, gs://, s3:// and https://: files and folders wherever they lie."""
