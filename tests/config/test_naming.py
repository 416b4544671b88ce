"""What Kubernetes takes and refuses, held against the patterns of its own sources where these are public."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from calrec.config import naming

# k8s.io/apimachinery: pkg/api/resource/quantity.go (without exponents) and pkg/util/validation/validation.go.
QUANTITY = re.compile(r"^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$")
SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
LABEL_VALUE = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")


def refused(call: Callable[[], None]) -> str:
    try:
        call()
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("text", ["4", "0.5", "500m", "16", "1500m"])
def test_cpus(text: str):
    assert QUANTITY.match(text) and not refused(lambda: naming.cpus("cpu", text))


@pytest.mark.parametrize(
    "text", ["", "0", "0m", "0.0", "4Gi", "4k", "-1", "٤", "4 ", "4\n", "1e3", "four", ".5", "1.2.3"]
)
def test_what_is_no_number_of_cpus(text: str):
    assert re.fullmatch(
        r"cluster.train_cpu must be a number of CPUs above 0, such as 4, 0.5 or 500m; got .*",
        refused(lambda: naming.cpus("cluster.train_cpu", text)),
        re.DOTALL,
    )


@pytest.mark.parametrize("text", ["16Gi", "500M", "1.5Gi", "2Ti", "1Pi", "65536Ki", "8589934592"])
def test_memory(text: str):
    assert QUANTITY.match(text) and not refused(lambda: naming.memory("memory", text))


@pytest.mark.parametrize("text", ["", "0Gi", "8GB", "8gi", "16", "512m", "8 Gi", "ki", "1ki", "8Gi\n", "１Gi", "8G8"])
def test_what_is_no_memory(text: str):
    """16 is 16 bytes and 512m half a byte: Kubernetes takes them, and no pod ever starts."""
    assert "with its unit, such as 16Gi or 500Mi; got" in refused(lambda: naming.memory("memory", text))


@pytest.mark.parametrize("text", ["٣", "-1", "1.0", "01", "", "1\n"])
def test_what_is_no_count(text: str):
    assert "must be a whole number, 0 for none" in refused(lambda: naming.count("gpus", text))


@pytest.mark.parametrize(
    "text",
    ["calrec", "a", "a.b", "a-b.c-d", "A", "a_b", "-a", "a-", "a..b", ".a", "a.", "", "a b", "a\n", "x" * 254, "é"],
)
def test_names_are_those_of_kubernetes(text: str):
    fits = bool(SUBDOMAIN.fullmatch(text)) and len(text) <= 253
    assert bool(refused(lambda: naming.subdomain("--cache-claim", text))) is not fits


@pytest.mark.parametrize("text", ["a.b", "A", "x" * 64, "", "a/b"])
def test_what_is_no_namespace(text: str):
    assert "must be a namespace of Kubernetes" in refused(lambda: naming.namespace("--namespace", text))


@pytest.mark.parametrize(
    "text",
    [
        "calrec",
        "calrec:0.1.0",
        "shop/calrec:1",
        "host:5000/a/b_c/calrec:A.b-c",
        f"calrec@sha256:{'0' * 64}",
        f"Registry.example:443/calrec:1@sha256:{'a' * 64}",
        "localhost/calrec",
        "a--b/c__d",
    ],
)
def test_images(text: str):
    assert not refused(lambda: naming.image("--image", text))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Calrec:1",
        "REGISTRY/Calrec:1",
        "calrec:",
        "calrec@sha256:abc",
        f"calrec@sha256:{'G' * 64}",
        "calrec 1",
        "calrec:1\n",
        "https://host/calrec:1",
        "user:pw@host/calrec",
        "calrec:.1",
        "-calrec",
        "a//b",
        f"calrec:{'x' * 129}",
        "../calrec",
    ],
)
def test_what_is_no_image(text: str):
    assert re.match(r"--image must name an image, such as ", refused(lambda: naming.image("--image", text)))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("pool", "gpu"),
        ("cloud.google.com/gke-accelerator", "nvidia-l4"),
        ("a", ""),
        ("A_b.c", "A_b.c"),
        ("a", "x" * 63),
    ],
)
def test_labels(key: str, value: str):
    assert LABEL_VALUE.fullmatch(value) and not refused(lambda: naming.labels("cluster.node_selector", {key: value}))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("", "a"),
        ("a", 1),
        ("a", True),
        ("a", "x" * 64),
        ("a", "b c"),
        ("a/", "b"),
        ("/a", "b"),
        ("A/a", "b"),
        ("a/b/c", "d"),
        ("a", "-b"),
        ("a", None),
        ("a b", "c"),
    ],
)
def test_what_is_no_label(key: str, value: Any):
    assert "must hold labels" in refused(lambda: naming.labels("cluster.node_selector", {key: value}))


@pytest.mark.parametrize(
    "one",
    [
        {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
        {"operator": "Exists"},
        {"key": "a", "value": "b"},
        {"key": "a", "operator": "Equal", "value": ""},
        {"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 60},
    ],
)
def test_tolerations(one: Any):
    assert not refused(lambda: naming.toleration("cluster.tolerations", one))


@pytest.mark.parametrize(
    ("one", "why"),
    [
        ({}, "holds objects"),
        ("gpu", "holds objects"),
        ({"taint": "gpu"}, "holds objects"),
        ({"key": "a", "operator": "exists"}, "operator must be Exists or Equal"),
        ({"key": "a", "operator": "In"}, "operator must be"),
        ({"key": "a", "effect": "NoRun"}, "effect must be one of"),
        ({"key": "a", "operator": "Exists", "value": "b"}, "with operator Exists there is no value"),
        ({"value": "b"}, "without a key the operator must be Exists"),
        ({"key": 1}, "key must be that of a taint"),
        ({"key": "a b", "operator": "Exists"}, "key must be"),
        ({"key": "a", "value": 1}, "value must be a label"),
        ({"key": "a", "operator": "Exists", "tolerationSeconds": 60}, "for effect NoExecute alone"),
        ({"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": "60"}, "a whole number"),
        ({"key": "a", "operator": ["Exists"]}, "operator must be"),
        ({"key": "a", "effect": []}, "effect must be"),
    ],
)
def test_what_is_no_toleration(one: Any, why: str):
    said = refused(lambda: naming.toleration("cluster.tolerations", one))
    assert why in said and said.startswith("cluster.tolerations") and repr(one) in said
