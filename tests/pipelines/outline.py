"""A compiled pipeline as a page that can be read: python -m tests.pipelines.outline > tests/golden/pipelines.txt."""

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipelines.compiling import PIPELINES, load
from tests.compiled import compiled

Document = Mapping[str, Any]

_CHANNEL = "pipelinechannel--"
_WIDTH = 112
_SAID = (
    "cachingOptions", "componentRef", "dependentTasks", "inputs", "parameterIterator", "retryPolicy", "taskInfo",
    "triggerPolicy",
)  # fmt: skip


def outline(path: Path) -> str:
    """Parameters, tasks with what they take from where, and what each kind of pod gets; all but the programs."""
    specification, platform = load(path)
    about, components = specification["pipelineInfo"], specification["components"]
    lines = [f"{about['name']}: {about['displayName']}, {about['description']}", "", "parameters"]
    for name, one in specification["root"]["inputDefinitions"]["parameters"].items():
        lines.append(f"  {name}: {one['parameterType']} = {_short(one['defaultValue'])}")
    lines += ["", "tasks", *_dag(specification["root"], components, "  ")]
    pods: dict[str, list[str]] = {}
    told = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    for name, executor in specification["deploymentSpec"]["executors"].items():
        container = {key: value for key, value in executor["container"].items() if key not in ("command", "args")}
        text = "\n".join(_flat({**container, **told[name]}))
        pods.setdefault(text, []).append(name.removeprefix("exec-"))
    for text, steps in sorted(pods.items(), key=lambda one: one[1]):
        lines += ["", f"pod of {', '.join(steps)}", text]
    return "\n".join(lines) + "\n"


def _short(value: Any) -> str:
    """A default; PARAMETERS.md has those of the settings of a section."""
    if isinstance(value, dict):
        return f"{{{len(value)} settings}}"
    return json.dumps(value) if len(json.dumps(value)) < 60 else f"{len(value)} of {', '.join(value[0])}"


def _dag(component: Document, components: Document, indent: str) -> Iterator[str]:
    """The tasks of a component in an order in which they may run, and what it gives back."""
    waiting, done = dict(sorted(component["dag"]["tasks"].items())), set[str]()
    while waiting:
        name = next(name for name, task in waiting.items() if done >= set(task.get("dependentTasks", [])))
        done.add(name)
        yield from _task(name, waiting.pop(name), components, indent)
    for kind in component["dag"].get("outputs", {}).values():
        for name, one in kind.items():
            (selector,) = one.get("artifactSelectors") or [one["valueFromParameter"]]
            key = selector.get("outputArtifactKey") or selector["outputParameterKey"]
            yield f"{indent}gives {_bare(name)} = {selector['producerSubtask']}.{_bare(key)}"


def _task(name: str, task: Document, components: Document, indent: str) -> Iterator[str]:
    of = components[task["componentRef"]["name"]]
    title = task["taskInfo"]["name"]
    words = [name if title.lower().replace(" ", "-") == name else f'{name} "{title}"']
    if "dependentTasks" in task:
        words.append(f"after {', '.join(task['dependentTasks'])}")
    if "parameterIterator" in task:
        words.append(f"for each of {_bare(task['parameterIterator']['items']['inputParameter'])}")
    if "triggerPolicy" in task:
        words.append(f"if {task['triggerPolicy']['condition'].replace(_CHANNEL, '')}")
    words += [f"{key} {json.dumps(value)}" for key, value in sorted(task.items()) if key not in _SAID]
    yield indent + "; ".join(words)
    given = task.get("inputs", {})
    sources = [
        one if (where := _source(source)) == one else f"{one} = {where}"
        for one, source in ((_bare(key), source) for kind in given.values() for key, source in kind.items())
    ]
    yield from _wrapped(f"{indent}  takes ", sources)
    if "dag" in of:
        yield from _dag(of, components, indent + "    ")
        return
    made = (one for kind in ("artifacts", "parameters") for one in of["outputDefinitions"].get(kind, {}).items())
    kinds = [f"{one}: {what.get('parameterType') or what['artifactType']['schemaTitle']}" for one, what in made]
    yield from _wrapped(f"{indent}  makes ", kinds)
    retry, cached = task["retryPolicy"], task["cachingOptions"].get("enableCache", False)
    yield (
        f"{indent}  {'cached' if cached else 'never cached'}; {retry['maxRetryCount']} retries, the first after "
        f"{retry['backoffDuration']}, pauses x {retry['backoffFactor']:g}, all within {retry['backoffMaxDuration']}"
    )


def _source(source: Document) -> str:
    """Where an input comes from: an input of the DAG, an output of a task, or a constant."""
    match source:
        case {"componentInputParameter": name} | {"componentInputArtifact": name}:
            selector = source.get("parameterExpressionSelector", "").removeprefix("parseJson(string_value)")
            return _bare(name) + selector
        case {"taskOutputParameter": {"producerTask": task, "outputParameterKey": key}}:
            return f"{task}.{_bare(key)}"
        case {"taskOutputArtifact": {"producerTask": task, "outputArtifactKey": key}}:
            return f"{task}.{_bare(key)}"
        case {"runtimeValue": {"constant": value}}:
            return json.dumps(value)
    raise ValueError(f"an input from nowhere known: {source}")


def _bare(name: str) -> str:
    return name.removeprefix(_CHANNEL)


def _wrapped(start: str, words: list[str]) -> Iterator[str]:
    line = start
    for number, word in enumerate(words):
        last = number == len(words) - 1
        if len(line) + len(word) > _WIDTH and line.strip() != start.strip():
            yield line.rstrip()
            line = " " * len(start)
        line += word + ("" if last else ", ")
    if words:
        yield line


def _flat(pod: Document) -> Iterator[str]:
    """A line for each thing that a pod gets."""
    for key, value in sorted(pod.items()):
        match value:
            case [{"keyToEnv": pairs, "optional": optional, **more}]:
                names = [one["envVar"] for one in pairs]
                name = more.get("configMapName") or more["secretName"]
                yield from _wrapped(f"  {key} {name}{', optional' if optional else ''}: ", names)
            case _:
                for one in value if isinstance(value, list) else [value]:
                    yield f"  {key}: {json.dumps(one, sort_keys=True)}"


if __name__ == "__main__":
    sys.stdout.write("\n".join(outline(compiled(name)) for name in PIPELINES))
