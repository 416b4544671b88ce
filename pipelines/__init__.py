"""The DAGs that compose the steps of `calrec`; never shipped in an image."""

PIPELINES = ("training", "batch")
