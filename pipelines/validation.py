"""What the compiler does not check: every field is known to the API, and every reference points at something."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from google.protobuf import json_format
from kfp.kubernetes import kubernetes_executor_config_pb2
from kfp.pipeline_spec import pipeline_spec_pb2

from pipelines import clear
from pipelines.compiling import load

Document = Mapping[str, Any]


def validate(path: Path) -> list[str]:
    """Faults of a compiled pipeline; empty when it is sound.

    Strict proto parse of the specification and of each executor's Kubernetes settings, then referential checks of every
    DAG: the compiler can refer to a parameter that a sub-DAG does not have, which only fails in the cluster.
    """
    documents = load(path)
    spec, platform = documents[0], documents[1] if len(documents) > 1 else {}
    checks = (_schema, _references, _executors, _retries, _secrets)
    return [fault for find in checks for fault in find(spec, platform)]


def sound(path: Path) -> Document:
    """The specification of a compiled pipeline.

    Raises:
        ValueError: it has faults.
    """
    if faults := validate(path):
        raise ValueError("\n  ".join([f"{path.name} has {len(faults)} faults:", *faults]))
    specification: Document = load(path)[0]
    return specification


def _schema(spec: Document, platform: Document) -> Iterator[str]:
    checks: list[tuple[str, Document, Any]] = [("pipeline", spec, pipeline_spec_pb2.PipelineSpec())]
    if platform:
        checks.append(("platform", platform, pipeline_spec_pb2.PlatformSpec()))
    for name, settings in _platform_executors(platform).items():
        checks.append(
            (f"platform executor {name}", settings, kubernetes_executor_config_pb2.KubernetesExecutorConfig())
        )
    for what, document, message in checks:
        try:
            json_format.ParseDict(document, message)
        except json_format.ParseError as error:
            yield f"{what}: {error}"


def _platform_executors(platform: Document) -> Document:
    executors: Document = (
        platform.get("platforms", {}).get("kubernetes", {}).get("deploymentSpec", {}).get("executors", {})
    )
    return executors


def _executors(spec: Document, platform: Document) -> Iterator[str]:
    executors = spec.get("deploymentSpec", {}).get("executors", {})
    for name, component in spec.get("components", {}).items():
        label = component.get("executorLabel")
        if label and label not in executors:
            yield f"{name}: executor {label} does not exist"
    for name in _platform_executors(platform):
        if name not in executors:
            yield f"platform executor {name} is no executor of the pipeline"


def _retries(spec: Document, platform: Document) -> Iterator[str]:
    """Retries that Argo would not begin, or kill: its deadline counts from the start of the first attempt."""
    components, limits = spec.get("components", {}), _platform_executors(platform)
    for name, component in {"root": spec["root"], **components}.items():
        for task_name, task in component.get("dag", {}).get("tasks", {}).items():
            executor = components.get(task.get("componentRef", {}).get("name"), {}).get("executorLabel")
            policy = task.get("retryPolicy")
            if not executor or not policy:
                continue
            limit = int(limits.get(executor, {}).get("activeDeadlineSeconds", 0))
            count, factor = int(policy.get("maxRetryCount", 0)), float(policy.get("backoffFactor", 2))
            pauses = sum(_seconds(policy.get("backoffDuration", "0s")) * factor**again for again in range(count))
            needed, given = (count + 1) * limit + pauses, _seconds(policy.get("backoffMaxDuration", "3600s"))
            if not limit:
                yield f"{name} / {task_name}: is retried, but has no time limit (kubernetes.set_timeout)"
            elif given < needed:
                yield (
                    f"{name} / {task_name}: backoffMaxDuration {given:g}s ends its retries; {count + 1} attempts of "
                    f"{limit}s and their pauses take {needed:g}s"
                )


def _seconds(duration: str) -> float:
    return float(duration.removesuffix("s"))


def _secrets(spec: Document, platform: Document) -> Iterator[str]:
    """Addresses with what may be a secret: parameters are stored, shown and cached in clear."""
    for name, definition in spec["root"].get("inputDefinitions", {}).get("parameters", {}).items():
        yield from clear.faults(f"parameter {name}", definition.get("defaultValue"))
    for name, component in {"root": spec["root"], **spec.get("components", {})}.items():
        for task_name, task in component.get("dag", {}).get("tasks", {}).items():
            for parameter, source in task.get("inputs", {}).get("parameters", {}).items():
                yield from clear.faults(f"{name} / {task_name}: {parameter}", source.get("runtimeValue"))


def _references(spec: Document, platform: Document) -> Iterator[str]:
    components = spec.get("components", {})
    for name, component in {"root": spec["root"], **components}.items():
        if "dag" in component:
            yield from _dag(name, component, components)


def _dag(name: str, component: Document, components: Document) -> Iterator[str]:
    tasks = component["dag"].get("tasks", {})
    available = _names(component, "inputDefinitions")
    for task_name, task in tasks.items():
        where = f"{name} / {task_name}"
        of = components.get(task.get("componentRef", {}).get("name"))
        if of is None:
            yield f"{where}: component {task.get('componentRef', {}).get('name')} does not exist"
            continue
        for other in task.get("dependentTasks", []):
            if other not in tasks:
                yield f"{where}: depends on {other}, which is no task here"
        loop_items = {
            task.get(kind, {}).get("itemInput") for kind in ("parameterIterator", "artifactIterator")
        } - {None}  # fmt: skip
        given = task.get("inputs", {})
        for kind in ("parameters", "artifacts"):
            for wanted, source in given.get(kind, {}).items():
                yield from _source(f"{where}: input {wanted}", source, available[kind] | loop_items, tasks, components)
            definitions = of.get("inputDefinitions", {}).get(kind, {})
            for wanted, definition in definitions.items():
                optional = definition.get("isOptional") or "defaultValue" in definition
                if wanted not in given.get(kind, {}) and wanted not in loop_items and not optional:
                    yield f"{where}: required input {wanted} is not given"
        items = task.get("parameterIterator", {}).get("items", {}).get("inputParameter")
        if items and items not in available["parameters"] | set(given.get("parameters", {})):
            yield f"{where}: loops over {items}, which is no input here"
    for kind in ("parameters", "artifacts"):
        for output, selection in component["dag"].get("outputs", {}).get(kind, {}).items():
            yield from _outputs(f"{name}: output {output}", selection, tasks, components)


def _names(component: Document, part: str) -> dict[str, set[str]]:
    return {kind: set(component.get(part, {}).get(kind, {})) for kind in ("parameters", "artifacts")}


def _source(where: str, source: Document, available: set[str], tasks: Document, components: Document) -> Iterator[str]:
    for key in ("componentInputParameter", "componentInputArtifact"):
        if key in source and source[key] not in available:
            yield f"{where} comes from {source[key]}, which {where.partition(' / ')[0]} does not have"
    for key, output in (("taskOutputParameter", "outputParameterKey"), ("taskOutputArtifact", "outputArtifactKey")):
        if key in source:
            yield from _produced(where, source[key]["producerTask"], source[key][output], tasks, components)


def _produced(where: str, producer: str, key: str, tasks: Document, components: Document) -> Iterator[str]:
    if producer not in tasks:
        yield f"{where} comes from task {producer}, which does not exist here"
        return
    component = components.get(tasks[producer].get("componentRef", {}).get("name"), {})
    outputs = _names(component, "outputDefinitions")
    if key not in outputs["parameters"] | outputs["artifacts"]:
        yield f"{where} comes from output {key} of task {producer}, which has no such output"


def _outputs(where: str, selection: Document, tasks: Document, components: Document) -> Iterator[str]:
    selectors = [*selection.get("artifactSelectors", []), *filter(None, [selection.get("valueFromParameter")])]
    for selector in selectors:
        key = selector.get("outputArtifactKey") or selector.get("outputParameterKey", "")
        yield from _produced(where, selector.get("producerSubtask", ""), key, tasks, components)
