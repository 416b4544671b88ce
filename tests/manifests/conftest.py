"""What renders the manifests is no Python package."""

import shutil

import pytest


@pytest.fixture(autouse=True, scope="session")
def _kubectl() -> None:
    if not shutil.which("kubectl"):
        pytest.skip("kubectl is not installed; it renders the manifests, without a cluster")
