"""What seals a folder: its files are checked, replaced in one step, and copied elsewhere with the seal last."""

import re
from pathlib import Path

import pytest

from calrec.artifacts import elsewhere, sealed
from calrec.storage import uris


def folder(path: Path, *names: str) -> Path:
    for name in names:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(name)
    return path


def test_a_file_that_is_not_as_it_was_written_is_told(tmp_path: Path):
    path = folder(tmp_path, "a") / "a"
    sha256 = sealed.file_hash(path)
    assert sealed.damage(path) == sealed.damage(path, 1, sha256) == ""
    assert sealed.damage(path, 2, sha256) == f"{path} has 1 bytes, expected 2"
    path.write_text("b")
    assert sealed.damage(path, 1) == ""
    assert sealed.damage(path, 1, sha256) == f"{path} changed after it was written"
    path.unlink()
    for given in ({"size": 1}, {"sha256": sha256}):
        assert sealed.damage(path, **given) == f"{path} cannot be read (No such file or directory)"


def test_settings_that_differ_are_listed():
    then = {"lr": 0.1, "model": {"size": "tiny", "rank": None}}
    sealed.refuse_other(Path("out"), then, then, "choose")
    said = "out is of another run: lr was 0.1, is absent; model.rank was None, is absent; model.size was tiny, is big;"
    with pytest.raises(ValueError, match=re.escape(said) + " choose$"):
        sealed.refuse_other(Path("out"), then, {"model": {"size": "big"}}, "choose")


def test_a_file_is_replaced_when_all_of_it_is_written(tmp_path: Path):
    path = folder(tmp_path, "a") / "a"

    def torn(aside: Path) -> None:
        aside.write_text("ha")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sealed.replace(path, torn)
    assert path.read_text() == "a"
    sealed.replace(path, lambda aside: aside.write_text("half"))
    assert path.read_text() == "half" and sorted(sealed.files(tmp_path)) == ["a"]


def test_a_folder_whose_successor_cannot_come_is_brought_back(tmp_path: Path):
    place, old = folder(tmp_path / "place", "a"), tmp_path / "old"
    with pytest.raises(FileNotFoundError):
        sealed.swap(tmp_path / "none", place, old)
    assert (place / "a").exists() and not old.exists()
    sealed.swap(folder(tmp_path / "part", "b"), place, old)
    assert list(sealed.files(place)) == ["b"] and list(sealed.files(old)) == ["a"]
    sealed.restore(place, old)
    assert list(sealed.files(place)) == ["b"]


class Told(uris.LocalFolder):
    """A folder that says what is done to it."""

    def __init__(self, path: Path):
        super().__init__(path)
        self.done: list[str] = []

    def put(self, path: Path, name: str) -> None:
        self.done.append(name)
        super().put(path, name)

    def delete(self, name: str) -> None:
        self.done.append(name)
        super().delete(name)


def test_elsewhere_the_seal_comes_last_and_goes_first(tmp_path: Path):
    remote, here = Told(tmp_path / "there"), folder(tmp_path / "here", "a", "seal", "z/b")
    elsewhere.upload(remote, "run/one", sealed.files(here), "seal")
    elsewhere.upload(remote, "run/oneself", sealed.files(here), "seal")
    assert remote.done[:3] == ["run/one/a", "run/one/z/b", "run/one/seal"]
    there = elsewhere.names(remote, "run/one")
    assert elsewhere.download(remote, "run/one", tmp_path / "copy") == there
    assert list(sealed.files(tmp_path / "copy")) == list(sealed.files(here))
    remote.done.clear()
    elsewhere.delete(remote, there, "seal")
    assert remote.done == ["run/one/seal", "run/one/a", "run/one/z/b"]
    assert elsewhere.names(remote, "run/one") == [] and len(remote.names()) == 3
