"""Configuration → pipeline parameters → compiled YAML."""

import copy
import dataclasses
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from kfp import compiler
from kfp.dsl.python_component import PythonComponent

from calrec.config import SECTIONS, Config, naming
from calrec.config.overrides import to_dict, unknown
from pipelines import PIPELINES as PIPELINES
from pipelines import clear, pods


def arguments(name: str, config: Config, only_new: bool = False) -> dict[str, Any]:
    """Values of all parameters of a pipeline: the sections of the configuration, but `cluster`, which is compiled in.

    Args:
        name: of PIPELINES.
        config: what they are made of.
        only_new: training: end early when there is nothing new.

    Raises:
        ValueError: an address that may hold a secret.
    """
    known: dict[str, Any] = {
        "sources": [dataclasses.asdict(source) for source in config.sources],
        "targets": list(config.targets),
        "only_new": only_new,
        **{section: to_dict(getattr(config, section)) for section in SECTIONS},
    }
    if name == "batch":
        known["data"] |= {"min_user": 0, "min_item": 0, "min_length": config.batch.min_length}
    given = {parameter: known[parameter] for parameter in pipeline(name).component_spec.inputs}
    for fault in clear.faults("parameters", given):
        raise ValueError(fault)
    return given


def pipeline(name: str) -> Any:
    """The pipeline of a name of PIPELINES."""
    if name not in PIPELINES:
        raise unknown("pipeline", name, PIPELINES)
    return getattr(importlib.import_module(f"pipelines.{name}"), name)


def compile_pipeline(
    name: str, config: Config, out: Path, image: str = "", claim: str = "", only_new: bool = False
) -> Path:
    """Write a pipeline with `config` as the defaults of its parameters; the same inputs give the same YAML.

    Args:
        name: of PIPELINES.
        config: the defaults, each of which can still be changed at submission, and `cluster`, which can not.
        out: folder of the YAML.
        image: image of every step instead of the default one; give it by digest.
        claim: a PersistentVolumeClaim that every step mounts, for what outlives a run: raw files read, base models.
        only_new: default of that parameter.

    Raises:
        ValueError: no name of an image or claim, or a parameter that may hold a secret.
    """
    if image:
        naming.image("--image", image)
    if claim:
        naming.subdomain("--cache-claim", claim)
    defaults = arguments(name, config, only_new)
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"calrec-{name}.yaml"
    compiler.Compiler().compile(pipeline(name), package_path=str(path), pipeline_parameters=defaults)
    documents = _documents(path)
    name_steps(documents)
    pods.furnish(documents, config.cluster, image, claim)
    # Written anew: kfp's comment header prints dictionaries in random order.
    path.write_text(yaml.dump_all(documents, Dumper=yaml.CSafeDumper, allow_unicode=True, width=120))
    return path


def compile_components(out: Path) -> list[Path]:
    """Write each step's component as YAML, for pipelines of others: kfp.components.load_component_from_file reads it.

    Args:
        out: folder of the files, which are called after the components.
    """
    rooms = ("ingest", "textify", "model", "finetune", "generate", "retrieve", "recommend", "evaluate", "promote")
    out.mkdir(parents=True, exist_ok=True)
    paths = []
    for room in rooms:
        module = importlib.import_module(f"calrec.{room}.component")
        for name, component in vars(module).items():
            if isinstance(component, PythonComponent):
                paths.append(out / f"{name.replace('_', '-')}.yaml")
                compiler.Compiler().compile(component, package_path=str(paths[-1]))
    return paths


def name_steps(documents: list[dict[str, Any]]) -> None:
    """Tasks, components and executors named after the steps' display names, in place: stage-1, not finetune.

    A run is shown by these names where the API gives no others. kfp 2.17 numbers the components of a step that is used
    twice in the order of a set: its names change from one process to the next, two components may share an executor,
    and one may be left that no component uses.
    """
    specification, *platforms = documents
    parts = [specification["deploymentSpec"], *(p["platforms"]["kubernetes"]["deploymentSpec"] for p in platforms)]
    executors = [part["executors"] for part in parts]
    components = specification["components"]
    specification["components"] = {name: one for name, one in components.items() if "executorLabel" not in one}
    for part in parts:
        part["executors"] = {}

    def visit(dag: dict[str, Any]) -> None:
        _rename(dag, {task: _slug(settings["taskInfo"]["name"]) for task, settings in dag["tasks"].items()})
        for step, task in sorted(dag["tasks"].items()):
            component = components[task["componentRef"]["name"]]
            if "dag" in component:
                visit(component["dag"])  # of a sub-pipeline or a loop, which has one task
                continue
            assert f"comp-{step}" not in specification["components"], f"two steps are called {step}"
            task["componentRef"]["name"] = f"comp-{step}"
            specification["components"][f"comp-{step}"] = {**component, "executorLabel": f"exec-{step}"}
            for part, before in zip(parts, executors, strict=True):
                if component["executorLabel"] in before:
                    part["executors"][f"exec-{step}"] = copy.deepcopy(before[component["executorLabel"]])

    visit(specification["root"]["dag"])


def _slug(title: str) -> str:
    return title.lower().replace(" ", "-")


def _rename(node: Any, names: Mapping[str, str]) -> None:
    """Change the names of tasks wherever a DAG speaks of them."""
    if isinstance(node, list):
        for one in node:
            _rename(one, names)
    elif isinstance(node, dict):
        for key, value in node.items():
            if key in ("producerTask", "producerSubtask"):
                node[key] = names[value]
            elif key == "dependentTasks":
                node[key] = sorted(names[task] for task in value)
            else:
                _rename(value, names)
        if "tasks" in node:
            node["tasks"] = {names[task]: settings for task, settings in node["tasks"].items()}


def _documents(path: Path) -> list[Any]:
    return [one for one in yaml.load_all(path.read_text(), Loader=yaml.CSafeLoader) if one]


def load(path: Path) -> list[Mapping[str, Any]]:
    """The YAML documents of a compiled pipeline: the specification, and the platform's if there is one.

    Raises:
        ValueError: no YAML, or not a pipeline.
    """
    try:
        documents = _documents(path)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: {error}") from None
    if not documents or not all(isinstance(d, Mapping) for d in documents) or "pipelineInfo" not in documents[0]:
        raise ValueError(f"{path}: not a compiled pipeline; make one with calrec compile --out build")
    return documents
