"""Tracking against a real MLflow server."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from calrec import tracking
from calrec.artifacts import MANIFEST, Manifest, write_record

MADE = Manifest(
    "interactions",
    config={"domain": "books", "source": "data/books", "data": {"min_user": 5, "dedup": "first"}},
    counts={"users": 7, "share": 0.5, "name": "text"},
    files={"a": "0"},
)  # fmt: skip


@pytest.fixture
def client(mlflow_server: str, monkeypatch: pytest.MonkeyPatch):
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", f"test-{time.time_ns()}")
    mlflow.set_tracking_uri(mlflow_server)
    yield mlflow.MlflowClient()
    while mlflow.active_run():
        mlflow.end_run()


def runs(client) -> list:
    experiment = client.get_experiment_by_name(os.environ["MLFLOW_EXPERIMENT_NAME"])
    return client.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"])


def folder(tmp_path: Path) -> Path:
    (tmp_path / MANIFEST).write_text("{}")
    (tmp_path / "report.md").write_text("# books")
    (tmp_path / "report.html").write_text("<h1>books</h1>")
    write_record(tmp_path, {"seconds": 1.5})
    return tmp_path


def test_a_step_logs_settings_counts_data_set_files_and_curves(client, tmp_path: Path):
    with tracking.step("ingest", "books") as run:
        run.metrics(3, {"loss": 1.5})
        run.metrics(6, {"loss": 1.25})
        metadata = run.record(MADE, folder(tmp_path))
    (logged,) = runs(client)
    assert logged.info.status == "FINISHED" and logged.info.run_name == "ingest · books"
    assert logged.data.params == {
        "run.domain": "books",
        "run.source": "data/books",
        "data.min_user": "5",
        "data.dedup": "first",
    }
    assert logged.data.metrics == {"users": 7.0, "share": 0.5, "loss": 1.25}
    assert [(m.step, m.value) for m in client.get_metric_history(logged.info.run_id, "loss")] == [(3, 1.5), (6, 1.25)]
    assert {f.path for f in client.list_artifacts(logged.info.run_id)} == {
        MANIFEST, "report.md", "report.html", "report.json",
    }  # fmt: skip
    (data_set,) = logged.inputs.dataset_inputs
    assert (data_set.dataset.name, data_set.dataset.digest) == ("data.books", MADE.digest)
    assert metadata == {"users": 7.0, "share": 0.5, "digest": MADE.digest}


def test_steps_of_a_local_run_hang_under_its_parent(client, monkeypatch: pytest.MonkeyPatch):
    parent, experiment = tracking.start_parent("books")
    monkeypatch.setenv("CALREC_PARENT_RUN", parent)
    with tracking.step("stage2", "books"):
        pass
    tracking.finish_parent(parent, {"targets": ["books"]}, {"books/recall_at_10": 0.5}, "# note")
    first, child = runs(client)
    assert child.data.tags["mlflow.parentRunId"] == parent == first.info.run_id
    assert child.info.run_name == "stage 2 · books" and child.info.experiment_id == experiment
    assert first.info.status == "FINISHED" and first.data.metrics == {"books/recall_at_10": 0.5}


def test_steps_of_a_kubeflow_run_find_one_parent(client, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("KFP_RUN_ID", f"abc-{time.time_ns()}")
    for domain in ("books", "toys"):
        with tracking.step("ingest", domain):
            pass
    parent, *children = runs(client)
    assert parent.data.tags["kfp.run_id"] == os.environ["KFP_RUN_ID"]
    assert {c.data.tags["mlflow.parentRunId"] for c in children} == {parent.info.run_id} and len(children) == 2


def test_parallel_first_steps_share_one_parent(client, monkeypatch: pytest.MonkeyPatch):
    code = "from calrec import tracking\nwith tracking.step('ingest', 'x'): pass"
    environment = {**os.environ, "KFP_RUN_ID": f"race-{time.time_ns()}"}
    tracking._experiment(tracking._mlflow())
    steps = [subprocess.Popen([sys.executable, "-c", code], env=environment) for _ in range(3)]
    assert [step.wait(120) for step in steps] == [0, 0, 0]
    parents = [run for run in runs(client) if "kfp.run_id" in run.data.tags]
    children = [run for run in runs(client) if "mlflow.parentRunId" in run.data.tags]
    assert len(parents) == 1 and {c.data.tags["mlflow.parentRunId"] for c in children} == {parents[0].info.run_id}


def test_the_run_that_kfp_made_for_the_task_is_adopted(client, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    experiment = client.create_experiment(os.environ["MLFLOW_EXPERIMENT_NAME"])
    given = client.create_run(experiment, run_name="task of kfp")
    client.log_param(given.info.run_id, "domain", '"books"')  # kfp logs the bare input names
    monkeypatch.setenv("MLFLOW_RUN_ID", given.info.run_id)
    monkeypatch.setenv("CALREC_PARENT_RUN", "not used")
    with tracking.step("ingest", "books") as run:
        run.record(MADE, folder(tmp_path))
    (logged,) = runs(client)
    assert logged.info.run_id == given.info.run_id and logged.data.metrics["users"] == 7
    assert logged.data.params["run.domain"] == "books"


def test_a_failing_step_ends_failed(client):
    with pytest.raises(RuntimeError), tracking.step("ingest", "books"):
        raise RuntimeError
    assert runs(client)[0].info.status == "FAILED"


def test_sigterm_ends_the_run_killed(client, tmp_path: Path):
    code = (
        "import time; from calrec import tracking\nwith tracking.step('a'):\n print('up', flush=True); time.sleep(60)"
    )
    step = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert step.stdout and step.stdout.readline() == "up\n"
    step.send_signal(signal.SIGTERM)
    assert step.wait(60) == 143
    assert runs(client)[0].info.status == "KILLED"


# --- without a server -------------------------------------------------------------------------------------------


def test_without_a_server_nothing_is_logged_or_said(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    with tracking.step("ingest", "books") as run:
        run.metrics(1, {"loss": 1.0})
        assert run.record(MADE, tmp_path)["digest"] == MADE.digest
    assert capsys.readouterr() == ("", "")


def dead_server() -> str:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def test_a_dead_server_costs_a_warning_and_seconds_not_the_step(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    code = "from calrec import tracking\nwith tracking.step('a') as run:\n run.metrics(1, {'a': 1.0})\nprint('went on')"
    environment = {**os.environ, "MLFLOW_TRACKING_URI": dead_server()}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout == "went on\n"
    assert done.stderr.count("this step goes on without it") == 1
    environment["CALREC_TRACKING"] = "required"
    assert (
        subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, timeout=60).returncode == 1
    )


def test_parameters_are_flat_and_prefixed():
    assert tracking.flat({"stage2": {"steps": 5, "domains": ["a", "b"]}, "targets": ("x",)}) == {
        "stage2.steps": "5", "stage2.domains": "a,b", "run.targets": "x",
    }  # fmt: skip
