"""The MLflow of the manifests, started as the rendered Deployment says, by its very commands and variables."""

import base64
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from calrec.artifacts import read_manifest, read_verified
from calrec.promote.version import example
from tests.database import POSTGRES, free_port, postgres
from tests.manifests.rendering import Object, render
from tests.versions import GATE, RETRIEVE, Judged, judged

ENVIRONMENT = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONUNBUFFERED": "1"}


@dataclass
class Cluster:
    """The objects of an overlay, and how they are changed to run on this machine."""

    objects: list[Object]
    folder: Path
    change: Callable[[str], str]
    variables: dict[str, str]
    port: int = 0

    def find(self, kind: str, name: str) -> Object:
        """An object; of generated ones the name has a hash at its end."""
        (one,) = [o for o in self.objects if o["kind"] == kind and re.sub("-[a-z0-9]{10}$", "", _name(o)) == name]
        return one

    def run(self, container: Object) -> subprocess.Popen[str]:
        """Start the command of a container with its variables, in an empty folder."""
        command = [self.change(word) for word in [*container["command"], *container["args"]]]
        home = self.folder / container["name"]
        home.mkdir(exist_ok=True)
        environment = {**ENVIRONMENT, "HOME": str(home), **self._environment(container), **self.variables}
        with (self.folder / "log").open("a") as log:
            return subprocess.Popen(
                command, cwd=home, env={k: self.change(v) for k, v in environment.items()}, text=True,
                stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def _environment(self, container: Object) -> dict[str, str]:
        found = {}
        for source in container.get("envFrom", []):
            found |= self.data("Secret", source["secretRef"]["name"])
        for variable in container.get("env", []):
            if "value" in variable:
                found[variable["name"]] = variable["value"]
                continue
            ((kind, source),) = variable["valueFrom"].items()
            kind = {"configMapKeyRef": "ConfigMap", "secretKeyRef": "Secret"}[kind]
            found[variable["name"]] = self.data(kind, source["name"])[source["key"]]
        return found

    def data(self, kind: str, name: str) -> dict[str, str]:
        """What is in a ConfigMap or Secret; every GENERATED is a password that the auth app takes."""
        (one,) = [o for o in self.objects if o["kind"] == kind and _name(o) == name]
        plain = {k: v if kind == "ConfigMap" else base64.b64decode(v).decode() for k, v in one["data"].items()}
        return {k: v.replace("GENERATED", "generated-password") for k, v in plain.items()}

    def ask(self, path: str, host: str = "mlflow.calrec:5000", user: str = "", password: str = "") -> tuple[int, str]:
        """Status and text of one request."""
        headers = {"Host": host}
        if user:
            headers["Authorization"] = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def log(self) -> str:
        """The end of what was written."""
        return (self.folder / "log").read_text()[-3000:]


def _name(one: Object) -> str:
    return str(one["metadata"]["name"])


@contextmanager
def deployed(cluster: Cluster) -> Iterator[Cluster]:
    """Run the init container, then the server, then the Job that makes the account of the steps."""
    pod = cluster.find("Deployment", "mlflow")["spec"]["template"]["spec"]
    (migrate,), (server,) = pod["initContainers"], pod["containers"]
    (users,) = cluster.find("Job", "mlflow-users")["spec"]["template"]["spec"]["containers"]
    assert cluster.run(migrate).wait(120) == 0, cluster.log()
    process = cluster.run(server)
    try:
        probe = server["startupProbe"]["httpGet"]
        host = {header["name"]: header["value"] for header in probe["httpHeaders"]}["Host"]
        for _ in range(240):
            try:
                assert cluster.ask(probe["path"], host)[0] == 200
                break
            except OSError:
                assert process.poll() is None, cluster.log()
                time.sleep(0.5)
        else:
            raise AssertionError(f"the server does not answer: {cluster.log()}")
        assert cluster.run(users | {"args": []}).wait(120) == 0, cluster.log()
        yield cluster
    finally:
        os.killpg(process.pid, 15)
        process.wait(30)


def here(overlay: str, folder: Path, variables: dict[str, str], database: str = "") -> Cluster:
    """An overlay with its files below `folder`.

    Args:
        overlay: its name.
        folder: for what is written.
        variables: what is elsewhere on this machine.
        database: a URI instead of the overlay's, empty to keep it.
    """
    port, objects = free_port(), render(overlay)
    files = {"/etc/mlflow": ("mlflow-auth", "basic_auth.ini"), "/scripts": ("mlflow-users", "users.py")}

    def change(text: str) -> str:
        text = text.replace("--host=0.0.0.0", "--host=127.0.0.1").replace("--port=5000", f"--port={port}")
        text = text.replace("--workers=2", "--workers=1").replace("http://mlflow:5000", f"http://localhost:{port}")
        for place in [*files, "/artifacts"]:
            text = re.sub(f"^{place}", f"{folder}{place}", text)
        text = text.replace("gs://BUCKET", "gs://shop")
        return text.replace("postgresql+psycopg2://", database) if database else text

    cluster = Cluster(objects, folder, change, variables, port)
    for place, (name, file) in files.items():
        (folder / place[1:]).mkdir(parents=True)
        (folder / place[1:] / file).write_text(change(cluster.find("ConfigMap", name)["data"][file]))
    (folder / "artifacts").mkdir()
    return cluster


@pytest.fixture(scope="module")
def gke_with_sqlite(tmp_path_factory: pytest.TempPathFactory, emulator: str) -> Iterator[Cluster]:
    """The artifacts are in a bucket, the database is no PostgreSQL."""
    folder = tmp_path_factory.mktemp("mlflow")
    variables = {"STORAGE_EMULATOR_HOST": emulator, "GOOGLE_CLOUD_PROJECT": "test"}
    with deployed(here("gke", folder, variables, f"sqlite:///{folder}/mlflow.db")) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def local_with_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if not (POSTGRES / "initdb").exists():
        pytest.skip("PostgreSQL is not installed (apt-get install postgresql)")
    with ExitStack() as stack:
        where = stack.enter_context(postgres())
        work = tmp_path_factory.mktemp("mlflow")
        yield stack.enter_context(deployed(here("local", work, where)))


@pytest.fixture(params=["gke_with_sqlite", pytest.param("local_with_postgres", marks=pytest.mark.long)])
def cluster(request: pytest.FixtureRequest) -> Cluster:
    return request.getfixturevalue(request.param)


def test_it_wants_a_user_and_knows_its_names(cluster: Cluster):
    steps = {"user": "calrec", "password": "generated-password_STEPS"}
    experiments = "/api/2.0/mlflow/experiments/search?max_results=1"
    assert cluster.ask(experiments)[0] == 401
    assert cluster.ask(experiments, user="calrec", password="wrong")[0] == 401
    assert cluster.ask(experiments, user="admin", password="password1234")[0] == 401
    for host in ("mlflow", "mlflow:5000", "mlflow.calrec:5000", "mlflow.calrec.svc.cluster.local:5000", "localhost:80"):
        assert cluster.ask(experiments, host, **steps)[0] == 200, host
    for host in ("evil.example", "mlflow.calrec.evil.example", "10.0.0.7:5000"):
        status, text = cluster.ask(experiments, host, **steps)
        assert status == 403 and "Invalid Host" in text, host


def test_the_settings_of_the_steps_fit_it(cluster: Cluster):
    settings, secret = cluster.data("ConfigMap", "calrec"), cluster.data("Secret", "calrec")
    host = settings["MLFLOW_TRACKING_URI"].removeprefix("http://")
    user, password = secret["MLFLOW_TRACKING_USERNAME"], secret["MLFLOW_TRACKING_PASSWORD"]
    assert cluster.ask("/api/2.0/mlflow/experiments/search?max_results=1", host, user, password)[0] == 200


@pytest.fixture(scope="module")
def made(small: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Judged:
    return judged(tmp_path_factory.mktemp("made"), small)


def test_a_step_logs_a_run_and_a_champion_that_comes_back_whole(
    cluster: Cluster, bucket: Any, made: Judged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Registered, promoted, rolled back and fetched, on this database, with this user's rights, where the files are."""
    from calrec.tracking import promotion, registry, runs

    secret = cluster.data("Secret", "calrec")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://localhost:{cluster.port}")
    monkeypatch.setenv("CALREC_TRACKING", "required")
    for name, value in {"MLFLOW_EXPERIMENT_NAME": "calrec", **secret}.items():
        monkeypatch.setenv(name, value)

    monkeypatch.setenv("KFP_RUN_ID", "0b1c2d3e")
    request = example(made.index)
    with runs.step("promote", "home") as run:
        run.metrics(1, {"recall_at_10": 0.25})
        run.log_request(
            ["home"], [{"domain": "home", "uri": "gs://shop/home", "snapshot": "7"}], {"gate": GATE}, "**train**"
        )
        run.table("examples", [{"user_id": "u1", "rank": 2}])
        run.headline("home", {"recall_at_10": 0.25}, "| target |\n| --- |\n| home |", {"home": "0123"})
        own = runs.active()
        first = made.version(tmp_path / "first" / "version")
        said = promotion.register_version(first, request, "s", None, True)
        assert said == "calrec-home version 1 is the champion, the first one"
        rival = registry.champion("home").uri
        second = made.version(tmp_path / "second" / "version", retrieve=replace(RETRIEVE, k=4))
        assert promotion.register_version(second, request, "s", rival, True).endswith("in the place of version 1")
        assert promotion.rollback("home", "a try").startswith("calrec-home version 1 is the champion again")
    champion = registry.champion("home")
    assert champion.number == 1 and champion.tags["calrec.pipeline_run"] == "0b1c2d3e"
    assert {one.number: one.aliases for one in registry.versions("home")} == {1: ("champion",), 2: ("challenger",)}
    assert registry.metrics(champion).items() >= {"mrr": read_manifest(made.evaluation).counts["mrr"]}.items()
    there = registry.download_version(champion.uri)
    assert read_verified(there, "version") == read_manifest(first)
    client = runs.client()
    step = client.get_run(own)
    assert step.data.metrics["recall_at_10"] == 0.25
    assert "examples.json" in [file.path for file in client.list_artifacts(own)]
    parent = client.get_run(step.data.tags["mlflow.parentRunId"])
    assert (parent.info.run_name, parent.info.status) == ("home", "FINISHED")
    assert parent.data.metrics == {"home/recall_at_10": 0.25}
    assert parent.data.tags["mlflow.note.content"] == "| target |\n| --- |\n| home |\n\n**train**"
    assert [one.dataset.digest for one in parent.inputs.dataset_inputs] == ["0123"]
    folders = [path.as_posix() for path in (cluster.folder / "artifacts").rglob("*") if path.is_file()]
    blobs = [blob.name for blob in bucket.list_blobs(prefix="mlflow/")]
    assert not folders or not blobs  # where the overlay says, and nowhere else
    weights = [name for name in folders + blobs if name.endswith("/artifacts/version/model/model.safetensors")]
    assert len(weights) == 2


def test_the_job_gives_a_changed_password_again(cluster: Cluster):
    (users,) = cluster.find("Job", "mlflow-users")["spec"]["template"]["spec"]["containers"]
    experiments = "/api/2.0/mlflow/experiments/search?max_results=1"

    def set_password(password: str) -> None:
        cluster.variables["STEPS_PASSWORD"] = password
        assert cluster.run(users | {"args": []}).wait(120) == 0, cluster.log()
        assert cluster.ask(experiments, user="calrec", password=password)[0] == 200

    set_password("another-password-after-rotation")
    assert cluster.ask(experiments, user="calrec", password="generated-password_STEPS")[0] == 401
    set_password("generated-password_STEPS")
    del cluster.variables["STEPS_PASSWORD"]


def test_the_admin_changes_the_password_by_the_api(cluster: Cluster, monkeypatch: pytest.MonkeyPatch):
    from mlflow.server import get_app_client

    admin, old, new = get_app_client("basic-auth", f"http://localhost:{cluster.port}"), "generated-password", "x" * 20
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    for before, after in ((old, new), (new, old)):
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", before)
        admin.update_user_password("admin", after, before)
        assert cluster.ask("/api/2.0/mlflow/experiments/search?max_results=1", user="admin", password=before)[0] == 401
