"""The Kubeflow Pipelines API over HTTP: holds requests and answers to the contract, and fails on demand."""

import email.parser
import email.policy
import json
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.pipelines.kfp_api.contract import OPERATIONS, ContractError, Operation, check, check_query
from tests.pipelines.kfp_api.faults import Fault
from tests.pipelines.kfp_api.rules import Refused
from tests.pipelines.kfp_api.state import Call, Frame, State, Task, script

UNKNOWN, VERB, SIGN_IN, INTERNAL = (404, 5), (405, 12), (401, 16), (500, 13)  # HTTP status and gRPC code


@dataclass
class Request:
    """What came in. `operation` is the name in kfp_server_api, `status` what was answered; 0: the connection broke."""

    verb: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    raw: bytes
    operation: str = ""
    status: int = 0

    @property
    def body(self) -> Any:
        """The JSON that came in, or None."""
        with suppress(ValueError):
            return json.loads(self.raw)
        return None


@dataclass
class KfpApi:
    """An API server on a port of this machine. With `tokens` or `cookies` set, one of them must come along."""

    state: State = field(default_factory=State)
    tokens: set[str] | None = None
    cookies: set[str] | None = None
    faults: list[Fault] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    port: int = 0
    _http: "_Http | None" = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def operations(self) -> list[str]:
        """Names of the operations that were asked, in order."""
        return [request.operation for request in self.requests]

    def start(self) -> None:
        """Listen, after a stop on the same port."""
        self._http = _Http(("127.0.0.1", self.port), _Handler, self)
        self.port = self._http.server_port
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        """Refuse connections and break the open ones; the state stays."""
        if self._http:
            self._http.shutdown()
            self._http.server_close()
            self._http.hang_up()
            self._http = None

    def restart(self) -> None:
        """Stop and start, as when the pod of the API server is replaced."""
        self.stop()
        self.start()

    def run_script(self, steps: Iterable[tuple[str, str] | Task], end: str = "SUCCEEDED") -> None:
        """What the next run shows on successive looks: PENDING, step by step, its end. Several scripts queue."""
        self.state.scripts.append(script(steps, end))

    def hold(self, run_id: str, *frames: Frame) -> None:
        """What an existing run shows from now on; the last frame stays."""
        self.state.frames[run_id] = list(frames)

    def fault(self, verb: str, path: str, *kinds: str) -> Fault | None:
        """The first fault of these kinds that the request meets, now used up once more."""
        with self.state.lock:
            for fault in self.faults:
                if fault.kind in kinds and fault.hits(verb, path):
                    fault.times -= 1
                    return fault
        return None

    def authorised(self, headers: dict[str, str]) -> bool:
        """Whether a valid token or cookie came along, or none is needed."""
        token = headers.get("authorization", "").removeprefix("Bearer ")
        crumbs = {crumb.strip() for crumb in headers.get("cookie", "").split(";")}
        open_to_all = self.tokens is None and self.cookies is None
        return open_to_all or token in (self.tokens or ()) or bool(crumbs & (self.cookies or set()))


@contextmanager
def serving(**settings: Any) -> Iterator[KfpApi]:
    """A started server; the settings are fields of KfpApi. At the end no request may have broken the contract."""
    api = KfpApi(**settings)
    api.start()
    try:
        yield api
    finally:
        api.stop()
    assert not api.violations, "\n".join(api.violations)


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], handler: type, api: KfpApi) -> None:
        self.api, self.open = api, set[socket.socket]()
        super().__init__(address, handler)

    def hang_up(self) -> None:
        for connection in list(self.open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    server: _Http
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # 1 ms for a request and its answer, not 46

    def setup(self) -> None:
        super().setup()
        self.server.open.add(self.connection)

    def finish(self) -> None:
        self.server.open.discard(self.connection)
        with suppress(OSError):
            super().finish()

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        api, url = self.server.api, urlsplit(self.path)
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        query = parse_qs(url.query, keep_blank_values=True)
        request = Request(self.command, url.path, query, headers, raw)
        api.requests.append(request)
        if fault := api.fault(self.command, url.path, "slow"):
            time.sleep(fault.seconds)
        if fault := api.fault(self.command, url.path, "drop", "answer"):
            self._fail(request, fault)
            return
        status, answer = _answer(api, request)
        if fault := api.fault(self.command, url.path, "lose", "garbage"):
            self._fail(request, fault)
        else:
            self._send(request, status, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    do_POST = do_DELETE = do_PATCH = do_PUT = do_GET

    def _fail(self, request: Request, fault: Fault) -> None:
        if fault.kind in ("drop", "lose"):
            self.close_connection = True
            with suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)
        else:
            self._send(request, fault.status, fault.body, {"Content-Type": "text/html", **fault.headers})

    def _send(self, request: Request, status: int, body: bytes, headers: dict[str, str]) -> None:
        request.status = status
        with suppress(OSError):  # the client is gone
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)


def _answer(api: KfpApi, request: Request) -> tuple[int, Any]:
    """Status and JSON. What breaks the contract is noted, whoever broke it."""
    try:
        if not api.authorised(request.headers):
            raise Refused(SIGN_IN, "Unauthenticated: Request header error: there is no valid identity")
        operation, call = _understand(request)
        request.operation = operation.name
        answer = api.state.do(operation, call)
    except ContractError as broken:
        api.violations.append(f"{request.verb} {request.path}: {broken}")
        return _error(broken.kind, str(broken))
    except Refused as refused:
        return _error(refused.kind, str(refused), upload="/upload" in request.path)
    except Exception as bug:
        api.violations.append(f"{request.verb} {request.path}: the test server raised {bug!r}")
        return _error(INTERNAL, f"the test server raised {bug!r}")
    try:
        return 200, check(operation.answer, answer, "answer", strict=True)
    except ContractError as broken:
        api.violations.append(f"answer of {operation.name}: {broken}")
        return _error(INTERNAL, f"the test server breaks the contract: {broken}")


def _understand(request: Request) -> tuple[Operation, Call]:
    found = [(one, arguments) for one in OPERATIONS if (arguments := one.arguments(request.path)) is not None]
    if not found:
        raise ContractError("no such path in the API", UNKNOWN)
    fitting = [pair for pair in found if pair[0].verb == request.verb]
    if not fitting:
        raise ContractError(f"the API has only {sorted(one.verb for one, _ in found)} here", VERB)
    operation, arguments = fitting[0]
    call = Call(arguments, check_query(operation, request.query))
    if operation.file:
        call.file_name, call.file = _file(request, operation.file)
    elif operation.body:
        if request.body is None:
            raise ContractError(f"the body must be JSON, got {request.raw[:80]!r}")
        call.body = check(operation.body, request.body, "body")
    elif request.raw not in (b"", b"{}"):
        raise ContractError(f"{operation.name} takes no body, got {request.raw[:80]!r}")
    return operation, call


def _file(request: Request, wanted: str) -> tuple[str, bytes]:
    head = f"Content-Type: {request.headers.get('content-type', '')}\r\n\r\n".encode()
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + request.raw)
    parts = {part.get_param("name", header="content-disposition"): part for part in message.iter_parts()}
    if set(parts) != {wanted}:
        raise ContractError(f"the form must have the file {wanted} alone, got {sorted(map(str, parts))}")
    return parts[wanted].get_filename() or "", parts[wanted].get_payload(decode=True)


def _error(kind: tuple[int, int], message: str, upload: bool = False) -> tuple[int, Any]:
    """An error as the server writes it; its two upload paths have a form of their own."""
    if upload:
        return kind[0], {"error_message": message, "error_details": message}
    details = [{"@type": "type.googleapis.com/google.rpc.Status", "message": message}]
    return kind[0], {"error": message, "code": kind[1], "message": message, "details": details}
