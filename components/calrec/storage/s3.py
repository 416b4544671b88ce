"""Buckets of Amazon S3, and of what speaks as it does, through Arrow, and its errors in Python's words.

uris.py is the only user; google.py has the same face.
"""

import functools
import io
import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from calrec.storage import http
from calrec.storage.files import File
from calrec.system.printing import redact

KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
SETTINGS = ("AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION")
_KEY = 5  # letters, the least of a key that is blanked out: "a" as a key would blank out all of a message
_AT_RANDOM = 1 << 20  # bytes, the least of one request
_ERROR = re.compile(r"AWS Error (\w+)(?: \(HTTP status (\d+)\))?(.*?)(?: \(Request ID.*)?$", re.DOTALL)
_GONE = ("NO_SUCH_BUCKET", "NO_SUCH_KEY", "RESOURCE_NOT_FOUND")
_REFUSED = (
    "ACCESS_DENIED", "INVALID_ACCESS_KEY_ID", "SIGNATURE_DOES_NOT_MATCH", "INVALID_CLIENT_TOKEN_ID", "EXPIRED_TOKEN",
    "UNRECOGNIZED_CLIENT", "MISSING_AUTHENTICATION_TOKEN", "INVALID_SIGNATURE", "REQUEST_EXPIRED",
)  # fmt: skip


def system(bucket: str) -> Any:
    """Arrow's file system for a bucket: endpoint, region and keys are those of the environment."""
    return _system(bucket, tuple(os.environ.get(name, "") for name in (*KEYS, *SETTINGS)))


@functools.lru_cache(16)
def _system(bucket: str, environment: tuple[str, ...]) -> Any:
    from pyarrow import fs

    variables = dict(zip((*KEYS, *SETTINGS), environment, strict=True))
    endpoint = variables["AWS_ENDPOINT_URL_S3"] or variables["AWS_ENDPOINT_URL"]
    if endpoint or variables["AWS_ACCESS_KEY_ID"]:  # else a machine outside of EC2 waits for keys that EC2 would give
        os.environ.setdefault("AWS_EC2_METADATA_DISABLED", "true")
    where = {}
    if endpoint:
        parts = urlsplit(endpoint)
        if parts.scheme not in ("http", "https") or not parts.netloc or "@" in parts.netloc:
            raise ValueError(f"AWS_ENDPOINT_URL is {redact(endpoint)}; give http(s)://HOST:PORT without a user")
        where = {"scheme": parts.scheme, "endpoint_override": parts.netloc}
    region = variables["AWS_REGION"] or variables["AWS_DEFAULT_REGION"]
    region = region or ("us-east-1" if endpoint else fs.resolve_s3_region(bucket))
    timeouts = {"connect_timeout": http.TIMEOUT_S, "request_timeout": http.TIMEOUT_S}
    return fs.S3FileSystem(region=region, allow_delayed_open=True, **timeouts, **where)


def below(bucket: str, prefix: str) -> dict[str, Any]:
    """The objects of a bucket whose names begin with a prefix, by name."""
    from pyarrow import fs

    folder = f"{bucket}/{prefix.rpartition('/')[0]}".rstrip("/")
    try:
        found = system(bucket).get_file_info(fs.FileSelector(folder, recursive=True))
    except FileNotFoundError:
        return {}
    keys = {info.path[len(bucket) + 1 :]: info for info in found if info.is_file}
    return {key: info for key, info in keys.items() if key.startswith(prefix)}


def one(bucket: str, key: str) -> Any:
    """One object of a bucket; None: it is not there."""
    found = system(bucket).get_file_info(f"{bucket}/{key}")
    return found if found.is_file else None


def put(bucket: str, key: str, path: Path) -> None:
    """Upload a file to one object, which appears when all of it is there."""
    import pyarrow as pa

    # One write: Arrow completes an upload whose stream is closed or forgotten, and so a signal between two would
    # publish a part.
    data = pa.memory_map(str(path)).read_buffer() if path.stat().st_size else b""
    with system(bucket).open_output_stream(f"{bucket}/{key}") as target:
        target.write(data)


def delete(bucket: str, key: str) -> None:
    """Remove one object, which must be there."""
    system(bucket).delete_file(f"{bucket}/{key}")


@contextmanager
def translate_errors(uri: str, write: bool = False) -> Iterator[None]:
    """Turns Arrow's errors into Python's, in one line with the URI and the remedy."""
    try:
        yield
    except OSError as error:
        if type(error) is not OSError:  # Arrow's has no class of its own; what was told before has
            raise
        found = _ERROR.search(str(error))
        raise _translated(uri, write, *(found.groups("") if found else ("", "", str(error)))) from error


def _translated(uri: str, write: bool, code: str, status: str, text: str) -> Exception:
    said = redact(" ".join(f"{uri}: {code} {status} {text}".split()))
    for key in (os.environ.get(name, "") for name in KEYS):
        if len(key) >= _KEY:
            said = said.replace(key, "…")
    if code in _GONE or (not code and "not found" in text):  # the second: whose region was asked for
        return FileNotFoundError(f"{said}; check the names of bucket and object")
    if code in _REFUSED or status in ("401", "403"):
        rights = "s3:PutObject and s3:DeleteObject" if write else "s3:GetObject and s3:ListBucket"
        return PermissionError(
            f"{said}; check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, in a cluster in Secret calrec, or give the "
            f"step's account the rights {rights} on this bucket"
        )
    if status in ("301", "307", "400"):
        return ValueError(f"{said}; check the bucket's name and AWS_REGION, which must be the bucket's own")
    return ConnectionError(f"{said}; check AWS_ENDPOINT_URL and the network, and run again")


def file(uri: str, name: str, found: Any) -> File:
    """The file of an object that was listed: one version of it, though nothing says which ETag the list meant."""
    its = _Object(uri, found)

    def opened() -> BinaryIO:
        return http.stream(uri, found.size, its.ask)

    def seekable() -> Any:
        import pyarrow as pa

        its.check()
        return pa.PythonFile(io.BufferedReader(_Random(its, found.size), _AT_RANDOM), mode="r")

    return File(name, found.size, f"{found.size}-{found.mtime_ns}", opened, seekable)


class _Object:
    """An object whose bytes are handed out only while the bucket has the version that was listed."""

    def __init__(self, uri: str, found: Any) -> None:
        self._uri, self._found = uri, found
        self._tag: bytes = b""  # of the first look; the list has none

    def check(self) -> Any:
        """The object, open, if it is still the same one."""
        path, seconds = self._found.path, self._found.mtime_ns // 10**9
        try:
            with translate_errors(self._uri):
                its = system(path.partition("/")[0]).open_input_file(path)
        except FileNotFoundError as error:
            raise http.changed_error(self._uri, "was deleted") from error
        about = its.metadata()
        self._tag = self._tag or about["ETag"]
        changed = datetime.fromisoformat(about["Last-Modified"].decode()).timestamp()
        if (its.size(), int(changed), about["ETag"]) != (self._found.size, seconds, self._tag):
            raise http.changed_error(self._uri, "was replaced")
        return its

    def read(self, offset: int, count: int) -> bytes:
        """Bytes from an offset; looked at before and after, for a request cannot name the version."""
        its, data = self.check(), b""
        with suppress(FileNotFoundError), translate_errors(self._uri):  # the second look says that it was deleted
            data = its.read_at(count, offset)
        self.check()
        return data

    def ask(self, offset: int) -> AbstractContextManager[tuple[Any, int]]:
        """The next chunk, as http.stream takes it."""
        return nullcontext((io.BytesIO(self.read(offset, http.CHUNK)), self._found.size))


class _Random(io.RawIOBase):
    """An object for random access."""

    def __init__(self, its: _Object, size: int) -> None:
        self._its, self._size, self._at = its, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        count = max(0, min(len(buffer), self._size - self._at))
        if count:
            buffer[:count] = self._its.read(self._at, count)
            self._at += count
        return count
