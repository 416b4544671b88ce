"""Run the tutorial and save it with what its cells show: python -m tests.pipelines.tutorial."""

import os
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from tests.conftest import REPO

TUTORIAL = REPO / "pipelines" / "tutorial.ipynb"


def run(folder: Path) -> nbformat.NotebookNode:
    """The tutorial after its cells ran in a folder, with the commands of this environment; no bars, no path of here."""
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    book = nbformat.read(TUTORIAL, 4)
    NotebookClient(book, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    for cell in book.cells:
        cell.metadata.pop("execution", None)  # the times
        cell["outputs"] = [one for one in cell.get("outputs", ()) if one.get("name") != "stderr"]
        for one in cell["outputs"]:
            if "text" in one:
                one["text"] = one["text"].replace(f"{folder}/", "")
        if cell.cell_type != "code":
            del cell["outputs"]
    return book


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        nbformat.write(run(Path(name)), TUTORIAL)
