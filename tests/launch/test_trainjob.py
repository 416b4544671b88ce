"""A stage as a TrainJob: what it says, what it makes, and what is left of it when it ends, well or badly."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from calrec.artifacts import read_manifest
from calrec.config import LaunchConfig, StageConfig, runs
from calrec.finetune.saved import STATE
from calrec.launch import trainjob
from calrec.launch.kubernetes import Cluster
from calrec.launch.shared_folder import RESULT, STOPPED, SharedFolder
from calrec.storage import uris
from tests.launch.test_launch import train
from tests.launch.trainer_api import ROLE, Api, connected
from tests.pipelines.small import IMAGE


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with connected(tmp_path, monkeypatch) as server:
        yield server


def start(small: SimpleNamespace, tmp_path: Path, **settings: Any) -> Any:
    checkpoints = str(tmp_path / "mirror")
    return train(small, tmp_path / "out", checkpoints=checkpoints, launcher="trainjob", **settings)[0]


def test_the_model_of_a_trainjob_is_that_of_this_process(
    api: Api, small: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """With the rights of the manifest's Role and no others; nothing is left in the cluster and the shared folder."""
    api.ends = "run"
    here, _ = train(small, tmp_path / "here")
    written = [line for line in capsys.readouterr().out.splitlines() if "best validation" in line]
    assert start(small, tmp_path) == here == read_manifest(tmp_path / "out", "model")
    assert uris.folder(str(tmp_path / "mirror")).names() == []
    (name,) = {request.split()[1] for request in api.requests}
    assert api.jobs[name]["metadata"]["deletionTimestamp"] and api.requests[-1] == f"delete {name}"
    shown = capsys.readouterr().out.splitlines()
    assert written and [line for line in shown if "best validation" in line] == [f"node-0 | {line}" for line in written]
    assert api.used == ROLE


def test_two_machines_train_one_model(
    api: Api, small: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Two pods, each with torchrun and a disk of its own; node 1 shows what only its machine can say."""
    api.ends = "run"
    made = start(small, tmp_path, nodes=2)
    assert made.counts["ranks"] == 2 and made.counts["steps"] == 4
    shown = capsys.readouterr().out
    assert "TrainJob calrec-stage1-" in shown and "on 2 machines" in shown
    assert all(f"node-{index}: output of pod calrec-stage1-" in shown for index in range(2))
    assert shown.count("best validation") == 1


def test_a_job_is_named_after_run_task_and_inputs(
    small: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """The second attempt has the first one's name; any other task of any run has another."""
    from dataclasses import asdict, replace

    from calrec.launch.stage import Job, Paths

    paths = Paths("texts", "tokens", "model", RESULT)
    job = Job(paths, StageConfig(), small.model, "stage2", ("books",), "ddp", "gs://shop/checkpoints", run="mlflow-1")
    inputs, launch = {"texts": small.texts, "model": small.base}, LaunchConfig(launcher="trainjob")

    def name(job: Job = job, launch: LaunchConfig = launch, inputs: Any = inputs, run: str = "run-1") -> str:
        monkeypatch.setenv("KFP_RUN_ID", run)
        return trainjob._name(asdict(job), inputs, launch)

    assert name() == name(replace(job, run="mlflow-2"))
    odd = "Büro & Schreibwaren / 文具 " * 20
    others = [
        name(run="run-2"), name(replace(job, name="refit")), name(replace(job, name="stage1")),
        name(replace(job, domains=("toys",))), name(replace(job, domains=(odd,))), name(replace(job, domains=())),
        name(replace(job, stage=StageConfig(seed=7))), name(launch=replace(launch, nodes=2)),
        name(inputs={**inputs, "model": small.tokens}),
    ]  # fmt: skip
    monkeypatch.setenv("CALREC_IMAGE", "REGISTRY/calrec@sha256:2")
    others.append(name())
    assert len({name(), *others}) == len(others) and name() == others[-1]
    # What Trainer and JobSet take: a label of RFC 1035, also with what JobSet appends for the pods.
    label = re.compile(r"[a-z][-a-z0-9]*[a-z0-9]")
    assert all(label.fullmatch(one) and len(f"{one}-node-0-9999-abcde") <= 63 for one in others)


def test_the_resource_has_only_fields_that_trainer_knows(monkeypatch: pytest.MonkeyPatch):
    from kubeflow_trainer_api.models import TrainerV1alpha1TrainJob as TrainJob

    told(
        monkeypatch, CALREC_IMAGE="shop/calrec@sha256:1", MLFLOW_TRACKING_URI="http://mlflow", MLFLOW_RUN_ID="r",
        MLFLOW_TRACKING_PASSWORD="hidden", KFP_RUN_ID="run-1", CALREC_TIME_LIMIT="3600",
        AWS_ENDPOINT_URL="http://minio:9000", AWS_SECRET_ACCESS_KEY="hidden",
    )  # fmt: skip
    launch = LaunchConfig(launcher="trainjob", processes=4, nodes=2, runtime="TrainingRuntime/ours")
    made = trainjob.resource("calrec-stage1-1", "gs://shop/jobs/1", "stage1", launch)
    assert TrainJob.from_dict(made).to_dict() == made
    assert made["spec"]["runtimeRef"]["kind"] == "TrainingRuntime" and made["spec"]["runtimeRef"]["name"] == "ours"
    trainer = made["spec"]["trainer"]
    assert (trainer["numNodes"], trainer["numProcPerNode"], trainer["image"]) == (2, 4, "shop/calrec@sha256:1")
    assert trainer["resourcesPerNode"] == {"limits": {"nvidia.com/gpu": "4"}}
    sized = dataclasses.replace(launch, cpu="8", memory="32Gi", accelerator="amd.com/gpu")
    sized_job = trainjob.resource("calrec-stage1-1", "gs://shop/jobs/1", "stage1", sized)
    limits = {"cpu": "8", "memory": "32Gi", "amd.com/gpu": "4"}
    assert sized_job["spec"]["trainer"]["resourcesPerNode"] == {"limits": limits}
    assert [one["name"] for one in trainer["env"]] == [
        "CALREC_IMAGE",
        "MLFLOW_TRACKING_URI",
        "AWS_ENDPOINT_URL",
        "MLFLOW_TRACKING_PASSWORD",
        "AWS_SECRET_ACCESS_KEY",
    ]
    assert made["spec"]["activeDeadlineSeconds"] == 3600
    assert "hidden" not in json.dumps(made) and made["metadata"]["labels"]["pipeline/runid"] == "run-1"
    plain = trainjob.resource("calrec-stage1-1", "/mnt/jobs/1", "stage1", LaunchConfig(launcher="trainjob"))
    assert TrainJob.from_dict(plain).to_dict() == plain and "resourcesPerNode" not in plain["spec"]["trainer"]
    assert plain["spec"]["runtimeRef"]["kind"] == "ClusterTrainingRuntime"


def told(monkeypatch: pytest.MonkeyPatch, **environment: str) -> None:
    """The step's environment: of MLflow's, the stores' and our variables these alone."""
    for name in [name for name in os.environ if name.startswith(("MLFLOW_", "CALREC_", "AWS_"))]:
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


def of(job: Any) -> dict[str, Any]:
    return {one["name"]: one for one in job["spec"]["trainer"]["env"]}


def test_a_trainjob_shows_no_secret_and_nothing_that_is_not_on_the_list(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    secrets = dict.fromkeys(trainjob._SECRETS, "hunter2")
    others = dict.fromkeys(("MLFLOW_S3_SECRET", "CALREC_MY_KEY", "MLFLOW_AWS_KEY"), "hunter2")
    usual = {"MLFLOW_TRACKING_URI": "http://mlflow:5000", "CALREC_TRACKING": "required", "KFP_RUN_ID": "run-1"}
    told(monkeypatch, **secrets, **others, **usual)
    made = trainjob.resource("one", "gs://shop/jobs/1", "stage1", LaunchConfig(launcher="trainjob"))
    assert "hunter2" not in json.dumps(made) and "activeDeadlineSeconds" not in made["spec"]
    assert set(of(made)) == {"MLFLOW_TRACKING_URI", "CALREC_TRACKING", *secrets}
    for name in secrets:
        source = of(made)[name]["valueFrom"]["secretKeyRef"]
        assert source == {"name": "calrec", "key": name, "optional": True}
    said = capsys.readouterr().out
    assert said == (
        "TrainJob: its pods are not told CALREC_MY_KEY, MLFLOW_AWS_KEY, MLFLOW_S3_SECRET; set it in the image or the "
        "runtime\n"
    )
    monkeypatch.delenv("KFP_RUN_ID")  # no pod of a pipeline: the password was not that of the Secret
    trainjob.resource("one", "gs://shop/jobs/1", "stage1", LaunchConfig(launcher="trainjob"))
    assert f"its pods take {', '.join(trainjob._SECRETS)} from Secret calrec, not from here" in capsys.readouterr().out


@pytest.mark.parametrize("uri", ["http://me:hunter2@mlflow:5000", "https://mlflow/?token=hunter2"])
def test_a_password_in_an_address_is_refused_before_anything_is_sent(
    api: Api, small: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str
):
    told(monkeypatch, MLFLOW_TRACKING_URI=uri)
    with pytest.raises(ValueError, match=r"MLFLOW_TRACKING_URI=http.*….* has a user.*Secret calrec") as refusal:
        launch = LaunchConfig(launcher="trainjob")
        job = {"name": "stage1", "checkpoints": str(tmp_path / "mirror")}
        trainjob.run(job, {"texts": small.texts}, tmp_path / "out", launch)
    assert "hunter2" not in str(refusal.value) and not api.requests and not (tmp_path / "mirror").exists()


def test_a_training_that_cannot_be_seen_any_more_is_left_to_the_next_attempt(api: Api, tmp_path: Path):
    """The API refuses for good what it had allowed: the job may well be training."""
    exchange = SharedFolder(str(tmp_path / "one"))
    body = trainjob.resource("one", exchange.uri, "stage1", LaunchConfig(launcher="trainjob"))

    def sleep(_: float) -> None:
        api.starting = [401, 403] * 8

    with pytest.raises(ConnectionError, match="TrainJob one was left as it was: the same command goes on with it"):
        trainjob._train(Cluster(sleep), body, exchange)
    assert "deletionTimestamp" not in api.jobs["one"]["metadata"]
    assert not any(request.startswith("delete") for request in api.requests)
    api.starting, uid = [], api.jobs["one"]["metadata"]["uid"]
    trainjob._train(Cluster(lambda _: api.end("one", "Complete")), body, exchange)
    assert api.jobs["one"]["metadata"]["uid"] == uid


def test_a_failed_job_without_output_says_why_and_stays_for_its_logs(api: Api, small: SimpleNamespace, tmp_path: Path):
    api.ends, api.message = "Failed", "pod calrec-node-0-0 exited with 1"
    with pytest.raises(
        ChildProcessError, match=r"pod calrec-node-0-0 exited with 1.*kubectl logs -n shop -l .*calrec-"
    ):
        start(small, tmp_path)
    (name,) = api.jobs
    assert not any(request.startswith("delete") for request in api.requests)
    with pytest.raises(ChildProcessError):
        start(small, tmp_path)
    assert [r for r in api.requests if r.startswith("delete")] == [f"delete {name}"] and list(api.jobs) == [name]


def test_a_failed_job_stays_when_its_output_may_not_be_read(api: Api, small: SimpleNamespace, tmp_path: Path):
    api.ends, api.message, api.output = "Failed", "exited with 1", ["Traceback"]
    api.allowed.remove(("get", "pods/log"))
    with pytest.raises(ChildProcessError, match=r"exited with 1.*kubectl logs -n shop -l .*calrec-"):
        start(small, tmp_path)
    assert len(api.jobs) == 1 and not any(request.startswith("delete") for request in api.requests)


def test_a_failed_job_whose_output_was_shown_is_deleted(
    api: Api, small: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    api.ends, api.message, api.output = "Failed", "exited with 1", ["Traceback", "OSError: disk full"]
    with pytest.raises(ChildProcessError, match=r"exited with 1.*its output is above"):
        start(small, tmp_path)
    assert "node-0 | Traceback\nnode-0 | OSError: disk full\n" in capsys.readouterr().out
    (job,) = api.jobs.values()
    assert job["metadata"]["deletionTimestamp"] and api.requests[-1] == f"delete {job['metadata']['name']}"


@pytest.mark.long
def test_the_error_of_a_process_is_quoted_and_shown(
    api: Api, small: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    api.ends = "run"
    with pytest.raises(ChildProcessError, match=r"ValueError: \d+ users can train, fewer than batch_size"):
        start(small, tmp_path, stage=StageConfig(batch_size=4096))
    assert re.search(r"node-0 \| .*users can train, fewer than batch_size", capsys.readouterr().out)


@pytest.mark.long
def test_a_step_that_was_killed_after_the_training_only_takes_the_model(
    api: Api, small: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The job of the attempt before is deleted by the one that gets the model."""
    api.ends = "run"
    with monkeypatch.context() as patch:
        patch.setattr(SharedFolder, "download", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            start(small, tmp_path)
    assert not any(request.startswith("delete") for request in api.requests)
    made = start(small, tmp_path)
    assert made == read_manifest(tmp_path / "out", "model")
    assert [request.split()[0] for request in api.requests].count("create") == 1
    assert api.requests[-1].startswith("delete calrec-stage1-")


def test_processes_that_stopped_after_a_checkpoint_are_no_failure(api: Api, tmp_path: Path):
    api.ends = "Failed"
    exchange = SharedFolder(str(tmp_path / "one"))
    exchange.write(STOPPED, "")
    body = trainjob.resource("one", exchange.uri, "stage1", LaunchConfig(launcher="trainjob"))
    with pytest.raises(SystemExit) as stop:
        trainjob._train(Cluster(lambda _: None), body, exchange)
    assert stop.value.code == 75 and not exchange.has(RESULT)


@pytest.mark.long
def test_sigterm_deletes_the_job_and_the_same_command_goes_on(api: Api, small: SimpleNamespace, tmp_path: Path):
    """The job's pods write a checkpoint when they are told to stop; the next attempt waits for that."""
    api.ends = "run"
    settings = {"steps": 150, "batch_size": 8, "valid_every": 0, "checkpoint_every": 5, "threads": 1, "patience": 0}
    (tmp_path / "settings.json").write_text(json.dumps({"stage1": settings, "launch": {"launcher": "trainjob"}}))
    command = [
        sys.executable, "-m", "calrec.cli", "finetune", "--run", "tiny", "--settings", str(tmp_path / "settings.json"),
        "--texts", str(small.texts), "--tokens", str(small.tokens), "--model", str(small.base),
        "--checkpoints", str(tmp_path / "mirror"), "--out", str(tmp_path / "out"),
    ]  # fmt: skip
    first = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    while not any(name.endswith(f"/{STATE}") for name in uris.folder(str(tmp_path / "mirror")).names()):
        assert first.poll() is None
        time.sleep(0.02)
    first.send_signal(signal.SIGTERM)
    told = first.communicate(timeout=60)[1]
    assert "calrec: interrupted after a checkpoint; run the same command again to go on" in told
    assert first.returncode == 75 and "Fatal Python error" not in told
    assert all("deletionTimestamp" in job["metadata"] for job in api.jobs.values())
    second = subprocess.run(command, capture_output=True, text=True)
    assert second.returncode == 0, second.stderr
    assert "node-0 | stage1: going on after step" in second.stdout
    assert uris.folder(str(tmp_path / "mirror")).names() == []
    assert read_manifest(tmp_path / "out").counts["steps"] == 150 and not api.orphans


def test_the_pods_of_a_training_know_their_image_and_are_started_again(tmp_path: Path):
    from pipelines.compiling import compile_pipeline, load

    documents = load(compile_pipeline("training", runs.tiny(), tmp_path, image=IMAGE))
    executors = documents[0]["deploymentSpec"]["executors"]
    image = {"name": "CALREC_IMAGE", "value": IMAGE}
    trained = {name for name, executor in executors.items() if "def finetune(" in json.dumps(executor)}
    assert len(trained) == 3
    assert trained == {name for name, executor in executors.items() if image in executor["container"].get("env", [])}
    components = documents[0]["components"]
    dags = [one["dag"]["tasks"].values() for one in (documents[0]["root"], *components.values()) if "dag" in one]
    labels = [(components[task["componentRef"]["name"]].get("executorLabel"), task) for dag in dags for task in dag]
    tasks = [task for label, task in labels if label in trained]
    assert len(tasks) == 3 and all("retryPolicy" in task for task in tasks)
    assert "CALREC_CHECKPOINTS" in json.dumps(documents[1]) and "KFP_RUN_ID" in json.dumps(documents[1])
