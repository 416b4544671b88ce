"""A compiled pipeline → a run in the cluster: pipeline, version, experiment, run, each made at most once."""

import getpass
import hashlib
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pipelines.kubeflow.connection import Kubeflow, RefusedError, name_filter

T = TypeVar("T")


@dataclass(frozen=True)
class Version:
    """An uploaded pipeline; `reused` when the server had exactly this one."""

    pipeline_id: str
    version_id: str
    name: str
    reused: bool


def pipeline_version(kubeflow: Kubeflow, pipeline: str, path: Path) -> Version:
    """Upload a compiled pipeline as a version that is named by its content, unless the server has it.

    A pipeline that is missing is uploaded first; its own first version has the pipeline's name, whatever it contains.
    """

    def find_pipeline() -> Any:
        listed = kubeflow.pipelines.pipeline_service_list_pipelines(filter=name_filter(pipeline), **kubeflow.scope)
        return _exact(listed.pipelines, pipeline)

    def upload_pipeline() -> Any:
        return kubeflow.uploads.upload_pipeline(str(path), name=pipeline, **kubeflow.scope)

    pipeline_id = str(_found_or_made(kubeflow, f"pipeline {pipeline}", find_pipeline, upload_pipeline)[0].pipeline_id)
    name = f"{pipeline}-{hashlib.sha256(path.read_bytes()).hexdigest()[:12]}"

    def find_version() -> Any:
        listed = kubeflow.pipelines.pipeline_service_list_pipeline_versions(pipeline_id, filter=name_filter(name))
        return _exact(listed.pipeline_versions, name)

    def upload_version() -> Any:
        return kubeflow.uploads.upload_pipeline_version(str(path), name=name, pipelineid=pipeline_id)

    version, reused = _found_or_made(kubeflow, f"version {name}", find_version, upload_version)
    return Version(pipeline_id, str(version.pipeline_version_id), name, reused)


def experiment(kubeflow: Kubeflow, name: str) -> str:
    """Id of the experiment of this name, which is made if it is missing."""
    from kfp_server_api import V2beta1Experiment

    def find() -> Any:
        listed = kubeflow.experiments.experiment_service_list_experiments(filter=name_filter(name), **kubeflow.scope)
        return _exact(listed.experiments, name)

    def make() -> Any:
        body = V2beta1Experiment(display_name=name, **kubeflow.scope)
        return kubeflow.experiments.experiment_service_create_experiment(body)

    return str(_found_or_made(kubeflow, f"experiment {name}", find, make)[0].experiment_id)


def create_run(
    kubeflow: Kubeflow,
    version: Version,
    experiment_id: str,
    name: str,
    parameters: Mapping[str, Any],
    service_account: str = "",
    mlflow_experiment: str = "",
) -> Any:
    """Start a run, exactly one even when the answer to the request is lost.

    Args:
        kubeflow: the connection.
        version: what to run.
        experiment_id: where it is listed.
        name: its name; empty for the pipeline's name and the time.
        parameters: runtime parameters; what is missing has its default.
        service_account: Kubernetes service account of the pods; empty for the server's default.
        mlflow_experiment: experiment for the server's MLflow plugin; empty to not ask for the plugin.
    """
    import kfp_server_api as api

    mark = f"submission {uuid.uuid4().hex[:12]}"
    name = name or f"{version.name.rpartition('-')[0]} {time.strftime('%Y-%m-%d %H:%M:%S')}"
    body = api.V2beta1Run(
        display_name=name,
        description=f"Submitted by {_user()} with calrec submit; {mark}",
        experiment_id=experiment_id,
        pipeline_version_reference=api.V2beta1PipelineVersionReference(
            pipeline_id=version.pipeline_id, pipeline_version_id=version.version_id
        ),
        runtime_config=api.V2beta1RuntimeConfig(parameters=dict(parameters)),
        service_account=service_account or None,
        # kfp.Client has no argument for this.
        plugins_input={"mlflow": {"experiment_name": mlflow_experiment}} if mlflow_experiment else None,
    )

    def find() -> Any:  # a name may be given twice, the mark may not
        listed = kubeflow.runs.run_service_list_runs(
            experiment_id=experiment_id, filter=name_filter(name), sort_by="created_at desc", page_size=20
        )
        return next((run for run in listed.runs or [] if (run.description or "").endswith(mark)), None)

    return kubeflow.ask(lambda: kubeflow.runs.run_service_create_run(body), "create the run", find)


def _found_or_made(kubeflow: Kubeflow, what: str, find: Callable[[], Any], make: Callable[[], Any]) -> tuple[Any, bool]:
    """The thing, and whether it was there."""
    found = kubeflow.ask(find, f"look for {what}")
    if found is not None:
        return found, True
    try:
        return kubeflow.ask(make, f"create {what}", find), False
    except RefusedError as error:
        found = kubeflow.ask(find, f"look for {what}") if error.status == 409 else None  # another submission was faster
        if found is None:
            raise
        return found, True


def _exact(listed: list[Any] | None, name: str) -> Any:
    """The one of this name; the server's filter takes capitals for small letters."""
    return next((one for one in listed or [] if one.display_name == name), None)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a pod's user has no name
        return "an unnamed user"


def specification(kubeflow: Kubeflow, run: Any) -> Mapping[str, Any]:
    """The compiled pipeline of a run, for the display names; empty when its version has been deleted."""
    found = run.pipeline_spec
    if not found:
        reference = run.pipeline_version_reference
        try:
            found = kubeflow.ask(
                lambda: kubeflow.pipelines.pipeline_service_get_pipeline_version(
                    reference.pipeline_id, reference.pipeline_version_id
                ),
                "look at the run's pipeline",
            ).pipeline_spec
        except RefusedError:
            return {}
    return dict(found.get("pipeline_spec", found))
