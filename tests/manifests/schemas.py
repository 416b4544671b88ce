"""Every object against its schema; a kind without one is a fault."""

import functools
import json
from collections.abc import Iterator
from typing import Any

import kubernetes_validate
from kubeflow_trainer_api.models import TrainerV1alpha1TrainingRuntime, TrainerV1alpha1TrainJob

from tests.manifests.rendering import Object, named, pods

VERSIONS = ("1.29", "1.37")  # of Kubernetes
CUSTOM = {
    "trainer.kubeflow.org/v1alpha1 TrainingRuntime": TrainerV1alpha1TrainingRuntime,
    "trainer.kubeflow.org/v1alpha1 TrainJob": TrainerV1alpha1TrainJob,
}


def schema_faults(objects: list[Object]) -> tuple[int, list[str]]:
    """How many objects are as their schema says, and what is wrong with the others."""
    passed, faults = 0, []
    for one in objects:
        found = list(_custom(one) if _kind(one) in CUSTOM else _standard(one))
        passed += not found
        faults += [f"{named(one)}: {fault}" for fault in found]
    return passed, faults


def _kind(one: Object) -> str:
    return f"{one['apiVersion']} {one['kind']}"


def _standard(one: Object) -> Iterator[str]:
    yield from (fault for version in VERSIONS if (fault := _refusal(json.dumps(one), version)))


@functools.cache  # the overlays share most of their objects
def _refusal(text: str, version: str) -> str:
    one = json.loads(text)
    try:
        kubernetes_validate.validate(one, version, strict=True)
    except kubernetes_validate.SchemaNotFoundError:
        return f"no schema for {_kind(one)} in Kubernetes {version}; add it to CUSTOM"
    except kubernetes_validate.ValidationError as error:
        return f"Kubernetes {version} refuses {'.'.join(map(str, error.path)) or 'it'}: {error.message[:300]}"
    return ""


def _custom(one: Object) -> Iterator[str]:
    try:
        read = CUSTOM[_kind(one)].from_dict(one)
    except ValueError as error:
        yield f"not as its schema says: {error}"
        return
    yield from _lost("", one, read.to_dict())  # the models drop what they do not know
    # Of a pod inside a custom resource the models know the fields; the strict schema knows more.
    for _, template in pods([one]):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": template["spec"]}
        yield from _standard(pod)


def _lost(path: str, given: Any, read: Any) -> Iterator[str]:
    if isinstance(given, dict) and isinstance(read, dict):
        for key, value in given.items():
            if key not in read:
                yield f"unknown field {path}{key}"
            else:
                yield from _lost(f"{path}{key}.", value, read[key])
    elif isinstance(given, list) and isinstance(read, list) and len(given) == len(read):
        for number, (a, b) in enumerate(zip(given, read, strict=True)):
            yield from _lost(f"{path}{number}.", a, b)
    elif given != read:
        yield f"{path.rstrip('.')} is read as {read!r}, not {given!r}"
