"""The registry of models in MLflow: numbered versions of each target's model, one of which is the champion.

A version is a folder of all that recommending takes: `model/`, `index/`, and `settings.json` with how texts are
generated and items ranked. Without a server (MLFLOW_TRACKING_URI) there is no registry, and no champion.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calrec import artifacts, remote, tracking
from calrec.checks import check
from calrec.settings import to_dict

CHAMPION, CHALLENGER = "champion", "challenger"
STATE, DIGEST = "calrec.state", "calrec.digest"
_FOLDER = "registered"  # of the run's files


@dataclass(frozen=True)
class Version:
    """One model of a target."""

    target: str
    number: int
    source: str
    """URI of its folder."""
    tags: Mapping[str, str]


def name(target: str) -> str:
    """Name of the registered model.

    Raises:
        ValueError: a target that MLflow takes for a path.
    """
    check(not re.search("[/:]", target), f"the registry takes no / or : in a name, got target {target!r}; rename it")
    return f"calrec-{target}"


def available() -> bool:
    """Whether there is a registry."""
    return bool(os.environ.get("MLFLOW_TRACKING_URI"))


def champion(target: str) -> Version | None:
    """The version that is in use; the registry must be available."""
    client = tracking.client()
    found = client.search_registered_models(f"name = '{name(target)}'")
    number = found[0].aliases.get(CHAMPION) if found else None
    return _version(target, client.get_model_version(name(target), number)) if number else None


def newest(target: str) -> Version | None:
    """The version with the highest number, in use or not; the registry must be available."""
    found = tracking.client().search_model_versions(
        f"name = '{name(target)}'", max_results=1, order_by=["version_number DESC"]
    )
    return _version(target, found[0]) if found else None


def settle(
    target: str,
    folders: Mapping[str, Path],
    settings: Mapping[str, Any],
    state: str,
    rival: str | None,
    promote: bool,
) -> None:
    """Register what a run has made as the challenger and, when it passed the gate, make it the champion.

    The same model, index and settings are one version, however often a run is repeated. A server that fails is an error
    only when tracking is required, as elsewhere; without a server nothing happens.

    Args:
        target: the category.
        folders: model and index.
        settings: the sections generate and retrieve.
        state: which data and settings it was made from, see :func:`calrec.watch.step.decide`.
        rival: folder of the champion that the gate compared it with; when there is another one by now, it stays.
        promote: whether it passed the gate.
    """
    if not available():
        return
    try:
        version = _enter(target, folders, {part: to_dict(one) for part, one in settings.items()})
        client, model, number = tracking.client(), name(target), str(version.number)
        now = champion(target)
        said = ""
        if promote and (now.source if now else None) not in (rival, version.source):
            said = ", which stays the challenger: another champion was named while this run went on"
        elif promote:
            client.set_registered_model_alias(model, CHAMPION, number)  # one request: there is always one champion
            said = ", the champion"
        client.set_registered_model_alias(model, CHALLENGER, number)
        # Last: a run that is cut off before is not taken for done by the next one.
        client.set_model_version_tag(model, number, STATE, state)
        print(f"promote {target}: {model} version {number}{said}", flush=True)
    except Exception as error:
        tracking.warn(error)


def _enter(target: str, folders: Mapping[str, Path], settings: Mapping[str, Any]) -> Version:
    digest = artifacts.short_hash([settings, *(artifacts.read_manifest(f).digest for f in folders.values())])
    client, version = tracking.client(), newest(target)
    if version is not None and version.tags.get(DIGEST) == digest:
        return version
    if version is None:
        _create(client, name(target))
    source, run = _upload(folders, settings), tracking.active() or None
    return _version(target, client.create_model_version(name(target), source, run_id=run, tags={DIGEST: digest}))


def fetched(source: str | None) -> Path | None:
    """The folder of a version, downloaded; it is deleted when the process ends. None gives None."""
    if source is None:
        return None
    import mlflow

    return Path(mlflow.artifacts.download_artifacts(artifact_uri=source, dst_path=str(remote.scratch())))


def _upload(folders: Mapping[str, Path], settings: Mapping[str, Any]) -> str:
    import mlflow

    for part, folder in folders.items():
        mlflow.log_artifacts(str(folder), f"{_FOLDER}/{part}")
    mlflow.log_dict(dict(settings), f"{_FOLDER}/settings.json")
    return str(mlflow.get_artifact_uri(_FOLDER))


def _create(client: Any, model: str) -> None:
    """Make the registered model; another run may have made it meanwhile."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(model)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _version(target: str, found: Any) -> Version:
    return Version(target, int(found.version), str(found.source), dict(found.tags))
