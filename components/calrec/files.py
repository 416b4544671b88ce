"""Raw files as a reader sees them, wherever they lie; this module knows the local ones, storage.py the others."""

import glob
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO


@dataclass(frozen=True)
class File:
    """One file of a source."""

    name: str
    """Path inside the source, with `/`."""
    size: int
    """Bytes as stored, compressed or not; -1 when the server does not say."""
    version: str
    """Changes when the content changes: size and time, generation, or entity tag."""
    open: Callable[[], BinaryIO]
    """A stream over the stored bytes from the first to the last; a broken connection is resumed."""
    seekable: Callable[[], Any]
    """The file for random access (Parquet), as pyarrow takes it: a path or an open pyarrow file."""


def local(source: str) -> list[File]:
    """Files of a local folder (with all folders below), a file, or a glob; sorted by name.

    Raises:
        FileNotFoundError: nothing is there.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return [_file(p, p.relative_to(path).as_posix()) for p in sorted(path.rglob("*")) if p.is_file()]
    if path.is_file():
        return [_file(path, path.name)]
    found = [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]
    if not found:
        raise FileNotFoundError(f"source {source} does not exist")
    return [_file(p, p.name) for p in found if p.is_file()]


def _file(path: Path, name: str) -> File:
    state = path.stat()
    version = f"{state.st_size}-{state.st_mtime_ns}"
    return File(name, state.st_size, version, lambda: path.open("rb"), lambda: str(path))
