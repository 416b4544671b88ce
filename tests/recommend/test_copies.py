"""A batch whose machine is lost goes on elsewhere: from copies in a folder, or in a bucket."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from calrec import artifacts
from calrec.recommend.parts import Parts
from calrec.recommend.second_place import Copies
from calrec.storage import uris
from calrec.storage.files import Remote
from tests.conftest import REPO
from tests.recommend.test_parts import FINGERPRINT, PART, content, run


@pytest.fixture
def alone(tmp_path: Path) -> dict[str, bytes]:
    assert run(tmp_path, tmp_path / "alone")
    return content(tmp_path / "alone")


def removed(remote: Remote, out: Path) -> list[str]:
    """What is there after the copies of a finished batch are removed."""
    Copies(remote, artifacts.read_manifest(out, "batch").config).remove()
    return remote.names()


class LostError(BaseException):
    """The machine is gone."""


class Losing:
    """A folder whose user is lost at one of its uploads, before or after it is done."""

    def __init__(self, remote: Remote, at: int, done: bool):
        self.remote, self.at, self.done = remote, at, done
        self.names, self.get, self.delete = remote.names, remote.get, remote.delete

    def put(self, path: Path, name: str) -> None:
        self.at -= 1
        if self.done or self.at >= 0:
            self.remote.put(path, name)
        if self.at < 0:
            raise LostError


@pytest.mark.parametrize("done", [False, True])
def test_a_machine_lost_at_any_upload(tmp_path: Path, alone: dict[str, bytes], done: bool):
    uploads = 0
    for at in range(100):
        here, remote = tmp_path / f"{at}", uris.folder(str(tmp_path / f"remote{at}"))
        try:
            assert run(tmp_path, here / "first", remote=Losing(remote, at, done))
            break
        except LostError:
            uploads += 1
        assert run(tmp_path, here / "second", remote=remote)
        assert content(here / "second") == alone
        assert removed(remote, here / "second") == []
    assert uploads == 1 + 4 * 3 + 2  # the start; each part, its rejects and the progress; all rejects and the progress


def test_a_bucket(tmp_path: Path, alone: dict[str, bytes], bucket: Any, capsys: pytest.CaptureFixture[str]):
    remote = uris.folder("gs://shop/checkpoints")
    bucket.blob("checkpoints/0123/step-00000010/state.json").upload_from_string("{}")
    assert not run(tmp_path, tmp_path / "lost", batches=4, remote=remote)
    with Parts(tmp_path / "other", "parquet", {**FINGERPRINT, "recommend": {}}, PART, remote) as parts:
        assert parts.done_users == 0
    with Parts(tmp_path / "next", "parquet", FINGERPRINT, PART, remote) as parts:
        assert parts.done_users == 12
    assert "going on from batch-" in capsys.readouterr().out
    assert run(tmp_path, tmp_path / "next", remote=remote)
    assert content(tmp_path / "next") == alone
    with Parts(tmp_path / "retried", "parquet", FINGERPRINT, PART, remote) as parts:
        assert parts.finish({"items": 9}, inputs={"model": "m1"}) == artifacts.read_manifest(tmp_path / "alone")
    assert content(tmp_path / "retried") == alone
    training, other = removed(remote, tmp_path / "next")
    assert training == "0123/step-00000010/state.json" and other.endswith("/progress.json")


def test_a_changed_copy_is_made_again(tmp_path: Path, alone: dict[str, bytes], capsys: pytest.CaptureFixture[str]):
    remote = uris.folder(str(tmp_path / "remote"))
    run(tmp_path, tmp_path / "lost", batches=6, remote=remote)
    (part,) = (tmp_path / "remote").glob("*/part-00001.parquet")
    part.write_bytes(part.read_bytes()[:-9])
    assert run(tmp_path, tmp_path / "next", remote=remote)
    assert "part-00001.parquet or its rejects are missing or changed" in capsys.readouterr().out
    assert content(tmp_path / "next") == alone
    assert part.read_bytes() == alone["part-00001.parquet"]


def test_progress_that_is_here_counts(tmp_path: Path, alone: dict[str, bytes], capsys: pytest.CaptureFixture[str]):
    remote = uris.folder(str(tmp_path / "remote"))
    run(tmp_path, tmp_path / "lost", batches=2, remote=remote)
    run(tmp_path, tmp_path / "here", batches=4)
    with Parts(tmp_path / "here", "parquet", FINGERPRINT, PART, remote) as parts:
        assert parts.done_users == 12
    assert "going on from" not in capsys.readouterr().out
    assert run(tmp_path, tmp_path / "here", remote=remote)
    assert content(tmp_path / "here") == alone


class Unreachable(uris.LocalFolder):
    """A folder that fails some times."""

    def __init__(self, path: Path, failures: int):
        super().__init__(path)
        self.failures = failures

    def put(self, path: Path, name: str) -> None:
        self.failures -= 1
        if self.failures >= 0:
            raise ConnectionError("no route")
        super().put(path, name)


def test_a_failed_copy_is_told_and_tried_again(tmp_path: Path, alone: dict[str, bytes], capsys: Any):
    remote = Unreachable(tmp_path / "remote", failures=3)
    assert run(tmp_path, tmp_path / "out", remote=remote)
    said = capsys.readouterr().out
    assert "warning: progress.json was not copied (no route); the next part tries again" in said
    assert "warning: part-00000.parquet was not copied (no route)" in said
    copied = {path.name: path.read_bytes() for path in (tmp_path / "remote").glob("*/*")}
    assert copied.items() >= {name: alone[name] for name in alone if name != "manifest.json"}.items()
    assert content(tmp_path / "out") == alone


def test_copies_that_cannot_be_listed_are_an_error_at_the_start(tmp_path: Path, bucket: Any):
    with pytest.raises(FileNotFoundError, match="gs://nowhere"):
        run(tmp_path, tmp_path / "out", remote=uris.folder("gs://nowhere/checkpoints"))


CHILD = """
import sys
from pathlib import Path
from calrec.artifacts import manifest
from calrec.storage import uris
manifest.KINDS = {"batch": (1, {}), **manifest.KINDS}
from tests.recommend.test_parts import run
run(Path(sys.argv[1]), Path(sys.argv[1]) / "lost", pause=0.05, remote=uris.folder(sys.argv[2]))
"""


def test_kill_9(tmp_path: Path, alone: dict[str, bytes]):
    place = tmp_path / "remote"
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path), str(place)], cwd=REPO)
    while not list(place.glob("*/part-00001.parquet")):
        assert child.poll() is None
        time.sleep(0.001)
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait(10) == -signal.SIGKILL
    assert run(tmp_path, tmp_path / "next", remote=uris.folder(str(place)))
    assert content(tmp_path / "next") == alone
