"""The contract of the KFP API, read from the installed kfp_server_api: its services' operations, its models' types."""

import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import unquote

import kfp_server_api
from kfp.client.client import _FILTER_OPERATIONS

PRIMITIVES = {"str": str, "int": int, "bool": bool, "float": float}
# The models say str for a 64-bit number, which JSON may give as a number too: the official client does.
INT64 = {"max_concurrency", "interval_second", "long_value"}
# The official client sends the operation of a filter as its number.
OPERATION_NUMBERS = {number: name for name, number in _FILTER_OPERATIONS.items()}


class ContractError(ValueError):
    """A message that the API does not know, with the HTTP status and the gRPC code of the answer to it."""

    def __init__(self, problem: str, kind: tuple[int, int] = (400, 3)) -> None:
        super().__init__(problem)
        self.kind = kind


@dataclass(frozen=True)
class Operation:
    """One call of the API: where it goes, what it takes, what it gives."""

    name: str
    verb: str
    path: str
    query: dict[str, str]
    body: str | None
    file: str | None
    answer: str

    def arguments(self, path: str) -> dict[str, str] | None:
        """The values of the path's parameters, or None when the path is another."""
        pattern = re.sub(r"\\{([\w.]+?)\\}", r"([^/:]+)", re.escape(self.path).replace(r"\.", "."))
        found = re.fullmatch(pattern, path)
        names = re.findall(r"{([\w.]+)}", self.path)
        return dict(zip(names, map(unquote, found.groups()), strict=True)) if found else None


def _read(name: str, method: Callable[..., Any]) -> Operation:
    source = inspect.getsource(method)
    path, verb = re.findall(r"call_api\(\s*'([^']+)', '(\w+)'", source)[0]
    types = dict(re.findall(r":type (\w+): (.+)", source))
    query = re.findall(r"query_params\.append\(\('([\w.]+)', local_var_params\['(\w+)'\]", source)
    body = re.findall(r"body_params = local_var_params\['(\w+)'\]", source)
    file = re.findall(r"local_var_files\['(\w+)'\]", source)
    return Operation(
        name=name.removesuffix("_with_http_info"),
        verb=verb,
        path=path,
        query={key: types[variable] for key, variable in query},
        body=types[body[0]] if body else None,
        file=file[0] if file else None,
        answer=re.findall(r"response_type='([^']+)'", source)[0],
    )


def _operations() -> Iterator[Operation]:
    for _, service in inspect.getmembers(kfp_server_api.api, inspect.isclass):
        for name, method in inspect.getmembers(service, inspect.isfunction):
            if name.endswith("_with_http_info"):
                yield _read(name, method)


# Paths without parameters first: `pipelines/upload` is no pipeline's id.
OPERATIONS = sorted(_operations(), key=lambda operation: (operation.path.count("{"), operation.path))


def check_query(operation: Operation, query: dict[str, list[str]]) -> dict[str, Any]:
    """The query's values with their types."""
    values: dict[str, Any] = {}
    for key, given in query.items():
        if key not in operation.query:
            raise ContractError(f"unknown query parameter {key}; {operation.name} knows {sorted(operation.query)}")
        if len(given) != 1:
            raise ContractError(f"query parameter {key} is given {len(given)} times")
        kind, text = operation.query[key], given[0]
        pattern = {"int": r"-?\d+", "bool": "true|false|True|False"}.get(kind, r"(?s).*")
        if not re.fullmatch(pattern, text):
            raise ContractError(f"query parameter {key} must be {kind}, got {text!r}")
        values[key] = int(text) if kind == "int" else text.lower() == "true" if kind == "bool" else text
    return values


def check(kind: str, value: Any, at: str, strict: bool = False) -> Any:
    """The value in the API's own spelling. Unless strict, what the official client sends passes: camelCase, numbers."""
    if kind == "object":
        return value
    if inner := re.fullmatch(r"list\[(.+)\]", kind):
        return [check(inner[1], one, f"{at}[{i}]", strict) for i, one in enumerate(_is(list, value, at))]
    if inner := re.fullmatch(r"dict\(str, (.+)\)", kind):
        return {key: check(inner[1], one, f"{at}.{key}", strict) for key, one in _is(dict, value, at).items()}
    if kind in PRIMITIVES:
        return _is(PRIMITIVES[kind], value, at)
    if kind == "datetime":
        return _time(value, at)
    model = getattr(kfp_server_api.models, kind)
    return _enum(model, value, at, strict) if hasattr(model, "allowable_values") else _model(model, value, at, strict)


def _is(kind: type, value: Any, at: str) -> Any:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ContractError(f"{at} must be {kind.__name__}, got {value!r}")
    return value


def _time(value: Any, at: str) -> str:
    try:
        if datetime.fromisoformat(_is(str, value, at)).tzinfo:
            return value
    except ValueError:
        pass
    raise ContractError(f"{at} must be a time like 2026-01-31T00:00:00Z, got {value!r}")


def _enum(model: Any, value: Any, at: str, strict: bool) -> str:
    if not strict and model is kfp_server_api.V2beta1PredicateOperation and isinstance(value, int):
        value = OPERATION_NUMBERS.get(value, value)
    if value not in model.allowable_values:
        raise ContractError(f"{at} must be one of {model.allowable_values}, got {value!r}")
    return value


def _model(model: Any, value: Any, at: str, strict: bool) -> dict[str, Any]:
    names = {spelling: name for name, spelling in model.attribute_map.items()}
    if not strict:
        names |= {_camel(name): name for name in model.attribute_map} | {name: name for name in model.attribute_map}
    made = {}
    for key, one in _is(dict, value, at).items():
        if key not in names:
            raise ContractError(f"{at}.{key}: {model.__name__} has no such field; it has {sorted(model.attribute_map)}")
        name = names[key]
        if one is None and not strict:
            continue
        if not strict and name in INT64 and type(one) is int:
            one = str(one)
        made[model.attribute_map[name]] = check(model.openapi_types[name], one, f"{at}.{key}", strict)
    return made


def _camel(name: str) -> str:
    return re.sub(r"_(\w)", lambda match: match[1].upper(), name)
