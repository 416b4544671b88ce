"""The tables of all parameters and settings, made from the code: what each is, its default, how it is set."""

import ast
import dataclasses
import inspect
import itertools
import json
import textwrap
from collections.abc import Iterable, Iterator
from typing import Any, get_type_hints

from calrec.config import SECTIONS, Config
from pipelines.compiling import PIPELINES, arguments, pipeline

_INTRODUCTION = """# Parameters

Made by `calrec parameters`; a test compares it with the code. Every parameter of every pipeline is
reached from the command line of `calrec compile`, `run`, `submit` and `schedule apply`. What the pods get
is no parameter: it is [compiled in](#compiled-in).
"""
_SETTINGS = """## Settings

A section is one parameter, a dictionary of these settings. The defaults here are those of the code; a named run may
have others (`components/calrec/config/runs.py`).
"""
_COMPILED_IN = """## Compiled in

The section `cluster` is no parameter: `compile`, `submit` and `schedule apply` write it into the YAML, for both
pipelines, and a change makes another version of the pipeline. A run cannot change it, in KFP's UI neither; `run` and
`study`, which use this machine, refuse it. The image (`--image`) and the volume claim (`--cache-claim`) are compiled
in, too.
"""
_OPTIONS = {"sources": "--source NAME=URI", "targets": "--target NAME", "only_new": "--only-new"}


def document(config: Config) -> str:
    """The pipelines' parameters, with defaults of `config`, and the settings in their sections, as Markdown."""
    parts = [_INTRODUCTION]
    for name in PIPELINES:
        parts += [
            f"## Pipeline `{name}`\n",
            _table(["parameter", "type", "option", "default"], _parameters(name, config)),
        ]
    parts.append(_SETTINGS)
    for section in SECTIONS:
        rows = _fields(get_type_hints(Config)[section], section)
        title = _COMPILED_IN if section == "cluster" else f"### `{section}`\n"
        parts += [title, _table(["setting", "type", "default"], rows)]
    return "\n".join(parts)


def _table(header: list[str], rows: Iterable[list[str]]) -> str:
    lines = [[*header, "what it is"], ["---"] * (len(header) + 1), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines) + "\n"


def _parameters(name: str, config: Config) -> Iterator[list[str]]:
    described = _arguments(pipeline(name).pipeline_func)
    for one, value in arguments(name, config).items():
        option = _OPTIONS.get(one, f"--set {one}.KEY=VALUE")
        yield [f"`{one}`", type(value).__name__, f"`{option}`", _default(one, value), described[one]]


def _default(parameter: str, value: Any) -> str:
    if parameter in ("sources", "targets"):
        return "of the named run"
    return "see below" if isinstance(value, dict) and value else f"`{json.dumps(value)}`"


def _arguments(function: Any) -> dict[str, str]:
    """Parameter → what the docstring says of it."""
    lines = inspect.cleandoc(function.__doc__).split("Args:\n")[1].split("\n\n")[0]
    found: dict[str, str] = {}
    for line in textwrap.dedent(lines).splitlines():
        if line.startswith(" "):
            found[next(reversed(found))] += " " + line.strip()
        else:
            name, _, text = line.partition(": ")
            found[name] = text
    return found


def _fields(kind: type, path: str) -> Iterator[list[str]]:
    hints, said = get_type_hints(kind), _docstrings(kind)
    for field in dataclasses.fields(kind):
        name, value = f"{path}.{field.name}", getattr(kind(), field.name)
        if dataclasses.is_dataclass(value):
            yield from _fields(hints[field.name], name)
            continue
        kind_of = getattr(hints[field.name], "__name__", str(hints[field.name]))
        yield [f"`{name}`", kind_of, f"`{json.dumps(value)}`", said.get(field.name, "")]


def _docstrings(kind: type) -> dict[str, str]:
    """Field → the string that stands behind it in the class, or in one that it is made of."""
    found = {}
    for one, behind in itertools.chain.from_iterable(map(_lines, filter(dataclasses.is_dataclass, kind.__mro__))):
        if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name) and isinstance(behind, ast.Expr):
            found[one.target.id] = " ".join(str(ast.literal_eval(behind.value)).split())
    return found


def _lines(kind: type) -> Iterator[tuple[ast.stmt, ast.stmt]]:
    body: list[ast.stmt] = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0].body  # type: ignore[attr-defined]
    return itertools.pairwise(body)
