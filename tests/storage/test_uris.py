"""Files behind URIs of all kinds; a bucket through a real HTTP emulator, and through a web server that breaks off."""

import base64
import io
import json
import os
import re
import socket
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import google_crc32c
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from google.cloud.storage.exceptions import DataCorruption

from calrec.config import ModelConfig
from calrec.model.step import base_model
from calrec.storage import google, http, uris
from tests.conftest import Store, write_sequences
from tests.web import DATA, Web, names, read

TABLE = pa.table({"user": [1, 2, 3], "item": ["a", "b", "c"]})


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "BACKOFF_S", 0.0)
    monkeypatch.setattr(google, "PATIENCE_S", 0.5)


@pytest.fixture
def fake_bucket(web: Web, monkeypatch: pytest.MonkeyPatch) -> Web:
    """The web server as a bucket that lists what a test gives it; the emulator neither breaks off nor refuses."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", web.url)
    crc = base64.b64encode(google_crc32c.Checksum(DATA).digest()).decode()
    listed(web, {"name": "logs/day.bin", "size": str(len(DATA)), "generation": "7", "crc32c": crc, "bucket": "shop"})
    web.files["/download/storage/v1/b/shop/o/logs%2Fday.bin"] = DATA
    return web


def listed(web: Web, *items: dict[str, str]) -> None:
    web.files["/storage/v1/b/shop/o"] = json.dumps({"kind": "storage#objects", "items": items}).encode()


def upload(store: Store, folder: Path, prefix: str) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            store.put(f"{prefix}/{path.relative_to(folder)}", path.read_bytes())


def put(store: Store, *names: str) -> None:
    for name in names:
        store.put(name, b"" if name.endswith("/") else name.encode())


def parquet() -> bytes:
    target = io.BytesIO()
    pq.write_table(TABLE, target)
    return target.getvalue()


# One URI or several


def test_other_schemes_are_refused():
    for call in (uris.files, uris.snapshot):
        with pytest.raises(ValueError, match="ftp:// is not supported; use a local path, gs://, s3:// or https://"):
            call("ftp://bucket/data")


def test_several_uris_are_joined_in_their_order(web: Web, store: Store, tmp_path: Path):
    (tmp_path / "b.csv").write_text("b")
    (tmp_path / "a.csv").write_text("a")
    put(store, "logs/c.csv")
    assert names(f"{store.root}/logs, {web.url}/logs/day.bin,{tmp_path}") == ["c.csv", "day.bin", "a.csv", "b.csv"]


def test_a_local_path_with_a_comma_is_one_path(tmp_path: Path):
    (tmp_path / "a,b").mkdir()
    (tmp_path / "a,b/x.csv").write_text("x")
    assert names(f"{tmp_path}/a,b") == ["x.csv"]


def test_equal_names_of_two_uris_get_the_number_of_their_uri(tmp_path: Path):
    for folder in ("2025", "2026"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "part-0").write_text(folder)
        os.utime(tmp_path / folder / "part-0", ns=(int(folder), int(folder)))
    found = uris.files(f"{tmp_path}/2025,{tmp_path}/2026")
    assert [(f.name, f.open().read()) for f in found] == [("1/part-0", b"2025"), ("2/part-0", b"2026")]
    with pytest.raises(ValueError, match="part-0 is there twice, with one size and version; remove one of the URIs"):
        uris.files(f"{tmp_path}/2025,{tmp_path}/*5/part-0,{tmp_path}/2025/*")


@pytest.mark.parametrize("uri", ["", "a,,b", "a,"])
def test_an_empty_uri_is_no_folder(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        (tmp_path / name).write_text(name)
    with pytest.raises(ValueError, match="an empty URI; name a local path"):
        uris.files(uri)


# Buckets


def test_folders_objects_and_globs_of_a_bucket(store: Store):
    put(store, "logs/2026-01.jsonl", "logs/2026-02.jsonl", "logs/old/2026-03.jsonl", "logs/2025.jsonl", "logs2/x")
    put(store, "logs/_SUCCESS", "logs/.hidden", "logs/.tmp/2026-04.jsonl", "logs/2025.jsonl.crc", "logs/empty/")
    assert names(f"{store.root}/logs") == names(f"{store.root}/logs/") == names(f"{store.root}/logs/**")
    assert names(f"{store.root}/logs") == ["2025.jsonl", "2026-01.jsonl", "2026-02.jsonl", "old/2026-03.jsonl"]
    assert names(f"{store.root}/logs/2025.jsonl") == ["2025.jsonl"]
    assert names(f"{store.root}/logs/2026-*.jsonl") == ["2026-01.jsonl", "2026-02.jsonl"]
    assert names(f"{store.root}/logs/**/2026-*") == ["2026-01.jsonl", "2026-02.jsonl", "old/2026-03.jsonl"]
    assert names(f"{store.root}/l*/*/*") == ["logs/old/2026-03.jsonl"]
    assert names(f"{store.root}/*2/x") == ["logs2/x"]
    assert read(f"{store.root}/logs/old") == b"logs/old/2026-03.jsonl"
    assert len(names(store.root)) == 5


def test_an_object_is_streamed_in_chunks(store: Store, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(http, "CHUNK", 100_001)
    store.put("logs/day.bin", DATA)
    put(store, "logs/empty.bin/")
    store.put("logs/none.bin", b"")
    day, none = uris.files(f"{store.root}/logs")
    assert (day.open().read(), none.open().read()) == (DATA, b"")
    assert day.open().read() == DATA  # a second time


def test_an_object_is_read_whole_over_a_connection_that_breaks(fake_bucket: Web, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(http, "CHUNK", 700_000)
    (file,) = uris.files("gs://shop/logs")
    fake_bucket.cuts, fake_bucket.headers = [300_000, 0, 0, 100_000], {"Content-Encoding": "gzip"}
    fake_bucket.log.clear()
    assert file.open().read() == DATA
    asked = [range_ for _, range_, _ in fake_bucket.log if range_]
    assert asked == [f"bytes={at}-{at + 699_999}" for at in (0, 300_000, 300_000, 300_000, 400_000)]
    fake_bucket.cuts = [2000] + [0] * http.TRIES
    with pytest.raises(ConnectionError, match="gs://shop/logs/day.bin: no byte after byte .* in 6 attempts"):
        file.open().read()


def test_an_object_that_changed_since_it_was_listed_is_an_error(store: Store):
    store.put("logs/day.bin", DATA)
    (file,) = uris.files(f"{store.root}/logs")
    with file.open() as stream:
        stream.read(1)
    store.put("logs/day.bin", DATA[::-1])
    # Google's emulator ignores generations: the checksum tells.
    said = r"got crc32c \w+, expected \w+; the object was repl|the file changed since it was listed: it was replaced"
    with pytest.raises(ValueError, match=rf"{store.root}/logs/day.bin: ({said})"):
        file.open().read()
    store.delete("logs/day.bin")
    with pytest.raises(
        ValueError, match=f"{store.root}/logs/day.bin: the file changed since it was listed.*; run again"
    ):
        file.open().read()


def test_the_listed_generation_is_asked_for(bucket: Any, monkeypatch: pytest.MonkeyPatch):
    blob = bucket.blob("logs/day.bin")
    blob.upload_from_string(DATA)
    (file,) = uris.files("gs://shop/logs")
    asked, before = [], type(blob).download_to_file
    monkeypatch.setattr(
        type(blob), "download_to_file", lambda b, *a, **k: (asked.append(b.generation), before(b, *a, **k))
    )
    file.open().read()
    assert asked == [blob.generation]


@pytest.mark.parametrize(
    ("uri", "error", "text"),
    [
        ("{}://nowhere/logs", FileNotFoundError, "check the names of bucket and object"),
        ("{}://shop/nothing", FileNotFoundError, "no object under this URI"),
        ("{}://shop/nothing/*.csv", FileNotFoundError, "no object under this URI"),
        ("{}://-/x", (ValueError, FileNotFoundError), "check the names of bucket and object"),
        ("{}://", ValueError, "names no bucket; use .*://BUCKET/FOLDER"),
    ],
)
def test_a_bucket_or_object_that_is_not_there_is_said(store: Store, uri: str, error: Any, text: str):
    uri = uri.format(store.root[:2])
    for call in (uris.files, uris.snapshot, uris.local):
        with pytest.raises(error, match=f"{re.escape(uri)}: .*{text}"):
            call(uri)


@pytest.mark.parametrize("code", [401, 403])
def test_a_bucket_that_refuses_says_how_to_get_in(fake_bucket: Web, code: int):
    (file,) = uris.files("gs://shop/logs")
    fake_bucket.status = {"GET": [code]}
    for call in (lambda: uris.files("gs://shop/logs"), lambda: file.open().read()):
        with pytest.raises(PermissionError, match=r"(?s)gs://shop/logs.*default login.*storage.objectViewer"):
            call()


@pytest.mark.parametrize(
    ("code", "message", "error", "text"),
    [
        (400, "Bucket is a requester pays bucket but no user project provided.", ValueError, "set CALREC_BILLING_PROJ"),
        (403, "a does not have serviceusage.services.use access to it.", PermissionError, "serviceUsageConsumer in it"),
        (
            403,
            "Request is prohibited by organization's policy. vpcServiceControlsUniqueIdentifier: x1",
            PermissionError,
            "x1.*a perimeter of VPC Service Controls",
        ),
        (403, "The billing account for the owning project is disabled", PermissionError, "no billing account that"),
        (400, "API key not valid.", ValueError, "the key or its account is expired, disabled or deleted"),
        (412, "At least one of the pre-conditions", OSError, "another process wrote to it meanwhile, run again"),
        (429, "The rate of requests exceeds the limit", ConnectionError, "quota of requests is used up, run again lat"),
        (503, "We are tired", ConnectionError, "check the network and run again"),
    ],
)
def test_what_a_bucket_answers_is_said_with_its_remedy(
    fake_bucket: Web, code: int, message: str, error: type[Exception], text: str
):
    fake_bucket.status = {"GET": [code]}
    fake_bucket.why = json.dumps({"error": {"code": code, "message": message}}).encode()
    with pytest.raises(error, match=rf"(?s)gs://shop/logs: .*{text}"):
        uris.files("gs://shop/logs")


def test_a_disabled_key_is_said():
    from google.auth.exceptions import RefreshError

    said = "the key or its account is expired, disabled or deleted: make a new one"
    with pytest.raises(PermissionError, match=said), google.translate_errors("gs://shop/logs"):
        raise RefreshError("invalid_grant: Invalid JWT Signature.")


def test_who_reads_pays(fake_bucket: Web, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    for payer in ("", "my-project"):
        monkeypatch.setenv("CALREC_BILLING_PROJECT", payer)
        fake_bucket.asked.clear()
        (file,) = uris.files("gs://shop/logs")
        assert file.open().read() == DATA
        assert len(fake_bucket.asked) >= 2
        paid = ["userProject=my-project" in path for path, _ in fake_bucket.asked if "/shop/o" in path]
        assert set(paid) == {bool(payer)}, fake_bucket.asked
    fake_bucket.asked.clear()
    about = {"name": "logs/day.bin", "size": str(len(DATA)), "generation": "7", "bucket": "shop"}
    fake_bucket.files["/storage/v1/b/shop/o/logs%2Fday.bin"] = json.dumps(about).encode()
    random = file.seekable()
    random.seek(1000)
    assert random.read(500) == DATA[1000:1500]
    assert uris.folder("gs://shop/logs").names() == ["day.bin"]
    asked = [path for path, _ in fake_bucket.asked if "/shop/o" in path]
    assert asked and all("userProject=my-project" in path for path in asked)


def test_parquet_of_a_bucket_whose_reader_pays(bucket: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CALREC_BILLING_PROJECT", "my-project")
    bucket.blob("t.parquet").upload_from_string(parquet())
    (file,) = uris.files("gs://shop/t.parquet")
    assert pq.read_table(file.seekable()).equals(TABLE)


def test_an_object_beside_a_folder_of_its_name_is_said(store: Store):
    put(store, "logs", "logs/a.csv")
    with pytest.warns(
        UserWarning, match=rf"{store.root}/logs is an object and a folder; .* left out: .* {store.root}/log\[s\]"
    ):
        assert names(f"{store.root}/logs") == ["a.csv"]
    assert read(f"{store.root}/log[s]") == b"logs"
    assert names(f"{store.root}/logs/") == ["a.csv"]


ODD = ("a,b.csv", "x[1].csv", "what?.csv", "all*.csv", "] [.csv")


def escaped(name: str) -> str:
    return re.sub(r"[\[*?,]", lambda found: f"[{found[0]}]", name)


@pytest.mark.parametrize("name", ODD)
def test_commas_and_brackets_in_names_can_be_written(store: Store, tmp_path: Path, name: str):
    put(store, "x.csv", "y.csv", "xall.csv", f"odd/{name}", f"{name}/in.csv")
    for root in (store.root, str(tmp_path)):
        if root != store.root:
            for folder in ("odd", name):
                (tmp_path / folder).mkdir()
            for one in ("x.csv", "y.csv", "xall.csv", f"odd/{name}", f"{name}/in.csv"):
                (tmp_path / one).write_text(one)
        assert read(f"{root}/odd/{escaped(name)}") == f"odd/{name}".encode()
        assert names(f"{root}/odd/{escaped(name)},{root}/y.csv") == [name, "y.csv"]
        assert names(f"{root}/{escaped(name)}") == ["in.csv"]
        assert names(f"{root}/{escaped(name)}/*.csv") == ["in.csv"]
        assert names(f"{root}/o*d/{escaped(name)}") == [f"odd/{name}"]


def test_how_a_comma_is_written_is_said(store: Store, tmp_path: Path):
    (tmp_path / "a,b.csv").write_text("")
    for uri in (f"{tmp_path}/a,{tmp_path}/x", f"{store.root}/a,b.csv"):
        with pytest.raises(FileNotFoundError, match=r"\[,\]"):
            uris.files(uri)


def test_missing_credentials_say_how_to_get_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    with pytest.raises(PermissionError, match="gs://shop/logs: .*gcloud auth application-default login"):
        uris.files("gs://shop/logs")


def test_a_bucket_that_does_not_answer_is_said(monkeypatch: pytest.MonkeyPatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{free.getsockname()[1]}")
    with pytest.raises(ConnectionError, match="gs://shop/logs: no answer .*; check the network and run again"):
        uris.files("gs://shop/logs")


@pytest.mark.parametrize("name", ["logs/../../evil", "logs//etc/evil", "logs/a/./b", "logs/a\\..\\evil"])
def test_an_object_name_that_leaves_the_folder_is_refused(fake_bucket: Web, name: str):
    # The emulator does not store such a name; a real bucket does.
    listed(fake_bucket, {"name": name, "size": "1", "generation": "1", "bucket": "shop"})
    for call in (uris.files, uris.local, uris.snapshot):
        with pytest.raises(ValueError, match="is no path below its folder; rename the file"):
            call("gs://shop/logs")
    with pytest.raises(ValueError, match="gs://shop/logs: the name .* is no path below its folder; rename the file"):
        uris.folder("gs://shop/logs").names()


# Random access and versions


def test_parquet_is_read_by_random_access_wherever_it_lies(store: Store, web: Web, tmp_path: Path):
    (tmp_path / "t.parquet").write_bytes(parquet())
    store.put("logs/t.parquet", parquet())
    web.files["/t.parquet"], web.cuts = parquet(), [100, 0, 200]
    for uri in (str(tmp_path), f"{store.root}/logs", f"{web.url}/t.parquet"):
        (file,) = uris.files(uri)
        assert pq.read_table(file.seekable(), columns=["item"]) == TABLE.select(["item"])
        assert pq.ParquetFile(file.seekable()).read() == TABLE
    assert not web.cuts


def test_a_replaced_object_is_not_opened_for_random_access(store: Store):
    store.put("logs/t.parquet", parquet())
    (file,) = uris.files(f"{store.root}/logs")
    store.put("logs/t.parquet", parquet() + b" ")
    with pytest.raises(ValueError, match=f"{store.root}/logs/t.parquet: the file changed since it was listed"):
        file.seekable()


def test_a_snapshot_changes_with_the_files(store: Store, web: Web, tmp_path: Path):
    source = write_sequences(tmp_path / "raw")
    upload(store, source, "logs")
    path = source / "items.jsonl.gz"
    changes: dict[str, Callable[[], Any]] = {
        str(source): lambda: os.utime(path, ns=(time.time_ns(), time.time_ns())),
        str(source / "*.gz"): lambda: path.rename(source / "things.jsonl.gz"),
        f"{store.root}/logs": lambda: put(store, "logs/new"),
        f"{store.root}/logs/*.gz": lambda: store.put("logs/items.jsonl.gz", b"other"),
        f"{web.url}/logs/day.bin": lambda: web.files.update({"/logs/day.bin": DATA[::-1]}),
        f"{web.url}/logs/day.bin,{source}": lambda: (source / "new").touch(),
    }
    for uri, change in changes.items():
        before = uris.snapshot(uri)
        assert uris.snapshot(uri) == before
        change()
        assert uris.snapshot(uri) != before, uri


def test_the_sample_has_no_files_and_its_packages_version_as_snapshot():
    assert uris.files("sample:DELI") == []
    assert uris.snapshot("sample:DELI") == uris.snapshot("sample:PASTRY")


# Model folders


def test_a_local_path_and_a_name_pass_through():
    same = ["data/books", "scratch", "sample:DELI", "a/b"]
    assert [uris.local(name) for name in same] == same


def test_a_model_comes_from_a_folder_or_a_bucket():
    for uri in ("ftp://bucket/base", "https://host/base"):
        with pytest.raises(ValueError, match=r":// is not supported; use a local folder, gs://BUCKET/FOLDER or s3"):
            uris.local(uri)


def test_a_bucket_folder_is_downloaded_whole(store: Store, tmp_path: Path):
    source = write_sequences(tmp_path / "raw")
    upload(store, source, "logs/books")
    upload(store, source, "logs/books2")
    folder = Path(uris.local(f"{store.root}/logs/books"))
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == {p.name: p.read_bytes() for p in source.iterdir()}


def test_a_model_in_a_bucket_is_a_base_model(store: Store, small: SimpleNamespace, tmp_path: Path):
    upload(store, small.base, "models/base")
    uri = f"{store.root}/models/base"
    made, _ = base_model(small.texts, tmp_path / "m", tmp_path / "t", ModelConfig(name=uri), uris.local(uri))
    assert made.config["model"]["name"] == uri
    assert (tmp_path / "m/model.safetensors").read_bytes() == (small.base / "model.safetensors").read_bytes()


# Folders that files are put into


@pytest.fixture(params=["local", "bucket", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    if request.param != "local":
        request.getfixturevalue(request.param)
        root = "gs://shop" if request.param == "bucket" else "s3://shop"
        uris.folder(f"{root}/running").put(Path(__file__), "x")
        return uris.folder(f"{root}/run/")
    return uris.folder(str(tmp_path / "run"))


def test_what_is_put_into_a_folder_can_be_listed_got_and_deleted(folder: Any, tmp_path: Path):
    source, copy = tmp_path / "source", tmp_path / "copy"
    assert folder.names() == []
    for name, data in (("b", DATA), ("a/b/c.json", b"old"), ("a/b/c.json", b""), ("a.b", b"new")):
        source.write_bytes(data)
        folder.put(source, name)
        folder.get(name, copy)
        assert copy.read_bytes() == data
    assert folder.names() == ["a.b", "a/b/c.json", "b"]
    for name in ("a/b/c.json", "b", "never"):
        folder.delete(name)
    assert folder.names() == ["a.b"]
    with pytest.raises(FileNotFoundError, match="run/b"):
        folder.get("b", copy)
    with pytest.raises(FileNotFoundError, match="none"):
        folder.put(tmp_path / "none", "b")


def test_a_local_folder_shows_whole_files_only(tmp_path: Path):
    folder = uris.folder(str(tmp_path))
    (tmp_path / "a.partial").write_text("of a process that was killed")
    assert folder.names() == []
    (tmp_path / "source").write_text("whole")
    folder.put(tmp_path / "source", "deep/a")
    assert folder.names() == ["deep/a", "source"]
    folder.delete("deep/a")
    assert not (tmp_path / "deep").exists()


def test_a_large_file_goes_into_a_bucket_in_parts(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(http, "CHUNK", 256 << 10)
    (tmp_path / "source").write_bytes(DATA * 10)
    folder = uris.folder(f"{store.root}/run")
    folder.put(tmp_path / "source", "day.bin")
    folder.get("day.bin", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == read(f"{store.root}/run") == DATA * 10


def test_an_object_that_is_not_what_the_bucket_says_is_refused(fake_bucket: Web, tmp_path: Path):
    item = {"name": "logs/day.bin", "size": str(len(DATA)), "generation": "7", "crc32c": "AAAAAA==", "bucket": "shop"}
    fake_bucket.files["/storage/v1/b/shop/o/logs%2Fday.bin"] = json.dumps(item).encode()
    with pytest.raises(ValueError, match=r"gs://shop/logs/day.bin: got crc32c \w+, expected 00000000"):
        uris.folder("gs://shop/logs").get("day.bin", tmp_path / "copy")


def test_what_no_folder_can_be_is_refused():
    for uri in ("ftp://bucket/run", "https://host/run", "", "gs://", "s3://"):
        with pytest.raises(ValueError, match="use (a local folder, )?(gs|s3)://BUCKET/FOLDER"):
            uris.folder(uri)


def test_a_bucket_that_is_not_there_or_refuses_is_said(bucket: Any, fake_bucket: Web, tmp_path: Path, emulator: str):
    (tmp_path / "x").write_text("x")
    folder = uris.folder("gs://shop/run")
    fake_bucket.status = {"GET": [403]}
    for call in (folder.names, lambda: folder.get("x", tmp_path / "y")):
        with pytest.raises(PermissionError, match=r"(?s)gs://shop/run.*default login.*role storage.objectViewer"):
            call()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", emulator)
        nowhere = uris.folder("gs://nowhere/run")
        for call in (nowhere.names, lambda: nowhere.put(tmp_path / "x", "x")):
            with pytest.raises(FileNotFoundError, match="gs://nowhere/run.*check the names of bucket and object"):
                call()


def test_an_upload_that_is_damaged_on_its_way_is_told():
    with (
        pytest.raises(ConnectionError, match="gs://shop/x: damaged on its way .*; run again"),
        google.translate_errors("gs://shop/x"),
    ):
        raise DataCorruption(None, "another checksum")
