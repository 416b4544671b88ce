"""A training that breaks off for a passing reason goes on in the same pod, once; one that is wrong does not."""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from calrec.artifacts import read_manifest
from calrec.config import LaunchConfig, StageConfig
from calrec.finetune.step import finetune
from calrec.launch import retry
from calrec.launch import stage as launch
from calrec.launch.shared_folder import TrainingError

# Each step is validated, and so logged, before a checkpoint is written.
STAGE = StageConfig(
    steps=6, batch_size=8, valid_every=1, valid_users=8, checkpoint_every=2, threads=1, patience=0
)  # fmt: skip
Log = Callable[[int, Any], None]


def quiet(step: int, values: Any) -> None:
    """Track nothing."""


def train(
    small: SimpleNamespace, out: Path, log: Log = quiet, stage: StageConfig = STAGE, mirror: str = "", **settings: Any
) -> Any:
    return retry.finetune(
        small.texts, small.tokens, small.base, out, stage=stage, tuning=small.model, launch=LaunchConfig(**settings),
        log=log, train=finetune, checkpoints=mirror,
    )  # fmt: skip


def failing(error: BaseException, after: int = 3, times: int = 1) -> Log:
    """A curve whose place is gone for a moment, from a step on."""
    left = [error] * times

    def log(step: int, values: Any) -> None:
        if step >= after and left:
            raise left.pop()

    return log


def test_after_a_passing_error_the_training_goes_on_and_makes_the_same_model(
    small: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    whole = train(small, tmp_path / "whole")
    shown = capsys.readouterr().out
    assert "once more" not in shown
    assert train(small, tmp_path / "out", failing(ConnectionResetError("bucket"))) == whole
    shown = capsys.readouterr().out
    assert shown.count("stage1: ConnectionResetError: bucket\nstage1: once more, from the last checkpoint\n") == 1
    assert "stage1: going on after step 2" in shown
    assert not (tmp_path / "out.checkpoint").exists()


def test_it_is_once_more_and_not_twice(small: SimpleNamespace, tmp_path: Path):
    with pytest.raises(ConnectionError, match="bucket"):
        train(small, tmp_path / "out", failing(ConnectionError("bucket"), times=2))


@pytest.mark.parametrize(
    "error", [ValueError("lr"), FloatingPointError("NaN"), PermissionError("no right"), FileNotFoundError("x"),
              RuntimeError("bug"), SystemExit(75)],
)  # fmt: skip
def test_what_would_fail_again_is_not_tried_again(
    small: SimpleNamespace, tmp_path: Path, error: BaseException, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(type(error)):
        train(small, tmp_path / "out", failing(error))
    assert "once more" not in capsys.readouterr().out


def test_without_a_checkpoint_of_its_own_it_is_not_tried_again(
    small: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Not before the first one, nor where an earlier pod's was only fetched."""
    mirror = str(tmp_path / "mirror")
    with pytest.raises(ConnectionError):
        train(small, tmp_path / "a" / "out", failing(ConnectionError("bucket"), after=1), mirror=mirror)
    with pytest.raises(ConnectionError):
        train(small, tmp_path / "b" / "out", failing(ConnectionError("bucket"), after=3, times=2), mirror=mirror)
    assert capsys.readouterr().out.count("once more") == 1
    with pytest.raises(ConnectionError):
        train(small, tmp_path / "c" / "out", failing(ConnectionError("bucket"), after=1), mirror=mirror)
    shown = capsys.readouterr().out
    assert "going on after step" in shown and "once more" not in shown
    assert train(small, tmp_path / "c" / "out", mirror=mirror).counts["steps"] == 6


@pytest.mark.long
def test_a_process_that_is_killed_is_started_again(
    small: SimpleNamespace, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """As the kernel does it when memory runs out: a rank of torchrun, after a checkpoint."""
    killed: list[int] = []
    follow = launch._follow

    def kill(child: Any, curves: Path, log: Log) -> None:
        if not killed:
            threading.Thread(target=_kill_a_rank, args=(child.pid, tmp_path / "out.checkpoint", killed)).start()
        follow(child, curves, log)

    monkeypatch.setattr(launch, "_follow", kill)
    stage = StageConfig(steps=60, batch_size=8, valid_every=0, checkpoint_every=5, threads=1, patience=0)
    made = train(small, tmp_path / "out", stage=stage, processes=2)
    shown = capfd.readouterr().out
    assert killed and made == read_manifest(tmp_path / "out", "model") and made.counts["steps"] == 60
    assert shown.count("once more, from the last checkpoint") == 1 and "going on after step" in shown


def _kill_a_rank(torchrun: int, checkpoints: Path, killed: list[int]) -> None:
    while not list(checkpoints.glob("step-*[0-9]/state.json")):  # whole: .partial is renamed when it is
        time.sleep(0.01)
    children = Path(f"/proc/{torchrun}/task/{torchrun}/children").read_text().split()
    killed.append(int(children[0]))
    os.kill(killed[0], signal.SIGKILL)


@pytest.mark.parametrize(
    ("why", "passes"),
    [
        ("", True), ("ConnectionResetError: x", True), ("OSError: no space left", True), ("TimeoutError: x", True),
        ("RuntimeError: [gloo] Connection closed by peer [10.0.0.1]:53", True), ("ValueError: lower batch_size", False),
        ("DistBackendError: NCCL error: remote process exited, Connection reset by peer", True),
        ("FloatingPointError: loss is nan", False), ("RuntimeError: size mismatch", False), ("KeyError: 'x'", False),
        ("PermissionError: the bucket", False), ("FileNotFoundError: texts", False), ("int: 3", False),
    ],
)  # fmt: skip
def test_which_errors_of_other_processes_pass(why: str, passes: bool):
    assert retry.passing(TrainingError("torchrun ended with exit code 1", why)) is passes


def test_a_checkpoint_that_is_not_whole_is_none(tmp_path: Path):
    for name in ("step-00000002", "step-00000004.partial", "step-00000006.old", "best-00000006"):
        (tmp_path / "out.checkpoint" / name).mkdir(parents=True)
        (tmp_path / "out.checkpoint" / name / "state.json").write_text('{"fingerprint": "0123456789abcdef"}')
    (tmp_path / "out.checkpoint" / "step-00000002.partial").mkdir()
    (tmp_path / "out.checkpoint" / "step-00000002.partial" / "state.json").write_text("{")
    assert retry._here(tmp_path / "out") == ["0123456789ab/step-00000002"]


def test_a_job_that_someone_deleted_is_not_made_again():
    assert not retry.passing(ChildProcessError("TrainJob one was deleted by someone else"))
