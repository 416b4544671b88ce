"""Where a stage trains: the same training in this process and under torchrun, and what comes back from there."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from calrec.artifacts import read_manifest
from calrec.config import LaunchConfig, StageConfig
from calrec.finetune.step import finetune
from calrec.launch import stage as launch
from calrec.launch.shared_folder import JOB, SharedFolder
from calrec.storage import uris
from calrec.tracking import runs

STAGE = StageConfig(steps=4, batch_size=8, valid_every=2, valid_users=8, checkpoint_every=2, threads=1)


def train(small: SimpleNamespace, out: Path, stage: StageConfig = STAGE, checkpoints: str = "", **settings: Any) -> Any:
    """The manifest, and the points of the curves by (step, name)."""
    points: dict[tuple[int, str], float] = {}

    def log(step: int, values: Any) -> None:
        points.update({(step, name): value for name, value in values.items()})

    made = launch.finetune(
        small.texts, small.tokens, small.base, out, stage=stage, tuning=small.model, launch=LaunchConfig(**settings),
        log=log, train=finetune, checkpoints=checkpoints,
    )  # fmt: skip
    return made, points


def curve(points: dict[tuple[int, str], float], name: str) -> dict[int, float]:
    return {step: value for (step, of), value in points.items() if of == name}


def test_torchrun_makes_the_same_model_and_its_curves_come_back(small: SimpleNamespace, tmp_path: Path):
    here, points = train(small, tmp_path / "here")
    there, passed = train(small, tmp_path / "there", launcher="torchrun", processes=1)
    assert there == here and there == read_manifest(tmp_path / "there", "model")
    assert curve(points, "valid_nig") and curve(passed, "valid_nig") == curve(points, "valid_nig")
    assert set(passed) == set(points)


def test_two_processes_train_one_model(small: SimpleNamespace, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    made, points = train(small, tmp_path / "out", processes=2)
    assert made.counts["ranks"] == 2 and made.counts["steps"] == 4
    assert set(curve(points, "valid_nig")) == {0, 2, 4}
    shown = capfd.readouterr().out
    assert "stage1: 2 processes by torchrun" in shown and shown.count("best validation") == 1


def test_an_error_in_a_process_is_the_error_one_sees(small: SimpleNamespace, tmp_path: Path):
    stage = StageConfig(steps=4, batch_size=4096)
    with pytest.raises(ChildProcessError, match=r"exit code 1: ValueError: \d+ users can train, fewer than batch_size"):
        train(small, tmp_path / "out", stage, launcher="torchrun", processes=1)
    assert not (tmp_path / "out").exists()


@pytest.mark.long
def test_sigterm_is_passed_on_and_the_same_command_goes_on(small: SimpleNamespace, tmp_path: Path):
    """The second attempt runs on another machine: of the first one only the mirror is left."""
    settings = {"steps": 60, "batch_size": 8, "valid_every": 0, "checkpoint_every": 5, "threads": 1, "patience": 0}
    (tmp_path / "settings.json").write_text(json.dumps({"stage1": settings, "launch": {"processes": 2}}))
    command = [
        sys.executable, "-m", "calrec.cli", "finetune", "--run", "tiny", "--settings", str(tmp_path / "settings.json"),
        "--texts", str(small.texts), "--tokens", str(small.tokens), "--model", str(small.base),
        "--checkpoints", str(tmp_path / "mirror"), "--out",
    ]  # fmt: skip
    first = subprocess.Popen([*command, str(tmp_path / "first/out")], stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "mirror").exists() or not uris.folder(str(tmp_path / "mirror")).names():
        assert first.poll() is None
        time.sleep(0.02)
    first.send_signal(signal.SIGTERM)
    told = first.communicate(timeout=60)[1].splitlines()
    assert first.returncode == 75 and not (tmp_path / "first/out").exists()
    line = "calrec: interrupted after a checkpoint; run the same command again to go on"
    assert told[-1] == line and told.count(line) == 1
    second = subprocess.run([*command, str(tmp_path / "second/out")], capture_output=True, text=True)
    assert second.returncode == 0, second.stderr
    assert "stage1: going on after step" in second.stdout
    assert uris.folder(str(tmp_path / "mirror")).names() == []
    assert read_manifest(tmp_path / "second/out").counts["steps"] == 60


# --- which launcher ---------------------------------------------------------------------------------------------


def test_a_process_of_torchrun_starts_no_others(monkeypatch: pytest.MonkeyPatch):
    assert launch._launcher(LaunchConfig(processes=2), 5) == "torchrun"
    assert launch._launcher(LaunchConfig(), 5) == "local"
    assert launch._launcher(LaunchConfig(launcher="trainjob", nodes=2), 5) == "trainjob"
    assert launch._launcher(LaunchConfig(launcher="trainjob"), 0) == "local"
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert launch._launcher(LaunchConfig(launcher="torchrun", processes=2), 5) == "local"


def test_processes_that_the_launcher_does_not_start_are_refused():
    with pytest.raises(ValueError, match=r"launch.processes = 2 needs launch.launcher = torchrun or trainjob"):
        launch._launcher(LaunchConfig(launcher="local", processes=2), 5)


def test_a_trainjob_needs_a_place_that_all_machines_reach(small: SimpleNamespace, tmp_path: Path):
    with pytest.raises(ValueError, match=r"give --checkpoints gs://BUCKET/FOLDER"):
        train(small, tmp_path / "out", launcher="trainjob")


# --- the shared folder ------------------------------------------------------------------------------------------


@pytest.fixture(params=["folder", "bucket"])
def exchange(request: pytest.FixtureRequest, tmp_path: Path) -> SharedFolder:
    if request.param == "bucket":
        request.getfixturevalue("bucket")
        return SharedFolder("gs://shop/jobs/one/")
    return SharedFolder(str(tmp_path / "jobs/one"))


def test_texts_and_folders_go_through_it(small: SimpleNamespace, exchange: SharedFolder, tmp_path: Path):
    assert exchange.read(JOB) == "" and not exchange.has(JOB)
    exchange.write(JOB, "{}")
    exchange.upload(small.base, "model")
    exchange.download("model", tmp_path / "copy")
    assert read_manifest(tmp_path / "copy") == read_manifest(small.base) and exchange.read(JOB) == "{}"
    exchange.remove("model")
    with pytest.raises(FileNotFoundError, match=r"jobs/one/model: no manifest.json there"):
        exchange.download("model", tmp_path / "copy")
    exchange.remove()
    assert not exchange.has(JOB)


def test_a_half_uploaded_folder_is_none(small: SimpleNamespace, exchange: SharedFolder):
    exchange.write("model/config.json", "{}")
    assert not exchange.has("model")
    exchange.upload(small.base, "model")
    assert exchange.has("model")


def test_a_copy_that_was_damaged_is_no_folder(small: SimpleNamespace, exchange: SharedFolder, tmp_path: Path):
    exchange.upload(small.base, "model")
    exchange.write("model/config.json", "{}")
    with pytest.raises(ValueError, match=r"jobs/one/model is damaged: .*config.json changed after .*; remove it there"):
        exchange.download("model", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_a_machines_first_process_fetches_for_all(
    small: SimpleNamespace, exchange: SharedFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    exchange.upload(small.base, "model")
    here = exchange.fetch(["model"], local_rank=0)
    assert exchange.fetch(["model"], local_rank=1) == here
    assert read_manifest(here / "model") == read_manifest(small.base)


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/../../evil", "a\\evil"])
def test_a_name_that_leads_out_is_not_fetched(
    small: SimpleNamespace, exchange: SharedFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    exchange.upload(small.base, "model")
    there = [*exchange._files.names(), f"model/{name}"]  # neither a disk nor the emulator keeps such a name
    monkeypatch.setattr(exchange._files, "names", lambda: there)
    with pytest.raises(ValueError, match="is no path below its folder; rename the file"):
        exchange.download("model", tmp_path / "a/b/copy")
    assert not list(tmp_path.rglob("evil*")) and not (tmp_path / "a/b/copy").exists()


def test_curves_of_another_machine_reach_the_run_that_waits(
    mlflow_server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
    import mlflow

    with runs.step("stage1"):
        run = runs.active()
        code = f"from calrec.tracking import runs; runs.join_run({run!r}).metrics(3, {{'loss': 1.5}})"
        subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "RANK": "0"})
        client = mlflow.MlflowClient()
        assert client.get_run(run).info.status == "RUNNING"
    assert [(m.step, m.value) for m in client.get_metric_history(run, "loss")] == [(3, 1.5)]
    assert client.get_run(run).info.status == "FINISHED" and runs.active() == ""
    monkeypatch.setenv("RANK", "1")
    with runs.step("stage1") as second:
        assert runs.active() == "" and second.record(None, tmp_path) == {}
