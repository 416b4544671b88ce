"""The client of Google's buckets, and its errors in Python's words; storage.py is the only user."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import SplitResult, urlsplit

PATIENCE_S = 45.0  # how long one request is tried again; the client's own default is 120 s


def client() -> Any:
    """A client with the credentials of the environment."""
    from google.cloud import storage

    return storage.Client(project="emulator" if emulator() else None)


def emulator() -> SplitResult | None:
    """Where the emulator listens, which needs neither credentials nor a project."""
    host = os.environ.get("STORAGE_EMULATOR_HOST", "")
    return urlsplit(host if "://" in host else f"http://{host}") if host else None


def retry() -> Any:
    """The client's own rule, for PATIENCE_S."""
    from google.cloud.storage.retry import DEFAULT_RETRY

    return DEFAULT_RETRY.with_timeout(PATIENCE_S)


@contextmanager
def told(uri: str, role: str = "storage.objectViewer") -> Iterator[None]:
    """Turns errors of Google's libraries into Python's, with the URI and the remedy."""
    import urllib3
    from google.api_core import exceptions as api
    from google.auth import exceptions as auth
    from google.cloud.storage.exceptions import DataCorruption

    try:
        yield
    except api.NotFound as error:
        raise FileNotFoundError(f"{uri}: {error.message}; check the names of bucket and object") from error
    except (api.Forbidden, api.Unauthorized, auth.DefaultCredentialsError, auth.RefreshError) as error:
        raise PermissionError(
            f"{uri}: {error}; run `gcloud auth application-default login`, "
            f"or give the step's service account the role {role} on this bucket"
        ) from error
    except (api.BadRequest, ValueError) as error:
        raise ValueError(f"{uri}: {error}; check the names of bucket and object") from error
    except DataCorruption as error:
        raise ConnectionError(f"{uri}: damaged on its way ({error}); run again") from error
    except (api.GoogleAPIError, auth.GoogleAuthError, urllib3.exceptions.HTTPError) as error:
        raise ConnectionError(f"{uri}: no answer ({error}); check the network and run again") from error
