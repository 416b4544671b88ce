"""What one object says of another: names, keys, labels, ports."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from tests.manifests.rendering import Object, containers, labels, named, pods

# Made by KFP, see manifests/README.md.
EXTERNAL = {("ServiceAccount", "pipeline-runner"), ("ServiceAccount", "default-editor")}
_KINDS = {"configMap": ("ConfigMap", "name"), "secret": ("Secret", "secretName")}


def reference_faults(objects: list[Object]) -> list[str]:
    """References to what is not there."""
    rules = (_names, _accounts, _mounts, _selectors, _ports, _namespaces)
    return [fault for rule in rules for fault in rule(objects)]


def _key(one: Object) -> tuple[str, str, str]:
    return one["kind"], one["metadata"].get("namespace", ""), one["metadata"]["name"]


def _names(objects: list[Object]) -> Iterator[str]:
    """ConfigMaps, Secrets with their keys, claims and accounts of each pod."""
    there = {_key(one): one for one in objects}
    for one, template in pods(objects):
        for kind, name, key in _wanted(template):
            found = there.get((kind, one["metadata"].get("namespace", ""), name))
            if found is None and (kind, name) not in EXTERNAL:
                yield f"{named(one)} needs {kind} {name}, which is not there"
            elif found and key and key not in found.get("data", {}):
                yield f"{named(one)} needs {key} of {kind} {name}, which has {', '.join(found.get('data', {}))}"


def _wanted(template: Object) -> Iterator[tuple[str, str, str]]:
    spec = template["spec"]
    if "serviceAccountName" in spec:
        yield "ServiceAccount", spec["serviceAccountName"], ""
    for volume in spec.get("volumes", []):
        if "persistentVolumeClaim" in volume:
            yield "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"], ""
        for part, (kind, field) in _KINDS.items():
            if part in volume and not volume[part].get("optional"):
                yield kind, volume[part][field], ""
    for container in containers(template):
        for source in container.get("envFrom", []):
            for part, kind in (("configMapRef", "ConfigMap"), ("secretRef", "Secret")):
                if part in source and not source[part].get("optional"):
                    yield kind, source[part]["name"], ""
        for variable in container.get("env", []):
            for part, kind in (("configMapKeyRef", "ConfigMap"), ("secretKeyRef", "Secret")):
                source = variable.get("valueFrom", {}).get(part)
                if source and not source.get("optional"):
                    yield kind, source["name"], source["key"]


def _accounts(objects: list[Object]) -> Iterator[str]:
    there = {_key(one) for one in objects}
    for one in objects:
        if one["kind"] != "RoleBinding":
            continue
        namespace, role = one["metadata"].get("namespace", ""), one["roleRef"]
        if (role["kind"], namespace, role["name"]) not in there:
            yield f"{named(one)} binds {role['kind']} {role['name']}, which is not there"
        for who in one["subjects"]:
            place = who.get("namespace", namespace)
            if (who["kind"], place, who["name"]) not in there and (who["kind"], who["name"]) not in EXTERNAL:
                yield f"{named(one)} is for {who['kind']} {place}/{who['name']}, which is not there"


def _mounts(objects: list[Object]) -> Iterator[str]:
    for one, template in pods(objects):
        claims = one["spec"].get("volumeClaimTemplates", [])
        volumes = [v["name"] for v in template["spec"].get("volumes", [])] + [c["metadata"]["name"] for c in claims]
        mounted = {m["name"] for container in containers(template) for m in container.get("volumeMounts", [])}
        if set(volumes) != mounted:
            yield f"{named(one)}: volumes {sorted(volumes)}, but mounts of {sorted(mounted)}"


def matches(selector: Mapping[str, Any], found: Mapping[str, str]) -> bool:
    """Whether labels are what a selector asks for."""
    tests = {
        "In": lambda e: found.get(e["key"]) in e["values"],
        "NotIn": lambda e: found.get(e["key"]) not in e["values"],
        "Exists": lambda e: e["key"] in found,
        "DoesNotExist": lambda e: e["key"] not in found,
    }
    return all(found.get(key) == value for key, value in selector.get("matchLabels", {}).items()) and all(
        tests[e["operator"]](e) for e in selector.get("matchExpressions", [])
    )


def _selectors(objects: list[Object]) -> Iterator[str]:
    for one, template in pods(objects):
        selector = one["spec"].get("selector")
        if selector is not None and not matches(selector, labels(template)):
            yield f"{named(one)} does not select its own pods"
    for one in objects:
        if one["kind"] == "Service" and not list(_served(one, objects)):
            yield f"{named(one)} selects no pod"


def _served(service: Object, objects: list[Object]) -> Iterator[Object]:
    for one, template in pods(objects):
        same = one["metadata"].get("namespace") == service["metadata"].get("namespace")
        if same and matches({"matchLabels": service["spec"]["selector"]}, labels(template)):
            yield template


def _ports(objects: list[Object]) -> Iterator[str]:
    for one in objects:
        for port in one["spec"]["ports"] if one["kind"] == "Service" else []:
            for template in _served(one, objects):
                known = [p for container in containers(template) for p in container.get("ports", [])]
                target = port.get("targetPort", port["port"])
                if not any(target in (p.get("name"), p["containerPort"]) for p in known):
                    yield f"{named(one)}: no container has a port {target}"
        if one["kind"] == "StatefulSet":
            service = ("Service", one["metadata"].get("namespace", ""), one["spec"]["serviceName"])
            if service not in {_key(other) for other in objects}:
                yield f"{named(one)} needs Service {service[2]}, which is not there"


def _namespaces(objects: list[Object]) -> Iterator[str]:
    for one in objects:
        if one["kind"] != "Namespace" and not one["metadata"].get("namespace"):
            yield f"{named(one)} is in no namespace: it would land in the one that kubectl is set to"
    for (kind, place, name), count in Counter(map(_key, objects)).items():
        if count > 1:
            yield f"there are two of {kind} {place}/{name}"
