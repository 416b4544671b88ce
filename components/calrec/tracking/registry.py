"""The registry of models in MLflow: numbered versions of each target's model, one of which is the champion.

A version is a logged model that MLflow can serve; in it lies a folder of all that recommending takes, see
calrec.promote.version. What it was judged by and why it is, or is no longer, the champion stands in its tags.
Without a server (MLFLOW_TRACKING_URI) there is no registry, and no champion. Only
calrec.tracking.promotion writes to it.
"""

import json
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from calrec import artifacts
from calrec.artifacts import NOT_KNOWN
from calrec.config.checks import check
from calrec.report import tables
from calrec.storage import http
from calrec.system.printing import safe
from calrec.tracking import mlflow_client, runs

T = TypeVar("T")
CHAMPION, CHALLENGER = "champion", "challenger"
STATE, MODEL = "calrec.state", "calrec.model"
_PREFIX = "calrec-"
CONTENT = "calrec.content"  # digest of the folder, at the logged model
METRICS = "calrec.metrics"  # names of its own metrics there, beside which MLflow puts those of the run
DECISION = "calrec.decision"
REPLACED = "calrec.replaced"  # the champion before
CLAIM = "calrec.claim"  # while a run makes it the champion: in whose place, and since when
WITHDRAWN = "calrec.withdrawn"  # why a person took it back
FOLDER = "version"


@dataclass(frozen=True)
class Version:
    """One model of a target."""

    target: str
    number: int
    source: str
    """The logged model."""
    tags: Mapping[str, str]
    created: datetime
    aliases: tuple[str, ...] = ()

    @property
    def uri(self) -> str:
        """What names this version and no other."""
        return f"models:/{name(self.target)}/{self.number}"


def name(target: str) -> str:
    """Name of the registered model.

    Raises:
        ValueError: a target that MLflow takes for a path.
    """
    check(not re.search("[/:]", target), f"the registry takes no / or : in a name, got target {target!r}; rename it")
    return f"{_PREFIX}{target}"


def available() -> bool:
    """Whether there is a registry."""
    return bool(os.environ.get("MLFLOW_TRACKING_URI"))


# --- reading --------------------------------------------------------------------------------------------------------


def champion(target: str) -> Version | None:
    """The version that is in use; the registry must be available.

    An alias on a version that does not exist is said, and is none: a server leaves it that sets it during a deletion.
    """
    entry = _entry(target)
    number = entry.aliases.get(CHAMPION) if entry else None
    found = _version(target, int(number)) if number else None
    if number and not found:
        print(
            f"registry: the champion of {safe(target)} was version {number}, which was deleted; there is none until "
            "the next one passes the gate, or calrec promote --target NAME --version N names one",
            file=sys.stderr,
            flush=True,
        )
    return found


def newest(target: str) -> Version | None:
    """The version with the highest number, in use or not; the registry must be available."""
    return next(iter(versions(target, 1)), None)


def versions(target: str, most: int = 50) -> list[Version]:
    """The newest versions, the newest first; the registry must be available.

    Each is asked for by its number: MLflow's filters cannot hold every name.
    """
    entry, found = _entry(target), list[Version]()
    number = max((int(one.version) for one in entry.latest_versions), default=0) if entry else 0
    while number and len(found) < most:
        found += [one] if (one := _version(target, number)) else []
        number -= 1
    return found


def _entry(target: str) -> Any:
    """The registered model of a target; None: nothing was registered yet."""
    return _if_there(lambda: runs.client().get_registered_model(name(target)))


def _version(target: str, number: int) -> Version | None:
    found = _if_there(lambda: runs.client().get_model_version(name(target), str(number)))
    return version_of(target, found) if found else None


def _if_there(ask: Callable[[], T]) -> T | None:
    try:
        return ask()
    except Exception as error:
        if not mlflow_client.is_absence(error):
            raise
        return None


def metrics(version: Version) -> dict[str, float]:
    """What a version was judged by."""
    logged = runs.client().get_logged_model(_id(version))
    own = logged.tags.get(METRICS, "").split(",")
    return {metric.key: float(metric.value) for metric in logged.metrics or () if metric.key in own}


def past(target: str) -> list[dict[str, Any]]:
    """The newest versions as :class:`calrec.evaluate.report.history.Version` takes them.

    A server that fails gives none, and is an error only when tracking is required.
    """
    try:
        return [
            {
                "number": one.number,
                "date": f"{one.created:%Y-%m-%d}",
                "metrics": metrics(one),
                "champion": CHAMPION in one.aliases,
                "data": one.tags.get("calrec.data", ""),
            }
            for one in versions(target)
        ]
    except Exception as error:
        runs.warn(error)
        return []


def table(target: str) -> str:
    """The versions of a target for a terminal, the newest first.

    Raises:
        ValueError: there is none.
    """
    found = versions(target)
    check(bool(found), f"no model of {target!r} is registered; registered are: {', '.join(targets()) or 'none'}")
    rows: list[tuple[str, ...]] = [("version", "", "made", "metric", "data", "what became of it")]
    for one in found:
        judged = metrics(one)
        main = next((key.removesuffix("_low") for key in judged if key.endswith("_low")), "")
        shown = f"{main} {judged[main]:.4f}" if main else ""
        data, back = one.tags.get("calrec.data", ""), one.tags.get(WITHDRAWN)
        said = f"taken back: {back}" if back else one.tags.get(DECISION, "")
        row = str(one.number), " ".join(one.aliases), f"{one.created:%Y-%m-%d %H:%M}", shown, data, said
        rows.append(tuple(map(safe, row)))
    return tables.text(rows)


def targets() -> list[str]:
    """Categories with a registered model."""
    found: list[str] = []
    token: str | None = ""
    while token is not None:
        page = runs.client().search_registered_models(f"name LIKE '{_PREFIX}%'", page_token=token or None)
        found += [one.name.removeprefix(_PREFIX) for one in page]
        token = page.token or None
    return sorted(found)


def request(version: Version) -> str:
    """A request that the served version answers, as JSON in one line."""
    import mlflow

    where = runs.client().get_logged_model(_id(version)).artifact_location
    return json.dumps(mlflow.artifacts.load_dict(f"{where}/serving_input_example.json"))


def resolve_version(uri: str) -> Version:
    """The version that models:/NAME@ALIAS or models:/NAME/NUMBER means now; the registry must be available.

    Raises:
        ValueError: not such a URI, or there is no such version.
    """
    found = re.fullmatch(rf"models:/{_PREFIX}([^/:]+)(?:@([\w-]+)|/(\d+))", uri)
    check(
        found is not None,
        f"{uri!r} names no version of a model; give models:/{_PREFIX}TARGET@{CHAMPION} or models:/{_PREFIX}TARGET/3",
    )
    assert found
    check(available(), f"{uri}: MLFLOW_TRACKING_URI is not set; after a local run it is sqlite:///…/build/mlflow.db")
    target, alias, number = found.groups()
    entry = _entry(target)
    if alias and entry:
        number = str(entry.aliases.get(alias, ""))
    version = _version(target, int(number)) if entry and number else None
    if version is None:
        there = ", ".join(str(one.number) for one in versions(target))
        known = f"versions of {target} are: {there}" if there else "train one first: calrec run"
        raise ValueError(f"{uri}: there is no such version; {known}")
    return version


def download_version(uri: str) -> Path | None:
    """The folder of a version, downloaded; it is deleted when the process ends. No URI, or NOT_KNOWN, gives None.

    Raises:
        ValueError: it is not what was registered.
    """
    if uri in ("", NOT_KNOWN):
        return None
    import mlflow

    version = resolve_version(uri)
    logged = runs.client().get_logged_model(_id(version))
    where = f"{logged.artifact_location}/artifacts/{FOLDER}"
    folder = Path(mlflow.artifacts.download_artifacts(artifact_uri=where, dst_path=str(http.scratch())))
    digest = artifacts.read_manifest(folder, "version").digest
    check(
        digest == logged.tags.get(CONTENT),
        f"{version.uri} holds {digest}, but {logged.tags.get(CONTENT)} was registered: its files were changed; "
        f"take another version: calrec promote --target {version.target}",
    )
    return folder


def _id(version: Version) -> str:
    return version.source.removeprefix("models:/")


def version_of(target: str, found: Any) -> Version:
    """A version as MLflow's client gives it."""
    created = datetime.fromtimestamp(found.creation_timestamp / 1000, UTC)
    aliases = tuple(sorted(found.aliases or ()))
    return Version(target, int(found.version), str(found.source), dict(found.tags), created, aliases)
