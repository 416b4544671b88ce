"""Which code this is: each commit and each change of a file is another one; what is not known is said."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPO

WHO = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]


def git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", *WHO, "-C", str(folder), *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """The beginning of the package in a repository of its own."""
    folder = tmp_path / "repository" / "components" / "calrec"
    folder.mkdir(parents=True)
    for name in ("__init__.py", "system/__init__.py", "system/code_version.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(REPO / "components" / "calrec" / name, folder / name)
    git(tmp_path, "init", "--quiet", "repository")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "first")
    return folder


def identity(package: Path, **environment: str) -> str:
    command = [sys.executable, "-c", "from calrec.system import code_version; print(code_version.identity())"]
    known = {name: value for name, value in os.environ.items() if name != "CALREC_COMMIT"}
    where = {"PYTHONPATH": str(package.parent), "PYTHONDONTWRITEBYTECODE": ""}
    return subprocess.run(
        command, cwd="/", env=known | where | environment, capture_output=True, text=True, check=True
    ).stdout.strip()


def test_a_commit_is_another_code_and_the_same_is_the_same(package: Path):
    first, again = identity(package), identity(package)  # the first one left compiled files
    assert first == again
    assert re.fullmatch(rf"commit {git(package, 'rev-parse', 'HEAD')}, files [0-9a-f]{{16}}", first)
    git(package, "commit", "--quiet", "--allow-empty", "-m", "second")
    assert identity(package).split(",")[1] == first.split(",")[1] and identity(package) != first


@pytest.mark.parametrize("change", ["append", "add", "rename", "remove"])
def test_a_file_that_was_changed_since_the_commit_is_another_code(package: Path, change: str):
    (package / "other.py").write_text("a = 1\n")
    before = identity(package)
    if change == "append":
        (package / "other.py").write_text("a = 2\n")
    elif change == "add":
        (package / "more.json").write_text("")
    elif change == "rename":
        (package / "other.py").rename(package / "another.py")
    else:
        (package / "other.py").unlink()
    assert identity(package) != before and identity(package).split(",")[0] == before.split(",")[0]


def test_an_image_says_its_commit_and_one_without_says_so(package: Path, tmp_path: Path):
    files = identity(package).split(",")[1]
    assert identity(package, CALREC_COMMIT="0123abc") == f"commit 0123abc,{files}"
    installed = tmp_path / "other" / "site-packages" / "calrec"
    shutil.copytree(package, installed, ignore=shutil.ignore_patterns("__pycache__"))
    assert identity(installed) == identity(installed, CALREC_COMMIT="unknown") == f"commit not known,{files}"
    git(tmp_path, "init", "--quiet", "other")  # a checkout of something else, with its environment in it
    (tmp_path / "other" / "README").write_text("")
    git(tmp_path / "other", "add", "README")
    git(tmp_path / "other", "commit", "--quiet", "-m", "theirs")
    assert identity(installed) == f"commit not known,{files}"
