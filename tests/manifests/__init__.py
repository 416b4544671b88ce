"""Checks of the Kubernetes manifests: `python -m tests.manifests`, or `make manifests`."""
