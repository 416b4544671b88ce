"""A local run that is ended leaves no process behind, however it is ended."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient

from tests.conftest import REPO

STEPS = ("stage2-books", "stage2-toys")


def driver(tmp_path: Path, *image: str) -> Iterator[subprocess.Popen[str]]:
    """What runs two steps, both of which are at work."""
    command = [sys.executable, "-m", "tests.pipelines.two_steps", str(tmp_path), *image]
    environment = {**os.environ, "PYTHONPATH": f"{REPO}/components:{REPO}"}
    process = subprocess.Popen(command, cwd=REPO, env=environment, stdout=subprocess.PIPE, text=True)
    until(lambda: all((tmp_path / f"{name}.ready").exists() for name in STEPS))
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def running(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """In processes."""
    yield from driver(tmp_path)


@pytest.fixture
def contained(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """In containers of an image that holds nothing."""
    if subprocess.run(["docker", "version"], capture_output=True).returncode:
        pytest.skip("no container engine answers; start one")
    nothing = subprocess.run(["tar", "-cT", "/dev/null"], check=True, capture_output=True).stdout
    subprocess.run(["docker", "import", "-", "calrec-nothing:test"], input=nothing, check=True, capture_output=True)
    yield from driver(tmp_path, "calrec-nothing:test")


def until(done) -> None:
    for _ in range(600):
        if done():
            return
        time.sleep(0.1)
    raise AssertionError("waited for a minute")


def left(folder: Path, known: int = 4) -> list[psutil.Process]:
    """Processes of the steps that are still there."""
    ids = [int(number) for path in folder.glob("*.pids") for number in path.read_text().split()]
    assert len(ids) == known
    found = [psutil.Process(number) for number in ids if psutil.pid_exists(number)]
    return [one for one in found if one.status() != psutil.STATUS_ZOMBIE]


def end(driver: subprocess.Popen[str], folder: Path, number: signal.Signals) -> None:
    """Send a signal, and see that both steps had time to hear of it and that the third never began."""
    driver.send_signal(number)
    said, _ = driver.communicate(timeout=60)
    assert driver.returncode == 128 + number and f"ended by {number.name}" in said
    assert [(folder / f"{name}.told").read_text() for name in STEPS] == ["SIGTERM"] * 2
    assert not (folder / "after.ready").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_all_steps_with_grace_and_begins_no_other(running, tmp_path: Path, number: signal.Signals):
    end(running, tmp_path, number)
    assert not left(tmp_path)


def test_steps_end_when_their_driver_is_killed(running, tmp_path: Path):
    running.kill()
    until(lambda: all((tmp_path / f"{name}.told").exists() for name in STEPS))
    until(lambda: not left(tmp_path))


def test_a_step_that_is_killed_is_a_failed_one_and_takes_what_it_started_along(tmp_path: Path):
    command = [sys.executable, "-m", "tests.pipelines.two_steps", str(tmp_path), "", "stray"]
    environment = {**os.environ, "PYTHONPATH": f"{REPO}/components:{REPO}"}
    done = subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "FAILURE" in done.stderr
    until(lambda: not left(tmp_path, 1))


def test_a_second_signal_kills_at_once(running, tmp_path: Path):
    stopped = [psutil.Process(int(path.read_text().split()[0])) for path in tmp_path.glob("*.pids")]
    shells = [one.parent() for one in stopped]
    for one in stopped:  # they hear no request
        one.suspend()
    running.send_signal(signal.SIGINT)
    until(lambda: all(shell.status() == psutil.STATUS_ZOMBIE for shell in shells))  # the first one was heard
    assert running.poll() is None and len(left(tmp_path)) == 4
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=60)
    assert running.returncode == 130 and not left(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_all_containers_with_grace(contained, tmp_path: Path, number: signal.Signals):
    end(contained, tmp_path, number)
    ours = ["docker", "ps", "--all", "--quiet", "--filter", "ancestor=calrec-nothing:test"]
    assert subprocess.run(ours, check=True, capture_output=True).stdout == b""


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_whole_run_that_is_ended_leaves_no_training_and_no_open_run(tmp_path: Path, number: signal.Signals):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW")}
    # What is started in the background ignores Ctrl-C, and so would all that it starts.
    code = "import signal, sys; signal.signal(2, signal.default_int_handler); from pipelines.__main__ import main; "
    command = [sys.executable, "-c", f"{code} sys.exit(main())", "run", "--root", str(tmp_path), "--run", "tiny"]
    command += ["--set", "stage2.steps=100000", "--set", "stage2.patience=0"]
    driver = subprocess.Popen(command, cwd=REPO, env=environment, stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    training: set[str] = set()
    while len(training) < 2:
        line = driver.stdout.readline()
        assert line, "the run ended before two trainings ran"
        training |= {line.split(":")[0]} if line.startswith("stage2 ") else set()
    below = psutil.Process(driver.pid).children(recursive=True)
    driver.send_signal(number)
    driver.communicate(timeout=120)
    assert driver.returncode == 128 + number
    assert not [one for one in below if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
    runs = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db").search_runs(["1"])
    status = {run.info.run_name: run.info.status for run in runs}
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert [run.info.status for run in parents] == ["KILLED"]
    assert [status[f"stage 2 · {name.split()[1]}"] for name in sorted(training)] == ["KILLED"] * 2
    assert "RUNNING" not in status.values()
