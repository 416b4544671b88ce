"""What Kubernetes and container engines take for names, labels, images and quantities, asked before they are.

Each check is a ValueError with the setting, the value and the remedy. Rules: Kubernetes, "Object names and IDs",
"Labels and selectors", "Resource quantities", "Taints and tolerations"; images: the distribution project's grammar.
"""

import re
from collections.abc import Mapping
from typing import Any

from calrec.config.checks import check

_LABEL = r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?"
_SUBDOMAIN = rf"{_LABEL}(?:\.{_LABEL})*"
_VALUE = r"[A-Za-z0-9](?:[-_.A-Za-z0-9]{0,61}[A-Za-z0-9])?"
_QUANTITY = re.compile(r"(?=[0-9.]*[1-9])[0-9]+(?:\.[0-9]+)?(m|k|Ki|[MGTPE]i?)?")
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_IMAGE = re.compile(
    rf"(?:[A-Za-z0-9](?:[-.A-Za-z0-9]*[A-Za-z0-9])?(?::[0-9]+)?/)?{_PART}(?:/{_PART})*"
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?:@sha256:[0-9a-f]{64})?"
)
_OPERATORS, _EFFECTS = ("Exists", "Equal"), ("NoSchedule", "PreferNoSchedule", "NoExecute")
_FIELDS = ("key", "operator", "value", "effect", "tolerationSeconds")


def cpus(what: str, text: str) -> None:
    """CPUs: 4, 0.5 or 500m."""
    found = _QUANTITY.fullmatch(text)
    check(
        bool(found and found[1] in (None, "m")),
        f"{what} must be a number of CPUs above 0, such as 4, 0.5 or 500m; got {text!r}",
    )


def memory(what: str, text: str) -> None:
    """Memory: 16Gi, 500M; a number alone would be bytes, and is refused below a mebibyte."""
    found = _QUANTITY.fullmatch(text)
    plain = bool(found and found[1] is None and float(text) < 2**20)
    check(
        bool(found) and found[1] != "m" and not plain,  # type: ignore[index]
        f"{what} must be an amount of memory with its unit, such as 16Gi or 500Mi; got {text!r}",
    )


def count(what: str, text: str) -> None:
    """A whole number, 0 or more."""
    check(bool(re.fullmatch("0|[1-9][0-9]*", text)), f"{what} must be a whole number, 0 for none; got {text!r}")


def resource(what: str, text: str) -> None:
    """The name of an extended resource: nvidia.com/gpu."""
    check(
        "/" in text and _is_key(text),
        f"{what} must be the name of a resource with its domain, such as nvidia.com/gpu; got {text!r}",
    )


def subdomain(what: str, text: str) -> None:
    """The name of a claim, account, ConfigMap, Secret or runtime."""
    check(
        len(text) <= 253 and bool(re.fullmatch(_SUBDOMAIN, text)),
        f"{what} must be a name of Kubernetes: small letters, digits, - and ., a letter or digit first and last, "
        f"at most 253 characters; got {text!r}",
    )


def namespace(what: str, text: str) -> None:
    """The name of a namespace."""
    check(
        bool(re.fullmatch(_LABEL, text)),
        f"{what} must be a namespace of Kubernetes: small letters, digits and -, at most 63 characters; got {text!r}",
    )


def image(what: str, text: str) -> None:
    """REGISTRY/NAME:TAG or REGISTRY/NAME@sha256:DIGEST."""
    check(
        bool(_IMAGE.fullmatch(text)) and len(text.partition("@")[0]) <= 255,
        f"{what} must name an image, such as registry/calrec:0.1.0 or registry/calrec@sha256: and 64 hexadecimal "
        f"digits, the name in small letters; got {text!r}",
    )


def labels(what: str, found: Mapping[str, Any]) -> None:
    """Labels of nodes."""
    for key, value in found.items():
        check(
            _is_key(key) and isinstance(value, str) and bool(re.fullmatch(f"({_VALUE})?", value)),
            f"{what} must hold labels, such as cloud.google.com/gke-accelerator: nvidia-l4, at most 63 letters, "
            f"digits, -, _ and . on each side; got {key!r}: {value!r}",
        )


def toleration(what: str, one: Any) -> None:
    """One toleration."""
    text = f"got {one!r}"
    known = isinstance(one, dict) and bool(one) and set(one) <= set(_FIELDS)
    check(known, f"{what} holds objects with some of {', '.join(_FIELDS)}; {text}")
    key, operator, effect = one.get("key", ""), one.get("operator", "Equal"), one.get("effect", "")
    value, seconds = one.get("value", ""), one.get("tolerationSeconds")
    check(key == "" or (isinstance(key, str) and _is_key(key)), f"{what}: key must be that of a taint; {text}")
    check(operator in _OPERATORS, f"{what}: operator must be {' or '.join(_OPERATORS)}; {text}")
    check(
        isinstance(value, str) and bool(re.fullmatch(f"({_VALUE})?", value)), f"{what}: value must be a label; {text}"
    )
    check(operator == "Equal" or not value, f"{what}: with operator Exists there is no value; {text}")
    check(bool(key) or operator == "Exists", f"{what}: without a key the operator must be Exists; {text}")
    check(effect in ("", *_EFFECTS), f"{what}: effect must be one of {', '.join(_EFFECTS)}, or left out; {text}")
    check(
        seconds is None or (type(seconds) is int and effect == "NoExecute"),
        f"{what}: tolerationSeconds is a whole number, and for effect NoExecute alone; {text}",
    )


def _is_key(text: str) -> bool:
    domain, slash, name = text.rpartition("/")
    ok = bool(re.fullmatch(_VALUE, name))
    return ok and (not slash or (len(domain) <= 253 and bool(re.fullmatch(_SUBDOMAIN, domain))))
