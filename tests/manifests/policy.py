"""What is safe by default: rules for every pod, role, secret and service."""

import base64
import re
from collections.abc import Callable, Iterator

from tests.manifests.rendering import Object, containers, labels, named, pods

_SECRET = re.compile(r"PASSWORD|SECRET|TOKEN|_KEY$|CREDENTIAL", re.IGNORECASE)
_IN_URI = re.compile(r"://[^/\s:@]*:[^/\s@]+@")
_PLACEHOLDER = re.compile(r"GENERATED|EDIT")
_IMAGE = re.compile(r".+(:(?!latest$)[\w][\w.-]*|@sha256:[0-9a-f]{64})")


def policy_faults(objects: list[Object]) -> list[str]:
    """What is not safe."""
    rules: tuple[Callable[[list[Object]], Iterator[str]], ...] = (
        _pods, _containers, _probes, _roles, _secrets, _settings, _services,
    )  # fmt: skip
    return [fault for rule in rules for fault in rule(objects)]


def _pods(objects: list[Object]) -> Iterator[str]:
    for one, template in pods(objects):
        spec, context = template["spec"], template["spec"].get("securityContext", {})
        wrong = {
            "runs as root: set runAsNonRoot and a runAsUser above 0": not context.get("runAsNonRoot")
            or not context.get("runAsUser"),
            "has no seccomp profile RuntimeDefault": context.get("seccompProfile") != {"type": "RuntimeDefault"},
            "sees the node: hostNetwork, hostPID, hostIPC or hostPath": any(
                spec.get(name) for name in ("hostNetwork", "hostPID", "hostIPC")
            )
            or any("hostPath" in volume for volume in spec.get("volumes", [])),
            "mounts a token of Kubernetes": spec.get("automountServiceAccountToken") is not False,
            "gets variables of Services, of which MLflow takes some for options: set enableServiceLinks: false":
                spec.get("enableServiceLinks") is not False,
            "has an emptyDir without sizeLimit": any(
                "emptyDir" in volume and "sizeLimit" not in volume["emptyDir"] for volume in spec.get("volumes", [])
            ),
        }  # fmt: skip
        yield from (f"{named(one)} {fault}" for fault, is_so in wrong.items() if is_so)
    for one in objects:
        if one["kind"] == "ServiceAccount" and one.get("automountServiceAccountToken") is not False:
            yield f"{named(one)} gives every pod a token of Kubernetes"


def _containers(objects: list[Object]) -> Iterator[str]:
    for one, template in pods(objects):
        for container in containers(template):
            context, resources = container.get("securityContext", {}), container.get("resources", {})
            sizes = [resources.get(part, {}).get(name) for part in ("requests", "limits") for name in ("cpu", "memory")]
            wrong = {
                "may gain privileges": context.get("allowPrivilegeEscalation") is not False
                or context.get("privileged", False),
                "runs as root": context.get("runAsNonRoot") is False or context.get("runAsUser") == 0,
                "can write to its root file system": context.get("readOnlyRootFilesystem") is not True,
                "keeps capabilities": context.get("capabilities") != {"drop": ["ALL"]},
                "lacks requests or limits of CPU and memory": not all(sizes),
                "names its image neither by a version nor by a digest": not _IMAGE.fullmatch(container["image"]),
                "has a secret on its command line": any(
                    _IN_URI.search(text) for text in [*container.get("command", []), *container.get("args", [])]
                ),
            }
            wrong |= {
                f"has a secret in clear in {variable['name']}": True
                for variable in container.get("env", [])
                if "value" in variable and (_SECRET.search(variable["name"]) or _IN_URI.search(variable["value"]))
            }
            yield from (f"{named(one)}: container {container['name']} {what}" for what, is_so in wrong.items() if is_so)


def _probes(objects: list[Object]) -> Iterator[str]:
    for one, template in pods(objects):
        if one["kind"] not in ("Deployment", "StatefulSet", "DaemonSet"):
            continue
        for container in template["spec"]["containers"]:
            for probe in ("readinessProbe", "livenessProbe"):
                if probe not in container:
                    yield f"{named(one)}: container {container['name']} has no {probe}"
        if labels(template) == {}:
            yield f"{named(one)}: its pods have no labels"


def _roles(objects: list[Object]) -> Iterator[str]:
    for one in objects:
        if one["kind"] in ("ClusterRole", "ClusterRoleBinding"):
            yield f"{named(one)} holds in the whole cluster; a Role is enough"
        for rule in one.get("rules", []) if one["kind"].endswith("Role") else []:
            if any("*" in rule.get(part, []) for part in ("apiGroups", "resources", "verbs")):
                yield f"{named(one)} has a wildcard: {rule}"
            if "secrets" in rule.get("resources", []):
                yield f"{named(one)} reads secrets"


def _secrets(objects: list[Object]) -> Iterator[str]:
    """The render is of the examples: a real value among them would be one in the repository."""
    for one in objects:
        if one["kind"] != "Secret":
            continue
        values = {key: base64.b64decode(value).decode() for key, value in one.get("data", {}).items()}
        for key, value in (values | one.get("stringData", {})).items():
            if (_SECRET.search(key) or _IN_URI.search(value)) and not _PLACEHOLDER.match(value):
                yield f"{named(one)} has {key} in clear; write GENERATED, which make-secrets replaces"


def _settings(objects: list[Object]) -> Iterator[str]:
    for one in objects:
        for key, value in one.get("data", {}).items() if one["kind"] == "ConfigMap" else []:
            if _SECRET.search(key) or _IN_URI.search(value):
                yield f"{named(one)} has a secret in {key}"


def _services(objects: list[Object]) -> Iterator[str]:
    for one in objects:
        if one["kind"] == "Service" and one["spec"].get("type", "ClusterIP") != "ClusterIP":
            yield f"{named(one)} is reachable from outside of the cluster"
