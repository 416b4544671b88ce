"""Local files of a source: folders, files and globs on a real disk."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from calrec.storage import files


def write(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


@pytest.fixture
def nobody() -> Iterator[Path]:
    """A folder of a user without rights, whom this process is for the time of a test."""
    user = os.getuid()
    with tempfile.TemporaryDirectory() as folder:
        if user == 0:
            os.chown(folder, 65534, -1)
            os.setresuid(65534, 65534, 0)
        try:
            yield Path(folder)
        finally:
            os.setresuid(user, user, user)


def names(source: object) -> list[str]:
    return [file.name for file in files.local(str(source))]


def test_a_folder_a_file_and_globs_give_names_below_the_last_folder_without_wildcard(tmp_path: Path):
    root = write(tmp_path / "logs", "b.csv", "a/x.csv", "a/deep/y.csv", "b/x.csv", "b/x.txt", "a-.csv")
    assert names(root) == ["a-.csv", "a/deep/y.csv", "a/x.csv", "b.csv", "b/x.csv", "b/x.txt"]
    assert names(root / "a/x.csv") == ["x.csv"]
    assert names(root / "*/x.csv") == ["a/x.csv", "b/x.csv"]
    assert names(root / "[ab]/*.csv") == ["a/x.csv", "b/x.csv"]
    assert names(root / "**/*.csv") == ["a-.csv", "a/deep/y.csv", "a/x.csv", "b.csv", "b/x.csv"]
    assert names(root / "a/**") == ["deep/y.csv", "x.csv"]
    assert names(tmp_path / "l*/?.csv") == ["logs/b.csv"]


@pytest.mark.parametrize(
    "pattern", ["*", "*.csv", "*/*.csv", "**/*.csv", "**/b/*", "a/**/*.csv", "**/**/?.csv", "[!a]/*"]
)
def test_a_glob_finds_what_pathlib_finds_on_disk_and_in_a_list_of_names(tmp_path: Path, pattern: str):
    written = ["x.csv", "a/x.csv", "a/y.txt", "a/b/x.csv", "a/b/c/z.csv", "b/x.csv", "c/b/y"]
    root = write(tmp_path, *written)
    theirs = sorted(p.relative_to(root).as_posix() for p in root.glob(pattern) if p.is_file())
    assert theirs
    assert sorted(n for n in written if files.matches(n.split("/"), pattern.split("/"))) == theirs
    first = files.split_glob(pattern.split("/"))[0]
    assert ["/".join([*first, name]) for name in names(root / pattern)] == theirs


def test_a_file_is_read_and_its_version_changes_with_it(tmp_path: Path):
    path = write(tmp_path, "x.csv") / "x.csv"
    before = files.local(str(tmp_path))[0]
    with before.open() as stream:
        assert stream.read() == b"x.csv"
    assert (before.size, before.seekable()) == (5, str(path))
    os.utime(path, ns=(1, 1))
    assert files.local(str(tmp_path))[0].version != before.version


def test_hidden_files_marks_and_checksums_are_no_data_unless_named(tmp_path: Path):
    root = write(
        tmp_path, "x.csv", ".x.csv.swp", ".git/x.csv", "_SUCCESS", ".x.csv.crc", "x.csv.md5", "lost+found/y.csv"
    )
    assert names(root) == names(root / "**/*") == ["x.csv"]
    assert names(root / ".x.csv.swp") == [".x.csv.swp"]
    assert names(root / ".git/*") == ["x.csv"]
    assert names(root / ".g*/*") == [".git/x.csv"]
    (root / "x.csv").unlink()
    with pytest.raises(FileNotFoundError, match="holds no file"):
        names(root)


@pytest.mark.parametrize("source", ["nothing", "nothing/*.csv", "x.csv/*.csv"])
def test_a_source_that_is_not_there_is_named(tmp_path: Path, source: str):
    write(tmp_path, "x.csv")
    with pytest.raises(FileNotFoundError, match=f"{source.replace('*', '.')} does not exist"):
        names(tmp_path / source)


def test_what_may_not_be_read_is_an_error_and_not_empty(nobody: Path):
    write(nobody, "a/x.csv", "b/x.csv")
    (nobody / "b/x.csv").chmod(0)
    with pytest.raises(PermissionError, match=r"b/x.csv may not be read by user \d+; change its mode"):
        names(nobody)
    (nobody / "a").chmod(0)
    for source in (nobody, nobody / "*/x.csv"):
        with pytest.raises(PermissionError, match="/a"):
            names(source)
    (nobody / "a").chmod(0o700)


def test_a_link_to_a_folder_does_not_lead_in_circles(tmp_path: Path):
    root = write(tmp_path / "logs", "x.csv")
    (root / "again").symlink_to(root)
    assert names(root) == ["x.csv"]
    assert names(root / "*/x.csv") == ["again/x.csv"]


# --- folders of temporary files -----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["link", "open", "file"])
def test_a_folder_that_others_may_have_made_is_not_trusted(tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    place = tmp_path / f"calrec-{os.getuid()}"
    if how == "link":
        (tmp_path / "theirs").mkdir(mode=0o700)
        place.symlink_to("theirs")
    elif how == "open":
        place.mkdir()
        place.chmod(0o777)
    else:
        place.write_text("")
    with pytest.raises(PermissionError, match=r"calrec-\d+ is not a folder of user \d+ alone; remove it, or"):
        files.private("x")


def test_a_folder_of_another_user_is_not_trusted(nobody: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tempfile.tempdir", str(nobody))
    (nobody / f"calrec-{os.getuid()}").mkdir(mode=0o700)
    assert files.private("x").parent.name == f"calrec-{os.getuid()}"
    if os.getresuid()[2] == 0:
        monkeypatch.setattr("os.getuid", lambda: 0)
        (nobody / "calrec-0").mkdir(mode=0o700)  # it belongs to nobody
        with pytest.raises(PermissionError, match="is not a folder of user 0 alone"):
            files.private("x")


def test_a_private_folder_is_ours_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert files.private("x") == files.private("x") == tmp_path / f"calrec-{os.getuid()}/x"
    assert (tmp_path / f"calrec-{os.getuid()}").stat().st_mode & 0o777 == 0o700
