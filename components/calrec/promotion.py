"""A version enters the registry, and becomes the champion: by its run when it passed the gate, or by hand.

The alias `champion` moves by one request, so there is always one champion, whatever dies when; what it replaces is
known before, so there is always a way back.
"""

import importlib.metadata
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from calrec import artifacts, code, registry, tracking
from calrec.checks import check
from calrec.registry import Version

_SERVED = Path(__file__).parent / "serve" / "model.py"


def settle(folder: Path, example: Sequence[Mapping[str, Any]], state: str, rival: str | None, promote: bool) -> str:
    """Register a version as the challenger and, when it passed the gate, make it the champion.

    The same model, index and settings are one version, however often a run is repeated. A server that fails is an error
    only when tracking is required, as elsewhere; without a server nothing happens.

    Args:
        folder: of :func:`calrec.promote.version.pack`.
        example: a request that it must answer before it is registered.
        state: which data and settings it was made from, see :func:`calrec.watch.step.decide`.
        rival: URI of the champion that the gate compared it with; when there is another one by now, that one stays.
        promote: whether it passed the gate.

    Returns:
        what became of it, in a sentence; empty without a registry.
    """
    if not registry.available():
        return ""
    assert folder.name == registry.FOLDER, f"MLflow keeps the folder under its name, {folder.name}"
    try:
        version = _enter(folder, example)
        client, model, number = tracking.client(), registry.name(version.target), str(version.number)
        client.set_registered_model_alias(model, registry.CHALLENGER, number)
        said = _crown(version, rival) if promote else "stays the challenger: it did not pass the gate"
        client.set_model_version_tag(model, number, registry.DECISION, said)
        # Last: a run that is cut off before is not taken for done by the next one.
        client.set_model_version_tag(model, number, registry.STATE, state)
        return f"{model} version {number} {said}"
    except Exception as error:
        tracking.warn(error)
        return ""


def _crown(version: Version, rival: str | None) -> str:
    now = registry.champion(version.target)
    if now and now.number == version.number:
        return "is the champion already"
    if registry.WITHDRAWN in version.tags:
        return f"stays the challenger: it was taken back, {version.tags[registry.WITHDRAWN]}"
    if (now.uri if now else None) != rival:
        return "stays the challenger: another champion was named while this run went on"
    _replace(now, version)
    return f"is the champion, in the place of version {now.number}" if now else "is the champion, the first one"


def _replace(old: Version | None, new: Version) -> None:
    """Move the alias, after what stands in its place was noted."""
    client, model = tracking.client(), registry.name(new.target)
    if old:
        client.set_model_version_tag(model, str(new.number), registry.REPLACED, str(old.number))
    client.set_registered_model_alias(model, registry.CHAMPION, str(new.number))


def _enter(folder: Path, example: Sequence[Mapping[str, Any]]) -> Version:
    manifest = artifacts.read_manifest(folder, "version")
    target = str(manifest.config["target"])
    version = registry.newest(target)
    if version is not None and version.tags.get(registry.MODEL) == manifest.config["model"]:
        return version
    client, run = tracking.client(), tracking.active()
    if version is None:
        _create(client, registry.name(target))
    tags = {f"calrec.{key}": str(value) for key, value in manifest.config.items() if key != "target"}
    origin = {"calrec.commit": code.commit(), "calrec.pipeline_run": tracking.pipeline_run()}
    tags |= {key: value for key, value in origin.items() if value}
    of_files = {registry.CONTENT: manifest.digest, registry.METRICS: ",".join(manifest.counts)}
    logged = _log(folder, registry.name(target), example, of_files, manifest.counts)
    return registry.version_of(
        target,
        client.create_model_version(
            registry.name(target),
            logged.model_uri,
            run_id=run or None,
            tags=tags,
            description=(folder / "card.md").read_text(),
            model_id=logged.model_id,
        ),
    )


def _log(
    folder: Path,
    name: str,
    example: Sequence[Mapping[str, Any]],
    tags: Mapping[str, str],
    metrics: Mapping[str, float],
) -> Any:
    """Write the model that MLflow serves, and let it answer once."""
    import mlflow

    model = mlflow.pyfunc.log_model(
        name=name,
        python_model=str(_SERVED),
        artifacts={registry.FOLDER: str(folder)},
        code_paths=[str(Path(__file__).parent)],
        pip_requirements=_requirements(),
        input_example=[dict(one) for one in example],
        tags=dict(tags),
    )
    mlflow.log_metrics(dict(metrics), model_id=model.model_id)
    return model


def _requirements() -> list[str]:
    """The package's requirements in the versions that are installed; the package itself travels with the model."""
    own = [text for text in importlib.metadata.requires("calrec") or () if "extra ==" not in text]
    names = [found[0] for text in own if (found := re.match(r"[\w.-]+", text))]
    return [f"{one}=={importlib.metadata.version(one).split('+')[0]}" for one in (*names, "mlflow")]


def _create(client: Any, model: str) -> None:
    """Make the registered model; another run may have made it meanwhile."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(model)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def describe(target: str, markdown: str) -> None:
    """Put words above a target's versions in MLflow; empty ones leave what stands there."""
    if not registry.available() or not markdown:
        return
    try:
        tracking.client().update_registered_model(registry.name(target), description=markdown)
    except Exception as error:
        tracking.warn(error)


# --- by hand --------------------------------------------------------------------------------------------------------


def appoint(target: str, number: int, reason: str) -> str:
    """Make a version the champion whatever the gate said; gives what was done, in a sentence.

    Raises:
        ValueError: there is no such version.
    """
    client, model = tracking.client(), registry.name(target)
    version, now = registry.resolved(f"models:/{model}/{number}"), registry.champion(target)
    if now and now.number == number:
        return f"{model} version {number} is the champion already"
    _forgive(version)
    _replace(now, version)
    said = f"is the champion by hand{f', in the place of version {now.number}' if now else ''}: {reason}"
    client.set_model_version_tag(model, str(number), registry.DECISION, said)
    return f"{model} version {number} {said}"


def roll_back(target: str, reason: str) -> str:
    """Make the champion before the present one the champion again; gives what was done, in a sentence.

    The version that is taken back is not promoted again by a run that makes the same one.

    Raises:
        ValueError: there is no champion, or there was none before it.
    """
    now = registry.champion(target)
    check(now is not None, f"{target} has no champion; name a version: calrec promote --target {target} --version N")
    assert now
    before = now.tags.get(registry.REPLACED)
    check(
        before is not None,
        f"version {now.number} is the first champion of {target}, or its alias was set elsewhere; name a version: "
        f"calrec promote --target {target} --version N",
    )
    assert before
    client, model = tracking.client(), registry.name(target)
    version = registry.resolved(f"models:/{model}/{before}")
    _forgive(version)
    client.set_model_version_tag(model, str(now.number), registry.WITHDRAWN, reason)
    client.set_registered_model_alias(model, registry.CHAMPION, str(version.number))
    said = f"is the champion again, in the place of version {now.number}: {reason}"
    client.set_model_version_tag(model, str(version.number), registry.DECISION, said)
    return f"{model} version {version.number} {said}"


def _forgive(version: Version) -> None:
    if registry.WITHDRAWN in version.tags:
        tracking.client().delete_model_version_tag(
            registry.name(version.target), str(version.number), registry.WITHDRAWN
        )
