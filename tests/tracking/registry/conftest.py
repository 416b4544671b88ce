"""A real MLflow server with a category of the test's own."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from calrec.tracking import promotion
from tests.tracking.registry.world import Versions
from tests.versions import Judged, judged


@pytest.fixture(autouse=True)
def server(mlflow_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The real server, which every test must reach."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "registry")
    monkeypatch.setenv("CALREC_TRACKING", "required")
    monkeypatch.setattr(promotion, "SETTLING", 0.05)  # of tests in which only one run finishes
    return mlflow_server


@pytest.fixture(scope="module")
def made(small: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Judged:
    return judged(tmp_path_factory.mktemp("made"), small)


@pytest.fixture
def target(request: pytest.FixtureRequest) -> str:
    """A category of the test's own."""
    return request.node.name.replace("[", "-").replace("]", "")


@pytest.fixture
def versions(made: Judged, target: str, tmp_path: Path) -> Versions:
    return Versions(made, target, tmp_path)
