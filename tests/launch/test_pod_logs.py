"""What a TrainJob's pods write reaches the step once, whole and in order, whatever happens on the way."""

import datetime
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from calrec.launch import pod_logs
from calrec.launch.kubernetes import Cluster
from calrec.launch.pod_logs import PodLogs
from tests.launch.trainer_api import TRAINJOBS, Api, Fault, Pod, connected

MOMENT = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    with connected(tmp_path, monkeypatch) as server:
        yield server


def following(job: str = "one") -> PodLogs:
    cluster = Cluster()
    return PodLogs(cluster.core, cluster.namespace, job)


class Screen:
    """What has been printed so far, while threads go on printing."""

    def __init__(self, capsys: Capture):
        self._capsys, self._text = capsys, ""

    @property
    def lines(self) -> list[str]:
        self._text += self._capsys.readouterr().out
        return self._text.splitlines()

    def of(self, node: str) -> list[str]:
        return [line.removeprefix(f"{node} | ") for line in self.lines if line.startswith(f"{node} | ")]

    def until(self, done: Callable[[], bool]) -> None:
        for _ in range(3000):
            if done():
                return
            time.sleep(0.01)
        raise AssertionError(f"not printed in 30 s; there is {self.lines}")


@pytest.fixture
def screen(capsys: Capture) -> Screen:
    return Screen(capsys)


def test_each_nodes_lines_come_while_the_job_runs(api: Api, screen: Screen):
    pods = [api.pod("one", index).start() for index in range(2)]
    other = api.pod("two").start()
    with following() as output:
        for number in range(3):
            for pod in (*pods, other):
                pod.write(f"step {number}, loss 0.5")
            screen.until(lambda number=number: all(len(screen.of(f"node-{i}")) > number for i in range(2)))
        for pod in pods:
            pod.end()
        assert output.drain()
    expected = [f"step {number}, loss 0.5" for number in range(3)]
    assert screen.of("node-0") == screen.of("node-1") == expected
    assert f"node-1: output of pod {pods[1].name}" in screen.lines and len(screen.lines) == 8
    assert all(query["container"] == "node" and query["follow"] == "True" for query in api.logs)


@pytest.mark.parametrize("seed", range(6))
def test_a_stream_that_breaks_anywhere_repeats_and_loses_nothing(api: Api, screen: Screen, seed: int):
    """Also where lines share their time, are empty, look alike or are not UTF-8's own."""
    rng = random.Random(seed)
    pod = api.pod("one").start()
    now = datetime.datetime.now(datetime.UTC)
    texts = [rng.choice(["", "same", "naïve | 2026-01-01T00:00:00Z x", f"line {n} " + "x" * n]) for n in range(60)]
    pod.cuts = [rng.randint(0, 1500) for _ in range(12)]
    with following() as output:
        for number, text in enumerate(texts):
            pod.write(text, now + datetime.timedelta(seconds=number // 5))  # five lines a second, to the nanosecond
            if rng.random() < 0.1:
                time.sleep(0.05)
        pod.end()
        assert output.drain()
    assert screen.of("node-0") == texts
    assert not pod.cuts and all("sinceSeconds" in query for query in api.logs[-3:])


def test_a_silent_connection_is_opened_again(api: Api, screen: Screen, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pod_logs, "SILENT_S", 0.2)
    pod = api.pod("one").start()
    with following() as output:
        pod.write("first")
        screen.until(lambda: len(api.logs) > 3)
        pod.write("second")
        pod.end()
        assert output.drain()
    assert screen.of("node-0") == ["first", "second"]


def test_pods_that_wait_say_why_once(api: Api, screen: Screen):
    pod = api.pod("one")
    lacking = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no nvidia.com/gpu"}
    pod.status = {"conditions": [lacking]}
    with following() as output:
        screen.until(lambda: bool(screen.lines))
        waiting = {"reason": "ImagePullBackOff", "message": "no such image"}
        pod.status = {"container_statuses": [state("node", waiting=waiting)]}
        screen.until(lambda: len(screen.lines) == 2)
        pod.status = {"container_statuses": [state("node", waiting={"reason": "ContainerCreating"})]}
        time.sleep(0.3)
        pod.status = {}
        pod.start().write("begins")
        screen.until(lambda: screen.of("node-0") == ["begins"])
        pod.status = {"container_statuses": [state("node", terminated={"reason": "OOMKilled", "exit_code": 137})]}
        pod.end(137)
        assert output.drain()
    assert [line for line in screen.lines if " | " not in line] == [
        "node-0: Unschedulable: no nvidia.com/gpu",
        "node-0: ImagePullBackOff: no such image",
        f"node-0: output of pod {pod.name}",
        "node-0: OOMKilled, exit code 137",
    ]


def state(name: str, **states: object) -> dict[str, object]:
    given = {"name": name, "ready": False, "restartCount": 0, "image": "calrec", "imageID": ""}
    camel = {"exit_code": "exitCode"}
    return given | {"state": {kind: {camel.get(k, k): v for k, v in of.items()} for kind, of in states.items()}}


def test_a_pod_in_the_place_of_another_is_read_too(api: Api, screen: Screen):
    first = api.pod("one").start()
    with following() as output:
        first.write("first attempt")
        screen.until(lambda: screen.of("node-0") == ["first attempt"])
        first.write("Traceback")
        first.end(1)
        screen.until(lambda: len(screen.of("node-0")) == 2)
        second = api.pod("one").start()
        second.write("second attempt")
        screen.until(lambda: len(screen.of("node-0")) == 3)
        second.end()
        assert output.drain()
    assert screen.of("node-0") == ["first attempt", "Traceback", "second attempt"]
    assert [line for line in screen.lines if "output of pod" in line] == [
        f"node-0: output of pod {pod.name}" for pod in (first, second)
    ]


def test_the_rest_is_read_when_the_job_has_ended(api: Api, screen: Screen):
    """Of a pod that was not even seen before, and of one whose last stream is broken."""
    pods = [api.pod("one", index).start() for index in range(2)]
    pods[0].cuts = [40]
    for number in range(200):
        for pod in pods:
            pod.write(f"line {number}")
    for pod in pods:
        pod.end(1)
    api.faults = [Fault("list", 500), Fault("list", "drop"), Fault("log", 503), Fault("log", "drop")]
    with following() as output:
        assert output.drain()
    expected = [f"line {number}" for number in range(200)]
    assert screen.of("node-0") == screen.of("node-1") == expected


def test_a_pod_that_does_not_end_is_not_waited_for_for_ever(api: Api, screen: Screen, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pod_logs, "DRAIN_S", 0.5)
    pod = api.pod("one").start()
    with following() as output:
        pod.write("first")
        screen.until(lambda: screen.of("node-0") == ["first"])
        assert not output.drain()
    pod.write("too late")
    pod.end()
    time.sleep(0.3)
    assert screen.of("node-0") == ["first"]


def test_what_was_deleted_before_it_was_read_is_missing(api: Api, screen: Screen):
    pod = api.pod("one").start()
    pod.write("never seen")
    pod.cuts = [10] * 1000
    with following() as output:
        screen.until(lambda: len(pod.cuts) < 998)
        del api.pods[pod.name]
        assert not output.drain()


def test_a_job_without_pods_has_shown_nothing(api: Api):
    with following() as output:
        assert not output.drain()


@pytest.mark.parametrize("right", [("list", "pods"), ("get", "pods/log")])
def test_output_that_may_not_be_read_is_said_once(api: Api, screen: Screen, right: tuple[str, str]):
    api.allowed.remove(right)
    pods = [api.pod("one", index).start() for index in range(2)]
    with following() as output:
        screen.until(lambda: any("not shown" in line for line in screen.lines))
        time.sleep(0.3)
        for pod in pods:
            pod.end()
        assert not output.drain()
    (line,) = [line for line in screen.lines if "output of pod " not in line]
    assert line.startswith("TrainJob one: the output of its pods is not shown here, the training goes on: ")
    assert f'cannot {right[0]} resource "{right[1]}"' in line and "manifests/components/trainjob" in line
    assert (right[0], TRAINJOBS) not in api.used


@pytest.mark.parametrize("answers", [[401] * 4, [403] * 4, [401, 403] * 2])
def test_a_server_that_starts_anew_loses_no_line(api: Api, screen: Screen, answers: list[int]):
    """It refuses list and logs for seconds; what was written meanwhile is shown afterwards."""
    pod = api.pod("one").start()
    with following() as output:
        pod.write("before")
        screen.until(lambda: screen.of("node-0") == ["before"])
        pod.cuts = [0]
        api.starting = list(answers)
        api.pods[pod.name].write("after")
        screen.until(lambda: not api.starting and len(screen.of("node-0")) == 2)
        pod.end()
        assert output.drain()
    assert screen.of("node-0") == ["before", "after"]
    assert not any("not shown" in line for line in screen.lines)


def test_a_mesh_beside_the_training_is_not_read(api: Api, screen: Screen):
    pod = api.pod("one")
    pod.containers = ("istio-proxy", "node")
    pod.start().write("step 1")
    pod.end()
    with following() as output:
        assert output.drain()
    assert {query["container"] for query in api.logs} == {"node"}


def test_a_line_without_end_is_cut_and_not_held(api: Api, screen: Screen):
    pod = api.pod("one").start()
    pod.cuts = [100, 150_000]
    pod.write("x" * 300_000)
    pod.write("after")
    pod.end()
    with following() as output:
        assert output.drain()
    long, last = screen.of("node-0")
    assert len(long) < 65536 and set(long) == {"x"} and last == "after"
    held: list[int] = []
    chunks = (held.append(1) or b"x" * 10_000 for _ in range(1000))
    assert [len(line) for line in pod_logs._lines(chunks)] == [65536] and len(held) == 1000


def test_threads_that_print_at_once_do_not_mix_their_lines(api: Api, screen: Screen):
    pods = [api.pod("one", index).start() for index in range(4)]
    for index, pod in enumerate(pods):
        for _ in range(500):
            pod.write(str(index) * 100)
        pod.end()
    with following() as output:
        assert output.drain()
    assert all(screen.of(f"node-{index}") == [str(index) * 100] * 500 for index in range(4))


def test_a_clock_that_is_set_back_loses_no_line():
    shown = pod_logs._Shown()
    shown.reopen()
    stamps = [0, 1, 2, 1, 1, 3]
    moments = [(MOMENT + datetime.timedelta(seconds=seconds)).isoformat() for seconds in stamps]
    assert [shown.new(f"{moment} {n}") for n, moment in enumerate(moments)] == list("012345")
    assert list(shown.reopen()) == ["since_seconds"]
    assert [shown.new(f"{moment} {n}") for n, moment in enumerate(moments)] == [None] * 6
    assert shown.new(f"{moments[-1]} new") == "new"


def test_pods_of_the_stub_are_what_the_client_expects(api: Api):
    pod = Pod("one-node-0-0-abcde", "one", 0)
    assert pod.resource()["metadata"]["labels"]["jobset.sigs.k8s.io/jobset-name"] == "one"
    api.pods[pod.name] = pod
    cluster = Cluster()
    (read,) = cluster.core.list_namespaced_pod("shop", label_selector=pod_logs.selector("one")).items
    assert (read.metadata.name, read.status.phase) == (pod.name, "Pending")
