"""Filter, order and pages of the API's lists."""

import base64
import json
from collections.abc import Callable, Iterable
from typing import Any

from tests.pipelines.kfp_api.contract import ContractError, check
from tests.pipelines.kfp_api.rules import Resource, invalid

COMPARE: dict[str, Callable[[str, Any], bool]] = {
    # The database of the real server takes capitals for small letters.
    "EQUALS": lambda actual, wanted: actual.casefold() == str(wanted).casefold(),
    "NOT_EQUALS": lambda actual, wanted: actual.casefold() != str(wanted).casefold(),
    "IN": lambda actual, wanted: actual in map(str, wanted["values"]),
    "IS_SUBSTRING": lambda actual, wanted: str(wanted) in actual,
    "GREATER_THAN": lambda actual, wanted: actual > str(wanted),
    "GREATER_THAN_EQUALS": lambda actual, wanted: actual >= str(wanted),
    "LESS_THAN": lambda actual, wanted: actual < str(wanted),
    "LESS_THAN_EQUALS": lambda actual, wanted: actual <= str(wanted),
}


def listed(kept: Iterable[Resource], known: set[str], name: str, query: dict[str, Any]) -> Resource:
    """The page that the query asks for, of resources with the known fields, under the name of the answer's list."""
    found = list(kept)
    for predicate in _predicates(query.get("filter"), known):
        wanted = next((value for key, value in predicate.items() if key.endswith(("_value", "_values"))), "")
        compare = COMPARE[predicate["operation"]]
        found = [one for one in found if compare(_value(one, predicate["key"]), wanted)]
    key, _, order = (query.get("sort_by") or "created_at").partition(" ")
    if key not in known or order not in ("", "asc", "desc"):
        raise invalid(f"Invalid sorting field: {query['sort_by']!r}")
    found.sort(key=lambda one: _value(one, key), reverse=order == "desc")
    start, size = _start(query.get("page_token")), query.get("page_size") or 20
    if size < 0:
        raise invalid("The page size should be greater than 0")
    answer = {name: found[start : start + size], "total_size": len(found)}
    return answer | ({"next_page_token": _token(start + size)} if start + size < len(found) else {})


def _predicates(text: str | None, known: set[str]) -> list[Resource]:
    try:
        predicates = check("V2beta1Filter", json.loads(text or "{}"), "filter").get("predicates", [])
    except (ContractError, json.JSONDecodeError) as error:
        raise invalid(f"Failed to parse the filter {text!r}: {error}") from error
    for predicate in predicates:
        if predicate.get("key") not in known or predicate.get("operation") not in COMPARE:
            raise invalid(f"no support for filtering with {predicate}")
    return predicates


def _value(one: Resource, key: str) -> str:
    return str(one.get(key, one.get("display_name", "") if key == "name" else ""))


def _token(start: int) -> str:
    return base64.b64encode(json.dumps({"start": start}).encode()).decode()


def _start(token: str | None) -> int:
    try:
        return int(json.loads(base64.b64decode(token, validate=True))["start"]) if token else 0
    except (ValueError, KeyError, TypeError) as error:
        raise invalid(f"Invalid package token: {error}") from error
