"""A sealed folder in a folder elsewhere, a bucket's or a mounted one: its seal comes last and goes first."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from calrec.storage.files import Remote, below


def names(remote: Remote, folder: str) -> list[str]:
    """The files that are there of a folder, as FOLDER/NAME."""
    return [name for name in remote.names() if name.startswith(f"{folder}/")]


def upload(remote: Remote, folder: str, files: Mapping[str, Path], seal: str) -> None:
    """Copy files to FOLDER/NAME, by their names; the one called `seal` last."""
    for name in sorted(files, key=lambda name: name == seal):
        remote.put(files[name], f"{folder}/{name}")


def download(remote: Remote, folder: str, out: Path) -> list[str]:
    """Get the files of a folder into `out`, which need not be there; whether it is whole must still be verified.

    Returns:
        their names there.

    Raises:
        ValueError: a name that leads out of `out`.
    """
    there = names(remote, folder)
    for name in there:
        path = below(out, name.removeprefix(f"{folder}/"))
        path.parent.mkdir(parents=True, exist_ok=True)
        remote.get(name, path)
    return there


def delete(remote: Remote, found: Iterable[str], seal: str) -> None:
    """Remove files, those called `seal` first, else in the order given: what is torn then is told from a whole one."""
    for name in sorted(found, key=lambda name: Path(name).name != seal):
        remote.delete(name)
