"""Tracking against a real MLflow server."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from calrec.artifacts import MANIFEST, Manifest, write_record
from calrec.config import SplitConfig
from calrec.tracking import mlflow_client
from calrec.tracking import runs as tracking
from tests import killing

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
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "false")
    yield mlflow.MlflowClient()
    while mlflow.active_run():
        mlflow.end_run()


def runs(client) -> list:
    experiment = client.get_experiment_by_name(os.environ["MLFLOW_EXPERIMENT_NAME"])
    return client.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"])


def datasets(run) -> list[tuple[str, str]]:
    return [(one.dataset.name, one.dataset.digest) for one in run.inputs.dataset_inputs]


def parent_of_all(client):
    (parent,) = [run for run in runs(client) if "kfp.run_id" in run.data.tags]
    return parent


def start(code: str) -> subprocess.Popen[str]:
    """A process in a step, which goes on when a line comes in."""
    step = subprocess.Popen(
        [sys.executable, "-c", f"from calrec.tracking import runs as tracking\n{code}"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert step.stdout and step.stdout.readline() == "up\n"
    return step


WAIT = "print('up', flush=True); input()"


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
    assert datasets(logged) == [("data.books", MADE.digest)]
    assert logged.data.tags["mlflow.note.content"] == "# books"
    assert metadata == {"users": 7.0, "share": 0.5, "digest": MADE.digest}


def test_steps_of_a_local_run_hang_under_its_parent(client, monkeypatch: pytest.MonkeyPatch):
    parent, experiment = tracking.start_parent("books")
    monkeypatch.setenv("CALREC_PARENT_RUN", parent)
    with tracking.step("stage2", "books"):
        pass
    assert client.get_run(parent).info.status == "RUNNING"  # its steps do not end it
    tracking.finish_parent(parent, {"seconds": 1.5})
    first, child = runs(client)
    assert child.data.tags["mlflow.parentRunId"] == parent == first.info.run_id
    assert child.info.run_name == "stage 2 · books" and child.info.experiment_id == experiment
    assert first.info.status == "FINISHED" and first.data.metrics == {"seconds": 1.5}


def test_steps_of_a_kubeflow_run_find_one_parent(client, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("KFP_RUN_ID", f"abc-{time.time_ns()}")
    for domain in ("books", "toys"):
        with tracking.step("ingest", domain):
            pass
    parent, *children = runs(client)
    assert parent.data.tags["kfp.run_id"] == os.environ["KFP_RUN_ID"]
    assert {c.data.tags["mlflow.parentRunId"] for c in children} == {parent.info.run_id} and len(children) == 2


def test_parallel_first_steps_share_one_parent(client, monkeypatch: pytest.MonkeyPatch):
    code = "from calrec.tracking import runs as tracking\nwith tracking.step('ingest', 'x'): pass"
    environment = {**os.environ, "KFP_RUN_ID": f"race-{time.time_ns()}"}
    mlflow_client.experiment()
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
    step = start(f"with tracking.step('a'): {WAIT}")
    step.send_signal(signal.SIGTERM)
    assert step.wait(60) == 143
    assert runs(client)[0].info.status == "KILLED"


# --- what a step logs -------------------------------------------------------------------------------------------


def test_a_second_output_has_a_folder_of_its_own(client, tmp_path: Path):
    tokens = Manifest("tokens", config={"form": "units"}, counts={"items": 3}, files={"b": "1"})
    for name in ("base", "tokens"):
        (tmp_path / name).mkdir()
        (tmp_path / name / MANIFEST).write_text(name)
    with tracking.step("base_model") as run:
        run.record(Manifest("model", counts={"parameters": 9}, files={"c": "2"}), tmp_path / "base")
        run.record(tokens, tmp_path / "tokens")
    (logged,) = runs(client)
    read = [client.download_artifacts(logged.info.run_id, path) for path in (MANIFEST, f"tokens/{MANIFEST}")]
    assert [Path(path).read_text() for path in read] == ["base", "tokens"]
    assert logged.data.tags["calrec.digest.tokens"] == tokens.digest != logged.data.tags["calrec.digest"]
    assert "| parameters | 9 |" in logged.data.tags["mlflow.note.content"]
    assert "| items | 3 |" in logged.data.tags["mlflow.note.content"]


def test_a_stage_is_described_by_its_counts_and_validations(client, tmp_path: Path):
    write_record(tmp_path, {}, [{"step": s, "valid_nig": 2.0 - s / 100} for s in range(100)] + [{"step": 99, "nig": 1}])
    with tracking.step("stage2", "books") as run:
        run.record(Manifest("model", config={"stage": "stage2"}, counts={"users": 7, "threads": 2}), tmp_path)
    (logged,) = runs(client)
    said = logged.data.tags["mlflow.note.content"].splitlines()
    assert said[2:6] == ["| count |  |", "| --- | ---: |", "| users | 7 |", "| threads | 2 |"]
    rows = said[said.index("## Validations") + 4 :]
    assert len(rows) == 12 and rows[0] == "| 0 | 2.0000 |" and rows[-1] == "| 99 | 1.0100 |"
    assert logged.data.metrics == {"users": 7} and logged.data.params == {"run.stage": "stage2", "run.threads": "2"}


def test_a_long_report_is_cut_at_a_line(client, tmp_path: Path):
    (tmp_path / "report.md").write_text("a line\n" * 1000)
    with tracking.step("evaluate", "books") as run:
        run.record(Manifest("evaluation"), tmp_path)
    *lines, _, last = runs(client)[0].data.tags["mlflow.note.content"].split("\n")
    assert last == "… the rest is in report.md, among the artifacts"
    assert set(lines) == {"a line"} and 4900 < 7 * len(lines) <= 5000 and "report.md" in last


def test_figures_and_a_table_of_examples_are_logged(client, tmp_path: Path):
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "loss.svg").write_text("<svg/>")
    with tracking.step("evaluate", "books") as run:
        run.record(Manifest("evaluation"), tmp_path)
        run.table("examples", [{"user_id": "1", "rank": 3}, {"user_id": "2", "rank": 0}])
        run.table("nothing", [])
    (logged,) = runs(client)
    found = {f.path for f in client.list_artifacts(logged.info.run_id)}
    assert found == {"figures", "examples.json"}
    table = json.loads(Path(client.download_artifacts(logged.info.run_id, "examples.json")).read_text())
    assert table == {"columns": ["user_id", "rank"], "data": [["1", 3], ["2", 0]]}


@pytest.mark.parametrize("wanted", ["", "false"])
def test_a_step_logs_what_the_machine_does_unless_told_not_to(client, wanted: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING")
    if wanted:
        monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", wanted)
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    with tracking.step("stage1"):
        (own,) = runs(client)
        while not wanted and "system/cpu_utilization_percentage" not in client.get_run(own.info.run_id).data.metrics:
            pass
    kept = [name for name in runs(client)[0].data.metrics if name.startswith("system/")]
    assert bool(kept) == (not wanted)


# --- the parent of a run in a cluster ---------------------------------------------------------------------------


@pytest.fixture
def in_a_cluster(client, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("KFP_RUN_ID", f"abcdefgh-{time.time_ns()}")
    mlflow_client.experiment()
    return client


def status(client) -> str:
    return parent_of_all(client).info.status


def test_the_parent_runs_while_a_step_runs(in_a_cluster):
    with tracking.step("ingest", "books"):
        assert status(in_a_cluster) == "RUNNING"
    assert status(in_a_cluster) == "FINISHED"
    other = start(f"with tracking.step('ingest', 'toys'): {WAIT}")
    with tracking.step("textify"):
        pass
    assert status(in_a_cluster) == "RUNNING"  # because of the other
    other.communicate("\n", timeout=60)
    assert status(in_a_cluster) == "FINISHED"


def test_a_step_that_failed_counts_until_it_is_repeated_well(in_a_cluster):
    with pytest.raises(RuntimeError), tracking.step("ingest", "books"):
        raise RuntimeError
    with tracking.step("ingest", "toys"):
        pass
    assert status(in_a_cluster) == "FAILED"
    with tracking.step("ingest", "books"):
        assert status(in_a_cluster) == "RUNNING"
    assert status(in_a_cluster) == "FINISHED"


def test_a_step_that_was_told_to_end_leaves_the_parent_killed(in_a_cluster):
    step = start(f"with tracking.step('a'): {WAIT}")
    step.send_signal(signal.SIGTERM)
    assert step.wait(60) == 143 and status(in_a_cluster) == "KILLED"


def test_a_step_that_died_without_a_word_is_ended_by_its_next_attempt(in_a_cluster):
    first = start(f"with tracking.step('stage2', 'books'): {WAIT}")
    first.kill()
    assert first.wait(60) == -signal.SIGKILL and status(in_a_cluster) == "RUNNING"
    with tracking.step("stage2", "toys"):  # another step's death is not its own
        pass
    assert status(in_a_cluster) == "RUNNING"
    with tracking.step("stage2", "books"):
        assert [run.info.status for run in runs(in_a_cluster)[1:]] == ["KILLED", "FINISHED", "RUNNING"]
    _, *steps = runs(in_a_cluster)
    assert steps[0].data.tags["calrec.followed_by"] == steps[2].info.run_id
    assert [(run.info.run_name, run.info.status) for run in steps] == [
        ("stage 2 · books", "KILLED"), ("stage 2 · toys", "FINISHED"), ("stage 2 · books", "FINISHED"),
    ]  # fmt: skip
    assert status(in_a_cluster) == "FINISHED"


def test_an_attempt_in_a_run_that_kfp_made_ends_the_one_before(client, monkeypatch: pytest.MonkeyPatch):
    experiment = client.create_experiment(os.environ["MLFLOW_EXPERIMENT_NAME"])
    parent = client.create_run(experiment).info.run_id
    given = [client.create_run(experiment, tags={"mlflow.parentRunId": parent}).info.run_id for _ in range(2)]
    monkeypatch.setenv("MLFLOW_RUN_ID", given[0])
    first = start(f"with tracking.step('stage2', 'books'): {WAIT}")
    first.kill()
    first.wait(60)
    monkeypatch.setenv("MLFLOW_RUN_ID", given[1])
    with tracking.step("stage2", "books"):
        assert [client.get_run(run).info.status for run in given] == ["KILLED", "RUNNING"]


def test_who_ends_a_local_run_ends_the_steps_that_died_in_it(client, monkeypatch: pytest.MonkeyPatch):
    parent, _ = tracking.start_parent("books")
    monkeypatch.setenv("CALREC_PARENT_RUN", parent)
    step = start(f"with tracking.step('stage2', 'books'): {WAIT}")
    step.kill()
    step.wait(60)
    tracking.finish_parent(parent, {}, "KILLED", "RuntimeError: *no* http://me:secret@host")
    assert [run.info.status for run in runs(client)] == ["KILLED", "KILLED"]
    assert runs(client)[0].data.tags["mlflow.note.content"] == r"RuntimeError: \*no\* http://…@host"


def test_a_step_whose_server_was_away_for_a_while_ends_its_run(client, monkeypatch: pytest.MonkeyPatch):
    with killing.before(os.environ["MLFLOW_TRACKING_URI"]) as proxy:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", proxy.url)
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        with tracking.step("ingest", "books") as run:
            proxy.refused = lambda path: True
            run.note("lost")
            proxy.refused = lambda path: False
    assert runs(client)[0].info.status == "FINISHED"


def test_targets_that_end_together_all_stand_in_the_headline(in_a_cluster):
    code = (
        "with tracking.step('evaluate', '{0}') as run:\n {1}\n"
        " table = '| target | recall |\\n| --- | ---: |\\n| {0} | {2} |'\n"
        " run.headline('{0}', {{'recall': {2}}}, table, {{'log': '{0}'}})"
    )
    names = ["books", "toys & games", "garden", "music"]
    steps = [start(code.format(name, WAIT, number / 4)) for number, name in enumerate(names)]
    for step in steps:
        assert step.stdin
        step.stdin.write("\n")
        step.stdin.flush()
    assert [step.wait(120) for step in steps] == [0, 0, 0, 0]
    parent = parent_of_all(in_a_cluster)
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics == {
        "books/recall": 0.0, "toys _ games/recall": 0.25, "garden/recall": 0.5, "music/recall": 0.75,
    }  # fmt: skip
    assert parent.data.tags["mlflow.note.content"].splitlines() == [
        "| target | recall |", "| --- | ---: |", "| books | 0.0 |", "| garden | 0.5 |", "| music | 0.75 |",
        "| toys & games | 0.25 |",
    ]  # fmt: skip
    assert sorted(datasets(parent)) == [("data.log", name) for name in sorted(names)]


def test_the_parent_says_what_was_asked_and_why(in_a_cluster):
    sources = [{"domain": "toys & games", "uri": "gs://b/t", "snapshot": "7"}]
    with tracking.step("watch") as run:
        run.log_request(["books", "toys & games"], sources, {"split": SplitConfig()}, "**train**\n\n- new data\n")
        run.headline("books", {}, "| target |\n| --- |\n| books |")
        run.headline("books", {}, "| target |\n| --- |\n| books, promoted |")
    with tracking.step("watch") as run:  # tried again, when other data lie there
        run.log_request(["books", "toys & games"], [{**sources[0], "snapshot": "8"}], {}, "**train**\n\n- newer data\n")
    parent = parent_of_all(in_a_cluster)
    assert parent.info.run_name == "books + toys & games" and parent.info.status == "FINISHED"
    assert parent.data.params["run.targets"] == "books,toys & games"
    assert parent.data.params["source.toys _ games"] == "gs://b/t at 7"
    assert parent.data.params["split.kind"] == "leave_last_out"
    assert parent.data.tags["mlflow.note.content"] == (
        "| target |\n| --- |\n| books, promoted |\n\n**train**\n\n- newer data"
    )


def test_a_step_without_a_parent_says_nothing_there(client):
    with tracking.step("evaluate", "books") as run:
        run.headline("books", {"recall": 0.5}, "| target |\n| --- |\n| books |")
    (logged,) = runs(client)
    assert logged.info.status == "FINISHED" and not logged.data.metrics


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
    code = (
        "from calrec.tracking import runs\nwith runs.step('a') as run:\n run.metrics(1, {'a': 1.0})\nprint('went on')"
    )
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
