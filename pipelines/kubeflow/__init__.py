"""Kubeflow Pipelines from the command line: submit, follow, look, and schedule."""
