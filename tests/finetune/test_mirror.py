"""Copies of checkpoints elsewhere: in a folder, or in an emulated bucket."""

import os
import threading
from pathlib import Path
from typing import Any

import pytest

from calrec.finetune.checkpoints import Progress
from calrec.storage import google, uris
from tests.finetune.test_checkpoints import everything, flip, loaded, made, names, save, tensors


@pytest.fixture(params=["folder", "bucket", "s3"])
def elsewhere(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    if request.param != "folder":
        request.getfixturevalue(request.param)
        return uris.folder("gs://shop/run" if request.param == "bucket" else "s3://shop/run")
    return uris.folder(str(tmp_path / "volume"))


def copied(remote: Any) -> list[str]:
    """Names below the fingerprint, which are one per file."""
    return [name.partition("/")[2] for name in remote.names()]


def whole(*items: str) -> list[str]:
    parts = {"best": ["state.json", "weights.safetensors"]}
    parts["step"] = ["optimizer.safetensors", *parts["best"]]
    return [f"{item}/{part}" for item in items for part in parts[item[:4]]]


def test_a_run_goes_on_from_the_remote_copy(elsewhere: Any, tmp_path: Path):
    save(made(tmp_path / "a", elsewhere), 10, 20, best=10)
    again = made(tmp_path / "a", elsewhere)
    assert loaded(again) == (20, 10)
    save(again, 30, 40, best=30)
    assert copied(elsewhere) == whole("best-00000030", "step-00000030", "step-00000040")
    fresh = made(tmp_path / "b", elsewhere)
    assert loaded(fresh) == (40, 30)
    step = "step-00000040"
    assert everything(tmp_path / "a" / step) == everything(tmp_path / "b" / step)
    save(fresh, 50, best=30)
    assert copied(elsewhere) == whole("best-00000030", "step-00000040", "step-00000050")
    assert loaded(made(tmp_path / "a", elsewhere)) == (50, 30)  # newer than the local one
    fresh.remove()
    assert elsewhere.names() == []
    assert fresh.notes == []


def test_two_runs_never_meet(elsewhere: Any, tmp_path: Path):
    save(made(tmp_path / "a", elsewhere), 10)
    other = made(tmp_path / "b", elsewhere, inputs={"texts": "xyz"})
    assert other.load() is None
    save(other, 20)
    other.remove()
    assert copied(elsewhere) == whole("step-00000010")


def test_a_local_checkpoint_that_is_newer_is_taken(tmp_path: Path):
    volume = uris.folder(str(tmp_path / "volume"))
    save(made(tmp_path / "a", volume), 10)
    save(made(tmp_path / "a"), 20)
    assert loaded(made(tmp_path / "a", volume)) == (20, 0)


def test_damage_is_mended_from_the_copy_and_a_damaged_copy_passed_over(tmp_path: Path):
    volume = uris.folder(str(tmp_path / "volume"))
    save(made(tmp_path / "a", volume), 10, 20, best=20)
    flip(tmp_path / "a/step-00000020/weights.safetensors")
    flip(tmp_path / "a/best-00000020/weights.safetensors")
    mended = made(tmp_path / "a", volume)
    assert loaded(mended) == (20, 20)
    assert [note.endswith("its remote copy is taken") for note in mended.notes] == [True, True]
    flip(next((tmp_path / "volume").glob("*/step-00000020/weights.safetensors")))
    older = made(tmp_path / "b", volume)
    assert loaded(older) == (10, 0)
    assert ["checkpoint step-00000020 is skipped" in note for note in older.notes] == [True]
    save(older, 20, best=20)  # the damaged copy is written anew
    assert loaded(made(tmp_path / "c", volume)) == (20, 20)


def test_a_copy_without_its_state_is_none(tmp_path: Path):
    volume = uris.folder(str(tmp_path / "volume"))
    save(made(tmp_path / "a", volume), 10, 20)
    next((tmp_path / "volume").glob("*/step-00000020/state.json")).unlink()
    assert loaded(made(tmp_path / "b", volume)) == (10, 0)


def test_a_remote_folder_that_fails_is_told_and_caught_up_with_later(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "volume").write_text("a file is in the way")
    checkpoints = made(tmp_path / "a", uris.folder(str(tmp_path / "volume")))
    save(checkpoints, 10, best=10)
    assert checkpoints.notes
    assert all("was not copied to the remote folder" in note for note in checkpoints.notes)
    assert capsys.readouterr().err.count("\ncheckpoint: warning: ") + 1 == len(checkpoints.notes)
    (tmp_path / "volume").unlink()
    save(checkpoints, 20, best=10)
    assert copied(uris.folder(str(tmp_path / "volume"))) == whole("best-00000010", "step-00000010", "step-00000020")


class Slow(uris.LocalFolder):
    """A volume that takes nothing until it is told to."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.begun, self.go = threading.Event(), threading.Event()

    def put(self, path: Path, name: str) -> None:
        self.begun.set()
        assert self.go.wait(30)
        super().put(path, name)


def test_training_does_not_wait_and_what_is_being_copied_stays_until_then(tmp_path: Path):
    slow = Slow(tmp_path / "volume")
    checkpoints = made(tmp_path / "a", slow, keep=1)
    checkpoints.save(tensors(1), Progress(1))
    slow.begun.wait(30)
    for step in (2, 3):
        checkpoints.save(tensors(step), Progress(step))
    assert names(tmp_path / "a") == ["step-00000001", "step-00000003"]
    slow.go.set()
    checkpoints.wait()
    save(checkpoints, 4)
    assert (names(tmp_path / "a"), copied(slow)) == (["step-00000004"], whole("step-00000004"))
    assert checkpoints.notes == []


def test_a_bucket_that_does_not_answer_stops_a_resume(tmp_path: Path, bucket: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(google, "PATIENCE_S", 0.2)
    gone = made(tmp_path, uris.folder("gs://shop/run"))
    monkeypatch.setitem(os.environ, "STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")
    with pytest.raises(ConnectionError, match="gs://shop/run: no answer"):
        gone.load()
