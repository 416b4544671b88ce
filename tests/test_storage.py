"""Buckets through a real HTTP emulator, and versions of local folders."""

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from calrec import storage
from calrec.config import ModelConfig
from calrec.model.step import base_model
from tests.conftest import write_sequences


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    from gcp_storage_emulator.server import create_server
    from google.cloud import storage as gcs

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = create_server("127.0.0.1", port, in_memory=True, default_bucket="shop")
    server.start()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
    try:
        yield gcs.Client(project="test").bucket("shop")
    finally:
        server.stop()


def upload(bucket, folder: Path, prefix: str) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            bucket.blob(f"{prefix}/{path.relative_to(folder)}").upload_from_filename(str(path))


def test_a_local_path_and_a_name_pass_through():
    assert [storage.local(name) for name in ("data/books", "scratch", "sample:DELI", "a/b")] == [
        "data/books",
        "scratch",
        "sample:DELI",
        "a/b",
    ]


def test_other_schemes_are_refused():
    for call in (storage.local, storage.snapshot):
        with pytest.raises(ValueError, match="s3:// is not supported; use a local folder or gs://BUCKET/FOLDER"):
            call("s3://bucket/data")


def test_a_bucket_folder_is_downloaded_whole(bucket, tmp_path: Path):
    source = write_sequences(tmp_path / "raw")
    upload(bucket, source, "logs/books")
    upload(bucket, source, "logs/books2")
    folder = Path(storage.local("gs://shop/logs/books"))
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == {p.name: p.read_bytes() for p in source.iterdir()}


def test_a_model_in_a_bucket_is_a_base_model(bucket, small: SimpleNamespace, tmp_path: Path):
    upload(bucket, small.base, "models/base")
    uri = "gs://shop/models/base"
    made, _ = base_model(small.texts, tmp_path / "m", tmp_path / "t", ModelConfig(name=uri), storage.local(uri))
    assert made.config["model"]["name"] == uri
    assert (tmp_path / "m/model.safetensors").read_bytes() == (small.base / "model.safetensors").read_bytes()


def test_an_empty_uri_is_refused(bucket):
    with pytest.raises(FileNotFoundError, match="gs://shop/nothing: no object under this URI"):
        storage.local("gs://shop/nothing")


def test_an_object_name_that_leaves_the_folder_is_refused(monkeypatch: pytest.MonkeyPatch):
    # The emulator does not store such a name; a real bucket does.
    evil = SimpleNamespace(name="logs/../../evil", download_to_filename=lambda *_, **__: pytest.fail("was written"))
    monkeypatch.setattr(storage, "_blobs", lambda uri: ("logs/", [evil]))
    with pytest.raises(ValueError, match="would be written outside of its folder"):
        storage.local("gs://shop/logs")


def test_a_snapshot_changes_with_the_files(bucket, tmp_path: Path):
    source = write_sequences(tmp_path / "raw")
    upload(bucket, source, "logs")
    for uri, path in ((str(source), source / "items.jsonl.gz"), ("gs://shop/logs", None)):
        before = storage.snapshot(uri)
        assert storage.snapshot(uri) == before
        if path:
            os.utime(path, ns=(time.time_ns(), time.time_ns()))
        else:
            bucket.blob("logs/new").upload_from_string("x")
        assert storage.snapshot(uri) != before


def test_the_sample_has_its_packages_version_as_snapshot():
    assert storage.snapshot("sample:DELI") == storage.snapshot("sample:PASTRY")
