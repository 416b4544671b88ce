"""The tutorial runs from its first cell to its last, and stands in the repository with what it shows."""

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest

from tests.conftest import REPO
from tests.pipelines.tutorial import TUTORIAL, run


def text(cell: Any) -> str:
    return "".join(str(one.get("text") or one["data"]["text/plain"]) for one in cell.outputs)


def test_the_tutorial_leads_to_a_champion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    shown = [text(cell) for cell in run(tmp_path).cells if cell.cell_type == "code"]
    assert "is the champion, the first one" in shown[-2]
    assert "CALRec" in shown[-3] and "Item neighbours" in shown[-3]
    first, last = (re.findall(r"ann +\d +(\d+)", shown[at]) for at in (-4, -1))
    assert first == last and len(first) == 3  # the model in the notebook, and the champion of the registry


def test_the_tutorial_was_saved_with_what_it_shows():
    cells = [cell for cell in nbformat.read(TUTORIAL, 4).cells if cell.cell_type == "code"]
    assert [bool(cell.outputs) for cell in cells] == [False, *[True] * (len(cells) - 1)]
    assert not any(output.output_type == "error" for cell in cells for output in cell.outputs)
    assert "/tmp" not in "".join(map(text, cells)) and "/home" not in "".join(map(text, cells))


def test_the_snippet_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As it stands there, but for the size of the training."""
    (code,) = re.findall(r"```python\n(.*?)```", (REPO / "README.md").read_text(), re.S)
    assert code.count("CALRec()") == 1
    monkeypatch.chdir(tmp_path)
    known: dict[str, Any] = {}
    exec(code.replace("CALRec()", 'CALRec("tiny")'), known)
    assert known["model"].recommend({"ann": []}, k=2)["rank"].tolist() == [1, 2]
    assert (tmp_path / "pastry-model" / "manifest.json").is_file()
