"""A stage as a TrainJob, against an API server of our own that stores TrainJobs and does what their command says."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from calrec import runs, storage, trainjob
from calrec.artifacts import read_manifest
from calrec.config import LaunchConfig, StageConfig
from calrec.exchange import RESULT, STOPPED, Exchange
from pipelines.compiling import compile_training, load
from tests.test_launch import train

JOBS = "/apis/trainer.kubeflow.org/v1alpha1/namespaces/shop/trainjobs"


class Api(ThreadingHTTPServer):
    """TrainJobs by name. `ends` is what becomes of a new one: "" stays as it is, "run" runs its command here."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.jobs: dict[str, dict[str, Any]] = {}
        self.requests: list[str] = []
        self.ends, self.message, self.refusal = "", "", 0
        self.pods: list[subprocess.Popen[bytes]] = []

    def start(self, job: dict[str, Any]) -> None:
        if self.ends == "run":
            threading.Thread(target=self.run, args=(job,), daemon=True).start()
        elif self.ends:
            self.end(job, self.ends)

    def run(self, job: dict[str, Any]) -> None:
        trainer = job["spec"]["trainer"]
        given = {one["name"]: one["value"] for one in trainer["env"] if "value" in one}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        torch = {"PET_NNODES": "1", "PET_NPROC_PER_NODE": str(trainer.get("numProcPerNode", 1)), "PATH": path}
        pod = subprocess.Popen(trainer["command"], env={**os.environ, **given, **torch})
        self.pods.append(pod)
        self.end(job, "Failed" if pod.wait() else "Complete")

    def end(self, job: dict[str, Any], kind: str) -> None:
        job["status"] = {"conditions": [condition("Suspended", "False"), condition(kind, "True", self.message)]}


def condition(kind: str, status: str, message: str = "") -> dict[str, str]:
    return {"type": kind, "status": status, "reason": "Test", "message": message, "lastTransitionTime": "2026-01-01T0Z"}


class Handler(BaseHTTPRequestHandler):
    server: Api

    def do_POST(self) -> None:
        job = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = job["metadata"]["name"]
        if not self._refused(name):
            if name in self.server.jobs:
                self._answer(409, {"message": "already exists"})
            else:
                self.server.jobs[name] = job
                self.server.start(job)
                self._answer(201, job)

    def do_GET(self) -> None:
        name = self.path.removeprefix(f"{JOBS}/")
        if not self._refused(name):
            found = self.server.jobs.get(name)
            self._answer(200 if found else 404, found or {"message": "not found"})
            if found and "deletionTimestamp" in found["metadata"]:  # its pods are gone at the second look
                del self.server.jobs[name]

    def do_DELETE(self) -> None:
        name = self.path.partition("?")[0].removeprefix(f"{JOBS}/")
        self.server.jobs[name]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        self.server.requests.append(f"DELETE {name}")
        assert "propagationPolicy=Foreground" in self.path
        self._answer(200, {})

    def _refused(self, name: str) -> bool:
        self.server.requests.append(f"{self.command} {name}".strip())
        if self.server.refusal:
            self._answer(self.server.refusal, {"message": "trainjobs is forbidden"})
        if self.server.refusal >= 500:
            self.server.refusal = 0
            return True
        return bool(self.server.refusal)

    def _answer(self, code: int, body: Any) -> None:
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    with Api() as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        at = {"server": f"http://127.0.0.1:{server.server_port}"}
        context = {"cluster": "c", "user": "u", "namespace": "shop"}
        named = {"clusters": {"cluster": at}, "users": {"user": {}}, "contexts": {"context": context}}
        config = {kind: [{"name": kind[0], **value}] for kind, value in named.items()}
        (tmp_path / "kubeconfig").write_text(yaml.safe_dump({"current-context": "c", **config}))
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
        monkeypatch.setattr(trainjob, "FIRST_PAUSE_S", 0.1)
        monkeypatch.setattr(trainjob, "LONGEST_PAUSE_S", 1.0)
        yield server
        server.shutdown()


def start(small: SimpleNamespace, tmp_path: Path, **settings: Any) -> Any:
    checkpoints = str(tmp_path / "mirror")
    return train(small, tmp_path / "out", checkpoints=checkpoints, launcher="trainjob", **settings)[0]


def test_the_model_of_a_trainjob_is_that_of_this_process(
    api: Api, small: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    api.ends = "run"
    here, _ = train(small, tmp_path / "here")
    assert start(small, tmp_path) == here == read_manifest(tmp_path / "out", "model")
    assert storage.folder(str(tmp_path / "mirror")).names() == []
    assert len(api.jobs) == 1  # it stays, with its logs


def test_a_job_that_ended_makes_room_for_a_new_one_of_its_name(api: Api):
    cluster = trainjob.Cluster(lambda _: None)
    body = trainjob.resource("one", "/mnt/one", "stage1", LaunchConfig(launcher="trainjob"))
    for kind in ("Complete", "Failed"):
        cluster.begin(body)
        api.end(api.jobs["one"], kind)
    assert api.requests == ["POST one", "POST one", "GET one", "DELETE one", "POST one", "GET one", "POST one"]


def test_the_resource_has_only_fields_that_trainer_knows(monkeypatch: pytest.MonkeyPatch):
    from kubeflow_trainer_api.models import TrainerV1alpha1TrainJob as TrainJob

    for name in [name for name in os.environ if name.startswith(("MLFLOW_", "CALREC_"))]:
        monkeypatch.delenv(name)
    environment = {
        "CALREC_IMAGE": "shop/calrec@sha256:1", "MLFLOW_TRACKING_URI": "http://mlflow", "MLFLOW_RUN_ID": "r",
        "MLFLOW_TRACKING_PASSWORD": "hidden", "KFP_RUN_ID": "run-1",
    }  # fmt: skip
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    launch = LaunchConfig(launcher="trainjob", processes=4, nodes=2, runtime="TrainingRuntime/ours")
    made = trainjob.resource("calrec-stage1-1", "gs://shop/jobs/1", "stage1", launch)
    assert TrainJob.from_dict(made).to_dict() == made
    assert made["spec"]["runtimeRef"]["kind"] == "TrainingRuntime" and made["spec"]["runtimeRef"]["name"] == "ours"
    trainer = made["spec"]["trainer"]
    assert (trainer["numNodes"], trainer["numProcPerNode"], trainer["image"]) == (2, 4, "shop/calrec@sha256:1")
    assert trainer["resourcesPerNode"] == {"limits": {"nvidia.com/gpu": "4"}}
    assert [one["name"] for one in trainer["env"]] == [
        "CALREC_IMAGE",
        "MLFLOW_TRACKING_PASSWORD",
        "MLFLOW_TRACKING_URI",
    ]
    assert "hidden" not in json.dumps(made) and made["metadata"]["labels"]["pipeline/runid"] == "run-1"
    plain = trainjob.resource("calrec-stage1-1", "/mnt/jobs/1", "stage1", LaunchConfig(launcher="trainjob"))
    assert TrainJob.from_dict(plain).to_dict() == plain and "resourcesPerNode" not in plain["spec"]["trainer"]
    assert plain["spec"]["runtimeRef"]["kind"] == "ClusterTrainingRuntime"


def test_a_failed_job_says_why_and_stays_for_its_logs(api: Api, small: SimpleNamespace, tmp_path: Path):
    api.ends, api.message = "Failed", "pod calrec-node-0-0 exited with 1"
    with pytest.raises(
        ChildProcessError, match=r"pod calrec-node-0-0 exited with 1.*kubectl logs -n shop -l .*calrec-"
    ):
        start(small, tmp_path)
    (name,) = api.jobs
    assert not any(request.startswith("DELETE") for request in api.requests)
    with pytest.raises(ChildProcessError):
        start(small, tmp_path)
    assert [r for r in api.requests if r.startswith("DELETE")] == [f"DELETE {name}"] and list(api.jobs) == [name]


def test_the_error_of_a_process_is_quoted(
    api: Api, small: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    api.ends = "run"
    with pytest.raises(ChildProcessError, match=r"ValueError: \d+ users can train, fewer than batch_size"):
        start(small, tmp_path, stage=StageConfig(batch_size=4096))


def test_a_retry_finds_the_running_job_of_the_first_attempt(api: Api, capsys: pytest.CaptureFixture[str]):
    cluster = trainjob.Cluster(lambda _: None)
    body = trainjob.resource("one", "/mnt/one", "stage1", LaunchConfig(launcher="trainjob"))
    cluster.begin(body)
    cluster.begin(body)
    assert api.requests == ["POST one", "POST one", "GET one"]
    assert "TrainJob one runs already; waiting for it" in capsys.readouterr().out
    api.message = "done"
    api.end(api.jobs["one"], "Complete")
    assert cluster.wait("one") == ("Complete", "done")


def test_a_suspended_job_is_waited_for_with_ever_longer_pauses(api: Api, capsys: pytest.CaptureFixture[str]):
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 12:
            api.end(api.jobs["one"], "Complete")

    cluster = trainjob.Cluster(sleep)
    cluster.begin(trainjob.resource("one", "/mnt/one", "stage1", LaunchConfig(launcher="trainjob")))
    api.jobs["one"]["status"] = {"conditions": [condition("Suspended", "True", "no room in the queue")]}
    assert cluster.wait("one")[0] == "Complete"
    assert pauses == pytest.approx([min(0.1 * 1.5**n, 1.0) for n in range(12)])
    assert capsys.readouterr().out == "TrainJob one: suspended, no room in the queue\n"


@pytest.mark.parametrize(
    ("code", "error", "message"),
    [
        (403, PermissionError, "give this step's service account a Role with create, get and delete on trainjobs"),
        (404, ValueError, "no TrainJobs in this cluster .*install Kubeflow Trainer v2"),
        (422, ValueError, "TrainJob refused, create: trainjobs is forbidden; check launch.runtime and the image"),
    ],
)
def test_what_the_cluster_refuses_has_a_remedy(api: Api, code: int, error: type[Exception], message: str):
    api.refusal = code
    with pytest.raises(error, match=message):
        trainjob.Cluster().begin(trainjob.resource("one", "/mnt/one", "stage1", LaunchConfig(launcher="trainjob")))


def test_a_server_that_fails_once_is_asked_again(api: Api):
    cluster, api.refusal = trainjob.Cluster(lambda _: None), 503
    cluster.begin(trainjob.resource("one", "/mnt/one", "stage1", LaunchConfig(launcher="trainjob")))
    assert api.requests == ["POST one", "POST one"] and list(api.jobs) == ["one"]


def test_without_a_cluster_the_remedy_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(ValueError, match="no cluster for the TrainJob .*set KUBECONFIG"):
        trainjob.Cluster()


def test_processes_that_stopped_after_a_checkpoint_are_no_failure(api: Api, tmp_path: Path):
    api.ends = "Failed"
    exchange = Exchange(str(tmp_path / "one"))
    exchange.write(STOPPED, "")
    body = trainjob.resource("one", exchange.uri, "stage1", LaunchConfig(launcher="trainjob"))
    with pytest.raises(SystemExit) as stop:
        trainjob._train(trainjob.Cluster(lambda _: None), body, exchange)
    assert stop.value.code == 75 and not exchange.has(RESULT)


def test_sigterm_deletes_the_job_and_exits_with_75(api: Api, small: SimpleNamespace, tmp_path: Path):
    command = [
        sys.executable, "-m", "calrec.cli", "finetune", "--run", "tiny", "--set", "launch.launcher=trainjob",
        "--texts", str(small.texts), "--tokens", str(small.tokens), "--model", str(small.base),
        "--checkpoints", str(tmp_path / "mirror"), "--out", str(tmp_path / "out"),
    ]  # fmt: skip
    step = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not api.jobs:
        assert step.poll() is None
        time.sleep(0.02)
    step.send_signal(signal.SIGTERM)
    assert "run the same command again to go on" in step.communicate(timeout=60)[1]
    assert step.returncode == 75
    assert all("deletionTimestamp" in job["metadata"] for job in api.jobs.values())


def test_the_pods_of_a_training_know_their_image_and_are_started_again(tmp_path: Path):
    documents = load(compile_training(runs.tiny(), tmp_path, image="shop/calrec@sha256:abc"))
    executors = documents[0]["deploymentSpec"]["executors"]
    known = {name: executor["container"].get("env") for name, executor in executors.items()}
    image = [{"name": "CALREC_IMAGE", "value": "shop/calrec@sha256:abc"}]
    assert {name for name, env in known.items() if env == image} == {
        "exec-finetune", "exec-finetune-2", "exec-finetune-3",
    }  # fmt: skip
    tasks = documents[0]["root"]["dag"]["tasks"] | documents[0]["components"]["comp-calrec-target"]["dag"]["tasks"]
    assert {name for name, task in tasks.items() if "retryPolicy" in task} == {"finetune", "finetune-2"}
    assert "CALREC_CHECKPOINTS" in json.dumps(documents[1])
