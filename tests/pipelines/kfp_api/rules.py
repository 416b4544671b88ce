"""What the API server refuses beside what the contract says: rules and messages of its Go code."""

import re
from typing import Any

import yaml
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

Resource = dict[str, Any]
# HTTP status and gRPC code
INVALID, NOT_FOUND, EXISTS, UNIMPLEMENTED = (400, 3), (404, 5), (409, 6), (501, 12)
JSON_TYPES: dict[str, tuple[type, ...]] = {
    "STRING": (str,), "NUMBER_DOUBLE": (int, float), "NUMBER_INTEGER": (int, float), "BOOLEAN": (bool,),
    "LIST": (list,), "STRUCT": (dict,),
}  # fmt: skip
DAYS = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"]
MONTHS = ["", "JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"]
CRON_FIELDS: list[tuple[int, int, list[str]]] = [
    (0, 59, []), (0, 59, []), (0, 23, []), (1, 31, []), (1, 12, MONTHS), (0, 6, DAYS)
]  # fmt: skip


class Refused(Exception):  # noqa: N818
    """An answer with an error."""

    def __init__(self, kind: tuple[int, int], message: str) -> None:
        super().__init__(message)
        self.kind = kind


def invalid(problem: str) -> Refused:
    """The answer to a request that makes no sense."""
    return Refused(INVALID, f"Invalid input error: {problem}")


def check_cron(text: str) -> None:
    """As robfig/cron v1: seconds first, and the sixth field may be left out, so that a five-field cron passes."""
    text = re.sub(r"^TZ=\S+ +", "", text)
    if re.fullmatch(r"@(yearly|annually|monthly|weekly|daily|midnight|hourly|every (\d+(\.\d+)?(h|m|s|ms))+)", text):
        return
    fields = text.split()
    problem = "" if len(fields) in (5, 6) else f"Expected 5 to 6 fields, found {len(fields)}: {text}"
    for value, (low, high, words) in zip(fields, CRON_FIELDS, strict=False):
        for part in value.upper().split(","):
            plain = re.sub("[A-Z]{3}", lambda word: str(words.index(word[0])) if word[0] in words else "x", part)  # noqa: B023
            found = re.fullmatch(r"([*?]|(\d+)(-(\d+))?)(/[1-9]\d*)?", plain)
            first = int(found[2]) if found and found[2] else low
            last = int(found[4]) if found and found[4] else first
            if not found or not low <= first <= last <= high:
                problem = problem or f"{value} is no list of {low}-{high}"
    if problem:
        raise invalid(
            f"Schedule cron is not a supported format(https://godoc.org/github.com/robfig/cron). Error: {problem}"
        )


def parse(text: bytes) -> Resource:
    """A compiled pipeline: its only document, or {pipeline_spec, platform_spec}."""
    try:
        spec, *platform = [one for one in yaml.load_all(text, yaml.CSafeLoader) if one]
    except (yaml.YAMLError, ValueError) as error:
        raise invalid(f"the pipeline spec is invalid: {error}") from error
    return check_specification({"pipeline_spec": spec, "platform_spec": platform[0]} if platform else spec)


def check_specification(spec: Any) -> Resource:
    """The specification as it came, when the protos know every field of it."""
    try:
        message = json_format.ParseDict(spec.get("pipeline_spec", spec), pipeline_spec_pb2.PipelineSpec())
        json_format.ParseDict(spec.get("platform_spec", {}), pipeline_spec_pb2.PlatformSpec())
    except (json_format.ParseError, AttributeError) as error:
        raise invalid(f"the pipeline spec is invalid: {error}") from error
    if not message.pipeline_info.name or not message.root.dag.tasks:
        raise invalid("the pipeline spec is invalid: it has no name or no tasks")
    return spec


def root(spec: Resource) -> Resource:
    """The root component of a specification."""
    return spec.get("pipeline_spec", spec)["root"]


def check_parameters(spec: Resource, given: Resource) -> None:
    """Each parameter is known and has the right type, and none is missing."""
    known = root(spec).get("inputDefinitions", {}).get("parameters", {})
    for name, definition in known.items():
        kind = definition["parameterType"]
        if name in given and type(given[name]) not in JSON_TYPES[kind]:
            raise invalid(f"input parameter {name} requires type {kind.lower()}, got {given[name]!r}")
        if name not in given and "defaultValue" not in definition and not definition.get("isOptional"):
            raise invalid(f"parameter {name} is not optional, yet has neither default value nor user provided value")
    if extra := sorted(given.keys() - known.keys()):
        raise invalid(f"parameter(s) provided are not required by pipeline: {', '.join(extra)}")
