"""A whole training on this machine: every step of the pipeline, one after the other, in this process.

The same steps as in the pipeline (calrec.launch.steps), in folders named after what decides them
(calrec.launch.folders), so a run that was stopped goes on with the same command.
"""

import dataclasses
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from calrec.api.summary import Result, link_outputs
from calrec.config import ClusterConfig, Config, Source
from calrec.config.checks import check
from calrec.launch.folders import Folders
from calrec.storage.files import new_folder
from calrec.system.signals import ENDING, hold_signals
from calrec.tracking import runs
from calrec.watch import current
from calrec.watch.step import SHAPING, report

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Target:
    """Folders of what was made for a target."""

    models: tuple[Path, ...]
    """Of the stages that trained, in their order; the last one is the model."""
    generations: Path
    recommendations: Path
    index: Path | None = None
    evaluation: Path | None = None


class Training:
    """The steps of one configuration; each method is a step, and gives the folder of what it makes."""

    def __init__(self, config: Config, folders: Folders):
        self.config, self._folders = config, folders
        self._sections = {one.name: getattr(config, one.name) for one in dataclasses.fields(config)}
        self._shared: tuple[Path, Path, Path] | None = None

    def log(self, source: Source, **values: Any) -> Path:
        """The cleaned log of a source, whose snapshot is known."""
        of = {"domain": source.domain, "source": source.uri}
        return self._made("ingest", {}, key=(source.snapshot,), **of, **values)

    def texts(self) -> tuple[Path, Path, Path]:
        """Texts and sequences of all sources, the token cache, and the base model."""
        if self._shared is None:
            logs = [self.log(source) for source in self.config.sources]
            texts = self._made("textify", {"data": logs})
            base = self._made("base_model", {"texts": texts})
            self._shared = texts, base.with_name(f"{base.name}.tokens"), base
        return self._shared

    def models(self, target: str) -> tuple[Path, ...]:
        """The base model, and that of each stage; a stage of 0 steps makes none."""
        texts, tokens, base = self.texts()
        made = [base]
        for stage, domain in (("stage1", ""), ("stage2", target), ("refit", target)):
            if getattr(self.config, stage).steps:
                given = {"texts": texts, "tokens": tokens, "model": made[-1]}
                made.append(self._made(stage, given, domain=domain))
        return tuple(made)

    def rank(self, target: str) -> Target:
        """The model of a target, and its lists for the held-out users."""
        texts, tokens, _ = self.texts()
        models = self.models(target)
        given: dict[str, Path | None] = {"texts": texts, "tokens": tokens, "model": models[-1]}
        generations = self._made("generate", given, domain=target)
        of = {**given, "generations": generations, "learner": self._learner(models)}
        return Target(models, generations, self._made("retrieve", of, domain=target))

    def index(self, target: str, models: Sequence[Path]) -> Path:
        """The catalogue that a model's recommendations are looked up in."""
        texts, tokens, _ = self.texts()
        given = {"texts": texts, "tokens": tokens, "model": models[-1], "learner": self._learner(models)}
        return self._made("index", given, domain=target)

    def champion(self, target: str, of: Target, uri: str) -> Path:
        """Lists of the model in use for the users that the new one is judged by."""
        given = {"texts": self.texts()[0], "generations": of.generations}
        return self._made("champion", given, key=(uri,), domain=target, champion=uri)

    def evaluation(
        self, target: str, of: Target, champion: Path | None = None, rankings: Mapping[str, Path] | None = None
    ) -> Path:
        """The lists of a target against the baselines, and against others' rankings."""
        given = {
            "texts": self.texts()[0], "generations": of.generations, "recommendations": of.recommendations,
            "models": list(of.models), "champion": champion, "rankings": dict(rankings or {}),
        }  # fmt: skip
        return self._made("evaluate", given, domain=target)

    def promote(self, target: str, of: Target, state: str) -> Path:
        """The gate's decision; the model is registered where there is a registry. It is made each time."""
        given = {"evaluation": of.evaluation, "model": of.models[-1], "index": of.index}
        always = dataclasses.replace(self._folders, fresh=True)
        return always.get_or_make("promote", given, self._sections, domain=target, state=state)

    def _learner(self, models: Sequence[Path]) -> Path | None:
        return models[-2] if self.config.refit.steps else None

    def _made(self, name: str, inputs: Mapping[str, Any], **more: Any) -> Path:
        return self._folders.get_or_make(name, inputs, self._sections, **more)


def run(config: Config, root: Path, fresh: bool = False) -> Result:
    """Train, judge and register a model for every target, with MLflow; what has not changed is not made again.

    Args:
        config: a whole run's, see :meth:`calrec.config.Config.whole`.
        root: artifacts/ of the steps, runs/ with readable links, and the MLflow store where none is set.
        fresh: run every step.

    Raises:
        ValueError, FileNotFoundError: a source that does not exist, a setting that does not fit.
        SystemExit: 75 after a signal and a checkpoint, else 128 and the number of the signal; the same call goes on.
    """
    here(config.whole())
    with _signals(), _environment():
        return _run(config, root.resolve(), fresh)


def here(config: Config) -> None:
    """Refuse settings that have no meaning on this machine.

    Raises:
        ValueError: of the section `cluster`.
    """
    check(config.cluster == ClusterConfig(), "the section cluster is about pods; leave its settings out here")


def _run(config: Config, root: Path, fresh: bool) -> Result:
    started = time.perf_counter()
    config = dataclasses.replace(config, sources=tuple(current.snapshots([vars(one) for one in config.sources])))
    uri, files = _use_tracking(root)
    shaping = {name: getattr(config, name) for name in SHAPING}
    seen = current.look_up([dataclasses.asdict(one) for one in config.sources], config.targets, shaping, only_new=False)
    config = dataclasses.replace(config, sources=tuple(Source(**one) for one in seen.sources))
    folder = new_folder(root / "runs" / time.strftime("%Y%m%d-%H%M%S"))
    print(f"calrec: {len(config.sources)} categories, targets {', '.join(config.targets)}; into {folder}", flush=True)
    parent, experiment = _tracked(lambda: runs.start_parent(" + ".join(config.targets), files)) or ("", "")
    words = report(seen.decision)
    _tracked(lambda: runs.join_run(parent).log_request(config.targets, seen.sources, shaping, words))
    os.environ.update({"CALREC_PARENT_RUN": parent, "MLFLOW_EXPERIMENT_ID": experiment} if parent else {})
    training = Training(config, Folders(root / "artifacts", fresh))
    made: dict[str, Target] = {}
    try:
        for target in config.targets:
            of = training.rank(target)
            rival = training.champion(target, of, current.champion_of(target, seen.champions))
            judged = training.evaluation(target, of, rival)
            of = dataclasses.replace(of, evaluation=judged, index=training.index(target, of.models))
            training.promote(target, of, seen.decision.state)
            made[target] = of
    except BaseException as error:
        status, why = "FAILED" if isinstance(error, Exception) else "KILLED", f"{type(error).__name__}: {error}"
        if parent:
            _tracked(lambda: runs.finish_parent(parent, {}, status, why))
        raise
    page = f"/#/experiments/{experiment}/runs/{parent}?workflowType=machine_learning" if parent else ""
    texts, tokens, _ = training.texts()
    shared = {"texts": texts, "tokens": tokens}
    took, memory = time.perf_counter() - started, _memory()
    result = Result(
        link_outputs(folder, shared, {name: _links(of) for name, of in made.items()}), uri, page, took, memory
    )
    _point(root / "runs" / "latest", folder)
    if parent:
        _tracked(lambda: runs.finish_parent(parent, {"seconds": took, "peak_memory_gib": memory / 2**30}))
    return result


def _links(of: Target) -> dict[str, Path]:
    assert of.index and of.evaluation, "made before"
    named = {"model": of.models[-1], "index": of.index, "evaluation": of.evaluation}
    return {**named, "recommendation": of.recommendations}


def _point(link: Path, folder: Path) -> None:
    """Let a link name this run."""
    aside = link.with_name(f".{folder.name}")
    aside.symlink_to(folder.name)
    aside.replace(link)


def _memory() -> int:
    """Most bytes that this process used at one time, and the largest of those that it started."""
    with suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/self/status").read_text().splitlines()
        own = int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
        return 1024 * max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
    return 0


def _use_tracking(root: Path) -> tuple[str, Path | None]:
    """The configured tracking server; without one a local sqlite store below `root` and the folder of its files."""
    if os.environ.get("MLFLOW_TRACKING_URI"):
        return os.environ["MLFLOW_TRACKING_URI"], None
    root.mkdir(parents=True, exist_ok=True)
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{root}/mlflow.db"
    return os.environ["MLFLOW_TRACKING_URI"], root / "mlartifacts"


def _tracked(call: Callable[[], T]) -> T | None:
    """Tracking at the parent must not fail a run any more than in a step."""
    try:
        with hold_signals():
            return call()
    except Exception as error:
        runs.warn(error)
        return None


@contextmanager
def _environment() -> Iterator[None]:
    """What a run sets in the environment is gone after it."""
    names = ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID", "CALREC_PARENT_RUN")
    old = {name: os.environ.get(name) for name in names}
    try:
        yield
    finally:
        for name, value in old.items():
            os.environ.pop(name, None)
            os.environ.update({name: value} if value is not None else {})


@contextmanager
def _signals() -> Iterator[None]:
    """Ctrl-C and a closed terminal end a run as SIGTERM does: a training writes a checkpoint.

    A second Ctrl-C does not wait for it. A step has its own handler of SIGTERM; between two steps it ends the run.
    """
    came: list[int] = []

    def ask(number: int, frame: FrameType | None) -> None:
        came.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if number == signal.SIGTERM:
            sys.exit(128 + number)
        signal.raise_signal(signal.SIGTERM)

    try:
        old = {number: signal.signal(number, ask) for number in ENDING}
    except ValueError:  # not in the main thread, such as a notebook's: nothing to install
        yield
        return
    try:
        yield
    except SystemExit as stop:
        if stop.code == 128 + signal.SIGTERM and came:  # as the first signal is known to a shell
            sys.exit(128 + came[0])
        raise
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
