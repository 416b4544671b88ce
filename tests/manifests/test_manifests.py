"""The manifests as they are, and the checks on manifests that were damaged."""

import copy
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from calrec.config import LaunchConfig
from calrec.launch import trainjob
from tests.conftest import REPO
from tests.launch.trainer_api import ROLE
from tests.manifests.__main__ import check
from tests.manifests.network import Pod, allowed, rendered
from tests.manifests.pipeline import step
from tests.manifests.rendering import MANIFESTS, OVERLAYS, Object, find, pods, render, with_components
from tests.manifests.schemas import schema_faults


@cache
def everything(overlay: str = "local") -> list[Object]:
    return render(overlay, with_components)


def test_the_overlays_are_without_fault_and_every_object_has_a_schema():
    for overlay in OVERLAYS:
        for objects in (render(overlay), everything(overlay)):
            assert check(objects) == (len(objects), []), overlay


def mlflow(objects: list[Object]) -> Any:
    return find(objects, "Deployment", "mlflow")["spec"]["template"]["spec"]


def runtime(objects: list[Object]) -> Any:
    return next(template["spec"] for one, template in pods(objects) if one["kind"] == "TrainingRuntime")


def without(objects: list[Object], kind: str, name: str) -> None:
    objects.remove(find(objects, kind, name))


DAMAGES: dict[str, tuple[Callable[[list[Object]], Any], str]] = {
    "unknown field": (lambda o: mlflow(o).update(hostname_="x"), "Additional properties"),
    "wrong type": (lambda o: find(o, "Service", "mlflow")["spec"]["ports"][0].update(port="http"), "Kubernetes 1.29"),
    "unknown kind": (lambda o: find(o, "Service", "mlflow").update(kind="Widget"), "no schema for v1 Widget"),
    "unknown field of a custom resource": (
        lambda o: find(o, "TrainingRuntime", "calrec-torch")["spec"].update(numNodes=2), "unknown field spec.numNodes",
    ),
    "unknown field in its pods": (lambda o: runtime(o).update(shm="2Gi"), "shm"),
    "wrong type in a custom resource": (
        lambda o: find(o, "TrainingRuntime", "calrec-torch")["spec"]["mlPolicy"].update(numNodes="two"), "numNodes",
    ),
    "root": (lambda o: mlflow(o)["securityContext"].update(runAsUser=0), "runs as root"),
    "root in a custom resource": (lambda o: runtime(o)["securityContext"].pop("runAsNonRoot"), "runs as root"),
    "no seccomp": (lambda o: mlflow(o)["securityContext"].pop("seccompProfile"), "seccomp"),
    "escalation": (
        lambda o: mlflow(o)["initContainers"][0]["securityContext"].pop("allowPrivilegeEscalation"), "gain privileges",
    ),
    "writable root": (
        lambda o: mlflow(o)["containers"][0]["securityContext"].update(readOnlyRootFilesystem=False), "can write",
    ),
    "capability": (
        lambda o: mlflow(o)["containers"][0]["securityContext"]["capabilities"].update(add=["NET_RAW"]), "capabilities",
    ),
    "host path": (
        lambda o: mlflow(o)["volumes"].append({"name": "tmp2", "hostPath": {"path": "/"}}), "sees the node",
    ),
    "no limit": (lambda o: mlflow(o)["containers"][0]["resources"]["limits"].pop("memory"), "lacks requests or limits"),
    "endless volume": (
        lambda o: next(v for v in mlflow(o)["volumes"] if v["name"] == "tmp").update(emptyDir={}), "sizeLimit",
    ),
    "latest": (lambda o: mlflow(o)["containers"][0].update(image="calrec:latest"), "neither by a version"),
    "no tag": (lambda o: mlflow(o)["containers"][0].update(image="host:5000/calrec"), "neither by a version"),
    "no probe": (lambda o: mlflow(o)["containers"][0].pop("livenessProbe"), "no livenessProbe"),
    "token": (lambda o: mlflow(o).pop("automountServiceAccountToken"), "token of Kubernetes"),
    "service links": (lambda o: mlflow(o).pop("enableServiceLinks"), "enableServiceLinks"),
    "password in the environment": (
        lambda o: mlflow(o)["containers"][0]["env"].append({"name": "PGPASSWORD", "value": "x"}), "in clear in PGPASS",
    ),
    "password on the command line": (
        lambda o: mlflow(o)["containers"][0]["args"].append("postgresql://a:b@c/d"), "on its command line",
    ),
    "secret in clear": (
        lambda o: find(o, "Secret", "calrec")["data"].update(MLFLOW_TRACKING_PASSWORD="aHVudGVyMg=="), "in clear",
    ),
    "password in a ConfigMap": (
        lambda o: find(o, "ConfigMap", "calrec")["data"].update(MLFLOW_TRACKING_URI="http://a:b@c"), "has a secret in",
    ),
    "wildcard": (lambda o: find(o, "Role", "calrec-submit")["rules"][0].update(verbs=["*"]), "wildcard"),
    "whole cluster": (lambda o: find(o, "Role", "calrec-submit").update(kind="ClusterRole"), "whole cluster"),
    "load balancer": (lambda o: find(o, "Service", "mlflow")["spec"].update(type="LoadBalancer"), "from outside"),
    "no account": (lambda o: without(o, "ServiceAccount", "mlflow"), "needs ServiceAccount mlflow"),
    "no account to bind": (lambda o: without(o, "ServiceAccount", "calrec-submit"), "is for ServiceAccount"),
    "no role": (lambda o: without(o, "Role", "calrec-trainjob"), "binds Role calrec-trainjob"),
    "no claim": (lambda o: without(o, "PersistentVolumeClaim", "calrec-cache"), "needs PersistentVolumeClaim"),
    "no secret": (
        lambda o: mlflow(o)["initContainers"][0]["envFrom"][0]["secretRef"].update(name="db"), "needs Secret db",
    ),
    "no key": (
        lambda o: mlflow(o)["containers"][0]["env"][0]["valueFrom"]["configMapKeyRef"].update(key="X"), "needs X of",
    ),
    "no mount": (lambda o: mlflow(o)["containers"][0]["volumeMounts"].pop(), "but mounts of"),
    "own pods": (
        lambda o: find(o, "Deployment", "mlflow")["spec"]["template"]["metadata"]["labels"].clear(), "own pods",
    ),
    "service without pods": (
        lambda o: find(o, "Service", "mlflow")["spec"]["selector"].update(x="y"), "selects no pod",
    ),
    "service without port": (
        lambda o: find(o, "Service", "mlflow")["spec"]["ports"][0].update(targetPort="web"), "no container has a port",
    ),
    "no namespace": (lambda o: find(o, "ConfigMap", "calrec")["metadata"].pop("namespace"), "is in no namespace"),
    "twice": (lambda o: o.append(find(o, "ServiceAccount", "mlflow")), "there are two of"),
    "no default deny": (lambda o: without(o, "NetworkPolicy", "default-deny"), "denies everything by default"),
    "open default": (
        lambda o: find(o, "NetworkPolicy", "default-deny")["spec"].update(ingress=[{}]), "denies everything by default",
    ),
    "open pod": (lambda o: without(o, "NetworkPolicy", "calrec-schedule"), "closes its egress"),
    "unknown peer": (
        lambda o: find(o, "NetworkPolicy", "postgres")["spec"]["ingress"][0]["from"][0]["podSelector"].update(
            matchLabels={"app.kubernetes.io/name": "mlfow"}), "a peer that is not there",
    ),
    "unknown namespace": (
        lambda o: find(o, "NetworkPolicy", "calrec-steps")["spec"]["egress"][1]["to"][0]["namespaceSelector"].update(
            matchLabels={"kubernetes.io/metadata.name": "mlflow"}), "a peer that is not there",
    ),
    "rules without type": (
        lambda o: find(o, "NetworkPolicy", "postgres")["spec"].update(policyTypes=["Egress"]), "not the type Ingress",
    ),
    "setting that steps need": (
        lambda o: find(o, "ConfigMap", "calrec")["data"].pop("MLFLOW_TRACKING_URI"), "steps look for MLFLOW_TRACKING_",
    ),
    "secret that steps need": (
        lambda o: without(o, "Secret", "calrec"), "look for MLFLOW_TRACKING_PASSWORD of Secret calrec",
    ),
    "misspelt setting": (
        lambda o: find(o, "ConfigMap", "calrec")["data"].update(MLFLOW_TRACKING_URL="x"), "no step looks for",
    ),
    "open steps": (
        lambda o: find(o, "NetworkPolicy", "calrec-steps")["spec"]["podSelector"]["matchLabels"].update(x="y"),
        "its pods lack the label",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", DAMAGES)
def test_a_damage_is_found(what: str):
    damage, words = DAMAGES[what]
    objects = copy.deepcopy(everything())
    damage(objects)
    passed, faults = check(objects)
    assert any(words in fault for fault in faults), faults
    assert passed <= len(objects)


def test_a_kind_without_schema_is_not_counted():
    objects = copy.deepcopy(everything())
    objects.append({"apiVersion": "example.org/v1", "kind": "Thing", "metadata": {"name": "a", "namespace": "calrec"}})
    passed, faults = schema_faults(objects)
    assert passed == len(objects) - 1 and len(faults) > 0


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_has_to_flow_flows_and_nothing_else(overlay: str):
    objects = everything(overlay)
    there = rendered(objects)
    server, trainer = there["Deployment/mlflow"], there["TrainingRuntime/calrec-torch"]
    users, schedule, steps = there["Job/mlflow-users"], there["Job/calrec-schedule"], step(objects)
    database = there.get("StatefulSet/postgres", Pod("", address="10.9.8.7"))
    kfp, stranger = Pod("kubeflow", {"app": "ml-pipeline"}), Pod("default", {"app.kubernetes.io/part-of": "other"})
    dns, bucket, metadata = Pod("kube-system"), Pod("", address="142.250.0.1"), Pod("", address="169.254.169.254")

    def flows(source: Pod, target: Pod, port: int, protocol: str = "TCP") -> bool:
        return allowed(objects, source, target, port, protocol)

    assert all(flows(source, server, 5000) for source in (steps, trainer, users, kfp))
    assert all(flows(source, dns, 53, "UDP") for source in (server, users, steps, trainer, schedule))
    assert flows(server, database, 5432) and flows(trainer, trainer, 29500)
    assert flows(steps, kfp, 8888) and flows(schedule, kfp, 8888) and flows(steps, bucket, 443)
    assert flows(server, bucket, 443) == flows(server, metadata, 80) == flows(steps, metadata, 80) == (overlay == "gke")

    assert not any(flows(source, server, 5000) for source in (schedule, stranger, database))
    assert not any(flows(stranger, target, 5000) for target in (server, users, steps, trainer, schedule))
    assert not any(flows(steps, target, 29500) for target in (steps, trainer, stranger, bucket))
    assert not any(flows(source, bucket, 443) for source in (users, schedule))
    if overlay == "local":
        assert not any(flows(source, database, 5432) for source in (users, steps, trainer, schedule, stranger))
        assert not flows(database, bucket, 443)


def test_another_namespace_is_one_line_in_two_files():
    def move(root: Path) -> None:
        with_components(root)
        for part in ("steps", "schedule"):
            path = root / "overlays" / "local" / part / "kustomization.yaml"
            text, changed = re.subn("^namespace: kubeflow$", "namespace: shop", path.read_text(), flags=re.MULTILINE)
            assert changed == 1
            path.write_text(text)

    objects = render("local", move)
    assert check(objects) == (len(objects), [])
    assert {one["metadata"].get("namespace", one["metadata"]["name"]) for one in objects} == {"calrec", "shop"}
    server, other = rendered(objects)["Deployment/mlflow"], Pod("kubeflow", step(objects).labels)
    assert step(objects).namespace == "shop"
    assert allowed(objects, step(objects), server, 5000) and not allowed(objects, other, server, 5000)


def test_the_role_for_trainjobs_is_what_the_launcher_uses():
    rules = find(everything(), "Role", "calrec-trainjob")["rules"]
    given = {
        (verb, f"{resource}.{group}" if group else resource)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert given == ROLE


def test_a_trainjob_of_the_launcher_is_valid_and_its_runtime_is_there(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.calrec:5000")
    launch = LaunchConfig(launcher="trainjob", nodes=2, processes=2, runtime="TrainingRuntime/calrec-torch")
    job = trainjob.resource("calrec-stage1-0123456789ab", "gs://shop/checkpoints/x", "stage1", launch)
    assert schema_faults([job]) == (1, [])
    reference = job["spec"]["runtimeRef"]
    assert find(everything(), reference["kind"], reference["name"])["apiVersion"] == job["apiVersion"]
    (part,) = find(everything(), "TrainingRuntime", reference["name"])["spec"]["template"]["spec"]["replicatedJobs"]
    assert [part["name"]] == [c["name"] for c in part["template"]["spec"]["template"]["spec"]["containers"]] == ["node"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_secrets_are_made_once_at_random_and_for_their_owner_alone(overlay: str, tmp_path: Path):
    shutil.copytree(MANIFESTS, tmp_path / "manifests", ignore=shutil.ignore_patterns("*.env"))
    script = tmp_path / "manifests" / "make-secrets"
    first = subprocess.run([script, overlay], capture_output=True, text=True)
    assert first.returncode == 0, first.stderr
    made = {path: path.read_text() for path in tmp_path.rglob("*.env")}
    assert len(made) == len(list(tmp_path.rglob(f"overlays/{overlay}/**/*.env.example"))) == 4
    assert all(path.stat().st_mode & 0o077 == 0 for path in made)
    values = dict(line.split("=") for text in made.values() for line in text.splitlines())
    assert not any("GENERATED" in value for value in values.values())
    edit = {name for name, value in values.items() if value.startswith("EDIT")}
    assert edit == ({"PGHOST", "PGPASSWORD"} if overlay == "gke" else set())
    assert all(name in first.stdout for name in edit)
    assert values["STEPS_PASSWORD"] == values["MLFLOW_TRACKING_PASSWORD"] and len(values["STEPS_PASSWORD"]) == 48
    assert values["STEPS_USERNAME"] == values["MLFLOW_TRACKING_USERNAME"]
    random = ("MLFLOW_FLASK_SERVER_SECRET_KEY", "MLFLOW_AUTH_ADMIN_PASSWORD", "STEPS_PASSWORD")
    assert len({values[name] for name in random}) == 3
    again = subprocess.run([script, overlay], capture_output=True, text=True)
    assert again.returncode == 1 and "are kept" in again.stderr
    assert made == {path: path.read_text() for path in tmp_path.rglob("*.env")}


def test_no_secret_and_no_registry_is_in_the_repository():
    files = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "manifests"],
        cwd=REPO, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    assert files and not [name for name in files if name.endswith(".env")]
    hosts = re.compile(r"\b(gcr|ghcr|quay|docker|pkg\.dev|registry\.k8s)\.(io|com)\b|pkg\.dev")
    assert not [name for name in files if hosts.search((REPO / name).read_text())]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_job_of_the_schedule_applies_it(overlay: str, tmp_path: Path):
    """Its very command, against the test server of KFP's API."""
    from tests.pipelines.kfp_api.server import serving

    objects = render(overlay)
    job = find(objects, "Job", "calrec-schedule")["spec"]["template"]["spec"]
    (container,) = job["containers"]
    given = {variable["name"]: variable["value"] for variable in container["env"]}
    (claim,) = [word for word in container["args"] if word.startswith("--cache-claim=")]
    assert find(objects, "PersistentVolumeClaim", claim.split("=")[1])
    (token,) = [volume for volume in job["volumes"] if volume["name"] == "pipelines-token"]
    assert token["projected"]["sources"][0]["serviceAccountToken"]["audience"] == "pipelines.kubeflow.org"
    (tmp_path / "token").write_text("from-the-kubelet")
    command = [sys.executable, *container["command"][1:]]
    command += [re.sub(r"\$\((\w+)\)", lambda found: given[found[1]], word) for word in container["args"]]
    with serving(tokens={"from-the-kubelet"}) as api:
        environment = {
            **os.environ,
            **given,
            "KFP_HOST": api.url,
            "KF_PIPELINES_SA_TOKEN_PATH": str(tmp_path / "token"),
        }
        for _ in range(2):
            done = subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
        (schedule,) = api.state.recurring_runs.values()
    assert schedule["display_name"] == "nightly" and schedule["trigger"]["cron_schedule"]["cron"] == "0 0 3 * * *"
    assert schedule["runtime_config"]["parameters"]["only_new"] is True
