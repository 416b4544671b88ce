"""The champion of a local run behind HTTP: its start, an answer, and 50 clients at once against one after another.

It takes the registry of MLFLOW_TRACKING_URI, or what `make run` leaves, and a category in TARGET, or nutrition.
"""

import json
import os
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

CLIENTS = 50
STARTS = 3


def serve() -> dict[str, Any]:
    """Seconds of starts, of an answer, of 200 answers to one and to 50 clients; and memory.

    Returns:
        seconds and reference_seconds: of an answer to one of 50 clients at once, and to one client; their ratio;
        starts: seconds until the server answers, the first one with whatever has to be compiled; resident_bytes.
    """
    os.environ.setdefault("MLFLOW_TRACKING_URI", f"sqlite:///{Path('build/mlflow.db').absolute()}")
    model = f"models:/calrec-{os.environ.get('TARGET', 'nutrition')}@champion"
    starts = []
    for _ in range(STARTS - 1):
        with serving(model) as (_, started, _):
            starts.append(started)
    with serving(model) as (url, started, process):
        starts.append(started)
        queries = [{"user_id": f"u{n}", "titles": [f"RICE CAKES {n % 9} OZ"], "k": 5} for n in range(4 * CLIENTS)]
        single = [timed(url, query) for query in queries]
        begun = time.perf_counter()
        with ThreadPoolExecutor(CLIENTS) as clients:
            together = list(clients.map(lambda query: ask(url, query), queries))
        each = (time.perf_counter() - begun) / len(queries)
        assert [ids(one) for one in together] == [ids(answer) for answer, _ in single]
        memory = sum(one.memory_info().rss for one in (process, *process.children(recursive=True)))
    one = statistics.median(seconds for _, seconds in single)
    what = (
        f"an answer to one of {CLIENTS} clients at once ({each:.3f} s) against one client ({one:.3f} s); ready after "
        f"{', '.join(f'{seconds:.1f}' for seconds in starts)} s; {memory / 2**20:.0f} MiB"
    )
    figures = {"seconds": each, "reference_seconds": one, "ratio": one / each, "starts": starts}
    return {"what": what, **figures, "resident_bytes": memory}


@contextmanager
def serving(model: str) -> Iterator[tuple[str, float, psutil.Process]]:
    """(its address, seconds until it answered, the process) of a server."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command, begun = [sys.executable, "-m", "calrec.cli", "serve", model, "--port", str(port)], time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            while socket.socket().connect_ex(("127.0.0.1", port)):
                assert server.poll() is None, f"no {model}: make run first, or set MLFLOW_TRACKING_URI and TARGET"
                time.sleep(0.02)
            yield f"http://127.0.0.1:{port}/invocations", time.perf_counter() - begun, psutil.Process(server.pid)
        finally:
            for process in psutil.Process(server.pid).children(recursive=True):
                process.terminate()
            server.terminate()


def ask(url: str, query: dict[str, Any]) -> dict[str, Any]:
    """The answer to one query."""
    body = json.dumps({"inputs": [query]}).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return dict(json.load(answer)["predictions"][0])


def timed(url: str, query: dict[str, Any]) -> tuple[dict[str, Any], float]:
    """The answer, and how long it took."""
    begun = time.perf_counter()
    return ask(url, query), time.perf_counter() - begun


def ids(answer: dict[str, Any]) -> list[str]:
    """What was recommended."""
    return [item["item_id"] for item in answer["items"]]
