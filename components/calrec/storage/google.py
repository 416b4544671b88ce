"""The client of Google's buckets, and its errors in Python's words; storage.py is the only user."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import SplitResult, urlsplit

from calrec.system.printing import redact

PATIENCE_S = 45.0  # how long one request is tried again; the client's own default is 120 s
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


@contextmanager
def translate_errors(uri: str, role: str = "storage.objectViewer") -> Iterator[None]:
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
                f"{role} on this bucket"
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
