"""Network policies: each pod is closed by default, each peer is real, and what has to flow flows."""

import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.manifests.references import matches
from tests.manifests.rendering import Object, labels, named, pods

_NAME = "kubernetes.io/metadata.name"
_WAYS = {"Ingress": ("ingress", "from"), "Egress": ("egress", "to")}


@dataclass(frozen=True)
class Pod:
    """One end of a connection; `address` for one outside of the cluster."""

    namespace: str
    labels: Mapping[str, str] = field(default_factory=dict)
    address: str = ""


# KFP's pods, which other manifests make.
EXTERNAL = (Pod("kubeflow", {"app": "ml-pipeline"}),)


def network_faults(objects: list[Object]) -> list[str]:
    """Pods that are open, namespaces without default deny, policies that select nothing or name unknown peers."""
    return [*_open_pods(objects), *_open_namespaces(objects), *_unknown(objects)]


def allowed(objects: list[Object], source: Pod, target: Pod, port: int, protocol: str = "TCP") -> bool:
    """Whether the policies let `source` connect to `port` of `target`; a pod that none selects is open."""
    return _passes(objects, source, target, "Egress", port, protocol) and _passes(
        objects, target, source, "Ingress", port, protocol
    )


def rendered(objects: list[Object]) -> dict[str, Pod]:
    """The pods that the objects make, by the name of what makes them."""
    return {
        f"{one['kind']}/{one['metadata']['name']}": Pod(one["metadata"]["namespace"], labels(template))
        for one, template in pods(objects)
    }


def _policies(objects: list[Object], pod: Pod, way: str) -> list[Object]:
    return [
        one["spec"]
        for one in objects
        if one["kind"] == "NetworkPolicy"
        and one["metadata"].get("namespace") == pod.namespace
        and way in one["spec"]["policyTypes"]
        and matches(one["spec"]["podSelector"], pod.labels)
    ]


def _passes(objects: list[Object], pod: Pod, peer: Pod, way: str, port: int, protocol: str) -> bool:
    if pod.address:
        return True  # the policies are those of the cluster
    policies, (rules, peers) = _policies(objects, pod, way), _WAYS[way]
    return not policies or any(
        _is_port(rule, port, protocol)
        and (peers not in rule or any(_is_peer(one, peer, pod.namespace) for one in rule[peers]))
        for policy in policies
        for rule in policy.get(rules, [])
    )


def _is_port(rule: Mapping[str, Any], port: int, protocol: str) -> bool:
    return "ports" not in rule or any(
        p.get("protocol", "TCP") == protocol and p.get("port", port) == port for p in rule["ports"]
    )


def _is_peer(rule: Mapping[str, Any], peer: Pod, home: str) -> bool:
    if "ipBlock" in rule:
        block = ipaddress.ip_network(rule["ipBlock"]["cidr"])
        return bool(peer.address) and ipaddress.ip_address(peer.address) in block
    if peer.address:
        return False
    here = matches(rule["namespaceSelector"], {_NAME: peer.namespace}) if "namespaceSelector" in rule else None
    return (peer.namespace == home if here is None else here) and matches(rule.get("podSelector", {}), peer.labels)


def _open_pods(objects: list[Object]) -> Iterator[str]:
    for name, pod in rendered(objects).items():
        for way in _WAYS:
            if not _policies(objects, pod, way):
                yield f"{name} in {pod.namespace}: no network policy closes its {way.lower()}"


def _open_namespaces(objects: list[Object]) -> Iterator[str]:
    closed = {
        one["metadata"].get("namespace")
        for one in objects
        if one["kind"] == "NetworkPolicy"
        and one["spec"] == {"podSelector": {}, "policyTypes": one["spec"]["policyTypes"]}
        and set(one["spec"]["policyTypes"]) == set(_WAYS)
    }
    for one in objects:
        if one["kind"] == "Namespace" and one["metadata"]["name"] not in closed:
            yield f"{named(one)} has no policy that denies everything by default"


def _unknown(objects: list[Object]) -> Iterator[str]:
    """Policies and peers that name no pod of this render, nor one of KFP's."""
    there = list(rendered(objects).values())
    for one in objects:
        if one["kind"] != "NetworkPolicy":
            continue
        home = one["metadata"]["namespace"]
        if not any(pod.namespace == home and matches(one["spec"]["podSelector"], pod.labels) for pod in there):
            yield f"{named(one)} selects no pod"
        for way, (rules, peers) in _WAYS.items():
            if rules in one["spec"] and way not in one["spec"]["policyTypes"]:
                yield f"{named(one)} has rules of {rules}, but not the type {way}"
            for peer in (peer for rule in one["spec"].get(rules, []) for peer in rule.get(peers, [])):
                if not _names_someone(peer, home, there):
                    yield f"{named(one)}: {rules} names a peer that is not there: {peer}"


def _names_someone(peer: Mapping[str, Any], home: str, there: list[Pod]) -> bool:
    if "ipBlock" in peer or peer.get("namespaceSelector") == {}:
        return True
    return any(_is_peer(peer, pod, home) for pod in [*there, *EXTERNAL])
