"""The folder that a step makes: it has one writer, and changes from the old one to the new in one step.

Beside a folder NAME lie, while a step works: `.NAME.calrec-lock`, which says who writes, `.NAME.calrec-new-…`, what is
written, and for a moment `.NAME.calrec-old`. What a killed process leaves of them the next one clears away.
"""

import errno
import fcntl
import functools
import glob
import inspect
import os
import shutil
import socket
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from calrec.artifacts import sealed
from calrec.artifacts.places import MANIFEST, absolute, check_out, refuse_foreign
from calrec.storage.files import sync

P = ParamSpec("P")
T = TypeVar("T")

_FULL = (errno.ENOSPC, errno.EDQUOT)
_held: ContextVar[frozenset[Path]] = ContextVar("held", default=frozenset())  # by this thread


def making(kind: str, *inputs: str, out: str = "out") -> Callable[[Callable[P, T]], Callable[P, T]]:
    """A step's function, which has its folder to itself from its first line to its last; see :func:`claimed`.

    Args:
        kind: what the folder will hold.
        inputs: names of the function's arguments that are paths, or collections of them; None is none.
        out: name of the argument that is the folder.
    """

    def decorated(function: Callable[P, T]) -> Callable[P, T]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def alone(*args: P.args, **kwargs: P.kwargs) -> T:
            given = signature.bind(*args, **kwargs).arguments
            with claim(given[out], kind, [given.get(name) for name in inputs]):
                return function(*args, **kwargs)

        return alone

    return decorated


@contextmanager
def writing(out: Path, kind: str = "", inputs: Iterable[Any] = ()) -> Iterator[Path]:
    """A temporary folder beside `out` that takes its place when the block ends well; else the old `out` stays.

    The block must call :func:`calrec.artifacts.finish` last. The arguments are those of :func:`check_out`; inside of
    :func:`making`, which has asked them, only `out` is given.
    """
    with claim(out, kind, inputs) as place:
        part = place.with_name(f".{place.name}.calrec-new-{uuid.uuid4().hex[:8]}")
        try:
            part.mkdir()
            yield part
            assert (part / MANIFEST).is_file(), "a step must finish its folder with a manifest"
            _swap(part, place)
        except Exception as error:
            if _is_full(error):
                raise OSError(f"{out}: no room left on its disk ({error}); free some, or give another --out") from error
            raise
        finally:
            shutil.rmtree(part, ignore_errors=True)


@contextmanager
def claim(out: Path, kind: str = "", inputs: Iterable[Any] = ()) -> Iterator[Path]:
    """The absolute path of `out`, which no other process and no other thread writes to before the block ends.

    Raises:
        ValueError: another one writes to it; and as :func:`check_out`.
    """
    place = absolute(Path(out))
    if not kind and place in _held.get():
        yield place
        return
    check_out(out, kind, inputs)
    place.parent.mkdir(parents=True, exist_ok=True)
    with lock(_beside(place, "lock"), Path(out)) as alone:
        sealed.restore(place, _beside(place, "old"))
        if alone:
            for rest in (_beside(place, "old"), *place.parent.glob(f".{glob.escape(place.name)}.calrec-new-*")):
                shutil.rmtree(rest, ignore_errors=True)
        refuse_foreign(place, out, kind)
        token = _held.set(_held.get() | {place})
        try:
            yield place
        finally:
            _held.reset(token)


@contextmanager
def lock(path: Path, out: Path) -> Iterator[bool]:
    """Keep other processes out by a lock on the file `path` until the block or the process ends.

    Yields:
        whether the file system has locks; a mounted bucket has none, and keeps nobody out.

    Raises:
        ValueError: another process has `out`; says which one.
    """
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            who = os.pread(handle, 500, 0).decode("utf-8", "replace") or "another process"
            os.close(handle)
            raise ValueError(f"{out}: {who} writes to it; wait for it, or give another --out") from None
        except OSError:
            alone = False
            break
        with suppress(FileNotFoundError):  # who had it before removes the file, and then lets it go
            if os.path.samestat(os.fstat(handle), path.stat()):
                alone = True
                break
        os.close(handle)
    who = f"process {os.getpid()} on {socket.gethostname()}, since {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC,"
    os.ftruncate(handle, 0)
    os.pwrite(handle, who.encode(), 0)
    try:
        yield alone
    finally:
        with suppress(OSError):
            os.unlink(path)  # noqa: PTH108
        os.close(handle)


def restore(out: Path) -> None:
    """Bring back a folder whose replacement was killed between its two renames; else nothing is done."""
    place = absolute(Path(out))
    if (old := _beside(place, "old")).is_dir():
        with lock(_beside(place, "lock"), out):
            sealed.restore(place, old)


# --- inside -----------------------------------------------------------------------------------------------------


def _beside(place: Path, what: str) -> Path:
    return place.with_name(f".{place.name}.calrec-{what}")


def _swap(part: Path, place: Path) -> None:
    """Put the new folder in the place of the old one: at any moment one of the two is whole and can be found."""
    if not place.exists():
        part.rename(place)
        return
    for path in part.rglob("*"):  # the old one is deleted: the new one must be on the disk by then
        sync(path)
    old = _beside(place, "old")
    try:
        refuse_foreign(place, place)
    except ValueError as error:  # somebody wrote into it while the step worked
        old = next(path for n in range(1, 1 << 30) if not (path := place.with_name(f"{place.name}.kept-{n}")).exists())
        print(f"warning: {error.args[0].partition(';')[0]}; the old folder is kept as {old.name}", flush=True)
    sealed.swap(part, place, old)
    if old == _beside(place, "old"):
        shutil.rmtree(old, ignore_errors=True)


def _is_full(error: Exception) -> bool:
    """Whether a failure is that of a full disk; numpy and safetensors say so without its number."""
    said = isinstance(error, OSError) and (error.errno in _FULL or "requested and" in str(error))
    return said or "No space left on device" in str(error)
