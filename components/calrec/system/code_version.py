"""Which code this is: what a model was made by, and whether that has changed since."""

import ast
import functools
import hashlib
import os
import subprocess
from pathlib import Path

_PACKAGE = Path(__file__).parents[1]


def commit() -> str:
    """The commit of the code: the image's (CALREC_COMMIT), else that of the checkout; empty if not known."""
    given = os.environ.get("CALREC_COMMIT", "")
    if given and given != "unknown":  # of an image that was built without images/build
        return given
    # A folder of installed packages may lie in a checkout of something else, which does not know this file.
    return _git("rev-parse", "HEAD") if _git("ls-files", "--", "__init__.py") else ""


def identity() -> str:
    """The commit, if it is known, and a hash of the package's files: what was changed since the commit counts, too."""
    return f"commit {commit() or 'not known'}, files {files()}"


@functools.cache
def files() -> str:
    """Hash of the names and contents of all that is in the package but what Python compiled."""
    found = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob("*"), key=lambda path: path.relative_to(_PACKAGE).as_posix()):
        if path.is_file() and "__pycache__" not in path.parts:
            content = path.read_bytes()
            found.update(f"{path.relative_to(_PACKAGE).as_posix()} {len(content)}\n".encode() + content)
    return found.hexdigest()[:16]


_AROUND = {"api", "artifacts", "cli", "config", "launch", "report", "storage", "system", "tracking"}
"""Rooms that carry a step's data and settings and do not decide what comes out; settings count by their values."""


@functools.cache
def of_module(module: str) -> str:
    """Hash of a module of this package and of those it imports: what a step is made by.

    Comments and docstrings do not count, nor do the rooms around the steps.

    Args:
        module: such as `calrec.textify.step`.
    """
    seen: dict[str, str] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in seen and name.split(".")[1:2] and name.split(".")[1] not in _AROUND:
            seen[name], imported = _parsed(name)
            waiting += imported
    return hashlib.sha256(repr(sorted(seen.items())).encode()).hexdigest()[:16]


@functools.cache
def _parsed(module: str) -> tuple[str, tuple[str, ...]]:
    """The code of a module without comments and docstrings, hashed, and the modules of this package it may import."""
    path = _PACKAGE.joinpath(*module.split(".")[1:]).with_suffix(".py")
    if not path.is_file():  # a name in a module, or a package's face
        return "", ()
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [one for one in node.body if not _is_text(one)]
    found = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    names = [f"{node.module}.{alias.name}" for node in found for alias in node.names] + [str(n.module) for n in found]
    own = tuple(sorted({name for name in names if name.startswith("calrec.")}))
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest(), own


def _is_text(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _git(*words: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(_PACKAGE), *words], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()
