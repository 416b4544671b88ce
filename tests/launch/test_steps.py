"""The table of steps is true: each function takes what its row names, and each component starts its row."""

import ast
import dataclasses
import inspect
from pathlib import Path

import pytest

from calrec.config import Config
from calrec.launch.steps import STEPS, load
from tests.conftest import REPO

SECTIONS = {one.name for one in dataclasses.fields(Config)}


@pytest.mark.parametrize("name", STEPS)
def test_a_step_takes_what_its_row_names(name: str):
    step = STEPS[name]
    parameters = inspect.signature(load(step.function)).parameters
    given = {*step.inputs, *step.sections.values(), *step.values, *step.more, *step.out}
    if not any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values()):
        assert given <= set(parameters), given - set(parameters)
    needed = {
        one.name
        for one in parameters.values()
        if one.default is inspect.Parameter.empty and one.kind is not inspect.Parameter.VAR_KEYWORD
    }
    assert needed <= given, needed - given
    assert set(step.sections) <= SECTIONS
    if step.after:
        assert list(inspect.signature(load(step.after)).parameters) == ["done", "call", "run"]


def started() -> dict[str, str]:
    """Step → component file, of the calls of pod.run with a name."""
    found = {}
    for path in sorted((REPO / "components" / "calrec").glob("*/component.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "pod.run":
                first = node.args[0]
                found[first.value if isinstance(first, ast.Constant) else ast.unparse(first)] = path.parent.name
    return found


def test_every_row_has_a_component():
    assert {name for name in STEPS if not name.startswith(("stage", "refit"))} | {"stage"} == set(started())


def test_a_changed_docstring_is_the_same_code_and_a_changed_rule_is_not(tmp_path: Path, monkeypatch):
    from calrec.system import code_version

    package = tmp_path / "calrec"
    (package / "textify").mkdir(parents=True)
    monkeypatch.setattr(code_version, "_PACKAGE", package)

    def of(text: str, other: str = "X = 1\n") -> str:
        code_version.of_module.cache_clear()
        code_version._parsed.cache_clear()
        (package / "textify" / "step.py").write_text(text)
        (package / "textify" / "words.py").write_text(other)
        return code_version.of_module("calrec.textify.step")

    code = '"""One."""\nfrom calrec.textify.words import X\n\n\ndef f(a):\n    """Two."""\n    return a + X  # why\n'
    try:
        first = of(code)
        assert of(code.replace("One", "Other").replace("Two", "Three").replace("why", "because")) == first
        assert of(code.replace("a + X", "a - X")) != first
        assert of(code, "X = 2\n") != first
    finally:
        code_version.of_module.cache_clear()
        code_version._parsed.cache_clear()
