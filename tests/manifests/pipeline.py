"""What the compiled pipelines look for in their namespace, against what the manifests put there."""

import functools
from collections.abc import Iterator
from typing import Any

from calrec.storage import s3
from pipelines.compiling import PIPELINES, load
from tests.compiled import compiled
from tests.manifests.network import Pod
from tests.manifests.references import matches
from tests.manifests.rendering import Object, find, named

# Steps go without these: the claim brings CALREC_CACHE, checkpoints need a bucket, a token replaces the password, and
# an overlay may use no s3://.
OPTIONAL = {"CALREC_CACHE", "CALREC_CHECKPOINTS", "MLFLOW_TRACKING_TOKEN", *s3.KEYS, *s3.SETTINGS}


@functools.cache
def executors() -> tuple[tuple[str, dict[str, Any]], ...]:
    """The Kubernetes settings of each step of each compiled pipeline."""
    platforms = {name: load(compiled(name))[1]["platforms"]["kubernetes"] for name in PIPELINES}
    return tuple(
        (f"calrec-{name} {step}", one)
        for name, platform in platforms.items()
        for step, one in platform["deploymentSpec"]["executors"].items()
    )


def looked_for() -> set[tuple[str, str, str]]:
    """Kind, name and key of all that steps take from ConfigMaps and Secrets."""
    found = set()
    for _, one in executors():
        for part, kind, name, key in (
            ("configMapAsEnv", "ConfigMap", "configMapName", "configMapKey"),
            ("secretAsEnv", "Secret", "secretName", "secretKey"),
        ):
            found |= {(kind, s[name], v[key]) for s in one.get(part, []) for v in s["keyToEnv"]}
    return found


def pipeline_faults(objects: list[Object]) -> list[str]:
    """Settings that steps look for and do not find, or that no step looks for; steps that no network policy closes."""
    return [*_settings(objects), *_labels(objects)]


def _settings(objects: list[Object]) -> Iterator[str]:
    wanted = looked_for()
    names = {(kind, name) for kind, name, _ in wanted}
    given = {
        (one["kind"], one["metadata"]["name"], key): one
        for one in objects
        if (one["kind"], one["metadata"]["name"]) in names
        for key in one.get("data", {})
    }
    for kind, name, key in sorted(wanted):
        if (kind, name, key) not in given and key not in OPTIONAL:
            yield f"the steps look for {key} of {kind} {name}, which is not there"
    for found, one in given.items():
        if found not in wanted:
            yield f"{named(one)}: no step looks for {found[-1]}"


def _labels(objects: list[Object]) -> Iterator[str]:
    selector = find(objects, "NetworkPolicy", "calrec-steps")["spec"]["podSelector"]
    for name, one in executors():
        if not matches(selector, _pod_labels(one)):
            yield f"{name}: its pods lack the label {selector['matchLabels']}, and no network policy holds for them"


def step(objects: list[Object]) -> Pod:
    """A step's pod: the labels of the compiled pipelines, the namespace of the settings."""
    _, executor = executors()[0]
    return Pod(find(objects, "ConfigMap", "calrec")["metadata"]["namespace"], _pod_labels(executor))


def _pod_labels(executor: dict[str, Any]) -> dict[str, str]:
    return executor.get("podMetadata", {}).get("labels", {})
