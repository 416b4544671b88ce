"""A sealed folder: its last file, the seal, says what the others hold; without it the folder is not whole.

A step's folder is sealed by manifest.json, a checkpoint by state.json, the parts of a batch by progress.json.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from calrec.storage.files import sync


def files(folder: Path) -> dict[str, Path]:
    """Every file of a folder by its name below it, with `/`, sorted."""
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}


def digest(value: Any) -> str:
    """SHA-256 of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def file_hash(path: Path) -> str:
    """sha256 of a file, read in blocks."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def damage(path: Path, size: int | None = None, sha256: str = "") -> str:
    """Why a file is not the one of this size in bytes and this hash, as far as they are given; empty: it is."""
    try:
        if size is not None and size != (found := path.stat().st_size):
            return f"{path} has {found} bytes, expected {size}"
        return f"{path} changed after it was written" if sha256 and file_hash(path) != sha256 else ""
    except OSError as error:
        return f"{path} cannot be read ({error.strerror or error})"


def refuse_other(folder: Path, then: Mapping[str, Any], now: Mapping[str, Any], remedy: str) -> None:
    """ValueError, which lists what differs, if a folder was made with other nested settings than those of now."""
    old, new = dict(_flat(then)), dict(_flat(now))
    pairs = [(name, old.get(name, "absent"), new.get(name, "absent")) for name in sorted({*old, *new})]
    if differ := "; ".join(f"{name} was {before}, is {after}" for name, before, after in pairs if before != after):
        raise ValueError(f"{folder} is of another run: {differ}; {remedy}")


def replace(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file by `write`, in one step over what was there: after a kill it is the old one or whole."""
    aside = path.with_name(f".{path.name}.tmp")
    write(aside)
    sync(aside)
    aside.replace(path)
    sync(path.parent)


def swap(part: Path, place: Path, old: Path) -> None:
    """Put a folder in the place of another, which is then `old`; after a kill in between :func:`restore` helps."""
    with suppress(FileNotFoundError):
        place.rename(old)
    try:
        part.rename(place)
    except OSError:
        restore(place, old)
        raise
    sync(place.parent)


def restore(place: Path, old: Path) -> None:
    """Bring back a folder whose replacement did not come; else nothing is done."""
    if old.is_dir() and not (place.exists() and any(place.iterdir())):
        old.rename(place)


def _flat(value: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Nested values by their dotted names."""
    for name, one in value.items():
        if isinstance(one, Mapping):
            yield from _flat(one, f"{above}{name}.")
        else:
            yield f"{above}{name}", one
