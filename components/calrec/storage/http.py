"""Streams over a network that survive broken connections, and files by https; uris.py is the only user."""

import functools
import hashlib
import http.client
import io
import re
import shutil
import string
import tempfile
import time
import urllib.error
import urllib.request
import warnings
from base64 import b64encode
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from email.message import Message
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO
from urllib.parse import quote, unquote, urldefrag, urlsplit, urlunsplit

from calrec.storage.files import File
from calrec.system.printing import redact

TIMEOUT_S = 15.0  # to connect, and to wait for the next bytes
TRIES = 6  # in a row without a new byte
BACKOFF_S = 0.5  # before the second try; doubles: 15 s in all
_PART = 1 << 20
CHUNK = 32 << 20  # bytes of one ranged request to a bucket
_BY_HAND = "download the file by hand and name its path"

Ask = Callable[[int], AbstractContextManager[tuple[Any, int]]]
"""From an offset to (body with `read1`, size of the whole file or -1)."""


@dataclass(frozen=True)
class Expected:
    """The hash that a whole file must have, and what to do about another one."""

    name: str
    hex: str
    new: Callable[[], Any]
    remedy: str


def stream(uri: str, size: int, ask: Ask, expected: Expected | None = None) -> BinaryIO:
    """The bytes of a file from the first to the last; after a broken connection `ask` goes on at the offset reached.

    Reading raises:
        ConnectionError: TRIES attempts in a row brought no byte.
        ValueError: another size or hash than expected; told before the last bytes are handed out.
    """
    uri = redact(uri)
    return io.BufferedReader(_Stream(_verified(uri, _parts(uri, size, ask), expected)), _PART)


class _Stream(io.RawIOBase):
    """An iterator over parts as a raw stream."""

    def __init__(self, parts: Generator[bytes, None, None]) -> None:
        self._parts = parts
        self._rest = b""

    def close(self) -> None:
        self._parts.close()
        super().close()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._rest or next(self._parts, b"")
        count = min(len(data), len(buffer))
        buffer[:count], self._rest = data[:count], data[count:]
        return count


def _parts(uri: str, size: int, ask: Ask) -> Generator[bytes, None, None]:
    at = failures = 0
    while at != size:
        start, trouble = at, "the body is too short"
        try:
            with ask(at) as (body, whole):
                if whole >= 0 and whole != size >= 0:
                    raise changed_error(uri, f"has {whole:,} bytes, not {size:,}")
                size = max(size, whole)
                while at != size and (data := body.read1(_PART)):
                    at += len(data)
                    yield data
                if size < 0:  # nobody knows the size, and the server ended the body in good order
                    return
        except (FileNotFoundError, PermissionError):
            raise
        except (OSError, http.client.HTTPException) as error:
            trouble = str(error) or type(error).__name__
        failures = 0 if at > start else failures + 1
        if failures:
            _wait(failures, f"{uri}: no byte after byte {at:,} in {TRIES} attempts ({trouble}); run again")


def _verified(uri: str, parts: Iterator[bytes], expected: Expected | None) -> Generator[bytes, None, None]:
    """The same parts; the last one only after the hash of all was compared."""
    if expected is None:
        yield from parts
        return
    sum_, held = expected.new(), b""
    for part in parts:
        sum_.update(part)
        if held:
            yield held
        held = part
    if (got := sum_.digest().hex()) != expected.hex:
        raise ValueError(f"{uri}: got {expected.name} {got}, expected {expected.hex}; {expected.remedy}")
    yield held


def changed_error(uri: str, what: str) -> ValueError:
    """The error for a file that is not the one that was listed."""
    return ValueError(
        f"{redact(uri)}: the file changed since it was listed: it {what}; run again when nobody writes to it"
    )


def _wait(failures: int, message: str) -> None:
    if failures >= TRIES:
        raise ConnectionError(message)
    time.sleep(BACKOFF_S * 2 ** (failures - 1))


@functools.cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="calrec-")


def scratch() -> Path:
    """A new empty folder, deleted when the process ends."""
    return Path(tempfile.mkdtemp(dir=_scratch().name))


def https(uri: str) -> File:
    """The file behind an http(s) URL; its name is the last part of the path. `#sha256=HEX` is compared after reading.

    Raises:
        FileNotFoundError, PermissionError: the server says so.
        ConnectionError: the server does not answer.
        ValueError: a URL without a file name, a fragment that is no sha256, any other answer of the server.
    """
    url, fragment = urldefrag(uri)
    expected = _pinned(uri, fragment)
    name = unquote(PurePosixPath(urlsplit(url).path).name)
    if not name or url.endswith("/"):
        raise ValueError(f"{redact(uri)}: names no file; give the URL of one file")
    headers = _headers(url)
    version = expected.hex if expected else headers.get("ETag") or headers.get("Last-Modified") or ""
    if not version:
        warnings.warn(
            f"{redact(uri)}: without ETag, Last-Modified or #sha256=HEX a change goes unnoticed", stacklevel=2
        )
    size = int(headers.get("Content-Length", -1))

    def opened() -> BinaryIO:
        return stream(url, size, functools.partial(_ask, url, headers), expected)

    @functools.cache
    def downloaded() -> str:
        path = scratch() / PurePosixPath(name).name
        with opened() as source, path.open("wb") as target:
            shutil.copyfileobj(source, target, _PART)
        return str(path)

    return File(name, size, version, opened, downloaded)


def _pinned(uri: str, fragment: str) -> Expected | None:
    found = re.fullmatch(r"sha256=([0-9a-fA-F]{64})", fragment)
    if fragment and not found:
        raise ValueError(f"{redact(uri)}: the fragment must be #sha256= and 64 hexadecimal digits, got #{fragment}")
    remedy = "the file is another one or damaged: compare it with its publisher's hash, and correct the URI"
    return Expected("sha256", found[1].lower(), hashlib.sha256, remedy) if found else None


def _headers(url: str) -> Message:
    """What the server says about a file; from a GET whose body stays unread where HEAD is refused or gives no size."""
    failures = 0
    while True:
        for method in ("HEAD", "GET"):
            try:
                with _request(url, method) as response:
                    headers: Message = response.headers
            except ConnectionError as error:
                trouble = error
            except (OSError, ValueError):
                if method == "GET":
                    raise
            else:
                if method == "GET" or int(headers.get("Content-Length", 0)):
                    return headers
        failures += 1
        _wait(failures, str(trouble))


def _differ(then: Message, now: Message) -> bool:
    """Whether two answers speak of different contents; a server may leave a field out of one of them."""
    return next((then[key] != now[key] for key in ("ETag", "Last-Modified") if key in then and key in now), False)


@contextmanager
def _ask(url: str, listed: Message, offset: int) -> Iterator[tuple[Any, int]]:
    headers = {"Range": f"bytes={offset}-"} if offset else {}
    if offset and listed.get("ETag", "").startswith('"'):  # a weak tag, W/"...", may not be sent
        headers["If-Range"] = listed["ETag"]
    with _request(url, "GET", headers) as response:
        if _differ(listed, response.headers):
            raise changed_error(url, "has another ETag or Last-Modified")
        if response.status == http.client.PARTIAL_CONTENT:
            got = response.headers.get("Content-Range", "")
            found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", got)
            if not found or int(found[1]) != offset:
                raise ValueError(
                    f"{redact(url)}: asked for the bytes from {offset:,}, the server sent {got!r}; {_BY_HAND}"
                )
            yield response, -1 if found[2] == "*" else int(found[2])
        else:
            whole = int(response.headers.get("Content-Length", -1))
            _skip(response, offset)
            yield response, whole


def _skip(body: Any, count: int) -> None:
    while count and (data := body.read1(min(count, _PART))):
        count -= len(data)
    if count:
        raise ConnectionError("the body ends before the offset")


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a server to http and https alone, and never from the second to the first."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        to = urlsplit(newurl).scheme
        if to not in ("http", "https") or (req.type == "https" and to == "http"):
            fp.close()
            raise ValueError(f"the server leads from {req.type} to {to}://, which is not followed; {_BY_HAND}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


@functools.cache
def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(_Redirects)


def _request(url: str, method: str, headers: dict[str, str] | None = None) -> Any:
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    named = {"User-Agent": "calrec", **(headers or {})}  # some hosts refuse Python's own name
    address = urlunsplit(parts._replace(netloc=host))
    request = urllib.request.Request(quote(address, safe=string.punctuation), method=method, headers=named)
    if at:  # to this server alone: a redirect does not take it along
        request.add_unredirected_header("Authorization", f"Basic {b64encode(unquote(user).encode()).decode()}")
    try:
        return _opener().open(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        with error:
            raise _refusal(url, error.code, error.reason) from None
    except ValueError as error:
        raise ValueError(f"{redact(url)}: {error}") from None
    except (OSError, http.client.HTTPException) as error:
        raise ConnectionError(f"{redact(url)}: no answer ({error}); check the address and the network") from None


def _refusal(url: str, code: int, reason: str) -> Exception:
    said = redact(f"{url}: the server answered {code} {reason}")
    if code in (404, 410):
        return FileNotFoundError(f"{said}; check the address")
    if code in (401, 403):
        return PermissionError(f"{said}; use a public or signed URL, or {_BY_HAND}")
    if code in (408, 429) or code >= 500:
        return ConnectionError(f"{said}; try again later")
    if code == 416:
        return changed_error(url, "ends before its announced size")
    return ValueError(f"{said}; {_BY_HAND}")
