"""All that knows MLflow: runs, the parent run of a pipeline, the registry of models."""
