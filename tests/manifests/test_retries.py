"""The patch by which a step that fails is tried again, on a Deployment as KFP has it."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.manifests.rendering import MANIFESTS, Object, containers
from tests.manifests.schemas import schema_faults

COMPONENT = MANIFESTS / "components" / "retries"
VARIABLE = "COMPILED_PIPELINE_SPEC_PATCH"
OTHER = {"name": "LOG_LEVEL", "value": "info"}


def deployment(*variables: dict[str, str]) -> Object:
    """KFP's API server, shortened."""
    container = {"name": "ml-pipeline-api-server", "image": "api-server:2.17.0", "env": [OTHER, *variables]}
    labels = {"app": "ml-pipeline"}
    template = {
        "metadata": {"labels": labels},
        "spec": {"containers": [container, {"name": "proxy", "image": "proxy:1"}]},
    }
    metadata = {"name": "ml-pipeline", "namespace": "kubeflow"}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata,
            "spec": {"selector": {"matchLabels": labels}, "template": template}}  # fmt: skip


def kustomized(folder: Path, of: Object) -> Object:
    (folder / "kfp.yaml").write_text(yaml.safe_dump(of))
    shutil.copytree(COMPONENT, folder / "retries")
    (folder / "kustomization.yaml").write_text("resources: [kfp.yaml]\ncomponents: [retries]\n")
    command = ["kubectl", "kustomize", str(folder)]
    return dict(yaml.safe_load(subprocess.run(command, capture_output=True, text=True, check=True).stdout))


def patched(folder: Path, of: Object) -> Object:
    """By the command of the README, which needs no server with --local."""
    (folder / "kfp.yaml").write_text(yaml.safe_dump(of))
    command = ["kubectl", "patch", "--local", "-o", "yaml", "-f", str(folder / "kfp.yaml")]
    command += ["--patch-file", str(COMPONENT / "ml-pipeline.yaml")]
    return dict(yaml.safe_load(subprocess.run(command, capture_output=True, text=True, check=True).stdout))


@pytest.mark.parametrize("apply", [kustomized, patched])
@pytest.mark.parametrize("before", [[], [{"name": VARIABLE, "value": ""}]], ids=["new", "empty in KFP's manifest"])
def test_each_workflow_gets_the_policy_and_nothing_else_changes(tmp_path: Path, apply: Any, before: list[Any]):
    made = apply(tmp_path, deployment(*before))
    assert schema_faults([made]) == (1, [])
    server, proxy = containers(made["spec"]["template"])
    variables = {one["name"]: one["value"] for one in server["env"]}
    assert variables.keys() == {"LOG_LEVEL", VARIABLE} and len(server["env"]) == 2
    strategy = json.loads(variables[VARIABLE])["templateDefaults"]["retryStrategy"]
    assert (strategy["retryPolicy"], strategy["limit"]) == ("Always", "2")
    assert proxy == {"name": "proxy", "image": "proxy:1"} and server["image"] == "api-server:2.17.0"


@pytest.mark.parametrize(
    ("status", "code", "retried"),
    [
        ("Failed", "1", True),  # a step with an error, or killed for its memory
        ("Failed", "137", True),
        ("Error", "-1", True),  # its pod was deleted, its node lost
        ("Error", "143", True),
        ("Failed", "-1", False),  # a sub-pipeline or loop in which a step failed: it has no exit code
    ],
)
def test_a_step_is_tried_again_and_what_is_around_it_is_not(status: str, code: str, retried: bool):
    """Without the expression three levels of sub-pipelines would run a failing step 3^4 times."""
    (container,) = containers(yaml.safe_load((COMPONENT / "ml-pipeline.yaml").read_text())["spec"]["template"])
    text = json.loads(container["env"][0]["value"])["templateDefaults"]["retryStrategy"]["expression"]
    assert re.fullmatch(r"[\w.=|'()> ]+", text)
    spoken = text.replace("||", "or").replace("lastRetry.status", "status").replace("lastRetry.exitCode", "code")
    assert eval(spoken, {"asInt": int, "status": status, "code": code}) is retried
