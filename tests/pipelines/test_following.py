"""What a person sees of a run: its steps, their changes, its end."""

import io
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import kfp_server_api as kfp_api
import pytest
import yaml

from pipelines.compiling import PIPELINES, load
from pipelines.kubeflow.connection import Kubeflow, Settings, connect
from pipelines.kubeflow.following import View, follow, outcome, table
from pipelines.kubeflow.steps import moment, seconds, steps, title
from tests.compiled import compiled
from tests.pipelines import small
from tests.pipelines.kfp_api import faults
from tests.pipelines.kfp_api.server import KfpApi, Task, serving

NESTED: dict[str, Any] = {
    "root": {"dag": {"tasks": {
        "finetune": {"taskInfo": {"name": "Stage 1"}, "componentRef": {"name": "comp-finetune"}},
        "for-loop-1": {"taskInfo": {"name": "for-loop-1"}, "componentRef": {"name": "comp-for-loop-1"}},
    }}},
    "components": {
        "comp-finetune": {"executorLabel": "exec-finetune"},
        "comp-for-loop-1": {"dag": {"tasks": {
            "target": {"taskInfo": {"name": "Target"}, "componentRef": {"name": "comp-target"}},
        }}},
        "comp-target": {"dag": {"tasks": {
            "finetune": {"taskInfo": {"name": "Stage 2"}, "componentRef": {"name": "comp-finetune"}},
            "evaluate": {"taskInfo": {"name": "Evaluate"}, "componentRef": {"name": "comp-finetune"}},
        }}},
    },
}  # fmt: skip


@pytest.fixture
def api() -> Iterator[KfpApi]:
    with serving() as server:
        yield server


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = small.compiled(tmp_path_factory.mktemp("pipeline"))
    return dict(next(yaml.safe_load_all(path.read_text())))


@pytest.fixture
def kubeflow(api: KfpApi) -> Kubeflow:
    return connect(Settings(host=api.url), sleep=lambda _: None)


def start(kubeflow: Kubeflow, pipeline: dict[str, Any]) -> str:
    body = kfp_api.V2beta1Run(display_name="one", pipeline_spec=pipeline)
    return str(kubeflow.runs.run_service_create_run(body).run_id)


def run_of(*tasks: kfp_api.V2beta1PipelineTaskDetail, **fields: Any) -> kfp_api.V2beta1Run:
    details = kfp_api.V2beta1RunDetails(task_details=list(tasks))
    return kfp_api.V2beta1Run(run_id="r", display_name="one", run_details=details, **fields)


def task(name: str, state: str = "SUCCEEDED", at: int = 0, **fields: Any) -> kfp_api.V2beta1PipelineTaskDetail:
    made = datetime(2026, 11, 3, 12, tzinfo=UTC) + timedelta(seconds=at)
    given = {"task_id": f"{name}-{at}", "create_time": made, "start_time": made, **fields}
    return kfp_api.V2beta1PipelineTaskDetail(display_name=name, state=state, **given)


def test_machinery_is_not_shown_and_turns_of_a_loop_are_numbered():
    run = run_of(
        task("one-x8f2z", at=0), task("root-driver", at=1), task("root", at=2), task("finetune-driver", at=3),
        task("target", "RUNNING", at=7), task("target", "PENDING", at=8), task("executor", at=5),
        task("iteration-driver", at=6), task("iteration-iterations(0:0)", at=6),
    )  # fmt: skip
    assert [(step.name, step.state, step.depth) for step in steps(run, NESTED)] == [
        ("Target [1]", "running", 0), ("Target [2]", "pending", 0),
    ]  # fmt: skip
    assert [step.name for step in steps(run_of(task("root"), task("a-driver"), task("a")), {})] == ["a"]


def test_a_server_that_tells_parents_gets_a_tree():
    run = run_of(
        task("finetune", at=0),
        task("for-loop-1", at=1),
        task("iteration-item", at=2, parent_task_id="for-loop-1-1"),
        task("target", at=3, parent_task_id="iteration-item-2"),
        task("finetune", "FAILED", at=4, parent_task_id="target-3", error=kfp_api.GoogleRpcStatus(message="no memory")),
        task("evaluate", "SKIPPED", at=5, parent_task_id="target-3"),
        state="FAILED",
    )
    assert [(step.name, step.depth) for step in steps(run, NESTED)] == [
        ("Stage 1", 0), ("for-loop-1", 0), ("Target", 1), ("Stage 2", 2), ("Evaluate", 2),
    ]  # fmt: skip
    assert outcome(run, NESTED)[1:] == ["  Stage 2 failed: no memory", "    calrec logs r 'Stage 2'"]


def test_without_parents_a_loop_that_failed_is_not_taken_for_a_step():
    run = run_of(
        task("for-loop-1", "FAILED"), task("target", "FAILED", at=1), task("finetune", "FAILED", at=2), state="FAILED"
    )
    assert outcome(run, NESTED)[1:] == ["  finetune failed", "    calrec logs r 'finetune'"]


def test_names_that_two_sub_pipelines_share_are_told_apart_by_the_path():
    assert title(NESTED, ["root", "finetune"]) == "Stage 1"
    assert title(NESTED, ["root", "for-loop-1", "iteration-item", "target", "finetune"]) == "Stage 2"
    assert title(NESTED, ["finetune"]) == "finetune"
    assert title(NESTED, ["evaluate"]) == "Evaluate"
    assert title(NESTED, ["evaluate-driver"]) == "Evaluate (driver)"
    assert title({}, ["root", "anything"]) == "anything"


def test_a_driver_that_failed_is_shown_and_cached_steps_are_counted():
    run = run_of(
        task("evaluate-driver", "FAILED"), task("executor", "SKIPPED", at=1), task("executor", "SKIPPED", at=2),
        state="FAILED",
    )  # fmt: skip
    assert outcome(run, NESTED)[1:] == [
        "  2 steps cached: outputs of an earlier run",
        "  Evaluate (driver) failed",
        "    calrec logs r 'Evaluate (driver)'",
    ]


def test_every_task_of_the_pipelines_has_a_name():
    for pipeline in PIPELINES:
        specification = load(compiled(pipeline))[0]
        parts = [specification["root"], *specification["components"].values()]
        names = [name for part in parts if "dag" in part for name in part["dag"]["tasks"]]
        run = run_of(*(task(name, at=at) for at, name in enumerate(names)))
        assert len(steps(run, specification)) == len(names) > 3


def test_times():
    assert moment(datetime(1970, 1, 1, tzinfo=UTC)) is None and moment(None) is None
    start = datetime(2026, 11, 3, 12, tzinfo=UTC)
    shown = {42: "42 s", 72: "1 m 12 s", 3599: "59 m 59 s", 11100: "3 h 05 m", 0: "0 s"}
    for duration, text in shown.items():
        assert seconds(start, start + timedelta(seconds=duration), start) == text
    assert seconds(None, None, start) == ""
    assert seconds(start, None, start + timedelta(seconds=5)) == "5 s"


def test_the_table_is_aligned():
    start = datetime(2026, 11, 3, 12, tzinfo=UTC)
    run = run_of(
        task("finetune", at=0, end_time=start + timedelta(seconds=72)), task("target", "PENDING", at=9, start_time=None)
    )
    assert table(steps(run, NESTED)) == ["finetune  succeeded  1 m 12 s", "Target    pending"]


def test_each_change_is_one_line(api: KfpApi, kubeflow: Kubeflow, pipeline: dict[str, Any]):
    first, second = "textify", "evaluate"
    run_id = start(kubeflow, pipeline)
    api.hold(
        run_id,
        ("PENDING", []),
        ("RUNNING", [Task(first, "RUNNING")]),
        ("RUNNING", [Task(first, "RUNNING")]),
        ("RUNNING", [Task(first, "SUCCEEDED"), Task(second, "RUNNING")]),
        ("SUCCEEDED", [Task(first, "SUCCEEDED"), Task(second, "SUCCEEDED")]),
    )
    stream = io.StringIO()
    run = follow(kubeflow, run_id, View(stream, pipeline), sleep=lambda _: None)
    assert run.state == "SUCCEEDED"
    lines = [line.split(maxsplit=1)[1] for line in stream.getvalue().splitlines()]
    assert lines == ["Textify  running", "Textify   running → succeeded  0 s", "Evaluate  running",
                     "Evaluate  running → succeeded  0 s"]  # fmt: skip


@pytest.mark.parametrize("end", ["SUCCEEDED", "FAILED", "CANCELED", "SKIPPED"])
def test_every_end_is_an_end(api: KfpApi, kubeflow: Kubeflow, pipeline: dict[str, Any], end: str):
    api.run_script([("textify", "SUCCEEDED")], end=end)
    run = follow(kubeflow, start(kubeflow, pipeline), View(io.StringIO(), pipeline), sleep=lambda _: None)
    assert run.state == end


def test_time_that_is_up_ends_the_following_and_not_the_run(api: KfpApi, kubeflow: Kubeflow, pipeline: dict[str, Any]):
    run_id = start(kubeflow, pipeline)
    api.hold(run_id, ("RUNNING", [Task("textify", "RUNNING")]))
    run = follow(kubeflow, run_id, View(io.StringIO(), pipeline), until=0.0)
    assert run.state == "RUNNING"
    assert not any("terminate" in operation for operation in api.operations)


class Screen(io.StringIO):
    """A terminal that knows the two sequences that we use: n lines up, and clear what is below."""

    def isatty(self) -> bool:
        return True

    def lines(self) -> list[str]:
        import re

        shown: list[str] = []
        for up, text in re.findall(r"\x1b\[(\d+)A\x1b\[J|([^\x1b]+)", self.getvalue()):
            shown = shown[: -int(up)] if up else shown + text.splitlines()
        return shown


def test_a_terminal_shows_one_table_and_what_was_said(api: KfpApi, kubeflow: Kubeflow, pipeline: dict[str, Any]):
    first, second = "textify", "evaluate"
    run_id = start(kubeflow, pipeline)
    api.hold(
        run_id,
        ("RUNNING", [Task(first, "RUNNING")]),
        ("RUNNING", [Task(first), Task(second, "RUNNING")]),
        ("SUCCEEDED", [Task(first), Task(second)]),
    )
    api.faults.append(faults.status(503))
    screen = Screen()
    follow(kubeflow, run_id, View(screen, pipeline), sleep=lambda _: None)
    said, again, *rows = screen.lines()
    assert "503" in said and "answers again" in again
    assert [row.split()[0] for row in rows] == ["Textify", "Evaluate"]
    assert all("succeeded" in row for row in rows)


def test_a_table_longer_than_the_terminal_keeps_its_end(
    api: KfpApi, kubeflow: Kubeflow, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("LINES", "6")
    monkeypatch.setenv("COLUMNS", "20")
    run = run_of(*(task("evaluate", at=at) for at in range(9)))
    screen = Screen()
    view = View(screen, NESTED)
    view.show(run)
    view.show(run)
    rows = screen.lines()
    assert rows[0] == "… 6 more above" and len(rows) == 4 and rows[-1].startswith("Evaluate [9]")
    assert max(map(len, rows)) <= 19
