"""`calrec logs` against a Kubernetes API and a pipeline API of our own."""

import json
import re
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from pipelines.__main__ import main
from pipelines.kubeflow import connection, following, logs
from tests.pipelines.kfp_api.server import KfpApi, Task, serving
from tests.pipelines.small import compiled

PODS = "/api/v1/namespaces/shop/pods"


class Cluster(ThreadingHTTPServer):
    """Pods of one run with their logs. A log is a list of parts; while `open` is set the last pod still writes."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.run_id = ""
        self.pods: dict[str, dict[str, Any]] = {}
        self.written: dict[str, str] = {}
        self.refusal = 0
        self.starting: list[int] = []  # what the next requests are answered
        self.finish = threading.Event()
        self.finish.set()
        self.read = threading.Semaphore(0)  # counts the logs that were begun

    def add(self, node: str, text: str = "", phase: str = "Succeeded", waiting: str = "") -> str:
        name = f"one-x8f2z-system-container-impl-{len(self.pods)}"
        state = {"waiting": {"reason": waiting, "message": "no such image"}} if waiting else {}
        status = {"name": "main", "ready": False, "restartCount": 0, "image": "i", "imageID": "", "state": state}
        self.pods[name] = {
            "metadata": {
                "name": name,
                "creationTimestamp": f"2026-11-03T12:00:{len(self.pods):02d}Z",
                "annotations": {"workflows.argoproj.io/node-name": f"one-x8f2z.root.{node}"},
            },
            "status": {"phase": phase, "containerStatuses": [status]},
        }
        self.written[name] = text
        return name


class Handler(BaseHTTPRequestHandler):
    server: Cluster

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        if self.server.starting:
            self.answer(self.server.starting.pop(0), {"message": "starting"})
        elif self.server.refusal:
            self.answer(self.server.refusal, {"message": "forbidden"})
        elif url.path == PODS:
            assert query["labelSelector"] == f"pipeline/runid={self.server.run_id}"
            self.answer(200, {"items": list(self.server.pods.values())})
        elif found := re.fullmatch(rf"{PODS}/(.+)/log", url.path):
            assert query["container"] == "main"
            lines = self.server.written[found[1]].splitlines(keepends=True)
            self.stream("".join(lines[-int(query.get("tailLines", len(lines))) :]), query.get("follow") == "True")
        else:
            self.answer(404, {"message": self.path})

    def stream(self, text: str, follow: bool) -> None:
        unfinished = not self.server.finish.is_set()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(text.encode())
        self.server.read.release()
        if follow and unfinished:
            self.server.finish.wait(60)
            self.wfile.write(b"and the end\n")

    def answer(self, code: int, body: Any) -> None:
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[KfpApi]:
    monkeypatch.setattr(connection, "PAUSES_S", (0.01,) * 14)
    monkeypatch.setattr(following, "POLL_S", 0.01)
    monkeypatch.setattr(logs, "POLL_S", 0.01)
    monkeypatch.setattr(logs, "PAUSES_S", (0.01,) * 6)
    with serving() as server:
        monkeypatch.setenv("KFP_HOST", server.url)
        yield server


@pytest.fixture
def cluster(
    api: KfpApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Cluster]:
    with Cluster() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        at = {"server": f"http://127.0.0.1:{server.server_port}"}
        context = {"cluster": "c", "user": "u", "namespace": "shop"}
        kinds = {"clusters": {"cluster": at}, "users": {"user": {}}, "contexts": {"context": context}}
        config = {kind: [{"name": kind[0], **value}] for kind, value in kinds.items()}
        (tmp_path / "kubeconfig").write_text(yaml.safe_dump({"current-context": "c", **config}))
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
        monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
        main(["submit", "--file", str(compiled(tmp_path)), "--no-wait"])
        (server.run_id,) = api.state.runs
        capsys.readouterr()
        api.hold(server.run_id, ("SUCCEEDED", [Task("textify")]))
        yield server
        server.finish.set()
        server.shutdown()


def test_the_steps_are_told_apart_and_drivers_left_out(cluster: Cluster, capsys: pytest.CaptureFixture[str]):
    cluster.add("textify-driver", "driving\n")
    cluster.add("textify.executor", "one\ntwo\n")
    for turn in range(2):
        cluster.add(f"for-loop-1.iteration-iterations({turn}:{turn}).iteration-item.ingest.executor", f"turn {turn}\n")
    assert main(["logs", cluster.run_id]) == 0
    shown = capsys.readouterr().out
    heads = [line for line in shown.splitlines() if line.startswith("==>")]
    assert [re.findall(r"==> (.+) \(one-.*, succeeded\) <==", head) for head in heads] == [
        ["Textify"], ["Ingest [1]"], ["Ingest [2]"],
    ]  # fmt: skip
    assert "one\ntwo\n" in shown and "driving" not in shown


@pytest.mark.parametrize(
    ("step", "texts"),
    [
        ("ingest", ["turn 0", "turn 1"]),
        ("Ingest [2]", ["turn 1"]),
        ("Textify", ["one"]),
        ("textify (driver)", ["drive"]),
    ],
)
def test_a_step_is_chosen_by_its_name(
    cluster: Cluster, step: str, texts: list[str], capsys: pytest.CaptureFixture[str]
):
    cluster.add("textify-driver", "drive\n")
    cluster.add("textify.executor(0)", "one\n")
    for turn in range(2):
        cluster.add(f"for-loop-1.iteration-iterations({turn}:{turn}).iteration-item.ingest.executor", f"turn {turn}\n")
    assert main(["logs", cluster.run_id, step]) == 0
    assert [line for line in capsys.readouterr().out.splitlines() if not line.startswith("==>")] == texts


def test_a_name_that_the_table_cannot_tell_apart():
    pods = [logs.Pod(f"pod-{n}", f"Stage {n}", "finetune", False, "Succeeded", "") for n in (1, 2)]
    assert logs.chosen(pods, "finetune") == pods and logs.chosen(pods, "finetune [2]") == pods[1:]
    assert logs.chosen(pods, "Stage 1") == pods[:1]


def test_a_step_that_is_not_there(cluster: Cluster, capsys: pytest.CaptureFixture[str]):
    cluster.add("textify.executor", "one\n")
    assert main(["logs", cluster.run_id, "nothing"]) == 2
    assert "no pod of a step 'nothing' is left in this run; there are: Textify" in capsys.readouterr().err


def test_pods_that_are_gone(cluster: Cluster, capsys: pytest.CaptureFixture[str]):
    assert main(["logs", cluster.run_id, "Textify"]) == 1
    said = capsys.readouterr().err
    assert f"no pod of run {cluster.run_id} is left in namespace shop" in said and "/#/runs/details/" in said


def test_a_pod_that_cannot_start_says_why(cluster: Cluster, capsys: pytest.CaptureFixture[str]):
    cluster.add("textify.executor", phase="Pending", waiting="ImagePullBackOff")
    assert main(["logs", cluster.run_id]) == 0
    assert "it has not started: ImagePullBackOff: no such image" in capsys.readouterr().out


def test_logs_are_followed_to_the_end_of_the_run(api: KfpApi, cluster: Cluster, capsys: pytest.CaptureFixture[str]):
    """Nothing is there at first; then a pod that writes; then another one."""
    api.hold(cluster.run_id, ("RUNNING", []))
    cluster.finish.clear()

    def go_on() -> None:
        time.sleep(0.1)
        cluster.add("textify.executor", "one\n", phase="Running")
        cluster.read.acquire()
        cluster.add("evaluate.executor", "two\n")
        cluster.finish.set()
        cluster.read.acquire()
        api.hold(cluster.run_id, ("SUCCEEDED", []))

    threading.Thread(target=go_on, daemon=True).start()
    assert main(["logs", cluster.run_id, "--follow"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("one\n") == shown.count("two\n") == 1
    assert shown.index("one\nand the end\n") < shown.index("two\n")


def test_a_failed_run_ends_with_the_last_lines_of_the_pod(
    api: KfpApi, cluster: Cluster, capsys: pytest.CaptureFixture[str]
):
    cluster.add("textify.executor", "".join(f"line {n}\n" for n in range(30)) + "ValueError: no rows\n", phase="Failed")
    api.hold(cluster.run_id, ("FAILED", [Task("textify", "FAILED")]))
    assert main(["status", cluster.run_id]) == 0
    shown = capsys.readouterr().out
    assert "  Textify, the last lines of its log:\n    line 21\n" in shown and "    ValueError: no rows\n" in shown


def test_an_api_that_starts_anew_is_waited_for(api: KfpApi, cluster: Cluster, capsys: pytest.CaptureFixture[str]):
    """It has listed pods before; for seconds it knows neither tokens nor roles."""
    cluster.add("textify.executor", "one\n")
    api.hold(cluster.run_id, ("SUCCEEDED", [Task("textify", "SUCCEEDED")]))
    pods = logs.Pods(cluster.run_id, {}, "shop")
    (pod,) = pods.list()
    cluster.starting = [401, 403, 500, 503]
    pods.print(pod, sys.stdout)
    assert capsys.readouterr().out == "one\n" and not cluster.starting
    cluster.starting = [403] * 20
    with pytest.raises(RuntimeError, match="403 .*needs get and list on pods"):
        pods.list()
    assert len(cluster.starting) == 20 - 7


def test_missing_rights_and_no_cluster(
    cluster: Cluster, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    cluster.refusal = 403
    assert main(["logs", cluster.run_id]) == 1
    assert "needs get and list on pods and pods/log" in capsys.readouterr().err
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    assert main(["logs", cluster.run_id]) == 2
    assert "no cluster is known" in capsys.readouterr().err
    assert main(["logs", "nothing"]) == 2
    assert "there is no run 'nothing'" in capsys.readouterr().err
