"""Folders between steps: complete or refused."""

import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from calrec import artifacts
from calrec.artifacts import Manifest
from calrec.report import manifests


def make(out: Path, value: str = "a") -> Manifest:
    with artifacts.writing(out) as folder:
        np.save(folder / "ids.npy", np.array([1, 2], np.int32))
        np.save(folder / "offsets.npy", np.array([0, 2]))
        manifests.write_report(folder, "x", Manifest("tokens", counts={"items": 1}))
        return artifacts.finish(folder, Manifest("tokens", config={"value": value}, counts={"items": 1}))


def test_a_finished_folder_reads_back(tmp_path: Path):
    written = make(tmp_path / "x")
    read = artifacts.read_manifest(tmp_path / "x", "tokens")
    assert (read.kind, read.config, read.digest) == ("tokens", {"value": "a"}, written.digest)
    assert sorted(read.files) == ["ids.npy", "offsets.npy", "report.html", "report.md"]
    assert not (tmp_path / "x.partial").exists()


def test_the_same_content_has_the_same_digest(tmp_path: Path):
    assert make(tmp_path / "x", "a").digest == make(tmp_path / "y", "b").digest


def test_a_failing_step_leaves_the_old_output_and_nothing_half_written(tmp_path: Path):
    digest = make(tmp_path / "x").digest
    with pytest.raises(RuntimeError), artifacts.writing(tmp_path / "x") as folder:
        (folder / "ids.npy").write_text("half")
        raise RuntimeError
    assert artifacts.read_manifest(tmp_path / "x").digest == digest
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def break_(folder: Path, how: str) -> None:
    manifest = folder / artifacts.MANIFEST
    document = json.loads(manifest.read_text())
    if how == "no manifest":
        manifest.unlink()
    elif how == "no file":
        (folder / "ids.npy").unlink()
    elif how == "garbage":
        manifest.write_text("{")
    else:
        if how == "version":
            document["schema"] = "calrec.tokens/99"
        if how == "unknown":
            document["schema"] = "calrec.dreams/1"
        if how == "edited":
            document["files"]["ids.npy"] = "0" * 64
        manifest.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("no manifest", "no manifest.json, so the step that wrote it did not finish"),
        ("no file", "ids.npy missing"),
        ("garbage", "not a calrec manifest"),
        ("version", "schema calrec.tokens/99, this version of calrec reads calrec.tokens/2"),
        ("unknown", "unknown kind of folder|holds 'dreams'"),
        ("edited", "was changed by hand"),
    ],
)
def test_a_damaged_folder_is_refused_by_name(tmp_path: Path, how: str, message: str):
    make(tmp_path / "x")
    break_(tmp_path / "x", how)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        artifacts.read_manifest(tmp_path / "x", "tokens")
    assert str(tmp_path / "x") in str(error.value)


def test_another_kind_of_folder_is_refused(tmp_path: Path):
    make(tmp_path / "x")
    with pytest.raises(ValueError, match=re.escape("holds 'tokens', but 'texts' is needed here")):
        artifacts.read_manifest(tmp_path / "x", "texts")


def test_a_missing_folder_is_refused(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        artifacts.read_manifest(tmp_path / "nothing", "texts")


def test_a_table_with_other_columns_is_refused(tmp_path: Path):
    with artifacts.writing(tmp_path / "x") as folder:
        artifacts.write_table(folder, "generations.parquet", pa.table({"other": [1]}))
        artifacts.finish(folder, Manifest("generations"))
    with pytest.raises(ValueError, match=r"columns \['other'\], expected \['user_id', "):
        artifacts.read_table(tmp_path / "x", "generations.parquet", "generations")
