"""A proxy before a server that kills the process which asks it, at one of its requests, before or after it is done."""

import http.client
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


class Proxy(ThreadingHTTPServer):
    """Passes every request on; requests are numbered from 0."""

    def __init__(self, backend: str) -> None:
        super().__init__(("127.0.0.1", 0), _Page)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.backend = urlsplit(backend).netloc
        self.seen: list[str] = []
        self.kill: Callable[[], None] = lambda: None
        self.at: int | str = -1  # number, or a part of the name, of the request at which is killed; -1: none
        self.done = False  # whether that request reaches the server
        self.refused: Callable[[str], bool] = lambda path: False  # which paths are answered by 503 here

    def begin(self, kill: Callable[[], None], at: int | str = -1, done: bool = False) -> None:
        """Number the requests from 0 again."""
        self.seen, self.kill, self.at, self.done = [], kill, at, done


class _Page(BaseHTTPRequestHandler):
    server: Proxy

    def log_message(self, *_: object) -> None:
        pass

    def _pass_on(self) -> None:
        proxy, number = self.server, len(self.server.seen)
        proxy.seen.append(f"{self.command} {self.path.split('?')[0]}")
        meant = number == proxy.at if isinstance(proxy.at, int) else proxy.at in proxy.seen[-1]
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if proxy.refused(self.path):
            self.send_error(503)
            return
        if meant and not proxy.done:
            proxy.kill()
            return
        connection = http.client.HTTPConnection(proxy.backend, timeout=60)
        headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
        connection.request(self.command, self.path, body, headers)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        if meant:
            proxy.kill()
            return
        with suppress(ConnectionError):
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _pass_on


@contextmanager
def before(backend: str) -> Iterator[Proxy]:
    """A proxy in a thread."""
    with Proxy(backend) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield proxy
        finally:
            proxy.shutdown()
            thread.join()
