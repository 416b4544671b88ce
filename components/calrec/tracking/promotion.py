"""A version enters the registry, and becomes the champion: by its run when it passed the gate, or by hand.

The alias `champion` moves by one request, so there is always one champion, whatever dies when; what it replaces is
known before, so there is always a way back.

MLflow has no request that moves an alias only if nobody else has. So a run claims the place before it looks, writes,
waits until a request of another run that looked at the same time must have arrived, and reads again: of several claims
on one place the version that was registered first has it.
"""

import importlib.metadata
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from calrec import artifacts
from calrec.artifacts import NOT_KNOWN
from calrec.config.checks import check
from calrec.system import code_version
from calrec.tracking import mlflow_client, registry, runs
from calrec.tracking.registry import Version

SETTLING = 2.0
"""Seconds in which a request reaches the server: two runs are told apart when theirs do."""
_CLAIMED = 600  # seconds after which a claim is that of a run that died
_RECENT = 20  # versions among which another run's is
_PACKAGE = Path(__file__).parents[1]
_SERVED = _PACKAGE / "serve" / "model.py"


def register_version(
    folder: Path, example: Sequence[Mapping[str, Any]], state: str, rival: str | None, promote: bool
) -> str:
    """Register a version as the challenger and, when it passed the gate, make it the champion.

    The same model, index and settings are one version, however often a run is repeated. A server that fails is an error
    only when tracking is required, as elsewhere; without a server nothing happens.

    Args:
        folder: of :func:`calrec.promote.version.pack`.
        example: a request that it must answer before it is registered.
        state: which data and settings it was made from, see :func:`calrec.watch.step.decide`.
        rival: URI of the champion that the gate compared it with; when there is another one by now, that one stays.
            None: there was none; NOT_KNOWN: the registry did not say.
        promote: whether it passed the gate.

    Returns:
        what became of it, in a sentence; empty without a registry.
    """
    if not registry.available():
        return ""
    assert folder.name == registry.FOLDER, f"MLflow keeps the folder under its name, {folder.name}"
    try:
        return mlflow_client.patiently(lambda: _register(folder, example, state, rival, promote))
    except Exception as error:
        runs.warn(error)
        return ""


def _register(folder: Path, example: Sequence[Mapping[str, Any]], state: str, rival: str | None, promote: bool) -> str:
    version = _create_version(folder, example)
    client, model, number = runs.client(), registry.name(version.target), str(version.number)
    client.set_registered_model_alias(model, registry.CHALLENGER, number)
    judged, said = _promote(version, rival) if promote else (True, "stays the challenger: it did not pass the gate")
    client.set_model_version_tag(model, number, registry.DECISION, said)
    if judged:
        # Last: a run that is cut off before is not taken for done by the next one.
        client.set_model_version_tag(model, number, registry.STATE, state)
    return f"{model} version {number} {said}"


def _promote(version: Version, rival: str | None) -> tuple[bool, str]:
    """Whether it was held against the champion of this moment, and what became of it."""
    client, model, number = runs.client(), registry.name(version.target), str(version.number)
    # A claim that stands there already is of an attempt that was killed: who has the place is still to be settled.
    if _holder(version.target) == version.uri and (registry.CLAIM not in version.tags or rival == version.uri):
        return True, "is the champion already"
    if registry.WITHDRAWN in version.tags:
        return True, f"stays the challenger: it was taken back, {version.tags[registry.WITHDRAWN]}"
    place = "" if rival in (None, NOT_KNOWN) else str(rival)
    client.set_model_version_tag(model, number, registry.CLAIM, f"{time.time():.0f} {place}")
    if _first(version, place):
        if _holder(version.target) == place:
            _replace(place, version)
        time.sleep(SETTLING)
    first = _first(version, place)
    if first and _holder(version.target) != first.uri:
        _replace(place, first)
    client.delete_model_version_tag(model, number, registry.CLAIM)
    if first is None:
        return False, f"stays the challenger: {_why_not(version.target, rival)}"
    if first.number != version.number:
        return False, f"stays the challenger: version {first.number} became the champion at the same moment"
    return True, f"is the champion, {f'in the place of version {_number(place)}' if place else 'the first one'}"


def _first(version: Version, place: str) -> Version | None:
    """Who has a place among those that claim it; None: it was given away before."""
    # The claims are read before the alias, for who takes its claim back has moved the alias before.
    others = [one for one in registry.versions(version.target, _RECENT) if _claims(one, place)]
    claims = sorted([version, *others], key=lambda one: one.number)
    return claims[0] if _holder(version.target) in (place, *(one.uri for one in claims)) else None


def _claims(version: Version, place: str) -> bool:
    since, _, claimed = version.tags.get(registry.CLAIM, "0 ").partition(" ")
    return claimed == place and time.time() - float(since) < _CLAIMED and registry.WITHDRAWN not in version.tags


def _holder(target: str) -> str:
    """URI of the champion; empty when there is none."""
    now = registry.champion(target)
    return now.uri if now else ""


def _why_not(target: str, rival: str | None) -> str:
    now = registry.champion(target)
    if now is None:
        return f"version {_number(str(rival))}, with which it was compared, is gone, and no other is the champion"
    if rival == NOT_KNOWN:
        return f"it was not compared with version {now.number}, since the registry did not answer when it was judged"
    return "another champion was named while this run went on"


def _number(uri: str) -> str:
    return uri.rpartition("/")[2]


def _replace(place: str, new: Version) -> None:
    """Move the alias, after what stands in its place was noted; `place` is a URI, or empty."""
    client, model = runs.client(), registry.name(new.target)
    if place:
        client.set_model_version_tag(model, str(new.number), registry.REPLACED, _number(place))
    client.set_registered_model_alias(model, registry.CHAMPION, str(new.number))


def _create_version(folder: Path, example: Sequence[Mapping[str, Any]]) -> Version:
    manifest = artifacts.read_manifest(folder, "version")
    target = str(manifest.config["target"])
    version = registry.newest(target)
    if version is not None and version.tags.get(registry.MODEL) == manifest.config["model"]:
        return version
    client, run = runs.client(), runs.active()
    if version is None:
        _create(client, registry.name(target))
    tags = {f"calrec.{key}": str(value) for key, value in manifest.config.items() if key != "target"}
    origin = {"calrec.commit": code_version.commit(), "calrec.pipeline_run": runs.pipeline_run()}
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
        name=re.sub(r"[/:.%\"']", "_", name),  # a logged model's, which takes less than a registered one's
        python_model=str(_SERVED),
        artifacts={registry.FOLDER: str(folder)},
        code_paths=[str(_PACKAGE)],
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
        runs.client().update_registered_model(registry.name(target), description=markdown)
    except Exception as error:
        runs.warn(error)


# --- by hand --------------------------------------------------------------------------------------------------------


def set_champion(target: str, number: int, reason: str) -> str:
    """Make a version the champion whatever the gate said; gives what was done, in a sentence.

    Raises:
        ValueError: there is no such version.
    """
    client, model = runs.client(), registry.name(target)
    version, now = registry.resolve_version(f"models:/{model}/{number}"), registry.champion(target)
    if now and now.number == number:
        return f"{model} version {number} is the champion already"
    _clear_withdrawn(version)
    _replace(now.uri if now else "", version)
    said = f"is the champion by hand{f', in the place of version {now.number}' if now else ''}: {reason}"
    client.set_model_version_tag(model, str(number), registry.DECISION, said)
    return f"{model} version {number} {said}"


def rollback(target: str, reason: str) -> str:
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
    client, model = runs.client(), registry.name(target)
    version = registry.resolve_version(f"models:/{model}/{before}")
    _clear_withdrawn(version)
    client.set_model_version_tag(model, str(now.number), registry.WITHDRAWN, reason)
    client.set_registered_model_alias(model, registry.CHAMPION, str(version.number))
    said = f"is the champion again, in the place of version {now.number}: {reason}"
    client.set_model_version_tag(model, str(version.number), registry.DECISION, said)
    return f"{model} version {version.number} {said}"


def _clear_withdrawn(version: Version) -> None:
    if registry.WITHDRAWN in version.tags:
        runs.client().delete_model_version_tag(registry.name(version.target), str(version.number), registry.WITHDRAWN)
