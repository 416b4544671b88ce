"""Where a stage trains: in this process, in several of this machine (torchrun), or on several machines (TrainJob).

Whoever waits and the processes that train share a folder: job.json in it says what is to be done, and what a process
leaves there (its error, that it was interrupted, points of the curves, the model of a TrainJob) is read by the other.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, astuple, dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

from calrec import artifacts
from calrec.artifacts import Manifest, places
from calrec.config import LaunchConfig, ModelConfig, StageConfig
from calrec.config.overrides import from_dict
from calrec.launch import trainjob
from calrec.launch.shared_folder import ERROR, INTERRUPTED, JOB, RESULT, STOPPED, SharedFolder, TrainingError
from calrec.storage import uris
from calrec.system import machine
from calrec.tracking import runs

Log = Callable[[int, Mapping[str, float]], None]
Train = Callable[..., Manifest | None]
"""calrec.finetune.step.finetune, which is handed in: this room lies below it."""
_INPUTS = ("texts", "tokens", "model")
_CURVES = "curves.jsonl"
_GRACE_S = 40  # torchrun itself kills its processes 30 s after it was told to stop


@dataclass(frozen=True)
class Paths:
    """Folders of a training: absolute, or names in the shared folder of a TrainJob."""

    texts: str
    tokens: str
    model: str
    out: str


@dataclass(frozen=True)
class Job:
    """One training as its processes read it; calrec.finetune.step.finetune explains what is not explained here."""

    paths: Paths
    stage: StageConfig
    tuning: ModelConfig
    name: str = "stage1"
    domains: tuple[str, ...] = ()
    sharding: str = "ddp"
    checkpoints: str = ""
    """URI of the folder to which checkpoints are mirrored; empty: none."""
    run: str = ""
    """MLflow run of the curves, on another machine; here the curves go through the shared folder."""


def finetune(
    texts: Path, tokens: Path, model: Path, out: Path, *,
    launch: LaunchConfig, log: Log, train: Train, checkpoints: str = "", **asked: Any,
) -> Manifest | None:  # fmt: skip
    """The finetune step (calrec.finetune.step.finetune, which explains the other arguments) where `launch` wants it.

    `launch` says where, `train` is that function, and `asked` are stage, tuning, name and domains, as in :class:`Job`.
    `checkpoints` is the URI to which checkpoints are mirrored, gs://, s3:// or a mounted folder, empty for none; a
    TrainJob needs one that all of its machines reach, and passes its inputs and its model through it.

    Returns:
        what was made; None in a process of torchrun other than the first.

    Raises:
        SystemExit: INTERRUPTED, on SIGTERM and after a checkpoint.
        ChildProcessError: torchrun or the TrainJob failed.
        ValueError: a launcher that does not fit the machine, and as the step.
    """
    places.check_out(out, "model", (texts, tokens, model))
    paths = Paths(*(str(Path(path).absolute()) for path in (texts, tokens, model, out)))
    job = Job(paths, sharding=launch.sharding, checkpoints=_absolute(checkpoints), **asked)
    launcher = _launcher(launch, job.stage.steps)
    if launcher == "local":
        return _train(train, job, log)
    with _interruptible():
        if launcher == "torchrun":
            _torchrun(job, launch, log)
        else:
            _trainjob(job, launch)
    return artifacts.read_manifest(out, "model")


def work(uri: str, train: Train) -> None:
    """What each process of torchrun does, on this machine or on one of a TrainJob: the job in the shared folder."""
    shared = SharedFolder(uri)
    job = from_dict(Job, json.loads(shared.read(JOB)))
    try:
        if Path(job.paths.out).is_absolute():
            _train_here(train, Path(uri), job)
        else:
            _train_in_pod(train, shared, job)
    except SystemExit as stop:
        if stop.code == INTERRUPTED and os.environ.get("RANK", "0") == "0":
            shared.write(STOPPED, "")
        raise
    except Exception as error:
        # The others then fail for want of this process: the first error is the one to tell, if two write, either.
        with suppress(FileNotFoundError):
            if not shared.has(ERROR):
                shared.write(ERROR, f"{type(error).__name__}: {error}")
        raise


def _absolute(uri: str) -> str:
    return uri if "://" in uri or not uri else str(Path(uri).expanduser().absolute())


def _launcher(launch: LaunchConfig, steps: int) -> str:
    """Nothing is started for 0 steps, nor by a process that torchrun has started."""
    if not steps or ("RANK" in os.environ and "WORLD_SIZE" in os.environ):
        return "local"
    if launch.launcher == "local" and launch.processes > 1:
        raise ValueError(
            f"launch.processes = {launch.processes} needs launch.launcher = torchrun or trainjob, got local"
        )
    if launch.launcher == "auto":
        return "torchrun" if _processes(launch) > 1 else "local"
    return launch.launcher


def _processes(launch: LaunchConfig) -> int:
    import torch

    gpus = torch.cuda.device_count()
    if 0 < gpus < launch.processes:
        raise ValueError(f"launch.processes = {launch.processes}, but there are {gpus} GPUs here; lower it, or set 0")
    return launch.processes or max(1, gpus)


def _train(train: Train, job: Job, log: Log) -> Manifest | None:
    paths, remote = map(Path, astuple(job.paths)), uris.folder(job.checkpoints) if job.checkpoints else None
    return train(*paths, job.stage, job.tuning, job.name, job.domains, log, remote=remote, sharding=job.sharding)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Turn the first SIGTERM into SystemExit(INTERRUPTED); what ends the children must not be interrupted again."""

    def leave(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        sys.exit(INTERRUPTED)

    old = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, old)


# --- several processes on this machine --------------------------------------------------------------------------


def _torchrun(job: Job, launch: LaunchConfig, log: Log) -> None:
    count = _processes(launch)
    print(f"{job.name}: {count} processes by torchrun", flush=True)
    with tempfile.TemporaryDirectory(prefix="calrec-") as name:
        folder = Path(name)
        (folder / JOB).write_text(json.dumps(asdict(job)))
        command = [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count),
            "--max-restarts", "0", "-m", "calrec.cli", "work", name,
        ]  # fmt: skip
        # A session of its own: Ctrl-C must reach it once, as SIGTERM.
        own = {**os.environ, **machine.environment(os.environ, count)}
        child = subprocess.Popen(command, env=own, start_new_session=True)
        try:
            _follow(child, folder / _CURVES, log)
        finally:
            _end(child)
        if (folder / STOPPED).exists():
            sys.exit(INTERRUPTED)
        if child.returncode:
            why = (folder / ERROR).read_text() if (folder / ERROR).exists() else ""
            said = why or "killed; the lines above say more"
            raise TrainingError(f"torchrun ended with exit code {child.returncode}: {said}", why)


def _follow(child: "subprocess.Popen[bytes]", curves: Path, log: Log) -> None:
    """Pass on the points of the curves until the child ends."""
    curves.touch()
    with curves.open() as stream:
        part, running = "", True
        while running:
            try:
                child.wait(0.5)
                running = False
            except subprocess.TimeoutExpired:
                pass
            *lines, part = (part + stream.read()).split("\n")
            for line in lines:
                log(*json.loads(line))


def _end(child: "subprocess.Popen[bytes]") -> None:
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _train_here(train: Train, folder: Path, job: Job) -> None:
    with (folder / _CURVES).open("a", buffering=1) as stream:

        def log(step: int, values: Mapping[str, float]) -> None:
            print(json.dumps([step, {name: float(value) for name, value in values.items()}]), file=stream)

        _train(train, job, log)


# --- several machines -------------------------------------------------------------------------------------------


def _trainjob(job: Job, launch: LaunchConfig) -> None:
    inputs = {name: Path(getattr(job.paths, name)) for name in _INPUTS}
    there = replace(job, paths=Paths(*_INPUTS, RESULT), run=runs.active())
    trainjob.run(asdict(there), inputs, Path(job.paths.out), launch)


def _train_in_pod(train: Train, shared: SharedFolder, job: Job) -> None:
    here = shared.fetch(_INPUTS, int(os.environ.get("LOCAL_RANK", "0")))
    paths = Paths(*(str(here / name) for name in astuple(job.paths)))
    made = _train(train, replace(job, paths=paths), runs.join_run(job.run).metrics)
    if made is not None:
        shared.upload(here / RESULT, RESULT)
