"""What a stage leaves for the report: curves of a bounded size, cost, and neither lost nor doubled by interruptions."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from calrec import artifacts
from calrec.finetune import telemetry
from calrec.finetune.record import Record
from calrec.finetune.telemetry import Report
from tests.finetune.test_training import STAGE, run


def test_every_step_is_kept_until_there_are_too_many():
    record = Record()
    for step in range(1, 1001):
        record.step(step, {"loss": float(step)}, 10)
    assert [row["step"] for row in record.curves] == [*range(1, 1001)]
    record.validation(1000, {"valid_nig": 0.5})
    for step in range(1001, 5001):
        record.step(step, {"loss": float(step)}, 10)
    trained = [row["step"] for row in record.curves if "loss" in row]
    assert trained == [*range(8, 5001, 8)] and record.every == 8
    assert {"step": 1000, "valid_nig": 0.5} in record.curves
    assert record.curves == sorted(record.curves, key=lambda row: row["step"])
    assert record.tokens == 50_000 and all(row["loss"] == row["step"] for row in record.curves if "loss" in row)


def test_nothing_trained_costs_nothing():
    assert Record().cost == {}
    assert Record([], 1, 1.23456, 7, 8).cost == {"seconds": 1.235, "tokens": 7, "peak_memory_bytes": 8}


def test_time_counts_from_the_beginning_of_the_stage_and_on_top_of_what_was_before(monkeypatch: pytest.MonkeyPatch):
    clock = iter([100.0, 110.0, 113.0, 117.0])
    monkeypatch.setattr(telemetry.time, "perf_counter", lambda: next(clock))
    report = Report("s", 9, lambda *_: None, 0)  # at 100
    report.begin(5, Record(seconds=60.0, peak_memory_bytes=2**60))  # at 110
    report.count()  # at 113
    report.count()  # at 117
    assert report.record.seconds == 60 + 7 and report.first_step == 5
    assert report.record.peak_memory_bytes == 2**60  # more than this process took


def recorded(folder: Path) -> dict:
    return dict(json.loads((folder / artifacts.RECORD).read_text()))


def test_a_stage_writes_its_record_beside_the_model_and_no_manifest_knows_it(small: SimpleNamespace, tmp_path: Path):
    points: list[dict[str, float]] = []
    log = lambda step, metrics: points.append({"step": step, **metrics})  # noqa: E731
    one, other = run(small, tmp_path / "a", log=log), run(small, tmp_path / "b")
    found = recorded(tmp_path / "a")
    curves, cost = found["curves"], found["cost"]
    assert [(row["step"], "loss" in row) for row in curves] == [
        (0, False), *((step, True) for step in range(1, 5)), (4, False), *((step, True) for step in range(5, 9)),
        (8, False),
    ]  # fmt: skip
    assert [row for row in curves if "loss" not in row] == [row for row in points if "loss" not in row]
    last = next(row for row in reversed(points) if "loss" in row)
    assert {name: last[name] for name in curves[-2]} == curves[-2]  # what was logged of the last step
    assert cost["tokens"] == pytest.approx(last["tokens_per_second"] * cost["seconds"], rel=0.5)
    assert 0 < cost["peak_memory_bytes"] < 2**37
    # The clock is in the record, and nowhere else.
    assert recorded(tmp_path / "b")["cost"] != cost and recorded(tmp_path / "b")["curves"] == curves
    assert one == other == artifacts.read_verified(tmp_path / "a", "model") and artifacts.RECORD not in one.files


def test_zero_steps_leave_an_empty_record(small: SimpleNamespace, tmp_path: Path):
    run(small, tmp_path / "m", replace(STAGE, steps=0))
    assert recorded(tmp_path / "m") == {"cost": {}, "curves": []}


@pytest.mark.parametrize("at", [0, 4, 20])
def test_an_interrupted_stage_has_the_curves_of_one_that_was_left_alone(
    small: SimpleNamespace, tmp_path: Path, at: int
):
    stage = replace(STAGE, steps=24, checkpoint_every=0)
    run(small, tmp_path / "whole", stage)

    def stop(step: int, metrics: dict[str, float]) -> None:
        if "valid_nig" in metrics and step == at:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit):
        run(small, tmp_path / "parts", stage, log=stop)
    before = json.loads((tmp_path / f"parts.checkpoint/step-{at:08d}/state.json").read_text())["progress"]["record"]
    run(small, tmp_path / "parts", stage)
    whole, parts = recorded(tmp_path / "whole"), recorded(tmp_path / "parts")
    assert whole["curves"] == parts["curves"]
    assert whole["cost"]["tokens"] == parts["cost"]["tokens"] > before["tokens"]
    assert parts["cost"]["seconds"] > before["seconds"] > 0


def test_steps_that_are_repeated_after_a_kill_are_recorded_once(small: SimpleNamespace, tmp_path: Path):
    """The stage dies at step 6, the checkpoint is of step 4: steps 5 and 6 are done twice."""
    run(small, tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(telemetry, "REPORT_SECONDS", 0.0)  # log each step

        def die(step: int, metrics: dict[str, float]) -> None:
            if step == 6:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run(small, tmp_path / "parts", log=die)
    run(small, tmp_path / "parts")
    assert recorded(tmp_path / "parts")["curves"] == recorded(tmp_path / "whole")["curves"]
    assert recorded(tmp_path / "parts")["cost"]["tokens"] == recorded(tmp_path / "whole")["cost"]["tokens"]


def test_told_to_stop_before_the_first_step_patience_is_not_shortened(small: SimpleNamespace, tmp_path: Path):
    stage = replace(STAGE, steps=40, lr=3.0, clip=1e9, valid_every=2, patience=2)  # never better than step 0

    def stop(step: int, metrics: dict[str, float]) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    whole = run(small, tmp_path / "whole", stage)
    with pytest.raises(SystemExit):
        run(small, tmp_path / "parts", stage, log=stop)
    assert run(small, tmp_path / "parts", stage).counts["steps"] == whole.counts["steps"] == 4
