"""How a request says who asks. Secrets come from files and the environment, never from the command line."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

METHODS = ("none", "token", "service-account", "iap", "cookie")


@dataclass(frozen=True)
class Auth:
    """A method, and where its secret lies. The secret is read each time a connection opens, so that it may change."""

    method: str = "none"
    token_file: str = ""
    iap_client_id: str = ""

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"--auth must be one of {', '.join(METHODS)}, got {self.method!r}")
        if self.method == "iap" and not self.iap_client_id:
            raise ValueError("--auth iap needs the client id of the proxy; give --iap-client-id or KFP_IAP_CLIENT_ID")


def guess_method(token_file: str, iap_client_id: str) -> str:
    """The method for what is at hand: a token, an IAP client id, a cookie, the token of this pod, else none."""
    if token_file or os.environ.get("KFP_TOKEN"):
        return "token"
    if iap_client_id:
        return "iap"
    if os.environ.get("KFP_COOKIE"):
        return "cookie"
    return "service-account" if projected_token().exists() else "none"


def projected_token() -> Path:
    """The token that the kubelet projects into a pod for the pipeline API, and renews."""
    return Path(os.environ.get("KF_PIPELINES_SA_TOKEN_PATH") or "/var/run/secrets/kubeflow/pipelines/token")


def client_arguments(auth: Auth) -> dict[str, Any]:
    """What `kfp.Client` takes for this method.

    Raises:
        ValueError: the secret is not where it should be.
    """
    if auth.method == "token":
        return {"existing_token": _token(auth)}
    if auth.method == "service-account":
        from kfp.client import ServiceAccountTokenVolumeCredentials

        _read(projected_token(), "project a service account token into this pod, or take --auth token")
        return {"credentials": ServiceAccountTokenVolumeCredentials(str(projected_token()))}
    if auth.method == "iap":
        other = os.environ.get("KFP_IAP_OTHER_CLIENT_ID"), os.environ.get("KFP_IAP_OTHER_CLIENT_SECRET")
        return {"client_id": auth.iap_client_id, "other_client_id": other[0], "other_client_secret": other[1]}
    if auth.method == "cookie":
        cookie = os.environ.get("KFP_COOKIE", "")
        if not cookie:
            raise ValueError("--auth cookie takes the session cookie from KFP_COOKIE, which is not set")
        return {"cookies": cookie}
    return {}


def remedy(auth: Auth) -> str:
    """What to do when the server does not take the identity (HTTP 401)."""
    return {
        "none": "the server wants to know who asks; give --auth token with --token-file or KFP_TOKEN",
        "token": f"the token of {auth.token_file or 'KFP_TOKEN'} is wrong or has expired; put a fresh one there",
        "service-account": f"check the audience of the token that is projected to {projected_token()}",
        "iap": "check --iap-client-id, and that this account may pass the proxy",
        "cookie": "the session has ended; log in with a browser and copy its cookie to KFP_COOKIE",
    }[auth.method]


def _token(auth: Auth) -> str:
    if auth.token_file:
        return _read(Path(auth.token_file), "write the token there, or set KFP_TOKEN")
    if not os.environ.get("KFP_TOKEN"):
        raise ValueError("--auth token takes the token from --token-file or KFP_TOKEN; neither is set")
    return os.environ["KFP_TOKEN"].strip()


def _read(path: Path, what_to_do: str) -> str:
    try:
        text = path.read_text().strip()
    except OSError as error:
        raise ValueError(f"token file {path}: {error.strerror}; {what_to_do}") from None
    if not text:
        raise ValueError(f"token file {path} is empty; {what_to_do}")
    return text
