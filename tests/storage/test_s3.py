"""What S3 does in its own way: keys and endpoints of the environment, what it answers, and one version of an object.

tests/storage/test_uris.py has all that both kinds of stores do.
"""

import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from calrec.storage import http, uris
from calrec.storage import s3 as module
from tests.web import DATA, Web


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "BACKOFF_S", 0.0)


@pytest.fixture
def day(s3: Any) -> Any:
    s3.put_object(Bucket="shop", Key="logs/day.bin", Body=DATA)
    return s3


def test_a_key_is_no_part_of_an_address(capsys: pytest.CaptureFixture[str]):
    for call in (uris.files, uris.folder, uris.local):
        with pytest.raises(ValueError, match="keys have no place in an address") as raised:
            call("s3://a-name:hunter2@shop/logs")
        assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize("endpoint", ["localhost:9000", "ftp://host", "http://", "http://me:hunter2@host:9000"])
def test_an_endpoint_that_is_none_is_refused(endpoint: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
    with pytest.raises(ValueError, match="AWS_ENDPOINT_URL is .*; give http") as raised:
        uris.files("s3://shop/logs")
    assert "hunter2" not in str(raised.value)


def test_the_endpoint_of_s3_comes_before_the_one_of_all(day: Any, moto: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", moto)
    assert uris.files("s3://shop/logs")[0].open().read() == DATA


def test_a_store_that_does_not_answer_is_said(s3: Any, monkeypatch: pytest.MonkeyPatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free.getsockname()[1]}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    with pytest.raises(
        ConnectionError, match="s3://shop/logs: NETWORK_CONNECTION during ListObjects.*; check AWS_ENDPOINT_URL and the"
    ):
        uris.files("s3://shop/logs")


@pytest.mark.parametrize(
    ("said", "error", "text"),
    [
        ("NO_SUCH_BUCKET during GetObject operation: none", FileNotFoundError, "check the names of bucket and object"),
        ("ACCESS_DENIED during HeadObject operation: No response body.", PermissionError, "s3:GetObject and s3:ListB"),
        (
            "INVALID_ACCESS_KEY_ID during Get operation: a-name is none",
            PermissionError,
            "… is none; check AWS_ACCESS",
        ),
        ("UNKNOWN (HTTP status 403) during HeadObject operation: x", PermissionError, "Secret calrec"),
        ("UNKNOWN (HTTP status 301) during HeadObject operation: x", ValueError, "AWS_REGION"),
        ("SLOW_DOWN during PutObject operation: hunter2 (Request ID: 1)\nmore", ConnectionError, "…; check .*again$"),
    ],
)
def test_what_a_store_answers_is_said_in_a_line(s3: Any, said: str, error: type[Exception], text: str):
    with pytest.raises(error, match=text) as raised, module.translate_errors("s3://shop/logs"):
        raise OSError(f"When doing it for key 'x' in bucket 'shop': AWS Error {said}")
    message = str(raised.value)
    assert message.startswith("s3://shop/logs: ") and "\n" not in message and "Request" not in message
    assert "a-name" not in message and "hunter2" not in message


@pytest.mark.parametrize(("code", "error"), [(401, PermissionError), (403, PermissionError), (503, ConnectionError)])
def test_a_store_that_refuses_is_said(s3: Any, web: Web, code: int, error: type[Exception], tmp_path: Path):
    web.status = {"GET": [code], "HEAD": [code]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", web.url)
        folder = uris.folder("s3://shop/run")
        for call in (folder.names, lambda: folder.get("x", tmp_path / "y")):
            with pytest.raises(error, match="s3://shop/run.*; check AWS_") as raised:
                call()
            assert "\n" not in str(raised.value) and "hunter2" not in str(raised.value)


def test_a_bucket_that_is_not_there_is_said(s3: Any, tmp_path: Path):
    (tmp_path / "x").write_text("x")
    nowhere = uris.folder("s3://nowhere/run")
    for call in (nowhere.names, lambda: nowhere.put(tmp_path / "x", "x"), lambda: nowhere.get("x", tmp_path / "y")):
        with pytest.raises(FileNotFoundError, match="s3://nowhere/run.*check the names of bucket and object"):
            call()
    assert uris.folder("s3://shop/run").names() == []


@pytest.mark.parametrize("name", ["logs/../../evil", "logs//etc/evil", "logs/a/./b", "logs/a\\..\\evil"])
def test_an_object_name_that_leaves_the_folder_is_refused(s3: Any, name: str):
    s3.put_object(Bucket="shop", Key=name, Body=b"x")
    for call in (uris.files, uris.local, uris.snapshot, lambda uri: uris.folder(uri).names()):
        with pytest.raises(
            ValueError, match="s3://shop/logs: the name .* is no path below its folder; rename the file"
        ):
            call("s3://shop/logs")


def test_two_versions_of_an_object_are_never_mixed(day: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(http, "CHUNK", 100_001)
    monkeypatch.setattr(module, "_AT_RANDOM", 5000)
    (file,) = uris.files("s3://shop/logs")
    stream, source = file.open(), file.seekable()
    assert (stream.read(200_000), source.read(1000)) == (DATA[:200_000], DATA[:1000])
    day.put_object(Bucket="shop", Key="logs/day.bin", Body=DATA[::-1])
    for read in (stream.read, lambda: source.read_at(100, len(DATA) // 2), file.seekable):
        with pytest.raises(ValueError, match="s3://shop/logs/day.bin: the file changed since it was listed"):
            read()


def test_a_bucket_whose_region_nobody_knows_is_said(s3: Any):
    with (
        pytest.raises(FileNotFoundError, match="s3://shop/logs: .*check the names of bucket and object"),
        module.translate_errors("s3://shop/logs"),
    ):
        raise OSError("Bucket 'shop' not found")


def test_an_object_that_is_replaced_while_a_request_runs_is_an_error(day: Any, monkeypatch: pytest.MonkeyPatch):
    (file,) = uris.files("s3://shop/logs")
    check = module._Object.check

    def late(its: Any) -> Any:
        opened = check(its)
        day.put_object(Bucket="shop", Key="logs/day.bin", Body=DATA[::-1])
        return opened

    monkeypatch.setattr(module._Object, "check", late)
    with pytest.raises(ValueError, match="the file changed since it was listed: it was replaced"):
        file.open().read()


def test_an_upload_of_several_parts_is_whole(s3: Any, tmp_path: Path):
    data = DATA * (25_000_000 // len(DATA) + 1)
    (tmp_path / "x").write_bytes(data)
    uris.folder("s3://shop/run").put(tmp_path / "x", "x")
    assert "-" in s3.head_object(Bucket="shop", Key="run/x")["ETag"]  # the mark of parts
    assert uris.files("s3://shop/run/x")[0].open().read() == data


def test_a_signal_never_leaves_a_part_of_a_file(s3: Any, tmp_path: Path):
    """Arrow completes an upload that is closed; here the process ends while it runs."""
    program = """
import signal, sys
from pathlib import Path
from calrec.storage import uris
def stop(*_):
    raise SystemExit
signal.signal(signal.SIGALRM, stop)
signal.setitimer(signal.ITIMER_REAL, float(sys.argv[2]))
uris.folder("s3://shop/run").put(Path(sys.argv[1]), "x")
"""
    data = DATA * (60_000_000 // len(DATA) + 1)
    (tmp_path / "x").write_bytes(data)
    for seconds in ("0.5", "0.9", "1.2"):
        subprocess.run([sys.executable, "-c", program, str(tmp_path / "x"), seconds], timeout=60, check=False)
        sizes = [one["Size"] for one in s3.list_objects_v2(Bucket="shop").get("Contents", [])]
        assert sizes in ([], [len(data)])


def test_pyarrow_takes_the_error_through(day: Any):
    (file,) = uris.files("s3://shop/logs")
    source = file.seekable()
    assert isinstance(source, pa.PythonFile) and source.size() == len(DATA)
    day.delete_object(Bucket="shop", Key="logs/day.bin")
    for read in (lambda: source.read(10), file.seekable, file.open().read):
        with pytest.raises(ValueError, match="changed since it was listed: it was deleted"):
            read()
