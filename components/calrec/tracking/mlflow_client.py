"""MLflow's client as this package uses it: each text that it writes fits into the tables and holds no secret.

The user and password of MLFLOW_TRACKING_URI move to MLflow's own variables before it is read, for MLflow prints it.
"""

import functools
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit, urlunsplit

from calrec.system.printing import redact, safe
from calrec.tracking import limits

T = TypeVar("T")
EXPERIMENT = "calrec"
KIND = {"mlflow.experimentKind": "custom_model_development"}
PAUSES = (1.0, 4.0, 15.0)
"""Seconds between the attempts to reach a server whose answer decides something."""
_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
_REST = {"mlflow.note.content": "report.md, among the artifacts, or at the runs of the steps"}


def mlflow() -> Any:
    """The library, quiet."""
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    _hide_password()
    import mlflow

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    logging.getLogger("mlflow.system_metrics").setLevel(logging.ERROR)  # that a server died is said by warn, once
    return mlflow


def client() -> Any:
    """MLflow's client, with a funnel for every text."""
    mlflow()
    return _client_class()()


def _hide_password() -> None:
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if not uri.startswith(("http://", "https://")):
        return
    parts = urlsplit(uri)
    user, at, host = parts.netloc.rpartition("@")
    name, _, password = map(unquote, user.partition(":"))
    if at and password:  # MLflow's variables count together alone
        os.environ |= {"MLFLOW_TRACKING_USERNAME": name, "MLFLOW_TRACKING_PASSWORD": password}
        os.environ["MLFLOW_TRACKING_URI"] = urlunsplit(parts._replace(netloc=host))


def name(text: str) -> str:
    """The name of a run."""
    return limits.cut(redact(text), limits.NAME)


def tags(of: Mapping[str, Any]) -> dict[str, str]:
    """Tags of a run."""
    return {key: limits.cut(redact(str(value)), limits.TAG, _REST.get(key, "")) for key, value in of.items()}


def _description(text: str | None, rest: str) -> str | None:
    return None if text is None else limits.cut(redact(text), limits.DESCRIPTION, rest)


@functools.cache
def _client_class() -> type:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput, Param

    base: Any = MlflowClient  # whose signatures are longer than what is used of them

    class Client(base):  # type: ignore[misc]
        """Whatever is written as text goes through here."""

        def create_run(self, experiment_id: str, **given: Any) -> Any:
            given |= {"run_name": name(given["run_name"]), "tags": tags(given.get("tags", {}))}
            return super().create_run(experiment_id, **given)

        def update_run(self, run_id: str, status: str | None = None, name: str | None = None) -> None:
            super().update_run(run_id, status, name and limits.cut(redact(name), limits.NAME))

        def set_tag(self, run_id: str, key: str, value: Any, synchronous: bool | None = None) -> Any:
            return super().set_tag(run_id, key, tags({key: value})[key], synchronous)

        def log_params(self, run_id: str, params: Mapping[str, Any]) -> None:
            fit = {key: limits.cut(redact(str(value)), limits.PARAMETER) for key, value in params.items()}
            super().log_batch(run_id, params=[Param(key, value) for key, value in fit.items()])

        def log_data(self, run_id: str, sets: Sequence[tuple[str, str, str]]) -> None:
            """Link a run to data as (name, digest, source)."""
            made = [DatasetInput(_dataset(*one)._to_mlflow_entity()) for one in sets]
            super().log_inputs(run_id, made)

        def update_registered_model(self, name: str, description: str | None = None, **given: Any) -> Any:
            rest = "history.html, at the run of the promote step"
            return super().update_registered_model(name, _description(description, rest), **given)

        def create_model_version(self, name: str, source: str, **given: Any) -> Any:
            given["description"] = _description(given.get("description"), "card.md, among its files")
            given["tags"] = tags(given.get("tags", {}))
            return super().create_model_version(name, source, **given)

        def set_model_version_tag(self, name: str, version: str, key: str, value: Any, **given: Any) -> None:
            super().set_model_version_tag(name, version, key, tags({key: value})[key], **given)

    return Client


def _dataset(name: str, digest: str, source: str) -> Any:
    from mlflow.data.code_dataset_source import CodeDatasetSource
    from mlflow.data.meta_dataset import MetaDataset

    where = CodeDatasetSource(tags={"source": redact(source)})
    return MetaDataset(where, name=name, digest=digest)  # type: ignore[abstract]


def experiment() -> str:
    """Id of the experiment; a new one is marked as model training, so that the UI shows it as that."""
    chosen = os.environ.get("MLFLOW_EXPERIMENT_ID")
    if chosen:
        return chosen
    found = mlflow().set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT))
    if "mlflow.experimentKind" not in found.tags:
        client().set_experiment_tag(found.experiment_id, *next(iter(KIND.items())))
    return str(found.experiment_id)


# --- what goes wrong ------------------------------------------------------------------------------------------------


def patiently(ask: Callable[[], T]) -> T:
    """An answer that decides something, asked for again where a server may come back."""
    for pause in PAUSES:
        try:
            return ask()
        except Exception as error:
            if not may_pass(error):
                raise
        time.sleep(pause)
    return ask()


def may_pass(error: Exception) -> bool:
    """Whether the same request may do better a little later."""
    status = getattr(error, "get_http_status_code", None)
    if status is None:
        return isinstance(error, OSError) and not isinstance(error, FileNotFoundError | PermissionError)
    return status() in (408, 429) or status() >= 500


def is_absence(error: Exception) -> bool:
    """Whether it says that what was asked for does not exist."""
    return getattr(error, "error_code", "") == "RESOURCE_DOES_NOT_EXIST"


def warn(error: Exception) -> None:
    """Say once that tracking failed, or raise the error when tracking is required."""
    if os.environ.get("CALREC_TRACKING") == "required":
        clean(error)
        raise error
    print(
        f"tracking: MLflow at {redact(os.environ.get('MLFLOW_TRACKING_URI', ''))} failed, this step goes on without it "
        f"(CALREC_TRACKING=required makes it an error): {words(error)}",
        file=sys.stderr,
        flush=True,
    )


def words(error: BaseException) -> str:
    """The first line of an error, fit to be shown."""
    lines = redact(str(error)).strip().splitlines()
    return safe(lines[0][:300] if lines else repr(error))


def clean(error: BaseException) -> None:
    """Drop the secrets of addresses from an error and from those behind it, all of which a traceback prints."""
    due, seen = [error], set()
    while due:
        one = due.pop()
        seen.add(id(one))
        one.args = tuple(redact(part) if isinstance(part, str) else part for part in one.args)
        for name in ("message", "strerror", "filename"):
            if isinstance(getattr(one, name, None), str):
                setattr(one, name, redact(getattr(one, name)))
        due += [each for each in (one.__cause__, one.__context__) if each is not None and id(each) not in seen]
