"""Which code this is: what a model was made by, and whether that has changed since."""

import functools
import hashlib
import os
import subprocess
from pathlib import Path

_PACKAGE = Path(__file__).parent


def commit() -> str:
    """The commit of the code: the image's (CALREC_COMMIT), else that of the checkout; empty if not known."""
    given = os.environ.get("CALREC_COMMIT", "")
    if given and given != "unknown":  # of an image that was built without images/build
        return given
    # A folder of installed packages may lie in a checkout of something else, which does not know this file.
    return _git("rev-parse", "HEAD") if _git("ls-files", "--", Path(__file__).name) else ""


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


def _git(*words: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(_PACKAGE), *words], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()
