"""The client of Google's buckets, and its errors in Python's words; uris.py is the only user."""

import base64
import functools
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import SplitResult, urlsplit

from calrec.storage import http
from calrec.storage.files import File
from calrec.system.printing import redact

PATIENCE_S = 45.0  # how long one request is tried again; the client's own default is 120 s
_PAID_CHUNK = 1 << 20  # the least of one request at random
BILLING = "CALREC_BILLING_PROJECT"
"""Variable with the project that pays for requests, which a bucket may ask for ("requester pays")."""
# words of Google's answer → what it means, and the remedy; the first that fits. Most come as 403, some as 400.
_MEANINGS = (
    (
        ("requester pays", "userprojectmissing", "no user project"),
        f"who reads this bucket pays: set {BILLING} to a project that may be billed",
    ),
    (
        (
            "serviceusage.services.use",
            "userprojectaccessdenied",
            "userprojectaccountproblem",
            "userprojectinconsistent",
        ),
        f"the project in {BILLING} does not pay for you: it must have a billing account, and you need the role "
        "serviceusage.serviceUsageConsumer in it",
    ),
    (
        ("vpcservicecontrols", "vpc service controls", "prohibited by organization", "security_policy_violated"),
        "a perimeter of VPC Service Controls keeps this place out, whatever your roles: run inside of it, or ask its "
        "administrator for an ingress rule, with the identifier in this message",
    ),
    (("billing account",), "the bucket's project has no billing account that works; its owner must mend that"),
    (
        ("invalid_grant", "invalid jwt", "account not found", "account disabled", "ed_client", "key not valid"),
        "the key or its account is expired, disabled or deleted: make a new one, or run "
        "`gcloud auth application-default login`",
    ),
)


def client() -> Any:
    """A client with the credentials of the environment."""
    from google.cloud import storage

    return storage.Client(project="emulator" if emulator() else None)


def payer() -> str | None:
    """The project that pays for requests; None: the bucket's own."""
    return os.environ.get(BILLING) or None


def bucket(name: str) -> Any:
    """A bucket whose requests the payer pays."""
    return client().bucket(name, user_project=payer())


def emulator() -> SplitResult | None:
    """Where the emulator listens, which needs neither credentials nor a project."""
    host = os.environ.get("STORAGE_EMULATOR_HOST", "")
    return urlsplit(host if "://" in host else f"http://{host}") if host else None


def retry() -> Any:
    """The client's own rule, for PATIENCE_S."""
    from google.cloud.storage.retry import DEFAULT_RETRY

    return DEFAULT_RETRY.with_timeout(PATIENCE_S)


def below(name: str, prefix: str) -> dict[str, Any]:
    """The objects of a bucket whose names begin with a prefix, by name."""
    listed = bucket(name).list_blobs(prefix=prefix, timeout=http.TIMEOUT_S, retry=retry())
    return {blob.name: blob for blob in listed if not blob.name.endswith("/")}


def one(name: str, key: str) -> Any:
    """One object of a bucket; None: it is not there."""
    return bucket(name).get_blob(key, timeout=http.TIMEOUT_S, retry=retry())


def put(name: str, key: str, path: Path) -> None:
    """Upload a file to one object, which appears when all of it is there and has the crc32c of the file."""
    bucket(name).blob(key, chunk_size=http.CHUNK).upload_from_filename(
        str(path), "application/octet-stream", checksum="crc32c", timeout=http.TIMEOUT_S, retry=retry()
    )


def delete(name: str, key: str) -> None:
    """Remove one object, which must be there."""
    bucket(name).blob(key).delete(timeout=http.TIMEOUT_S, retry=retry())


@contextmanager
def translate_errors(uri: str, write: bool = False) -> Iterator[None]:
    """Turns errors of Google's libraries into Python's, with the URI and the remedy."""
    import urllib3
    from google.api_core import exceptions as api
    from google.auth import exceptions as auth
    from google.cloud.storage.exceptions import DataCorruption

    try:
        yield
    except (
        api.GoogleAPIError,
        auth.GoogleAuthError,
        urllib3.exceptions.HTTPError,
        DataCorruption,
        ValueError,
    ) as error:
        last = (error.cause or error) if isinstance(error, api.RetryError) else error  # what the last attempt met
        said = redact(f"{uri}: {last}")
        meaning = next((what for words, what in _MEANINGS if any(word in str(last).lower() for word in words)), "")
        if isinstance(last, api.NotFound):
            raise FileNotFoundError(f"{said}; check the names of bucket and object") from error
        if isinstance(last, api.Forbidden | api.Unauthorized | auth.DefaultCredentialsError | auth.RefreshError):
            usual = (
                "run `gcloud auth application-default login`, or give the step's service account the role "
                f"storage.object{'User' if write else 'Viewer'} on this bucket"
            )
            raise PermissionError(f"{said}; {meaning or usual}") from error
        if isinstance(last, api.PreconditionFailed):
            raise OSError(f"{said}; another process wrote to it meanwhile, run again") from error
        if isinstance(last, api.TooManyRequests):
            raise ConnectionError(f"{said}; the bucket's quota of requests is used up, run again later") from error
        if isinstance(last, api.BadRequest | ValueError):
            raise ValueError(f"{said}; {meaning or 'check the names of bucket and object'}") from error
        if isinstance(last, DataCorruption):
            raise ConnectionError(f"{uri}: damaged on its way ({last}); run again") from error
        raise ConnectionError(f"{uri}: no answer ({redact(str(last))}); check the network and run again") from error


def file(uri: str, name: str, blob: Any) -> File:
    """The file of an object that was listed: this generation of it, checked against its crc32c."""
    # Copied here: reading through a Blob overwrites its fields with the headers of the answer.
    size, generation, crc = blob.size, blob.generation, blob.crc32c
    ask = functools.partial(_ask, uri, functools.partial(blob.bucket.blob, blob.name, generation=generation), size)

    def opened() -> BinaryIO:
        import google_crc32c

        digest, remedy = base64.b64decode(crc or "").hex(), "the object was replaced or damaged on its way: run again"
        expected = http.Expected("crc32c", digest, google_crc32c.Checksum, remedy) if digest else None
        return http.stream(uri, size, ask, expected)

    def seekable() -> Any:
        return _paid(blob.bucket.blob(blob.name, generation=generation)) if payer() else _seekable(uri, generation)

    return File(name, size, str(generation), opened, seekable)


@contextmanager
def _ask(uri: str, blob: Callable[[], Any], size: int, offset: int) -> Iterator[tuple[Any, int]]:
    """The next chunk of stored bytes, gzipped or not, of the generation that was listed; http.stream tries again."""
    chunk = io.BytesIO()
    options = {"raw_download": True, "checksum": None, "retry": None, "timeout": http.TIMEOUT_S}
    try:
        with translate_errors(uri):
            blob().download_to_file(chunk, start=offset, end=offset + http.CHUNK - 1, **options)
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

    return pa.PythonFile(blob.open("rb", chunk_size=_PAID_CHUNK, retry=retry(), raw_download=True), mode="r")


def _seekable(uri: str, generation: int) -> Any:
    from pyarrow import fs

    options: dict[str, Any] = {}
    if host := emulator():
        options = {"anonymous": True, "scheme": host.scheme, "endpoint_override": host.netloc}
    system = fs.GcsFileSystem(retry_time_limit=timedelta(seconds=PATIENCE_S), **options)
    file = system.open_input_file(uri[len("gs://") :])
    if file.metadata()["generation"] != str(generation).encode():
        raise http.changed_error(uri, "was replaced")
    return file
