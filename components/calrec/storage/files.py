"""Files and folders, wherever they lie; this module knows the local ones, uris.py the others."""

import itertools
import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, BinaryIO, Protocol

_NOT_DATA = {"_SUCCESS", "lost+found"}  # the mark of a finished Spark job; root's folder on each fresh ext4 volume
_ESCAPED = re.compile(r"\[([\[*?,])\]")
_CHECKSUMS = (".crc", ".md5", ".sha256")


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


class Remote(Protocol):
    """A folder elsewhere; names are relative, with `/`. Errors are OSErrors; an absent name is a FileNotFoundError."""

    def names(self) -> list[str]:
        """Every file below it."""
        ...

    def get(self, name: str, path: Path) -> None:
        """Download one file."""
        ...

    def put(self, path: Path, name: str) -> None:
        """Upload one file, whole or not at all."""
        ...

    def delete(self, name: str) -> None:
        """Remove one file if it is there."""
        ...


def local(source: str) -> list[File]:
    """Files of a local folder (with all folders below), a file, or a glob; sorted by name.

    A name is the path below the folder, for a glob below the last folder before the first wildcard. Hidden files,
    checksums and `_SUCCESS` are left out, unless the source is that one file. `**` follows no link to a folder.

    Raises:
        FileNotFoundError: nothing is there.
        PermissionError: a file or folder that may not be read.
    """
    folder, patterns = _found(source)
    if folder.is_file() and not patterns:
        return [_file(folder, folder.name)]
    if not folder.is_dir():
        raise FileNotFoundError(f"source {source} does not exist")
    found = {p.relative_to(folder).as_posix(): p for p in _below(folder, patterns)}
    if not found:
        raise FileNotFoundError(f"source {source} holds no file (hidden files, checksums and _SUCCESS do not count)")
    return [_file(found[name], name) for name in sorted(found)]


def split(uri: str) -> list[str]:
    """The URIs of a list with commas; a local path that exists is taken whole, and `[,]` is a comma in a name."""
    with suppress(OSError):  # a long list of paths is no valid name of one
        if Path(uri).expanduser().exists():
            return [uri]
    return [part.strip() for part in re.split(r"(?<!\[),|,(?!\])", uri)]


def roots(uri: str) -> list[Path]:
    """Local files and folders that a URI reads: what lies in the folders counts when it comes later, too."""
    found = []
    for one in split(uri) if not uri.startswith("sample:") else []:
        if "://" not in one:
            folder, patterns = _found(one)
            found += [folder] if patterns in ([], ["**", "*"]) else list(_below(folder, patterns))
    return found


def split_glob(parts: Sequence[str]) -> tuple[list[str], list[str]]:
    """The parts of a path before the first one with a wildcard (`*`, `?`, `[`), and those from there on.

    `[[]`, `[*]`, `[?]` and `[,]` stand for the sign itself, and alone make no glob of a path.
    """
    first = next((n for n, part in enumerate(parts) if re.search(r"[*?[]", _ESCAPED.sub("", part))), len(parts))
    patterns = list(parts[first:])
    plain = [_ESCAPED.sub(r"\1", part) for part in parts[:first]]
    return plain, [*patterns, "*"] if patterns[-1:] == ["**"] else patterns


def below(folder: Path, name: str) -> Path:
    """The path of a file that others named, below a folder.

    Raises:
        ValueError: it would lie elsewhere.
    """
    if {"", ".", ".."} & set(name.split("/")) or "\\" in name or "\0" in name:
        raise ValueError(f"the name {name!r} is no path below its folder; rename the file")
    return folder / name


def new_folder(folder: Path) -> Path:
    """Make this folder, or, where others were quicker, the first free one of FOLDER-2, FOLDER-3 and so on."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        path = folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
        with suppress(FileExistsError):
            path.mkdir()
            return path
    raise AssertionError


def private(name: str) -> Path:
    """A folder of this user's temporary files, which all processes of one machine find by its name.

    Raises:
        PermissionError: another user, or a link, has its place: what lies there is not to be trusted.
    """
    folder = Path(tempfile.gettempdir()) / f"calrec-{os.getuid()}"
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    state = folder.lstat()
    if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.getuid() or state.st_mode & 0o077:
        raise PermissionError(f"{folder} is not a folder of user {os.getuid()} alone; remove it, or set TMPDIR")
    return folder / name


def is_data(part: str, pattern: str = "*") -> bool:
    """Whether a file or folder of this name counts; a hidden one does only when the pattern begins with a dot too."""
    points = part in (".", "..")  # uris.py refuses these
    hidden = part.startswith((".", "~$")) and not pattern.startswith(".") and not points  # ~$: Excel's locks
    return not hidden and part not in _NOT_DATA and not part.endswith(_CHECKSUMS)


def matches(parts: Sequence[str], patterns: Sequence[str]) -> bool:
    """Whether the parts of a name match those of a glob: `*` stays inside a part, `**` is any number of folders."""
    if not patterns or not parts:
        return not patterns and not parts
    head, rest = patterns[0], patterns[1:]
    if head == "**":
        return matches(parts, rest) or (is_data(parts[0]) and matches(parts[1:], patterns))
    return is_data(parts[0], head) and fnmatchcase(parts[0], head) and matches(parts[1:], rest)


def sync(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _found(source: str) -> tuple[Path, list[str]]:
    """A local source: a file or a folder that may not exist, and the patterns of what is read below it."""
    path = Path(source).expanduser()
    parts, patterns = ([*path.parts], list[str]()) if path.exists() else split_glob(path.parts)
    folder = Path(*parts)
    return folder, patterns or (["**", "*"] if folder.is_dir() else [])


def _below(folder: Path, patterns: list[str]) -> Iterator[Path]:
    """Files that match; unlike with Path.glob, a folder that may not be read is an error and not empty."""
    if not patterns or not folder.is_dir():
        return
    head, rest = patterns[0], patterns[1:]
    if head == "**":
        yield from _below(folder, rest)
    for path in folder.iterdir():
        if head == "**" and is_data(path.name) and path.is_dir() and not path.is_symlink():
            yield from _below(path, patterns)
        elif head != "**" and matches([path.name], [head]):
            if rest and path.is_dir():
                yield from _below(path, rest)
            elif not rest and path.is_file():
                yield path


def _file(path: Path, name: str) -> File:
    if not os.access(path, os.R_OK):
        raise PermissionError(f"{path} may not be read by user {os.getuid()}; change its mode or run as its owner")
    state = path.stat()
    version = f"{state.st_size}-{state.st_mtime_ns}"
    return File(name, state.st_size, version, lambda: path.open("rb"), lambda: str(path))
