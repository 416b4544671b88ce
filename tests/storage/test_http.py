"""Files by https from a real server that breaks off, lies and refuses."""

import base64
import hashlib
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from calrec import artifacts
from calrec.cli.__main__ import main
from calrec.storage import http, uris
from tests.web import DATA, Web, names, read


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "BACKOFF_S", 0.0)


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("validator", ["ETag", "Last-Modified", None])
@pytest.mark.filterwarnings("ignore:.*a change goes unnoticed")
def test_a_file_is_read_whole_over_a_connection_that_breaks(web: Web, ranges: bool, validator: str | None):
    web.ranges, web.validator = ranges, validator
    # Without ranges each answer begins anew, so that later cuts must lie further on to bring something.
    web.cuts = [100_000, 0, 1, 5, 300_000, 0, 0] if ranges else [100_000, 0, 200_000, 700_000, 5]
    url = f"{web.url}/logs/day.bin#sha256={hashlib.sha256(DATA).hexdigest()}"
    assert read(url) == DATA
    assert not web.cuts
    if ranges:
        tag = f'"{hashlib.md5(DATA).hexdigest()}"' if validator == "ETag" else None
        assert ("GET", "bytes=400006-", tag) in web.log


def test_lines_are_read_across_breaks(web: Web):
    text = b"".join(b"%d,some text\n" % n for n in range(50_000))
    web.files["/log.csv"] = text
    web.cuts = [len(text) // 7 + n for n in range(6)]
    with uris.files(f"{web.url}/log.csv")[0].open() as stream:
        assert list(stream) == text.splitlines(keepends=True)


def test_a_file_of_unknown_size_is_read_to_its_end(web: Web):
    web.length = lambda size: None
    (file,) = uris.files(f"{web.url}/logs/day.bin")
    assert file.size == -1
    assert file.open().read() == DATA
    web.length, web.cuts = lambda size: size, [1000, 2000]  # now it says the size, and breaks off
    assert file.open().read() == DATA


def test_a_chunked_body_that_breaks_is_resumed(web: Web):
    web.length = lambda size: None
    body = b"".join(b"%x\r\n%s\r\n" % (1000, DATA[at : at + 1000]) for at in range(0, len(DATA), 1000)) + b"0\r\n\r\n"
    web.files["/x.bin"], web.headers, web.ranges = body, {"Transfer-Encoding": "chunked"}, False
    web.cuts = [0, 50_321, 300_021]  # the first answer is that to the question for the headers
    assert read(f"{web.url}/x.bin") == DATA
    (file,) = uris.files(f"{web.url}/x.bin")
    web.cuts, web.validator = [50_321], None
    web.after = lambda: web.files.update({"/x.bin": b"4\r\nless\r\n0\r\n\r\n"})
    with pytest.raises(ConnectionError, match="no byte after byte .*the body ends before the offset"):
        file.open().read()


def test_an_empty_file_is_empty(web: Web):
    web.files["/empty"] = b""
    assert read(f"{web.url}/empty") == b""
    with pytest.raises(ValueError, match="got sha256 e3b0c442"):
        read(f"{web.url}/empty#sha256={'0' * 64}")


def test_another_hash_than_that_in_the_uri_is_an_error(web: Web):
    got = hashlib.sha256(DATA).hexdigest()
    with pytest.raises(ValueError, match=f"day.bin: got sha256 {got}, expected {'ab' * 32}; the file is another one"):
        read(f"{web.url}/logs/day.bin#sha256={'AB' * 32}")


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("validator", ["ETag", "Last-Modified"])
def test_a_file_that_changes_while_it_is_read_is_an_error(web: Web, ranges: bool, validator: str):
    web.ranges, web.validator, web.cuts = ranges, validator, [1000]
    web.after = lambda: web.files.update({"/logs/day.bin": DATA[::-1]})
    with pytest.raises(ValueError, match=r"/logs/day.bin: the file changed since it was listed: .*; run again"):
        read(f"{web.url}/logs/day.bin")


def test_a_file_that_changed_since_it_was_listed_is_an_error(web: Web):
    (file,) = uris.files(f"{web.url}/logs/day.bin")
    web.files["/logs/day.bin"] = DATA[::-1]
    with pytest.raises(ValueError, match="has another ETag or Last-Modified"):
        file.open().read()


@pytest.mark.filterwarnings("ignore:.*a change goes unnoticed")
def test_a_file_that_grew_is_an_error(web: Web):
    web.validator = None
    (file,) = uris.files(f"{web.url}/logs/day.bin")
    web.files["/logs/day.bin"] = DATA + b"x"
    with pytest.raises(ValueError, match="it has 1,024,001 bytes, not 1,024,000; run again"):
        file.open().read()


def test_another_range_than_the_one_asked_for_is_an_error(web: Web):
    web.cuts, web.shift = [1000], 1
    with pytest.raises(ValueError, match="asked for the bytes from 1,000, the server sent 'bytes 1001-"):
        read(f"{web.url}/logs/day.bin")


@pytest.mark.parametrize(
    ("ranges", "error", "text"),
    [
        (True, ValueError, "the file changed since it was listed: it ends before its announced size"),
        (False, ConnectionError, "no byte after byte 1,024,000 in 6 attempts .*; run again"),
    ],
)
def test_a_body_shorter_than_announced_is_an_error(web: Web, ranges: bool, error: type[Exception], text: str):
    web.ranges, web.length = ranges, lambda size: size + 10
    with pytest.raises(error, match=f"/logs/day.bin: {text}"):
        read(f"{web.url}/logs/day.bin")


def test_a_server_that_brings_nothing_more_is_given_up(web: Web):
    web.cuts = [2000] + [0] * http.TRIES
    with pytest.raises(ConnectionError, match=r"/logs/day.bin: no byte after byte 2,000 in 6 attempts"):
        read(f"{web.url}/logs/day.bin")
    assert len([1 for method, *_ in web.log if method == "GET"]) == 1 + http.TRIES


@pytest.mark.parametrize(
    ("code", "error", "text"),
    [
        (404, FileNotFoundError, "the server answered 404 Not Found; check the address"),
        (403, PermissionError, "the server answered 403 Forbidden; use a public or signed URL, or download the file"),
        (401, PermissionError, "the server answered 401 Unauthorized"),
        (400, ValueError, "the server answered 400 Bad Request; download the file by hand"),
        (503, ConnectionError, "the server answered 503 Service Unavailable; try again later"),
    ],
)
def test_a_refusal_says_what_to_do(web: Web, code: int, error: type[Exception], text: str):
    web.status = {"HEAD": [code], "GET": [code]}
    with pytest.raises(error, match=f"{web.url}/logs/day.bin: {text}"):
        uris.files(f"{web.url}/logs/day.bin")
    web.status = {"GET": [code]}
    with pytest.raises(error, match=f"{web.url}/logs/day.bin: "):
        read(f"{web.url}/logs/day.bin")


def test_no_server_is_said(web: Web):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/x.csv"
    with pytest.raises(ConnectionError, match=f"{url}: no answer .*refused.*; check the address and the network"):
        uris.files(url)


def test_a_server_that_refuses_head_and_is_busy_for_a_while_is_read(web: Web):
    web.status = {"HEAD": [405], "GET": [503, 429, 200, 500, 200]}
    (file,) = uris.files(f"{web.url}/logs/day.bin")
    assert (file.size, file.version) == (len(DATA), f'"{hashlib.md5(DATA).hexdigest()}"')
    assert file.open().read() == DATA


def test_the_name_is_the_last_part_of_the_path_decoded(web: Web):
    web.files |= {"/a/my%20log%C3%A9.csv": b"x", "/a/b.csv": b"y", "/a/%2E%2E": b"z", "/a/..%2F..%2Fz": b"z"}
    assert names(f"{web.url}/a/my%20log%C3%A9.csv,{web.url}/a/b.csv?token=a/b") == ["my logé.csv", "b.csv"]
    assert read(f"{web.url}/a/my logé.csv") == b"x"
    for evil in ("%2E%2E", "..%2F..%2Fz"):
        with pytest.raises(ValueError, match="is no path below its folder; rename the file"):
            uris.files(f"{web.url}/a/{evil}")


@pytest.mark.parametrize("path", ["", "/", "/logs/"])
def test_a_url_without_a_file_is_refused(web: Web, path: str):
    with pytest.raises(ValueError, match="names no file; give the URL of one file"):
        uris.files(web.url + path)


def test_a_fragment_that_is_no_hash_is_refused(web: Web):
    with pytest.raises(ValueError, match="must be #sha256= and 64 hexadecimal digits, got #sha256=12"):
        uris.files(f"{web.url}/logs/day.bin#sha256=12")


def test_a_server_without_versions_is_warned_of(web: Web):
    web.validator = None
    with pytest.warns(UserWarning, match="without ETag, Last-Modified or #sha256=HEX a change goes unnoticed"):
        uris.files(f"{web.url}/logs/day.bin")


def test_what_was_downloaded_is_deleted_when_the_process_ends():
    code = "from calrec.storage import http; p = http.scratch(); (p / 'x').write_text('x'); print(p)"
    folder = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert folder
    assert not Path(folder).exists()


# --- who may be followed, and what may be said --------------------------------------------------------------------

SECRET = "hunter2"


@pytest.mark.parametrize("to", ["file:///etc/passwd", "ftp://127.0.0.1/x.csv", "gopher://127.0.0.1/x", "data:,x"])
def test_a_server_leads_to_the_web_alone(web: Web, to: str):
    web.leads = {"/x.csv": to}
    with pytest.raises(ValueError, match=r"/x.csv: the server (leads from http to|answered 302 .* is not allowed)"):
        uris.files(f"{web.url}/x.csv")


def test_a_server_does_not_lead_out_of_https(tls: str, web: Web, monkeypatch: pytest.MonkeyPatch):
    web.leads = {"/there.csv": f"{web.url}/logs/day.bin"}
    assert read(f"{web.url}/there.csv") == DATA
    with pytest.raises(ValueError, match=r"/x.csv.*: the server leads from https to http://, which is not followed"):
        uris.files(f"{tls}/x.csv?to={web.url}/logs/day.bin")


@pytest.fixture
def tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server by https that redirects to the address in its query."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate, "-days", "1",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"],
        check=True, capture_output=True,
    )  # fmt: skip

    class Leads(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            self.send_response(302)
            self.send_header("Location", self.path.partition("to=")[2])
            self.end_headers()

        do_HEAD = do_GET

    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    http._opener.cache_clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Leads) as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"https://localhost:{server.server_port}"
        server.shutdown()
        thread.join()
    http._opener.cache_clear()


def test_a_password_in_the_address_is_used_and_not_passed_on(web: Web):
    web.leads = {"/x.csv": f"{web.url}/logs/day.bin"}
    assert read(f"http://me:{SECRET}%21@{web.url.removeprefix('http://')}/x.csv") == DATA
    basic = "Basic " + base64.b64encode(f"me:{SECRET}!".encode()).decode()
    assert dict(web.asked) == {"/x.csv": basic, "/logs/day.bin": None}


@pytest.mark.filterwarnings("always")
def test_no_secret_is_told(web: Web, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    rows = [f"u{n % 20},i{n % 7},{1_600_000_000 + n}" for n in range(200)]
    web.files["/shop.csv"] = "\n".join(["user_id,item_id,timestamp", *rows]).encode()
    host = web.url.removeprefix("http://")
    good = f"http://me:{SECRET}@{host}/shop.csv?sig={SECRET}-1&v=2"
    bad = [
        good.replace("shop.csv", "none.csv"), good.replace("shop.csv?", "?"), f"{good}#sha256={'0' * 64}",
        f"{good}#md5=1", good.replace("http:", "ftp:"), f"http://me:{SECRET}@nowhere.invalid/x.csv?sig={SECRET}",
        f"http://me:{SECRET}:x@{host}/x.csv?{SECRET}", f"{good},{good}",
    ]  # fmt: skip
    for uri in bad:
        assert main(["ingest", "--source", uri, "--out", str(tmp_path / "bad")]) in (1, 2)
    web.validator = None
    for uri in (good, good.replace("-1", "-2")):
        ran = ["ingest", "--source", uri, "--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")]
        assert main(ran) == 0
    web.status = {"GET": [500], "HEAD": [500]}
    assert main(["ingest", "--source", good, "--out", str(tmp_path / "bad")]) == 1
    said = capfd.readouterr()
    assert "shop.csv?sig=…&v=…" in said.out
    assert SECRET not in said.out + said.err
    for path in tmp_path.rglob("*"):
        assert SECRET not in path.name
        assert not path.is_file() or SECRET.encode() not in path.read_bytes()
    manifest = artifacts.read_manifest(tmp_path / "out")
    assert manifest.config["source"] == f"http://…@{host}/shop.csv?sig=…&v=…"
    assert manifest.config["domain"] == "shop"


def test_another_signature_is_no_new_data(web: Web, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("CALREC_CACHE", str(tmp_path))
    one, two = (f"{web.url}/logs/day.bin?sig={sign}" for sign in "ab")
    assert uris.snapshot(one) == uris.snapshot(two)
    assert uris.cache("books", one) == uris.cache("books", two)
