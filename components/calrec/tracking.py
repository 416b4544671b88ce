"""The only place that knows MLflow. Without a server (MLFLOW_TRACKING_URI) it does nothing, silently.

A pipeline run is a parent run, each step and category a nested run. The parent is found, in this order:

1. MLFLOW_RUN_ID: KFP's own MLflow plugin made a run for this task, which is adopted;
2. CALREC_PARENT_RUN: the id of the parent, set by `python -m pipelines run`;
3. KFP_RUN_ID: the pipeline run's id, set in the pod; the run tagged with it is found or made;
4. none: the step's run stands alone.

None of these is a parameter of a step: a new parent must not make every cached step run again. The third one's status
follows its steps (:mod:`calrec.parents`); who made the others ends them.
A dead server costs a warning and a few seconds, unless CALREC_TRACKING=required.
"""

import getpass
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from calrec import __version__, code, describe, foreign, machine, parents
from calrec.artifacts import MANIFEST, RECORD, Manifest
from calrec.settings import to_dict

EXPERIMENT = "calrec"
_KIND = {"mlflow.experimentKind": "custom_model_development"}
_TITLES = {"stage1": "stage 1", "stage2": "stage 2", "base_model": "base model"}
_TIMEOUTS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
_QUIET = {"MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}
# CPU, memory, network, GPU of a step; the first points after so many seconds.
_SYSTEM = {"MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING": "true", "MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL": "5"}
_FILES = (MANIFEST, RECORD, "report.md", "report.html", "metrics.json", "decision.md", "card.md", "history.html")
_FIGURES = "figures"
_LONGEST = 5000  # characters of a description


class Run:
    """One step's run; after the first failure of the server it stays silent."""

    def __init__(self, mlflow: Any | None, run_id: str | None = None, parent: str | None = None, settles: bool = False):
        self._mlflow = mlflow
        self._id = run_id  # None: the process's active run
        self._parent = parent
        self._settles = settles  # whether nobody but its steps gives the parent a status
        self._notes: list[str] = []

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """One point of each curve."""
        self._try(lambda mlflow: mlflow.log_metrics(dict(values), step=step, run_id=self._id))

    def record(self, manifest: Manifest | None, folder: str | Path) -> dict[str, Any]:
        """Log a step's output: settings, counts, data set, manifest, reports and figures, and a description.

        What a second output has is in a folder named after its kind.

        Args:
            manifest: what the step made; None in a process of torchrun that leaves it to the first.
            folder: where it made it.

        Returns:
            counts and content hash, for the metadata of the KFP artifact.
        """
        if manifest is None:
            return {}
        numbers, folder = describe.numbers(manifest), Path(folder)
        place = f".{manifest.kind}" if self._notes else ""
        self._notes.append(_shortened(describe.markdown(manifest, folder)))

        def log(mlflow: Any) -> None:
            mlflow.log_params(flat({**manifest.config, **describe.settings(manifest)}))
            mlflow.log_metrics(numbers)
            mlflow.set_tag(f"calrec.digest{place}", manifest.digest)
            for data in _datasets(manifest):
                mlflow.log_input(data)
            for name in _FILES:
                if (folder / name).is_file():
                    mlflow.log_artifact(str(folder / name), place[1:] or None)
            if (folder / _FIGURES).is_dir():
                mlflow.log_artifacts(str(folder / _FIGURES), _FIGURES)
            mlflow.set_tag(parents.NOTE, "\n\n".join(self._notes))

        self._try(log)
        return {**numbers, "digest": manifest.digest}

    def table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Log rows with the same columns as a table, which the UI shows and compares over runs."""
        if rows:
            columns = {column: [row[column] for row in rows] for column in rows[0]}
            self._try(lambda mlflow: mlflow.log_table(columns, f"{name}.json"))

    def text(self, name: str, text: str) -> None:
        """A file of the run."""
        self._try(lambda mlflow: mlflow.log_text(text, name))

    def note(self, text: str) -> None:
        """The run's description, in Markdown."""
        self._try(lambda mlflow: mlflow.set_tag(parents.NOTE, text))

    # --- at the parent ----------------------------------------------------------------------------------------------

    def asked(
        self, targets: Sequence[str], sources: Sequence[Mapping[str, str]], sections: Mapping[str, Any], why: str
    ) -> None:
        """Say at the parent what was asked for: its name, its parameters, and in its description why it runs.

        Args:
            targets: the categories; they name the parent.
            sources: categories as {domain, uri, snapshot}.
            sections: of the configuration, by name.
            why: Markdown.
        """

        def log(mlflow: Any) -> None:
            client = mlflow.MlflowClient()
            client.update_run(self._parent, name=" + ".join(targets))
            of = {one["domain"]: f"{one['uri']} at {one['snapshot']}" for one in sources}
            asked = flat({"targets": targets, "source": of, **{name: to_dict(one) for name, one in sections.items()}})
            known = client.get_run(self._parent).data.params  # of an attempt before, which cannot be changed
            new = {parents.key(name): value for name, value in asked.items() if parents.key(name) not in known}
            mlflow.log_params(new, run_id=self._parent)
            parents.describe(client, str(self._parent), "why", why)

        self._at_parent(log)

    def headline(
        self, target: str, metrics: Mapping[str, float], table: str, data: Mapping[str, str] | None = None
    ) -> None:
        """Say at the parent what came out for a target; what was said of it before is replaced.

        Args:
            target: the category.
            metrics: those that matter; they are called `target/metric` there.
            table: Markdown of a table of one row; the rows of all targets become one table in the description.
            data: category → content hash of its log, to find the runs that share data.
        """

        def log(mlflow: Any) -> None:
            from mlflow.entities import DatasetInput

            client = mlflow.MlflowClient()
            named = {parents.key(f"{target}/{name}"): value for name, value in metrics.items()}
            mlflow.log_metrics(named, run_id=self._parent)
            sets = [_dataset(f"data.{name}", digest, "pipeline") for name, digest in (data or {}).items()]
            client.log_inputs(self._parent, [DatasetInput(one._to_mlflow_entity()) for one in sets])
            parents.describe(client, str(self._parent), f"target/{target}", table)

        self._at_parent(log)

    def _settle(self) -> None:
        if self._settles:
            self._at_parent(lambda mlflow: parents.settle(mlflow.MlflowClient(), str(self._parent)))

    def _at_parent(self, log: Callable[[Any], None]) -> None:
        if self._parent:
            self._try(log)

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
    if threads := machine.prepare():
        print(f"{name}{' ' * bool(domain)}{domain}: {threads}", flush=True)
    run = _start(name, domain)
    status = "FINISHED"
    with foreign.guarded(), _sigterm_as_exit():
        try:
            yield run
        except SystemExit:
            status = "KILLED"
            raise
        except BaseException:
            status = "FAILED"
            raise
        finally:
            run._try(lambda mlflow: mlflow.end_run(status))
            run._settle()


def active() -> str:
    """Id of the run that this process writes to; empty when there is none."""
    run = sys.modules["mlflow"].active_run() if "mlflow" in sys.modules else None
    return str(run.info.run_id) if run else ""


def pipeline_run() -> str:
    """What ties the steps of one run together: the pipeline run's id, or that of a local run's parent; empty alone."""
    return os.environ.get("KFP_RUN_ID") or os.environ.get("CALREC_PARENT_RUN", "")


def _of_commit() -> dict[str, str]:
    return {"mlflow.source.git.commit": found} if (found := code.commit()) else {}


def joined(run_id: str) -> Run:
    """Another process's run, to which this one adds, and which it neither starts nor ends; it may be a parent."""
    return Run(_mlflow() if run_id else None, run_id, run_id)


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
    tags = {"mlflow.user": getpass.getuser(), "mlflow.source.name": "python -m pipelines run", **_of_commit()}
    run = client.create_run(_experiment(mlflow), run_name=name, tags=tags)
    return str(run.info.run_id), str(run.info.experiment_id)


def finish_parent(run_id: str, metrics: Mapping[str, float], status: str = "FINISHED", why: str = "") -> None:
    """End the parent run of a local pipeline run.

    Args:
        run_id: the parent.
        metrics: what the run took.
        status: how it ended.
        why: what made it fail.
    """
    mlflow = _mlflow()
    client = mlflow.MlflowClient()
    mlflow.log_metrics(dict(metrics), run_id=run_id)
    if why:
        parents.describe(client, run_id, "failure", why)
    client.set_terminated(run_id, status)


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


def _shortened(text: str) -> str:
    """Whole lines of a description; the rest is in the file."""
    if len(text) <= _LONGEST:
        return text
    return text[:_LONGEST].rpartition("\n")[0] + "\n\n… the rest is in report.md, among the artifacts"


# --- starting a run ---------------------------------------------------------------------------------------------


def _mlflow() -> Any:
    for name, value in (_TIMEOUTS | _QUIET).items():
        os.environ.setdefault(name, value)
    import mlflow

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    logging.getLogger("mlflow.system_metrics").setLevel(logging.ERROR)  # that a server died is said by warn, once
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


def _start(name: str, domain: str) -> Run:
    # Of the processes of torchrun only the first has a run.
    if not os.environ.get("MLFLOW_TRACKING_URI") or os.environ.get("RANK", "0") != "0":
        return Run(None)
    try:
        for variable, value in _SYSTEM.items():
            os.environ.setdefault(variable, value)
        mlflow = _mlflow()
        client = mlflow.MlflowClient()
        tags = {"calrec.step": name, "calrec.version": __version__, "mlflow.source.name": f"calrec {name}"}
        tags |= {"calrec.domain": domain} if domain else {}
        given = os.environ.get("MLFLOW_RUN_ID")
        if given:
            own = client.get_run(given)
            mlflow.set_experiment(experiment_id=own.info.experiment_id)
            mlflow.start_run(run_id=given)
            mlflow.set_tags(tags)
            return Run(mlflow, parent=own.data.tags.get("mlflow.parentRunId"))
        parent = _parent(mlflow)
        title = " · ".join(part for part in (_TITLES.get(name, name), domain) if part)
        experiment = client.get_run(parent).info.experiment_id if parent else _experiment(mlflow)
        mlflow.start_run(experiment_id=experiment, run_name=title, parent_run_id=parent, tags=tags)
        run = Run(mlflow, parent=parent, settles=not os.environ.get("CALREC_PARENT_RUN"))
        run._settle()
        return run
    except Exception as error:
        warn(error)
        return Run(None)


def _parent(mlflow: Any) -> str | None:
    if os.environ.get("CALREC_PARENT_RUN"):
        return os.environ["CALREC_PARENT_RUN"]
    if not os.environ.get("KFP_RUN_ID"):
        return None
    tags = {"mlflow.source.name": "Kubeflow Pipelines", **_of_commit()}
    return parents.of_pipeline(mlflow.MlflowClient(), _experiment(mlflow), os.environ["KFP_RUN_ID"], tags)


def _datasets(manifest: Manifest) -> list[Any]:
    """The data that a step's run is linked to, so that runs which share data are found together."""
    if manifest.kind == "interactions":
        return [_dataset(f"data.{manifest.config['domain']}", manifest.digest, str(manifest.config["source"]))]
    named = {name: digest for name, digest in manifest.inputs.items() if name.startswith(("data", "texts"))}
    return [_dataset(name, digest, "pipeline") for name, digest in named.items()]


def _dataset(name: str, digest: str, source: str) -> Any:
    from mlflow.data.code_dataset_source import CodeDatasetSource
    from mlflow.data.meta_dataset import MetaDataset

    return MetaDataset(CodeDatasetSource(tags={"source": source}), name=name, digest=digest)  # type: ignore[abstract]


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
