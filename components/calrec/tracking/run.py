"""One run in MLflow, to which a step writes; after the first failure of the server it stays silent."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from calrec.artifacts import MANIFEST, RECORD, Manifest
from calrec.config.overrides import to_dict
from calrec.report import manifests
from calrec.system.signals import hold_signals
from calrec.tracking import limits, parent_run
from calrec.tracking.mlflow_client import client, warn

_FILES = (MANIFEST, RECORD, "report.md", "report.html", "metrics.json", "decision.md", "card.md", "history.html")
_FIGURES = "figures"
_REST = "report.md, among the artifacts"


class Run:
    """One step's run; after the first failure of the server it stays silent."""

    def __init__(self, mlflow: Any | None, run_id: str = "", parent: str | None = None, owns_parent: bool = False):
        self._mlflow = mlflow
        self._failed = False
        self._id = run_id
        self._parent = parent
        self._owns_parent = owns_parent  # no pipeline sets the parent's status, so this step does
        self._notes: list[str] = []

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """One point of each curve."""
        self.attempt(lambda mlflow: mlflow.log_metrics(dict(values), step=step, run_id=self._id))

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
        numbers, folder = manifests.numbers(manifest), Path(folder)
        place = f".{manifest.kind}" if self._notes else ""
        self._notes.append(limits.cut(manifests.markdown(manifest, folder), limits.DESCRIPTION, _REST))

        def log(mlflow: Any) -> None:
            client().log_params(self._id, flat({**manifest.config, **manifests.settings(manifest)}))
            mlflow.log_metrics(numbers)
            client().set_tag(self._id, f"calrec.digest{place}", manifest.digest)
            client().log_data(self._id, _datasets(manifest))
            for name in _FILES:
                if (folder / name).is_file():
                    mlflow.log_artifact(str(folder / name), place[1:] or None)
            if (folder / _FIGURES).is_dir():
                mlflow.log_artifacts(str(folder / _FIGURES), _FIGURES)
            client().set_tag(self._id, parent_run.NOTE, "\n\n".join(self._notes))

        self.attempt(log)
        return {**numbers, "digest": manifest.digest}

    def table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Log rows with the same columns as a table, which the UI shows and compares over runs."""
        if rows:
            columns = {column: [row[column] for row in rows] for column in rows[0]}
            self.attempt(lambda mlflow: mlflow.log_table(columns, f"{name}.json"))

    def text(self, name: str, text: str) -> None:
        """A file of the run."""
        self.attempt(lambda mlflow: mlflow.log_text(text, name))

    def note(self, text: str) -> None:
        """The run's description, in Markdown."""
        self.attempt(lambda _: client().set_tag(self._id, parent_run.NOTE, text))

    # --- at the parent ----------------------------------------------------------------------------------------------

    def log_request(
        self, targets: Sequence[str], sources: Sequence[Mapping[str, str]], sections: Mapping[str, Any], why: str
    ) -> None:
        """Say at the parent what was asked for: its name, its parameters, and in its description why it runs.

        Args:
            targets: the categories; they name the parent.
            sources: categories as {domain, uri, snapshot}.
            sections: of the configuration, by name.
            why: Markdown.
        """

        def log(_: Any) -> None:
            client().update_run(self._parent, name=" + ".join(targets))
            of = {one["domain"]: f"{one['uri']} at {one['snapshot']}" for one in sources}
            asked = flat({"targets": targets, "source": of, **{name: to_dict(one) for name, one in sections.items()}})
            known = client().get_run(self._parent).data.params  # of an attempt before, which cannot be changed
            new = {parent_run.key(name): value for name, value in asked.items() if parent_run.key(name) not in known}
            client().log_params(self._parent, new)
            parent_run.describe(client(), str(self._parent), "why", why)

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
            named = {parent_run.key(f"{target}/{name}"): value for name, value in metrics.items()}
            mlflow.log_metrics(named, run_id=self._parent)
            sets = [(f"data.{name}", digest, "pipeline") for name, digest in (data or {}).items()]
            client().log_data(self._parent, sets)
            parent_run.describe(client(), str(self._parent), f"target/{target}", table)

        self._at_parent(log)

    def end(self, status: str) -> None:
        """End the run, also when the server failed in between: it may be there again. The parent follows."""
        if self._mlflow is not None and self._failed:  # which was said
            with contextlib.suppress(Exception):
                self._mlflow.end_run(status)
                self._failed = False
        else:
            self.attempt(lambda mlflow: mlflow.end_run(status))
        self.update_parent()

    def update_parent(self) -> None:
        """Give the parent the status of its steps, when nobody else does."""
        if self._owns_parent:
            self._at_parent(lambda _: parent_run.update_status(client(), str(self._parent)))

    def _at_parent(self, log: Callable[[Any], None]) -> None:
        if self._parent:
            self.attempt(log)

    def attempt(self, log: Callable[[Any], None]) -> None:
        """Do something with MLflow, unless it failed before."""
        if self._mlflow is not None and not self._failed:
            try:
                with hold_signals():
                    log(self._mlflow)
            except Exception as error:
                self._failed = True
                warn(error)


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


def _datasets(manifest: Manifest) -> list[tuple[str, str, str]]:
    """The data that a step's run is linked to, so that runs which share data are found together."""
    if manifest.kind == "interactions":
        return [(f"data.{manifest.config['domain']}", manifest.digest, str(manifest.config["source"]))]
    named = {name: digest for name, digest in manifest.inputs.items() if name.startswith(("data", "texts"))}
    return [(name, digest, "pipeline") for name, digest in named.items()]
