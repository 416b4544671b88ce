"""kustomize overlays → Kubernetes objects, with the examples in place of secrets."""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

Object = dict[str, Any]
MANIFESTS = Path(__file__).parents[2] / "manifests"
OVERLAYS = tuple(sorted(path.name for path in (MANIFESTS / "overlays").iterdir() if path.is_dir()))


def render(overlay: str, edit: Callable[[Path], None] | None = None) -> list[Object]:
    """The objects of an overlay and of its schedule.

    Args:
        overlay: a folder of manifests/overlays.
        edit: changes the copy of manifests/ that is rendered.

    Raises:
        RuntimeError: kubectl is missing, or does not render it.
    """
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "manifests"
        # Real secrets stay where they are: none may end up in what a check prints.
        shutil.copytree(MANIFESTS, root, ignore=shutil.ignore_patterns("*.env"))
        for example in root.rglob("*.env.example"):
            shutil.copy(example, example.with_suffix(""))
        if edit:
            edit(root)
        folder = root / "overlays" / overlay
        return [*_kustomize(folder), *_kustomize(folder / "schedule")]


def with_components(root: Path) -> None:
    """Turn on, in a copy of manifests/, the components that the overlays have as comments."""
    for path in root.glob("overlays/*/*/kustomization.yaml"):
        lines = path.read_text().splitlines()
        path.write_text(
            "\n".join(re.sub(r"^# (?=components:|  - \.\./.*components/)", "", line) for line in lines) + "\n"
        )


def _kustomize(folder: Path) -> list[Object]:
    if not shutil.which("kubectl"):
        raise RuntimeError("kubectl is not installed; it renders the manifests, without a cluster")
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"kubectl kustomize {folder}: {done.stderr.strip()}")
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def named(one: Object) -> str:
    """How an object is called in messages."""
    return f"{one['kind']} {one['metadata'].get('namespace', '')}/{one['metadata']['name']}"


def find(objects: list[Object], kind: str, name: str) -> Object:
    """The one object of this kind and name."""
    (one,) = [one for one in objects if one["kind"] == kind and one["metadata"]["name"] == name]
    return one


def pods(objects: list[Object]) -> Iterator[tuple[Object, Object]]:
    """Each object that makes pods, and its pod template."""
    for one in objects:
        spec = one.get("spec", {})
        if one["kind"] == "Pod":
            yield one, one
        elif one["kind"] == "CronJob":
            yield one, spec["jobTemplate"]["spec"]["template"]
        elif one["kind"] == "TrainingRuntime":
            for job in spec["template"]["spec"]["replicatedJobs"]:
                yield one, job["template"]["spec"]["template"]
        elif "template" in spec:
            yield one, spec["template"]


def containers(template: Object) -> list[Object]:
    """All containers of a pod template."""
    return [*template["spec"].get("initContainers", []), *template["spec"]["containers"]]


def labels(template: Object) -> dict[str, str]:
    """The labels that its pods have."""
    return template.get("metadata", {}).get("labels", {})
