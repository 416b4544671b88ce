"""Settings on their way: sections from and to plain dictionaries, and `--set section.key=value`."""

import dataclasses
import difflib
import json
import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from calrec.config import SECTIONS, Config

T = TypeVar("T")


def to_dict(section: Any) -> dict[str, Any]:
    """A section as plain JSON values: tuples become lists."""
    return typing.cast(dict[str, Any], json.loads(json.dumps(dataclasses.asdict(section))))


def unknown(what: str, name: str, valid: Sequence[str]) -> ValueError:
    """The error for a name that is not among the valid ones; suggests the nearest."""
    close = difflib.get_close_matches(name, valid, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    return ValueError(f"unknown {what} {name!r}; {hint}valid: {', '.join(valid)}")


def _coerce(name: str, value: Any, kind: Any) -> Any:
    """`value` as `kind`; whole floats become ints, since KFP sends every number of a dictionary as a double."""
    if typing.get_origin(kind) is tuple:
        inner = typing.get_args(kind)[0]
        if isinstance(value, str):
            value = [part.strip() for part in value.split(",") if part.strip()]
        if not isinstance(value, Sequence):
            value = [value]
        return tuple(_coerce(name, v, inner) for v in value)
    if kind is bool and isinstance(value, bool):
        return value
    if kind is int and isinstance(value, int | float) and not isinstance(value, bool) and float(value).is_integer():
        return int(value)
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if kind is str and isinstance(value, str):
        return value
    if dataclasses.is_dataclass(kind) and isinstance(value, Mapping):
        return from_dict(typing.cast(type, kind), value, name)
    expected = getattr(kind, "__name__", str(kind))
    raise ValueError(f"{name} must be of type {expected}, got {value!r}")


def from_dict(cls: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """Build the section `cls` from a dictionary; unknown keys and wrong types are a ValueError that lists the valid."""
    hints = typing.get_type_hints(cls)
    label = where or cls.__name__.removesuffix("Config").lower()
    for key in values:
        if key not in hints:
            raise unknown(f"key of {label}", key, list(hints))
    return cls(**{key: _coerce(f"{label}.{key}", value, hints[key]) for key, value in values.items()})


def sections(**documents: Mapping[str, Any]) -> dict[str, Any]:
    """Sections of the configuration from their dictionaries, by name."""
    kinds = typing.get_type_hints(Config)
    return {name: from_dict(kinds[name], document, name) for name, document in documents.items()}


def merge(config: Config, document: Any) -> Config:
    """`config` with the values of a document {section: {key: value}}, also `sources` and `targets`; all else stays."""
    return typing.cast(Config, _coerce("settings", _merged(to_dict(config), document), Config))


def _merged(old: Any, new: Any) -> Any:
    if not (isinstance(old, Mapping) and isinstance(new, Mapping)):
        return new
    return {**old, **{key: _merged(old.get(key), value) for key, value in new.items()}}


def override(config: Config, settings: Sequence[str]) -> Config:
    """Apply `section.key=value` settings (`data.columns.user=value` for a key inside a key), in any order.

    Values are JSON, bare words or comma lists.
    """
    document: dict[str, Any] = {}
    for setting in settings:
        path, equals, text = setting.partition("=")
        section, *keys = path.strip().split(".")
        if not equals or not keys:
            raise ValueError(f"--set takes section.key=value, got {setting!r}; for example --set stage2.steps=200")
        if section not in SECTIONS:
            raise unknown("section", section, SECTIONS)
        place = document
        for key in (section, *keys[:-1]):
            place = place.setdefault(key, {})
        place[keys[-1]] = _value(Config, "", [section, *keys], text.strip(), setting)
    try:
        return merge(config, document)
    except ValueError as error:
        raise ValueError(f"--set {' --set '.join(settings)}: {error}") from None


def _value(kind: type, where: str, keys: Sequence[str], text: str, setting: str) -> Any:
    """The text as a value of the key that the path of `keys` leads to from a section of this kind."""
    key, *deeper = keys
    hints = typing.get_type_hints(kind)
    if key not in hints:
        raise unknown(f"key of {where}", key, list(hints))
    name, kind = f"{where}.{key}".lstrip("."), hints[key]
    nested = dataclasses.is_dataclass(kind)
    if nested != bool(deeper):
        valid = ", ".join(f"{name}.{field}" for field in typing.get_type_hints(kind)) if nested else name
        raise ValueError(f"--set {setting}: {'.'.join([name, *deeper])} is not a setting; valid: {valid}")
    return _value(kind, name, deeper, text, setting) if nested else _coerce(name, _parse(text, kind), kind)


def _parse(text: str, kind: Any) -> Any:
    if kind is str:
        return text
    if typing.get_origin(kind) is tuple and not text.startswith("["):
        return [_parse(part.strip(), typing.get_args(kind)[0]) for part in text.split(",") if part.strip()]
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
