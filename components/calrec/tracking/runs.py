"""The runs of a pipeline and its steps in MLflow. Without a server (MLFLOW_TRACKING_URI) it does nothing, silently.

A pipeline run is a parent run, each step and category a nested run. The parent is found, in this order:

1. MLFLOW_RUN_ID: KFP's own MLflow plugin made a run for this task, which is adopted;
2. CALREC_PARENT_RUN: the id of the parent, set by `calrec run`;
3. KFP_RUN_ID: the pipeline run's id, set in the pod; the run tagged with it is found or made;
4. none: the step's run stands alone.

None of these is a parameter of a step: a new parent must not make every cached step run again. The third one's status
follows its steps (:mod:`calrec.tracking.parent_run`); who made the others ends them.
A dead server costs a warning and a few seconds, unless CALREC_TRACKING=required.
"""

import getpass
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from calrec import __version__
from calrec.system import code_version, machine, printing, signals
from calrec.system.printing import markdown, redact
from calrec.tracking import mlflow_client, parent_run
from calrec.tracking.mlflow_client import EXPERIMENT, client, warn
from calrec.tracking.run import Run, flat

__all__ = [
    "EXPERIMENT", "Run", "active", "client", "finish_parent", "flat", "join_run", "pipeline_run",
    "start_parent", "step", "warn",
]  # fmt: skip

_TITLES = {"stage1": "stage 1", "stage2": "stage 2", "base_model": "base model"}
# CPU, memory, network, GPU of a step; the first points after so many seconds.
_SYSTEM = {"MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING": "true", "MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL": "5"}


@contextmanager
def step(name: str, domain: str = "") -> Iterator[Run]:
    """The MLflow run of one step, ended FINISHED, FAILED, or KILLED on SIGTERM.

    An earlier attempt of the same task, which was killed with no time to end its run, is ended first. An error that
    leaves the step holds no secret of an address: its traceback is in the log of a pod.

    Args:
        name: the step.
        domain: its category, when it works on one.
    """
    if threads := machine.prepare():
        print(f"{name}{' ' * bool(domain)}{domain}: {threads}", flush=True)
    with signals.hold_signals():
        run = _start(name, domain)
    status = "FINISHED"
    with printing.guard_output(), _sigterm_as_exit():
        try:
            yield run
        except (SystemExit, KeyboardInterrupt):
            status = "KILLED"
            raise
        except BaseException as error:
            status = "FAILED"
            mlflow_client.clean(error)
            raise
        finally:
            run.end(status)


def active() -> str:
    """Id of the run that this process writes to; empty when there is none."""
    run = sys.modules["mlflow"].active_run() if "mlflow" in sys.modules else None
    return str(run.info.run_id) if run else ""


def pipeline_run() -> str:
    """What ties the steps of one run together: the pipeline run's id, or that of a local run's parent; empty alone."""
    return os.environ.get("KFP_RUN_ID") or os.environ.get("CALREC_PARENT_RUN", "")


def _of_commit() -> dict[str, str]:
    return {"mlflow.source.git.commit": found} if (found := code_version.commit()) else {}


def join_run(run_id: str) -> Run:
    """Another process's run, to which this one adds, and which it neither starts nor ends; it may be a parent."""
    return Run(mlflow_client.mlflow() if run_id else None, run_id, run_id)


def start_parent(name: str, files: Path | None = None) -> tuple[str, str]:
    """Make the parent run of a local pipeline run; the store's tables are made on the way.

    Args:
        name: name of the run.
        files: where a new experiment keeps its files when there is no tracking server to keep them.

    Returns:
        ids of the run and of its experiment.
    """
    if files and not os.environ.get("MLFLOW_EXPERIMENT_ID") and not client().get_experiment_by_name(EXPERIMENT):
        client().create_experiment(EXPERIMENT, artifact_location=files.as_uri(), tags=mlflow_client.KIND)
    tags = {"mlflow.user": getpass.getuser(), "mlflow.source.name": "calrec run", **_of_commit()}
    run = client().create_run(mlflow_client.experiment(), run_name=name, tags=tags)
    return str(run.info.run_id), str(run.info.experiment_id)


def finish_parent(run_id: str, metrics: Mapping[str, float], status: str = "FINISHED", why: str = "") -> None:
    """End the parent run of a local pipeline run, and those of its steps that could not end their own.

    Args:
        run_id: the parent.
        metrics: what the run took.
        status: how it ended.
        why: what made it fail.
    """
    mlflow_client.mlflow().log_metrics(dict(metrics), run_id=run_id)
    if why:
        parent_run.describe(client(), run_id, "failure", "\n".join(markdown(redact(line)) for line in why.splitlines()))
    parent_run.end(client(), run_id)
    client().set_terminated(run_id, status)


# --- starting a run ---------------------------------------------------------------------------------------------


def _start(name: str, domain: str) -> Run:
    # Of the processes of torchrun only the first has a run.
    if not os.environ.get("MLFLOW_TRACKING_URI") or os.environ.get("RANK", "0") != "0":
        return Run(None)
    try:
        for variable, value in _SYSTEM.items():
            os.environ.setdefault(variable, value)
        mlflow = mlflow_client.mlflow()
        tags = {"calrec.step": name, "calrec.version": __version__, "mlflow.source.name": f"calrec {name}"}
        tags |= {"calrec.domain": domain} if domain else {}
        given = os.environ.get("MLFLOW_RUN_ID")
        if given:
            own = client().get_run(given)
            mlflow.set_experiment(experiment_id=own.info.experiment_id)
            mlflow.start_run(run_id=given)
            mlflow.set_tags(mlflow_client.tags(tags))
            parent = own.data.tags.get("mlflow.parentRunId")
        else:
            parent = _parent()
            title = " · ".join(part for part in (_TITLES.get(name, name), domain) if part)
            experiment = client().get_run(parent).info.experiment_id if parent else mlflow_client.experiment()
            mlflow.start_run(
                experiment_id=experiment,
                run_name=mlflow_client.name(title),
                parent_run_id=parent,
                tags=mlflow_client.tags(tags),
            )
        run = Run(mlflow, active(), parent, owns_parent=not given and not os.environ.get("CALREC_PARENT_RUN"))
    except Exception as error:
        warn(error)
        return Run(None)
    if parent:
        run.attempt(lambda _: parent_run.end(client(), parent, active(), tags))
    run.update_parent()
    return run


def _parent() -> str | None:
    if os.environ.get("CALREC_PARENT_RUN"):
        return os.environ["CALREC_PARENT_RUN"]
    if not os.environ.get("KFP_RUN_ID"):
        return None
    tags = {"mlflow.source.name": "Kubeflow Pipelines", **_of_commit()}
    return parent_run.of_pipeline(client(), mlflow_client.experiment(), os.environ["KFP_RUN_ID"], tags)


@contextmanager
def _sigterm_as_exit() -> Iterator[None]:
    """Turn SIGTERM into SystemExit(143), so that runs are ended and temporary folders removed."""

    def leave(number: int, frame: FrameType | None) -> None:
        sys.exit(143)

    try:
        old = signal.signal(signal.SIGTERM, leave)
    except ValueError:  # not in the main thread: nothing to install
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, old)
