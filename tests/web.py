"""A web server for tests that breaks off, lies and refuses."""

import hashlib
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from calrec.storage import uris

DATA = bytes(range(256)) * 4000


class Web(ThreadingHTTPServer):
    """Files by path, and what goes wrong with them."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Page)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.files: dict[str, bytes] = {}
        self.ranges = True
        self.validator: str | None = "ETag"
        self.headers: dict[str, str] = {}
        self.status: dict[str, list[int]] = {}  # by method: the next answers; the last one stays
        self.length: Callable[[int], int | None] = lambda size: size
        self.cuts: list[int] = []  # bytes after which the next GET breaks off
        self.after: Callable[[], None] = lambda: None  # called when a GET was broken off
        self.shift = 0  # bytes by which a range lies beside the one that was asked for
        self.log: list[tuple[str, str | None, str | None]] = []
        self.asked: list[tuple[str, str | None]] = []  # path with its query, Authorization
        self.why = b""  # body of an error
        self.leads: dict[str, str] = {}  # by path: to where a GET or HEAD is redirected


class Page(BaseHTTPRequestHandler):
    server: Web
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer("HEAD")

    def do_GET(self) -> None:
        self.answer("GET")

    def answer(self, method: str) -> None:
        web, asked = self.server, self.headers.get("Range")
        self.close_connection = True
        web.log.append((method, asked, self.headers.get("If-Range")))
        web.asked.append((self.path, self.headers.get("Authorization")))
        if to := web.leads.get(urlsplit(self.path).path):
            self.send_response(302)
            for name, value in (("Location", to), ("Content-Length", "0"), ("Connection", "close")):
                self.send_header(name, value)
            self.end_headers()
            return
        codes = web.status.get(method, [200])
        code = codes.pop(0) if len(codes) > 1 else codes[0]
        body = web.files.get(urlsplit(self.path).path)
        if code >= 400 or body is None:
            self.refuse(code if code >= 400 else 404)
            return
        cut = web.cuts.pop(0) if method == "GET" and web.cuts else None  # before the headers: an asker may read no more
        tag = f'"{hashlib.md5(body).hexdigest()}"'
        size, start, end = len(body), 0, len(body)
        if asked and web.ranges and self.headers.get("If-Range", tag) == tag:
            first, last = re.fullmatch(r"bytes=(\d+)-(\d*)", asked).groups()
            start, end = int(first) + web.shift, min(size, int(last or size) + 1)
            if start >= size:
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
        else:
            self.send_response(200)
        if (length := web.length(end - start)) is not None:
            self.send_header("Content-Length", str(length))
        if web.validator:
            self.send_header(web.validator, tag if web.validator == "ETag" else hashlib.md5(body).hexdigest())
        self.send_header("Connection", "close")
        for name, value in web.headers.items():
            self.send_header(name, value)
        self.end_headers()
        if method == "GET":
            with suppress(ConnectionError):
                self.wfile.write(body[start:end][:cut])
            if cut is not None:
                web.after()

    def refuse(self, code: int) -> None:
        if not self.server.why:
            self.send_error(code)
            return
        self.send_response(code)
        for name, value in (("Content-Type", "application/json"), ("Content-Length", str(len(self.server.why)))):
            self.send_header(name, value)
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(self.server.why)


@contextmanager
def serving() -> Iterator[Web]:
    """A server in a thread; it has DATA at /logs/day.bin."""
    with Web() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        server.files["/logs/day.bin"] = DATA
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def read(uri: str) -> bytes:
    """What stands behind the URI of one file."""
    (file,) = uris.files(uri)
    with file.open() as stream:
        return stream.read()


def names(uri: str) -> list[str]:
    return [file.name for file in uris.files(uri)]
