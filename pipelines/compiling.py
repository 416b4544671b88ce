"""Configuration → pipeline parameters → compiled YAML."""

import copy
import dataclasses
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from kfp import compiler

from calrec.config import SECTIONS, Config
from calrec.settings import to_dict
from pipelines.training import training


def parameters(config: Config) -> dict[str, Any]:
    """One pipeline parameter per section, and the lists that the loops run over."""
    return {
        "sources": [dataclasses.asdict(source) for source in config.sources],
        "targets": list(config.targets),
        **{section: to_dict(getattr(config, section)) for section in SECTIONS},
    }


def compile_training(config: Config, out: Path, image: str = "") -> Path:
    """Write the training pipeline with `config` as the defaults of its parameters; the same inputs give the same YAML.

    Args:
        config: the defaults; each can still be changed at submission.
        out: folder of the YAML.
        image: image of every step instead of the default one; give it by digest.
    """
    out.mkdir(parents=True, exist_ok=True)
    path = out / "calrec-training.yaml"
    compiler.Compiler().compile(training, package_path=str(path), pipeline_parameters=parameters(config))
    documents = [d for d in yaml.safe_load_all(path.read_text()) if d]
    name_steps(documents)
    if image:
        for executor in documents[0]["deploymentSpec"]["executors"].values():
            container = executor["container"]
            container["image"] = image
            for variable in container.get("env", []):
                if variable["name"] == "CALREC_IMAGE":
                    variable["value"] = image
    # Written anew: kfp's comment header prints dictionaries in random order.
    path.write_text(yaml.safe_dump_all(documents, sort_keys=True, allow_unicode=True, width=120))
    return path


def name_steps(documents: list[dict[str, Any]]) -> None:
    """Components and executors numbered in the order of the names of the tasks that use them, sub-pipelines in place.

    kfp 2.17 numbers those of a step that a sub-pipeline uses twice in the order of a set: their names change from one
    process to the next, two components may share an executor, and one may be left that no component uses.
    """
    specification, *platforms = documents
    parts = [specification["deploymentSpec"], *(p["platforms"]["kubernetes"]["deploymentSpec"] for p in platforms)]
    executors = [part["executors"] for part in parts]
    components, used = specification["components"], Counter[str]()
    specification["components"] = {name: one for name, one in components.items() if "executorLabel" not in one}
    for part in parts:
        part["executors"] = {}

    def visit(dag: dict[str, Any]) -> None:
        for _, task in sorted(dag["tasks"].items()):
            component = components[task["componentRef"]["name"]]
            if "dag" in component:
                visit(component["dag"])  # of a sub-pipeline or a loop, which has one task
                continue
            step = re.sub(r"^comp-|(-\d+)+$", "", task["componentRef"]["name"])
            used[step] += 1
            step = f"{step}-{used[step]}" if used[step] > 1 else step
            task["componentRef"]["name"] = f"comp-{step}"
            specification["components"][f"comp-{step}"] = {**component, "executorLabel": f"exec-{step}"}
            for part, before in zip(parts, executors, strict=True):
                if component["executorLabel"] in before:
                    part["executors"][f"exec-{step}"] = copy.deepcopy(before[component["executorLabel"]])

    visit(specification["root"]["dag"])


def load(path: Path) -> list[Mapping[str, Any]]:
    """The YAML documents of a compiled pipeline: the specification, and the platform's if there is one.

    Raises:
        ValueError: no YAML, or not a pipeline.
    """
    try:
        documents = [d for d in yaml.safe_load_all(path.read_text()) if d]
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: {error}") from None
    if not documents or not all(isinstance(d, Mapping) for d in documents) or "pipelineInfo" not in documents[0]:
        raise ValueError(f"{path}: not a compiled pipeline; make one with python -m pipelines compile --out build")
    return documents
