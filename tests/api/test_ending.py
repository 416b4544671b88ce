"""A run that is ended leaves no process and no open run behind, however it is ended, and goes on."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient

from tests.conftest import REPO, write_sequences

# What is started in the background ignores Ctrl-C, and so would all that it starts.
CODE = (
    "import signal, sys; signal.signal(2, signal.default_int_handler); from calrec.cli.__main__ import main; "
    "sys.exit(main())"
)


def started(root: Path, steps: int) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW")}
    source = root.with_name("raw")
    if not source.exists():
        write_sequences(source)
    command = [sys.executable, "-c", CODE, "run", "--root", str(root), "--run", "tiny", "--source", f"seafood={source}"]
    command += ["--set", "data.min_user=3", "--set", "data.min_item=1"]
    command += ["--set", f"stage2.steps={steps}", "--set", "stage2.valid_every=0", "--set", "stage2.keep=last"]
    return subprocess.Popen(command, cwd=REPO, env=environment, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize(
    "number",
    [signal.SIGTERM, *(pytest.param(one, marks=pytest.mark.long) for one in (signal.SIGINT, signal.SIGHUP))],
)
def test_a_run_that_is_ended_in_a_training_closes_its_runs_and_goes_on(tmp_path: Path, number: signal.Signals):
    root = tmp_path / "build"
    run = started(root, 100_000)
    assert run.stdout is not None
    while not (line := run.stdout.readline()).startswith("stage2 seafood: step"):
        assert line, "the run ended before it trained"
    below = psutil.Process(run.pid).children(recursive=True)
    run.send_signal(number)
    run.communicate(timeout=120)
    assert run.returncode == 75  # after a checkpoint
    assert not [one for one in below if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
    runs = MlflowClient(f"sqlite:///{root}/mlflow.db").search_runs(["1"])
    status = {one.info.run_name: one.info.status for one in runs}
    assert status.pop("seafood") == status.pop("stage 2 · seafood") == "KILLED"
    assert set(status.values()) == {"FINISHED"}
    assert list(root.glob("artifacts/stage2-*.checkpoint/step-*"))
    again = started(root, 100_000)
    assert again.stdout is not None
    said = []
    while not (line := again.stdout.readline()).startswith("stage2 seafood: step"):
        assert line
        said.append(line)
    again.kill()
    again.wait()
    assert "stage1: unchanged, taken from an earlier run\n" in said
    assert any("going on" in one or "resum" in one for one in said), said
