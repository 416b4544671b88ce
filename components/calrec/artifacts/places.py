"""Where a step may write: refused before the work where it would cost something that calrec did not make."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
RECORD = "report.json"
"""What it took to make a folder, and a stage's learning curves. The clock is in it, so no manifest knows of it."""
LOCK = ".calrec-lock"
"""In a folder that is written in its place: who writes to it."""

_OF_SYSTEMS = {".DS_Store", "Thumbs.db"}
_ROOM = 1 << 20  # bytes without which no step can end well


def check_out(out: Path, kind: str = "", inputs: Iterable[Any] = ()) -> None:
    """Refuse, before the work, a folder that cannot be made, or with which something would be lost.

    Args:
        out: the folder to make.
        kind: what an old folder of that name must hold to be replaced, see calrec.artifacts.KINDS; empty: any.
        inputs: paths, or collections of them, that `out` may neither be nor hold nor lie in; None is none.

    Raises:
        ValueError: as said; a file, a link, a mounted disk; a folder that holds what calrec did not write.
        PermissionError: it may not be written.
        OSError: its disk is full.
    """
    check_place(out, inputs)
    place = absolute(Path(out))
    refuse_foreign(place, Path(out), kind)
    if os.path.ismount(place):
        raise ValueError(f"{out} is where a disk is mounted, which cannot be replaced; give --out a folder below it")
    if place.exists():
        _refuse_unwritable(place.parent)


def check_place(out: Path, inputs: Iterable[Any] = ()) -> None:
    """The part of :func:`check_out` that holds for a folder too that is written in its place."""
    place = absolute(Path(out))
    _refuse_place(place, Path(out), inputs)
    if place.exists() and not place.is_dir():
        raise ValueError(f"{out} is a file; give --out a folder")
    if place == Path.cwd() or place in Path.cwd().parents:
        raise ValueError(f"{out} holds the working directory {Path.cwd()}; give another --out")


def check_file(out: Path, inputs: Iterable[Any] = ()) -> None:
    """The same for a single file."""
    if out.is_dir():
        raise ValueError(f"{out} is a folder; give --out a file")
    _refuse_place(absolute(out), out, inputs)


def absolute(out: Path) -> Path:
    """The absolute path; only what lies above its last part may go through links."""
    if out.name in ("", ".."):
        return Path(os.path.realpath(out))
    return Path(os.path.realpath(out.parent)) / out.name


def _paths(inputs: Iterable[Any]) -> Iterator[Path]:
    for one in inputs:
        if isinstance(one, str | os.PathLike):
            yield from [Path(one)] * bool(one)
        elif one is not None:
            yield from _paths(one.values() if isinstance(one, Mapping) else one)


def _refuse_place(place: Path, out: Path, inputs: Iterable[Any]) -> None:
    if out.is_symlink():
        raise ValueError(f"{out} is a link to {out.readlink()}; give --out the place itself")
    above = next(path for path in (place, *place.parents) if path.exists())
    if above != place and not above.is_dir():
        raise ValueError(f"{above} is a file, so nothing can lie in it; give another --out than {out}")
    _refuse_unwritable(above)
    disk = os.statvfs(above)
    if (disk.f_blocks and disk.f_bavail * disk.f_frsize < _ROOM) or (disk.f_files and not disk.f_favail):
        raise OSError(f"{out}: no room left on the disk of {above}; free some, or give another --out")
    for given in _paths(inputs):
        other = Path(os.path.realpath(given))
        if place == other or place in other.parents or other in place.parents:
            how = "is" if place == other else "holds" if place in other.parents else "lies in"
            raise ValueError(f"{out} {how} {given}, which is read; give another --out")


def _refuse_unwritable(folder: Path) -> None:
    if not os.access(folder, os.W_OK | (os.X_OK if folder.is_dir() else 0)):
        raise PermissionError(f"{folder} may not be written to by user {os.getuid()}; give another --out")


def refuse_foreign(place: Path, out: Path, kind: str = "") -> None:
    """A folder is replaced only when all that it holds is what one step has written."""
    if not place.is_dir() or not any(place.iterdir()):
        return
    remedy = "empty the folder, or give another --out"
    if not (place / MANIFEST).is_file():
        raise ValueError(f"{out} holds {_some(place.iterdir())} and no {MANIFEST} of calrec; {remedy}")
    try:
        document = json.loads((place / MANIFEST).read_bytes())
        found, written = str(document["schema"]), {MANIFEST, RECORD, LOCK, *document["files"]}
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{out}: its {MANIFEST} is not one of calrec; {remedy}") from None
    if not found.startswith(f"calrec.{kind}/" if kind else "calrec."):
        raise ValueError(f"{out} holds {found}, and calrec.{kind or '…'} would take its place; {remedy}")
    there = (path for path in place.rglob("*") if not path.is_dir() or path.is_symlink())
    foreign = [path for path in there if path.relative_to(place).as_posix() not in written]
    if foreign := [path for path in foreign if path.name not in _OF_SYSTEMS]:
        raise ValueError(f"{out} holds {_some(foreign)}, which calrec did not write; {remedy}")


def _some(paths: Iterable[Path]) -> str:
    names = sorted(path.name for path in paths)
    return ", ".join(names[:3]) + (f" and {len(names) - 3:,} more" if len(names) > 3 else "")
