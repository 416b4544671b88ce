"""The API over real HTTP, with tokens, rights and faults."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import pytest
import yaml

from calrec.launch import kubernetes, pod_logs
from tests.launch.trainer_api.contract import (
    GROUP_PATH,
    NAMESPACE,
    OPERATIONS,
    TOKEN,
    TRAINJOBS,
    Operation,
    RefusedError,
)
from tests.launch.trainer_api.controller import Controller
from tests.launch.trainer_api.pods import Pod


class Api(Controller, ThreadingHTTPServer):
    """The cluster's API on a port of this machine."""

    daemon_threads = True

    def __init__(self) -> None:
        Controller.__init__(self)
        ThreadingHTTPServer.__init__(self, ("127.0.0.1", 0), Handler)


class Handler(BaseHTTPRequestHandler):
    server: Api
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        try:
            self._serve()
        except RefusedError as refusal:
            if refusal.message is None:
                self._answer(refusal.code, "404 page not found")
            else:
                body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": refusal.message}
                self._answer(refusal.code, {**body, "code": refusal.code})
        except ConnectionError:
            self.close_connection = True
        except Exception as error:  # a fault of this server, not repeated by who asks
            self._answer(418, {"message": f"the stub failed: {error!r}"})

    do_POST = do_DELETE = do_PUT = do_PATCH = do_GET

    def _serve(self) -> None:
        api, url = self.server, urlsplit(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else {}
        operation, at = self._operation(url.path)
        query = dict(parse_qsl(url.query, keep_blank_values=True))
        if unknown := query.keys() - operation.query:
            raise RefusedError(400, f"unknown query parameters: {', '.join(sorted(unknown))}")
        resource = self._resource(at)
        name = at.get("name", body.get("metadata", {}).get("name", ""))
        self._admit(operation.verb, resource, name)
        if resource == TRAINJOBS:
            api.requests.append(f"{operation.verb} {name}")
        verb = "log" if resource == "pods/log" else operation.verb
        fault = next((one for one in api.faults if one.verb == verb), None)
        if fault:
            api.faults.remove(fault)
            if isinstance(fault.kind, int):
                raise RefusedError(fault.kind, "the server is in trouble")
            if fault.kind == "drop":
                return self._break()
        if resource == "pods/log":
            api.logs.append(query)
            return self._stream(api.log(name, query), query)
        if resource == "pods":
            answer = api.list(query)
        elif operation.verb == "create":
            answer = api.create(body)
        else:
            answer = api.get(name) if operation.verb == "get" else api.delete(name, query)
        if fault and fault.kind == "slow":
            time.sleep(api.slow_s)
        if fault and fault.kind == "lost":
            return self._break()
        return self._answer(201 if operation.verb == "create" else 200, answer)

    def _operation(self, path: str) -> tuple[Operation, dict[str, str]]:
        for operation in OPERATIONS:
            found = operation.path.fullmatch(path)
            if found and operation.method == self.command:
                at = {name: unquote(value) for name, value in found.groupdict().items()}
                if "group" not in at or (self.server.installed and path.startswith(GROUP_PATH)):
                    return operation, at
        raise RefusedError(404, None)

    def _resource(self, at: dict[str, str]) -> str:
        if at["namespace"] != NAMESPACE:
            raise RefusedError(404, f'namespaces "{at["namespace"]}" not found')
        return f"{at['plural']}.{at['group']}" if "group" in at else "pods/log" if "name" in at else "pods"

    def _admit(self, verb: str, resource: str, name: str) -> None:
        starting = self.server.starting.pop(0) if self.server.starting else 0
        if starting == 401 or self.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise RefusedError(401, "Unauthorized")
        if starting == 404:
            raise RefusedError(404, None)
        self.server.used.add((verb, resource))
        if starting or (verb, resource) not in self.server.allowed:
            kind, _, group = resource.partition(".")
            user = f"system:serviceaccount:{NAMESPACE}:pipeline-runner"
            where = f'in API group "{group}" in the namespace "{NAMESPACE}"'
            about = f'{resource.removesuffix("/log")} "{name}"' if verb != "create" else resource
            raise RefusedError(403, f'{about} is forbidden: User "{user}" cannot {verb} resource "{kind}" {where}')

    def _stream(self, pod: Pod, query: dict[str, str]) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        cut = pod.cuts.pop(0) if pod.cuts else None
        for line in pod.log(query):
            line = line if cut is None else line[:cut]
            self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line) if line else b"")
            if cut is not None and (cut := cut - len(line)) <= 0:
                return self._break()
        self.wfile.write(b"0\r\n\r\n")
        return None

    def _break(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def _answer(self, code: int, body: Any) -> None:
        text = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(code)
        self.send_header("Content-Type", "text/plain" if isinstance(body, str) else "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def connected(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    """A server in a thread, the kubeconfig that leads to it, and short pauses."""
    with Api() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        monkeypatch.setenv("KUBECONFIG", str(folder / "kubeconfig"))
        write_kubeconfig(folder / "kubeconfig", server)
        for where, settings in _PAUSES.items():
            for name, seconds in settings.items():
                monkeypatch.setattr(where, name, seconds)
        try:
            yield server
        finally:
            for pod in list(server.pods.values()):
                if pod.process and pod.process.poll() is None:
                    pod.process.kill()
                pod.end(1)
            server.shutdown()
            thread.join()


_PAUSES: dict[Any, dict[str, float]] = {
    kubernetes: {"FIRST_PAUSE_S": 0.1, "LONGEST_PAUSE_S": 1.0},
    pod_logs: {"LOOK_S": 0.1, "RETRY_S": 0.05, "DRAIN_S": 20.0, "REFUSALS": 6},
}


def write_kubeconfig(path: Path, server: Api, token: str = TOKEN, namespace: str = NAMESPACE) -> None:
    named = {
        "clusters": {"cluster": {"server": f"http://127.0.0.1:{server.server_port}"}},
        "users": {"user": {"token": token}},
        "contexts": {"context": {"cluster": "c", "user": "u", "namespace": namespace}},
    }
    config = {kind: [{"name": kind[0], **value}] for kind, value in named.items()}
    path.write_text(yaml.safe_dump({"current-context": "c", **config}))
