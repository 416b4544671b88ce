"""The whole pipeline on this machine: KFP's local runner, a local MLflow store, and lines that a person can follow."""

import contextlib
import dataclasses
import logging
import os
import re
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO, TypeVar, cast

import psutil

from calrec.config import Config
from calrec.storage.files import new_folder
from calrec.system import code_version, machine
from calrec.tracking import runs
from calrec.watch import current
from calrec.watch.step import SHAPING, report
from pipelines import docker_run, ending
from pipelines.compiling import arguments, name_steps
from pipelines.summary import Result, cost, link_outputs

T = TypeVar("T")

_STEPS = (
    "watch|ingest|textify|model|tokens|stage1|stage2|refit|index|generate|retrieve|champion|evaluate|promote|"
    "checkpoint|tracking"
)
_OURS = re.compile(rf"^(?:{_STEPS})\b(?!: \w+\()")  # not kfp's own listing, "tokens: Dataset("
_CACHED = re.compile(r"^Task (\S+) cache hit")
_ERROR = re.compile(r"^[\w.]*(?:Error|Exception): ")
_LOGGED = re.compile(r"^\d\d:\d\d:\d\d\.\d+ - ")


def run(config: Config, root: Path, fresh: bool = False, image: str = "") -> Result:
    """Run the training pipeline step by step, in processes of this environment or in containers of `image`.

    A step whose code, settings and inputs have not changed is not run again, unless `fresh`.

    Raises:
        ValueError, FileNotFoundError: a source that does not exist.
        RuntimeError: a step failed; its log is named. Or no container engine answers.
        EndedError: a signal ended the steps, and the run in MLflow is KILLED.
    """
    with ending.in_charge() as steps:
        return _run(config, root.resolve(), fresh, image, steps)


def _run(config: Config, root: Path, fresh: bool, image: str, steps: ending.Steps) -> Result:
    arguments("training", config)  # a secret in them is refused before anything is asked or logged
    config = dataclasses.replace(config, sources=tuple(current.now([vars(source) for source in config.sources])))
    folder = new_folder(root / "runs" / time.strftime("%Y%m%d-%H%M%S"))
    uri, files = _use_tracking(root)
    seen = _look(config)
    parent, experiment = _tracked(lambda: runs.start_parent(" + ".join(config.targets), files)) or ("", "")
    _tracked(lambda: runs.joined(parent).asked(config.targets, seen.sources, _shaping(config), report(seen.decision)))
    started = time.perf_counter()
    log = folder / "pipeline.log"
    print(
        f"calrec: {len(config.sources)} categories, targets {', '.join(config.targets)}; the whole log is {log}",
        flush=True,
    )
    try:
        with (
            _environment(
                {"CALREC_PARENT_RUN": parent, "MLFLOW_EXPERIMENT_ID": experiment, **machine.environment(os.environ)}
            ),
            _watching_memory() as memory,
            log.open("w") as stream,
        ):
            outputs = _execute(_models(config, seen), root, fresh, _Steps(stream, sys.stdout), image, steps)
    except BaseException as error:
        status, why = "FAILED" if isinstance(error, Exception) else "KILLED", f"{type(error).__name__}: {error}"
        if parent:
            _tracked(lambda: runs.finish_parent(parent, {}, status, why))
        raise
    page = f"/#/experiments/{experiment}/runs/{parent}?workflowType=machine_learning" if parent else ""
    took = time.perf_counter() - started
    result = Result(link_outputs(folder, outputs), uri, page, took, 0 if image else max(memory))
    _point(root / "runs" / "latest", folder)
    if parent:
        _tracked(lambda: runs.finish_parent(parent, cost(result)))
    return result


def _point(link: Path, folder: Path) -> None:
    """Let a link name this run."""
    aside = link.with_name(f".{folder.name}")
    aside.symlink_to(folder.name)
    aside.replace(link)


def _look(config: Config) -> current.Seen:
    """What the pipeline's first step finds; it is done here, since no output can leave the condition behind it."""
    sources = [dataclasses.asdict(source) for source in config.sources]
    return current.look(sources, config.targets, _shaping(config), only_new=False)


def _shaping(config: Config) -> dict[str, Any]:
    return {name: getattr(config, name) for name in SHAPING}


def _models(config: Config, seen: current.Seen) -> dict[str, Any]:
    given = arguments("training", config)
    del given["only_new"]
    return {**given, "state": seen.decision.state, "champions": seen.champions}


def _execute(
    given: Mapping[str, Any], root: Path, fresh: bool, output: "_Steps", image: str, steps: ending.Steps
) -> dict[str, list[Path]]:
    from kfp import local

    from pipelines.models import models

    cache = root / "cache" / (docker_run.identity(image) if image else code_version.files())
    files = "" if fresh else os.environ.get("CALREC_CACHE", str(cache))
    # kfp leaves a folder of each step in the temporary directory.
    with (
        tempfile.TemporaryDirectory(prefix="calrec-") as scratch,
        _environment({"TMPDIR": scratch, "CALREC_CACHE": files}),
        docker_run.containers(image, root, given, steps) if image else ending.processes(steps) as runner,
    ):
        tempfile.tempdir = None
        local.init(
            runner=runner,
            pipeline_root=str(root / "artifacts"),
            enable_caching=not fresh,
            cache_root=str(cache),
            workspace_root=scratch,
        )
        try:
            stream = cast(TextIO, output)
            with contextlib.redirect_stdout(stream), _logging_to(stream), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                task = for_this_machine(models, image)(**given)
        except Exception as error:
            raise RuntimeError(f"{_first_line(error)}\n{output.reason}\nthe traceback is in {output.name}") from None
        finally:
            tempfile.tempdir = None
    found = {name: made if isinstance(made, list) else [made] for name, made in task.outputs.items()}
    return {name: [Path(one.path) for one in artifacts] for name, artifacts in found.items()}


def for_this_machine(pipeline: Any, image: str = "") -> Any:
    """Without retries, for what fails here fails again; steps by names under which the next run finds them cached."""
    from google.protobuf import json_format

    spec = pipeline.pipeline_spec
    document = json_format.MessageToDict(spec)
    name_steps([document])
    for executor in document["deploymentSpec"]["executors"].values() if image else ():
        executor["container"]["image"] = image
    spec.Clear()
    json_format.ParseDict(document, spec)
    for component in (spec.root, *spec.components.values()):
        for task in component.dag.tasks.values():
            task.ClearField("retry_policy")
    return pipeline


def _first_line(error: Exception) -> str:
    return re.sub(r"\x1b\[\d+m", "", str(error).strip().splitlines()[0]) if str(error).strip() else repr(error)


class _Steps(contextlib.AbstractContextManager["_Steps"]):
    """A stream that keeps everything in the log file and lets the steps' own lines through to the terminal."""

    def __init__(self, log: TextIO, terminal: TextIO):
        self._log, self._terminal = log, terminal
        self._partial = ""
        self._last: list[str] = []
        self.encoding = "utf-8"

    def __exit__(self, *_: object) -> None:
        self.flush()

    @property
    def name(self) -> str:
        """Path of the log file."""
        return self._log.name

    @property
    def reason(self) -> str:
        """The error that ended the last failing step; else, when it was killed, the last lines that were printed."""
        return next((line for line in reversed(self._last) if _ERROR.match(line)), "\n".join(self._last[-10:]))

    def write(self, text: str) -> int:
        """Take any text; whole lines are sorted."""
        self._log.write(text)
        *lines, self._partial = (self._partial + text).split("\n")
        for line in lines:
            self._line(line.strip())
        return len(text)

    def _line(self, line: str) -> None:
        cached = _CACHED.search(line)
        if cached:
            print(f"{cached[1]}: unchanged, taken from an earlier run", file=self._terminal, flush=True)
        elif _OURS.match(line):
            print(line, file=self._terminal, flush=True)
        if line and not _LOGGED.match(line) and not line.startswith("[KFP Executor"):
            self._last = [*self._last[-60:], line]

    def flush(self) -> None:
        """Part of a stream's interface."""
        self._log.flush()
        self._terminal.flush()

    def isatty(self) -> bool:
        """Part of a stream's interface."""
        return False


# --- cost ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _watching_memory(seconds: float = 1.0) -> Iterator[list[int]]:
    """Collect the memory of this process and all below it, in bytes; pages that are shared count once."""
    sums, done = [0], threading.Event()

    def watch() -> None:
        me = psutil.Process()
        while not done.wait(seconds):
            total = 0
            for process in (me, *me.children(recursive=True)):
                with contextlib.suppress(psutil.Error):  # it ended meanwhile
                    total += process.memory_full_info().pss
            sums.append(total)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield sums
    finally:
        done.set()
        thread.join()


# --- environment ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    old = {name: os.environ.get(name) for name in values}
    os.environ.update({name: value for name, value in values.items() if value})
    try:
        yield
    finally:
        for name, value in old.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _logging_to(stream: TextIO) -> Iterator[None]:
    """Have kfp's messages between the steps in the log too, such as that a step was taken from the cache."""
    root, handler = logging.getLogger(), logging.StreamHandler(stream)
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(level)


def _use_tracking(root: Path) -> tuple[str, Path | None]:
    """The configured tracking server; without one a local sqlite store below `root` and the folder of its files."""
    if os.environ.get("MLFLOW_TRACKING_URI"):
        return os.environ["MLFLOW_TRACKING_URI"], None
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{root}/mlflow.db"
    return os.environ["MLFLOW_TRACKING_URI"], root / "mlartifacts"


def _tracked(call: Callable[[], T]) -> T | None:
    """Tracking at the parent must not fail a run any more than in a step."""
    try:
        return call()
    except Exception as error:
        runs.warn(error)
        return None
