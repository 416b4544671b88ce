"""A connection to the API of Kubeflow Pipelines that outlives restarts, lost answers and rotated tokens."""

import contextlib
import io
import json
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

from calrec.config import naming
from pipelines.kubeflow.auth import Auth, client_arguments, remedy

T = TypeVar("T")

TIMEOUT_S = 30
PATIENCE_S = 300.0
# Between the tries of one request; a server that never answered gets only the first ones: the address is likely wrong.
PAUSES_S = (1.0, 2.0, 4.0, 8.0, 15.0, *[30.0] * 9)
FIRST_TRIES = 3
_LONGEST_RETRY_AFTER_S = 120.0
POD_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


class RefusedError(ValueError):
    """The server refused a request for good; `status` is the HTTP status, 409 for example."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


class UnreachableError(RuntimeError):
    """The server did not answer, or only with errors, until patience ended."""


@dataclass(frozen=True)
class Settings:
    """Where the API is and who asks."""

    host: str = ""
    namespace: str = ""
    auth: Auth = field(default_factory=Auth)
    ca: str = ""
    ui: str = ""

    def __post_init__(self) -> None:
        if self.host and not self.host.startswith(("http://", "https://")):
            raise ValueError(f"--host must start with http:// or https://, got {self.host!r}")
        if self.namespace:
            naming.namespace("--namespace", self.namespace)
        if self.ca and not Path(self.ca).is_file():
            raise ValueError(f"--ca must be a file of certificates (PEM), got {self.ca!r}")
        if not self.host and self.auth.method in ("token", "iap", "cookie"):
            raise ValueError(f"--auth {self.auth.method} needs to know the server; give --host or KFP_HOST")


class Kubeflow:
    """The services of the API (`runs`, `pipelines`, …: objects of `kfp_server_api`), and the way to ask them."""

    def __init__(self, settings: Settings, sleep: Callable[[float], None] = time.sleep):
        self._settings, self._sleep = settings, sleep
        self._answered = False
        self._allowed: set[str] = set()  # what was asked and answered, which a restarted server may refuse for a while
        self.say: Callable[[str], None] = lambda text: print(text, file=sys.stderr, flush=True)
        self._open()
        self.namespace = settings.namespace or self._client.get_user_namespace() or ""

    def _open(self) -> None:
        """Read the secrets and build the services; called again when the server no longer takes the token."""
        import kfp_server_api as api

        self._client = _kfp_client(self._settings)
        config = self._client._existing_config
        config.retries = False  # `ask` does it: urllib3 would repeat and wait without a word
        config.host = config.host.rstrip("/")
        self.host: str = config.host
        services = _api_client(config, self._client._run_api.api_client)
        self.runs = api.RunServiceApi(services)
        self.pipelines = api.PipelineServiceApi(services)
        self.uploads = api.PipelineUploadServiceApi(services)
        self.experiments = api.ExperimentServiceApi(services)
        self.recurring = api.RecurringRunServiceApi(services)
        self.health = api.HealthzServiceApi(services)

    @property
    def scope(self) -> dict[str, str]:
        """The `namespace` argument of list calls; empty where there is none."""
        return {"namespace": self.namespace} if self.namespace else {}

    def link(self, page: str) -> str:
        """The address of a page of the UI, such as `runs/details/ID`."""
        return f"{(self._settings.ui or self.host).rstrip('/')}/#/{page}"

    def ask(self, call: Callable[[], T], what: str, find: Callable[[], T | None] | None = None) -> T:
        """The answer to `call`, which makes one request; repeated while that may help, for about five minutes.

        A refusal, 401 or 403, is one at once, after a look at the token; but what was allowed before is asked again.

        Args:
            call: looks the service up when it is called (`lambda: kubeflow.runs.…`), as a new token makes new services.
            what: completes "cannot …", for the error.
            find: for a request that must not be done twice. When its answer was lost, looks for what it has made.

        Raises:
            RefusedError: the server will not do it; asking again would not help.
            UnreachableError: no answer, or only errors, until the end.
        """
        from kfp_server_api import ApiException
        from urllib3.exceptions import HTTPError

        until, renewed, tried = time.monotonic() + PATIENCE_S, False, 0
        while True:
            try:
                found = find() if find and (tried or renewed) else None
                answer = call() if found is None else found
            except (ApiException, HTTPError) as error:
                status = getattr(error, "status", 0)
                refused = status in (401, 403)
                if refused and not renewed:
                    self._open()
                    renewed = True
                    continue
                if not _may_pass(status) and not (refused and what in self._allowed):
                    raise RefusedError(status, self._refusal(what, error)) from None
                enough = not status and not self._answered and tried + 1 >= FIRST_TRIES
                if enough or tried == len(PAUSES_S) or time.monotonic() + PAUSES_S[tried] > until:
                    raise self._end(what, error) from None
                pause = _retry_after(error) or PAUSES_S[tried]
                self.say(f"kubeflow: {_reason(error)}; trying again in {pause:g} s")
                tried += 1
                self._sleep(pause)
                if refused:
                    self._open()  # the token may have been changed meanwhile
            else:
                if tried:
                    self.say("kubeflow: the server answers again")
                self._answered = True
                self._allowed.add(what)
                return answer

    def _end(self, what: str, error: Any) -> Exception:
        if getattr(error, "status", 0) in (401, 403):
            return RefusedError(error.status, self._refusal(what, error))
        return UnreachableError(self._silence(what, error))

    def _refusal(self, what: str, error: Any) -> str:
        text = f"cannot {what}: {self.host} answered {_reason(error)}"
        if error.status == 401 or 300 <= error.status < 400:
            return f"{text}; {remedy(self._settings.auth)}"
        if error.status == 403:
            where = f"namespace {self.namespace}" if self.namespace else "this server"
            return f"{text}; this identity has no right to do so in {where}: check --namespace, or ask for its role"
        return text

    def _silence(self, what: str, error: Any) -> str:
        return (
            f"cannot {what}: {self.host}: {_reason(error)}; check --host, or make a way to the server, for example "
            "kubectl port-forward -n kubeflow svc/ml-pipeline 8888:8888 with --host http://localhost:8888"
        )


def connect(settings: Settings, sleep: Callable[[float], None] = time.sleep) -> Kubeflow:
    """A connection that has been tried: the server is there, takes the identity, and the namespace is known.

    Raises:
        ValueError: wrong settings, token or path.
        RuntimeError: no server.
    """
    kubeflow = Kubeflow(settings, sleep)
    try:
        health = kubeflow.ask(lambda: kubeflow.health.healthz_service_get_healthz(), "reach Kubeflow Pipelines")
    except RefusedError as error:
        if error.status != 404:
            raise
        where = "there is no pipeline API at this path; behind Kubeflow's dashboard it is https://HOST/pipeline"
        raise RefusedError(404, f"{error}; {where}") from None
    if health.multi_user and not kubeflow.namespace:
        if not POD_NAMESPACE.exists():
            raise ValueError("this Kubeflow has many users; give --namespace or KFP_NAMESPACE, the one of your profile")
        kubeflow.namespace = POD_NAMESPACE.read_text().strip()
    return kubeflow


def name_filter(name: str) -> str:
    """The `filter` argument of a list call: those with this display name."""
    return json.dumps({"predicates": [{"operation": "EQUALS", "key": "display_name", "stringValue": name}]})


# --- the client of kfp ----------------------------------------------------------------------------------------------


def _kfp_client(settings: Settings) -> Any:
    """`kfp.Client` for its knowledge of hosts and identities."""
    import kfp
    import kfp_server_api

    class Client(kfp.Client):  # type: ignore[misc]
        def get_kfp_healthz(self, sleep_duration: int = 5) -> Any:
            """Say nothing: the constructor would ask five times, hide the reason, and write the namespace to a file."""
            return SimpleNamespace(multi_user=False)

    arguments = client_arguments(settings.auth)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore", FutureWarning)
        client = Client(host=settings.host or None, ssl_ca_cert=settings.ca or None, **arguments)
    if client._existing_config.host == kfp_server_api.Configuration().host:
        raise ValueError("no Kubeflow Pipelines server is known; give --host or KFP_HOST, or set KUBECONFIG")
    return client


def _api_client(config: Any, model: Any) -> Any:
    """An `ApiClient` with the cookie and headers of another one, a time limit, and answers that are the API's."""
    import kfp_server_api
    from kfp_server_api import ApiException

    class Client(kfp_server_api.ApiClient):  # type: ignore[misc]
        def request(self, *args: Any, **kwargs: Any) -> Any:
            """One request; what is no answer of the API is said."""
            kwargs["_request_timeout"] = kwargs.get("_request_timeout") or TIMEOUT_S
            try:
                answer = super().request(*args, **kwargs)
            except ApiException as error:
                if not error.status:  # TLS; the generated client breaks on an error without a body
                    reason = str(error.reason).replace("\n", ": ")
                    raise RefusedError(0, f"{config.host}: {reason}; give the authority's file with --ca") from None
                error.body = (error.body or b"").decode(errors="replace").encode()
                raise
            if answer.data.lstrip()[:1] not in (b"{", b""):
                answer.status, answer.reason, answer.data = 401, "something that is no data, likely a login page", b""
                raise ApiException(http_resp=answer)
            return answer

    client = Client(config, cookie=model.cookie)
    client.default_headers.update(model.default_headers)
    return client


# --- errors ---------------------------------------------------------------------------------------------------------


def _may_pass(status: int) -> bool:
    return status in (0, 408, 425, 429) or (status >= 500 and status != 501)


def _retry_after(error: Any) -> float:
    text = (getattr(error, "headers", None) or {}).get("Retry-After", "")
    return min(float(text), _LONGEST_RETRY_AFTER_S) if text.isdigit() else 0.0


def _reason(error: Any) -> str:
    """The status and the server's own words, or what became of the connection."""
    if not hasattr(error, "status"):
        return str(error.args[-1] if error.args else error).rsplit(": ", 1)[-1] or type(error).__name__
    text = error.body or ""
    with contextlib.suppress(ValueError, AttributeError):
        body = json.loads(text)
        text = body.get("message") or body.get("error") or body.get("error_message") or text
    said = " ".join(str(text).split()) or str(error.reason)
    return f"{error.status} {said[:500]}"
