"""Generated texts → ranked real items: BM25 and fusion."""
