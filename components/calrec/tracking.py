"""The only place that knows MLflow. Without a server (MLFLOW_TRACKING_URI) it does nothing, silently.

A pipeline run is a parent run, each step and category a nested run. The parent is found, in this order:

1. MLFLOW_RUN_ID: KFP's own MLflow plugin made a run for this task, which is adopted;
2. CALREC_PARENT_RUN: the id of the parent, set by `python -m pipelines run`;
3. KFP_RUN_ID: the pipeline run's id, set in the pod; the run tagged with it is found or made;
4. none: the step's run stands alone.

None of these is a parameter of a step: a new parent must not make every cached step run again.
A dead server costs a warning and a few seconds, unless CALREC_TRACKING=required.
"""

import getpass
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from calrec import __version__
from calrec.artifacts import MANIFEST, RECORD, Manifest

EXPERIMENT = "calrec"
_KIND = {"mlflow.experimentKind": "custom_model_development"}
_TITLES = {"stage1": "stage 1", "stage2": "stage 2", "base_model": "base model"}
_TIMEOUTS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}


class Run:
    """One step's run; after the first failure of the server it stays silent."""

    def __init__(self, mlflow: Any | None, run_id: str | None = None):
        self._mlflow = mlflow
        self._id = run_id  # None: the process's active run

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """One point of each curve."""
        self._try(lambda mlflow: mlflow.log_metrics(dict(values), step=step, run_id=self._id))

    def record(self, manifest: Manifest | None, folder: str | Path) -> dict[str, Any]:
        """Log a step's output: settings, counts, data set, manifest and reports.

        Args:
            manifest: what the step made; None in a process of torchrun that leaves it to the first.
            folder: where it made it.

        Returns:
            counts and content hash, for the metadata of the KFP artifact.
        """
        if manifest is None:
            return {}
        numbers = {k: float(v) for k, v in manifest.counts.items() if isinstance(v, int | float)}

        def log(mlflow: Any) -> None:
            mlflow.log_params(flat(manifest.config))
            mlflow.log_metrics(numbers)
            mlflow.set_tag("calrec.digest", manifest.digest)
            _log_dataset(mlflow, manifest)
            for name in (MANIFEST, RECORD, "report.md", "report.html", "metrics.json", "decision.md"):
                if (Path(folder) / name).is_file():
                    mlflow.log_artifact(str(Path(folder) / name))
            if (Path(folder) / "report.md").is_file():
                mlflow.set_tag("mlflow.note.content", (Path(folder) / "report.md").read_text()[:5000])

        self._try(log)
        return {**numbers, "digest": manifest.digest}

    def note(self, text: str) -> None:
        """The run's description, in Markdown."""
        self._try(lambda mlflow: mlflow.set_tag("mlflow.note.content", text))

    def _try(self, log: Callable[[Any], None]) -> None:
        if self._mlflow is None:
            return
        try:
            log(self._mlflow)
        except Exception as error:
            self._mlflow = None
            warn(error)


@contextmanager
def step(name: str, domain: str = "") -> Iterator[Run]:
    """The MLflow run of one step, ended FINISHED, FAILED, or KILLED on SIGTERM.

    Args:
        name: the step.
        domain: its category, when it works on one.
    """
    mlflow = _start(name, domain)
    run = Run(mlflow)
    status = "FINISHED"
    with _sigterm_as_exit():
        try:
            yield run
        except SystemExit:
            status = "KILLED"
            raise
        except BaseException:
            status = "FAILED"
            raise
        finally:
            if mlflow is not None:
                run._try(lambda m: m.end_run(status))


def active() -> str:
    """Id of the run that this process writes to; empty when there is none."""
    run = sys.modules["mlflow"].active_run() if "mlflow" in sys.modules else None
    return str(run.info.run_id) if run else ""


def joined(run_id: str) -> Run:
    """Another process's run, to which this one adds points, and which it neither starts nor ends."""
    return Run(_mlflow() if run_id else None, run_id)


def client() -> Any:
    """MLflow's client, for the registry."""
    return _mlflow().MlflowClient()


def start_parent(name: str, files: Path | None = None) -> tuple[str, str]:
    """Make the parent run of a local pipeline run; the store's tables are made on the way.

    Args:
        name: name of the run.
        files: where a new experiment keeps its files when there is no tracking server to keep them.

    Returns:
        ids of the run and of its experiment.
    """
    mlflow = _mlflow()
    client = mlflow.MlflowClient()
    if files and not os.environ.get("MLFLOW_EXPERIMENT_ID") and not client.get_experiment_by_name(EXPERIMENT):
        client.create_experiment(EXPERIMENT, artifact_location=files.as_uri(), tags=_KIND)
    tags = {"mlflow.user": getpass.getuser(), "mlflow.source.name": "python -m pipelines run", **_commit()}
    run = client.create_run(_experiment(mlflow), run_name=name, tags=tags)
    return str(run.info.run_id), str(run.info.experiment_id)


def _commit() -> dict[str, str]:
    """The commit of the working directory, when it is in a git checkout."""
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return {}
    return {"mlflow.source.git.commit": done.stdout.strip()}


def finish_parent(
    run_id: str, params: Mapping[str, Any], metrics: Mapping[str, float], note: str, status: str = "FINISHED"
) -> None:
    """Log the headline of a pipeline run at its parent."""
    mlflow = _mlflow()
    with mlflow.start_run(run_id=run_id):
        mlflow.log_params(flat(params))
        mlflow.log_metrics(dict(metrics))
        mlflow.set_tag("mlflow.note.content", note)
        mlflow.end_run(status)


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Settings as MLflow parameters. Keys are always prefixed, as KFP's plugin logs the bare names of inputs."""
    params: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            params |= flat(value, f"{prefix}{key}.")
        else:
            shown = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
            params[f"{prefix}{key}" if prefix else f"run.{key}"] = shown
    return params


# --- starting a run ---------------------------------------------------------------------------------------------


def _mlflow() -> Any:
    for name, value in _TIMEOUTS.items():
        os.environ.setdefault(name, value)
    import mlflow

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    return mlflow


def _experiment(mlflow: Any) -> str:
    """Id of the experiment; a new one is marked as model training, so that the UI shows it as that."""
    chosen = os.environ.get("MLFLOW_EXPERIMENT_ID")
    if chosen:
        return chosen
    experiment = mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT))
    if "mlflow.experimentKind" not in experiment.tags:
        mlflow.MlflowClient().set_experiment_tag(experiment.experiment_id, *next(iter(_KIND.items())))
    return str(experiment.experiment_id)


def _start(name: str, domain: str) -> Any | None:
    # Of the processes of torchrun only the first has a run.
    if not os.environ.get("MLFLOW_TRACKING_URI") or os.environ.get("RANK", "0") != "0":
        return None
    try:
        mlflow = _mlflow()
        tags = {"calrec.step": name, "calrec.version": __version__, "mlflow.source.name": f"calrec {name}"}
        tags |= {"calrec.domain": domain} if domain else {}
        given = os.environ.get("MLFLOW_RUN_ID")
        if given:
            mlflow.set_experiment(experiment_id=mlflow.MlflowClient().get_run(given).info.experiment_id)
            mlflow.start_run(run_id=given)
            mlflow.set_tags(tags)
            return mlflow
        parent = _parent(mlflow)
        title = " · ".join(part for part in (_TITLES.get(name, name), domain) if part)
        experiment = mlflow.MlflowClient().get_run(parent).info.experiment_id if parent else _experiment(mlflow)
        mlflow.start_run(experiment_id=experiment, run_name=title, parent_run_id=parent, tags=tags)
        return mlflow
    except Exception as error:
        warn(error)
        return None


def _parent(mlflow: Any) -> str | None:
    if os.environ.get("CALREC_PARENT_RUN"):
        return os.environ["CALREC_PARENT_RUN"]
    pipeline_run = os.environ.get("KFP_RUN_ID")
    if not pipeline_run:
        return None
    client, experiment = mlflow.MlflowClient(), _experiment(mlflow)
    found = _tagged(client, experiment, pipeline_run)
    if not found:
        # Parallel first steps may each make one: all then take the oldest, and the others delete theirs.
        own = client.create_run(experiment, run_name=f"pipeline {pipeline_run[:8]}", tags={"kfp.run_id": pipeline_run})
        found = _tagged(client, experiment, pipeline_run)
        if found[0] != own.info.run_id:
            client.delete_run(own.info.run_id)
    return found[0]


def _tagged(client: Any, experiment: str, pipeline_run: str) -> list[str]:
    runs = client.search_runs(
        [experiment], f"tags.`kfp.run_id` = '{pipeline_run}'", order_by=["attributes.start_time ASC"]
    )
    return [run.info.run_id for run in runs]


def _log_dataset(mlflow: Any, manifest: Manifest) -> None:
    """Link the run to its data, so that runs which share data are found together."""
    from mlflow.data.code_dataset_source import CodeDatasetSource
    from mlflow.data.meta_dataset import MetaDataset

    if manifest.kind == "interactions":
        names = {f"data.{manifest.config['domain']}": (manifest.digest, str(manifest.config["source"]))}
    else:
        names = {
            name: (digest, "pipeline") for name, digest in manifest.inputs.items() if name.startswith(("data", "texts"))
        }
    for name, (digest, source) in names.items():
        dataset = MetaDataset(CodeDatasetSource(tags={"source": source}), name=name, digest=digest)  # type: ignore[abstract]
        mlflow.log_input(dataset)


def warn(error: Exception) -> None:
    """Say once that tracking failed, or raise the error when tracking is required."""
    if os.environ.get("CALREC_TRACKING") == "required":
        raise error
    first = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
    print(
        f"tracking: MLflow at {os.environ.get('MLFLOW_TRACKING_URI')} failed, this step goes on without it "
        f"(CALREC_TRACKING=required makes it an error): {first[:300]}",
        file=sys.stderr,
        flush=True,
    )


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
