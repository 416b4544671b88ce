"""Small real inputs that several tests share: a handful of users and items through the real steps."""

import gzip
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

# Before torch is loaded: else the threads of two workers wait busily for each other, and tests take far longer.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ |= {"OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "1000"}

import numpy as np
import pytest

from calrec.config import DataConfig, ModelConfig, TextConfig
from tests.database import POSTGRES, free_port, postgres
from tests.web import Web, serving

REPO = Path(__file__).parents[1]
# Real data sets that may not be redistributed; tests that need them skip where they are absent.
SHARED = Path(os.environ.get("CALREC_SHARED", REPO.parent / "shared"))


POSTGRES_URI = "postgresql+psycopg2://mlflow@/mlflow"  # host, port and password are in libpq's variables
EMULATOR = """
import sys
from gcp_storage_emulator.server import create_server
create_server("127.0.0.1", int(sys.argv[1]), in_memory=True, default_bucket="shop").run()
"""


# What a file of tests mentions when it starts a process or a server, speaks to a store, reads a real data set, draws
# samples until their distribution can be told, or compares with another program.
_STARTS = re.compile(
    r"subprocess|multiprocessing|socket|tests\.(web|database|killing)|mlflow|kfp|kubernetes|docker|launcher=|hypothesis"
    r"|nbclient|nbformat|shared\(|p_value|implicit"
)
_SLOW_TO_MAKE = {
    "small",
    "web",
    "bucket",
    "emulator",
    "s3",
    "moto",
    "store",
    "mlflow_server",
    "mlflow_on_postgres",
    "world",
    "trained",
    "api",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as quick what needs no server, store, child process, trained model or large data: `make quick`."""
    texts: dict[Path, bool] = {}
    for item in items:
        if item.path not in texts:
            texts[item.path] = bool(_STARTS.search(item.path.read_text()))
        if not texts[item.path] and not _SLOW_TO_MAKE & set(getattr(item, "fixturenames", ())):
            item.add_marker("quick")


@pytest.fixture(autouse=True)
def _no_tracking(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test writes into a tracking server of the person who runs it."""
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "CALREC_PARENT_RUN", "KFP_RUN_ID"):
        monkeypatch.delenv(name, raising=False)


def shared(*parts: str) -> Path:
    """A shared data set or model, or skip."""
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"{path} is not here: real data that may not be redistributed (set CALREC_SHARED)")
    return path


def write_lines(path: Path, rows: list[Any]) -> Path:
    """A gzip file of JSON lines; a string is written as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt") as stream:
        stream.writelines((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    return path


def write_sequences(folder: Path, users: int = 40, items: int = 12, seed: int = 0, first: int = 0) -> Path:
    """A derived set in which item i is mostly followed by item i + 1; ids are numbered from `first`."""
    rng = np.random.default_rng(seed)
    things = ["lamp", "chair", "desk", "shelf", "sofa", "stool", "rug", "vase", "clock", "frame", "bench", "mirror"]
    colours = ["red", "blue", "green"]
    write_lines(
        folder / "items.jsonl.gz",
        [
            {"item_id": f"i{first + i}", "title": f"{colours[i % 3]} {things[i % 12]} {i // 12}",
             "brand": f"brand {i % 4}", "categories": ["Home", things[i % 12]]}
            for i in range(items)
        ],
    )  # fmt: skip
    rows = []
    for user in range(users):
        at, history = int(rng.integers(items)), []
        for _ in range(int(rng.integers(5, 12))):
            history.append(f"i{first + at}")
            at = (at + 1) % items if rng.random() < 0.8 else int(rng.integers(items))
        rows.append({"user_id": f"u{user}", "items": history})
    write_lines(folder / "sequences.jsonl.gz", rows)
    return folder


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Two small categories, their texts, a tiny model from scratch and its token cache."""
    from calrec.ingest.step import ingest
    from calrec.model.step import base_model
    from calrec.textify.step import textify

    root = tmp_path_factory.mktemp("small")
    for number, domain in enumerate(("home", "garden")):
        source = write_sequences(root / "raw" / domain, users=40 + 10 * number, seed=number, first=12 * number)
        ingest(domain, str(source), root / domain, DataConfig(min_user=3, min_item=1))
    textify([root / "home", root / "garden"], root / "texts", TextConfig(max_tokens=128, max_item_tokens=32))
    model = ModelConfig(size="tiny", vocab_size=400)
    base_model(root / "texts", root / "base", root / "tokens", model)
    return SimpleNamespace(root=root, texts=root / "texts", base=root / "base", tokens=root / "tokens", model=model)


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real MLflow server on loopback with an sqlite store; gives its URI."""
    folder = tmp_path_factory.mktemp("mlflow")
    with mlflow(folder, f"sqlite:///{folder}/mlflow.db") as uri:
        yield uri


@pytest.fixture(scope="session")
def mlflow_on_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The same with a real PostgreSQL, whose columns have lengths."""
    if not (POSTGRES / "initdb").exists():
        pytest.skip("PostgreSQL is not installed (apt-get install postgresql)")
    with postgres() as where, mlflow(tmp_path_factory.mktemp("mlflow"), POSTGRES_URI, where) as uri:
        yield uri


@contextmanager
def mlflow(folder: Path, database: str, variables: Mapping[str, str] | None = None) -> Iterator[str]:
    """A real MLflow server on loopback, with its files in a folder; gives its URI."""
    port = free_port()
    command = [
        sys.executable, "-m", "mlflow", "server", "--backend-store-uri", database,
        "--artifacts-destination", str(folder / "artifacts"), "--workers", "1", "--port", str(port),
    ]  # fmt: skip
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **(variables or {})}
    environment.pop("MLFLOW_TRACKING_URI", None)
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            _wait_for(f"http://127.0.0.1:{port}/health", server, folder / "server.log")
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(server.pid, 15)
            server.wait(30)


def _wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(240):
        if server.poll() is not None:
            break
        try:
            urllib.request.urlopen(url, timeout=2)
            return
        except OSError:
            time.sleep(0.5)
    raise RuntimeError(f"the MLflow server did not start: {log.read_text()[-2000:]}")


@pytest.fixture(scope="session")
def emulator() -> Iterator[str]:
    """A process of its own: pyarrow holds the interpreter's lock while it waits for a server."""
    yield from _serving("-c", EMULATOR, str(port := free_port()), port=port)


@pytest.fixture(scope="session")
def moto() -> Iterator[str]:
    """A store that speaks as Amazon S3 does, in a process of its own."""
    yield from _serving("-m", "moto.server", "-p", str(port := free_port()), port=port)


def _serving(*command: str, port: int) -> Iterator[str]:
    log = subprocess.DEVNULL
    server = subprocess.Popen([sys.executable, *command], stdout=log, stderr=log)
    try:
        for _ in range(400):
            with socket.socket() as probe:
                if not probe.connect_ex(("127.0.0.1", port)):
                    break
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait(10)


@pytest.fixture
def bucket(emulator: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    from google.cloud import storage as gcs

    urllib.request.urlopen(f"{emulator}/wipe?keep-buckets=1").close()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", emulator)
    return gcs.Client(project="test").bucket("shop")


@pytest.fixture
def s3(moto: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Bucket `shop` of an S3 store, empty, as boto3 speaks to it; the environment leads there."""
    import boto3

    urllib.request.urlopen(urllib.request.Request(f"{moto}/moto-api/reset", method="POST")).close()
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a-name")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    client = boto3.client("s3", region_name="us-east-1")
    client.create_bucket(Bucket="shop")
    return client


@dataclass(frozen=True)
class Store:
    """Bucket `shop` of one of the two kinds of stores."""

    root: str
    put: Callable[[str, bytes], Any]
    delete: Callable[[str], Any]


@pytest.fixture(params=["gs", "s3"])
def store(request: pytest.FixtureRequest) -> Store:
    if request.param == "s3":
        s3 = request.getfixturevalue("s3")
        return Store(
            "s3://shop",
            lambda name, data: s3.put_object(Bucket="shop", Key=name, Body=data),
            lambda name: s3.delete_object(Bucket="shop", Key=name),
        )
    bucket = request.getfixturevalue("bucket")
    return Store(
        "gs://shop",
        lambda name, data: bucket.blob(name).upload_from_string(data),
        lambda name: bucket.blob(name).delete(),
    )


@pytest.fixture
def web() -> Iterator[Web]:
    with serving() as server:
        yield server
