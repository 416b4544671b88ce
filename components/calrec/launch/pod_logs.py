"""What the pods of a TrainJob write, line by line in the output of the step that waits for them.

Nothing that goes wrong here ends the training: what could not be read is said, and left in the cluster.
"""

import datetime
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from calrec.launch.kubernetes import is_refusal, message_of

LOOK_S = 5.0  # between two looks at which pods there are
RETRY_S = 2.0  # until a stream that ended is opened again
DRAIN_S = 60.0  # for the rest of the output when the job has ended; its pods may take 30 s to stop
REFUSALS = 30  # in a row, one each RETRY_S or LOOK_S, until what was allowed before is taken for forbidden
SILENT_S = 120.0  # a connection without a byte for so long is taken for a dead one
_CLOCKS_S = 300  # by which the clocks of step and machines may differ
_LONGEST = 65536  # bytes of a line that are held and shown
_JOB, _PART, _NODE = (
    "jobset.sigs.k8s.io/jobset-name",
    "jobset.sigs.k8s.io/replicatedjob-name",
    "batch.kubernetes.io/job-completion-index",
)


def selector(job: str) -> str:
    """Label selector of the job's pods."""
    return f"{_JOB}={job}"


class PodLogs:
    """Shows the output of all pods of a job while the context is open, each line after the name of its node.

    A thread looks which pods there are, also those that take the place of others; each pod has a thread that reads.

    Args:
        core: CoreV1Api of the kubernetes client.
        namespace: of the job.
        job: its name.
    """

    def __init__(self, core: Any, namespace: str, job: str):
        self._core, self._namespace, self._job = core, namespace, job
        self._ended, self._lock = threading.Event(), threading.Lock()
        self._closed = self._whole = False
        self._over: set[str] = set()  # pods whose containers have ended
        self._readers: dict[str, threading.Thread] = {}
        self._read_whole: set[str] = set()
        self._told: dict[str, str] = {}
        self._refusals: Counter[str] = Counter()  # in a row, by pod, or "" for the list
        self._allowed = False  # the API did answer once
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "PodLogs":
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        # A thread that writes while the interpreter ends would abort it, and with it the exit code.
        with self._lock:
            self._closed = True

    def drain(self) -> bool:
        """Once the job has ended: show the rest, and say whether all that its pods wrote was shown."""
        self._ended.set()
        self._watcher.join(DRAIN_S)
        return self._whole

    def _watch(self) -> None:
        while not self._ended.is_set() and not self._closed:
            self._look()
            self._ended.wait(LOOK_S)
        while not self._look() and not self._closed:  # for the pods of the last moment
            time.sleep(RETRY_S)
        for reader in self._readers.values():
            reader.join()
        self._whole = bool(self._readers) and self._readers.keys() == self._read_whole

    def _look(self) -> bool:
        """Begin to read the pods that have started since; False when the API did not answer."""
        import urllib3
        from kubernetes.client import ApiException

        try:
            pods = self._core.list_namespaced_pod(
                self._namespace, label_selector=selector(self._job), _request_timeout=30
            ).items
        except ApiException as error:
            return self._refused(error, "")
        except urllib3.exceptions.HTTPError:
            return False
        self._allowed, self._refusals[""] = True, 0
        there = {pod.metadata.name for pod in pods}
        self._over = {pod.metadata.name for pod in pods if pod.status.phase in ("Succeeded", "Failed")}
        self._over |= self._readers.keys() - there
        for pod in pods:
            name, node = pod.metadata.name, _node(pod)
            self._tell(name, f"{node}: {_trouble(pod)}" if _trouble(pod) else "")
            if pod.status.phase not in ("Pending", "Unknown") and name not in self._readers:
                self._show(f"{node}: output of pod {name}")
                reader = threading.Thread(target=self._read, args=(name, _container(pod), node), daemon=True)
                self._readers[name] = reader
                reader.start()
        return True

    def _read(self, pod: str, container: str, node: str) -> None:
        """Show a pod's output until its end, whatever happens to the connection."""
        import urllib3
        from kubernetes.client import ApiException

        shown, whole = _Shown(), False
        while not self._closed:
            last = pod in self._over or self._ended.is_set()  # nothing is written after what is read now
            try:
                for line in _lines(self._stream(pod, container, shown)):
                    if (text := shown.new(line)) is not None:
                        self._show(f"{node} | {text}")
                whole = True
            except ApiException as error:
                if self._refused(error, pod):
                    return
                if error.status == 404:  # deleted
                    break
                whole = error.status == 400 and last  # 400: no container has started
            except urllib3.exceptions.HTTPError:
                whole = False
            if last and whole:
                break
            time.sleep(RETRY_S)
        if whole:
            self._read_whole.add(pod)

    def _stream(self, pod: str, container: str, shown: "_Shown") -> Iterator[bytes]:
        response = self._core.read_namespaced_pod_log(
            pod, self._namespace, container=container, follow=True, timestamps=True, _preload_content=False,
            _request_timeout=(10, SILENT_S), **shown.reopen(),
        )  # fmt: skip
        self._refusals[pod] = 0
        try:
            yield from response.stream()
        finally:
            response.close()

    def _refused(self, error: Any, about: str) -> bool:
        """Whether the cluster does not let this step read the output, and not only for a moment; said once."""
        if not is_refusal(error):
            return False
        self._refusals[about] += 1
        if self._allowed and self._refusals[about] < REFUSALS:
            return False
        text = (
            f"TrainJob {self._job}: the output of its pods is not shown here, the training goes on: "
            f"{message_of(error)}; give this step's service account the Role of manifests/components/trainjob"
        )
        if self._told.setdefault("refused", text) is text:
            self._show(text)
        return True

    def _tell(self, about: str, text: str) -> None:
        if text and self._told.get(about) != text:
            self._show(text)
        self._told[about] = text

    def _show(self, text: str) -> None:
        with self._lock:
            if not self._closed:
                sys.stdout.write(f"{text}\n")  # one write: lines of several threads do not mix
                sys.stdout.flush()


class _Shown:
    """Up to where a pod's output was shown: the time of the last line, and how many lines bear that time."""

    def __init__(self) -> None:
        self._last: datetime.datetime | None = None
        self._count = self._again = 0
        self._passed = False

    def reopen(self) -> dict[str, int]:
        """Expect the output anew; what to ask for so that it begins before the last line."""
        self._again, self._passed = self._count, self._last is None
        if self._last is None:
            return {}
        return {"since_seconds": max(1, int(time.time() - self._last.timestamp()) + _CLOCKS_S)}

    def new(self, line: str) -> str | None:
        """The text of a line that begins with its time; None when it was shown before."""
        stamp, _, text = line.partition(" ")
        moment = _moment(stamp)
        if moment is None:  # the API's own words
            return line
        if not self._passed and self._last is not None:
            if moment < self._last or (moment == self._last and self._again > 0):
                self._again -= moment == self._last
                return None
            self._passed = True
        self._count = self._count + 1 if moment == self._last else 1
        self._last = moment
        return text


def _moment(stamp: str) -> datetime.datetime | None:
    try:
        moment = datetime.datetime.fromisoformat(stamp)
    except ValueError:
        return None
    return moment if moment.tzinfo else None


def _lines(chunks: Iterable[bytes]) -> Iterator[str]:
    """Lines of a stream, too long ones cut; one that was broken off does not come."""
    part = b""
    for chunk in chunks:
        *lines, part = (part + chunk).split(b"\n")
        for line in lines:
            yield line[:_LONGEST].decode(errors="replace")
        part = part[:_LONGEST]
    if part:
        yield part.decode(errors="replace")


def _node(pod: Any) -> str:
    """The pod's place in the job, which a pod that replaces it has, too: node-0."""
    labels = pod.metadata.labels or {}
    return f"{labels.get(_PART, 'node')}-{labels.get(_NODE, 0)}"


def _container(pod: Any) -> str:
    """The one that trains, named as its part of the job, or else the first: a mesh may have put others beside it."""
    names = [container.name for container in pod.spec.containers]
    part = (pod.metadata.labels or {}).get(_PART)
    return str(part if part in names else names[0])


def _trouble(pod: Any) -> str:
    """Why a pod does not run: no machine for it, no image, evicted, out of memory; empty when it runs or did well."""
    status = pod.status
    if status.reason:
        return _words(status)
    for state in (container.state for container in status.container_statuses or [] if container.state):
        if state.waiting and state.waiting.reason not in ("ContainerCreating", "PodInitializing"):
            return _words(state.waiting)
        if state.terminated and state.terminated.exit_code:
            return f"{state.terminated.reason or 'Error'}, exit code {state.terminated.exit_code}"
    for condition in status.conditions or []:
        if condition.type == "PodScheduled" and condition.status == "False":
            return _words(condition)
    return ""


def _words(state: Any) -> str:
    return ": ".join(text for text in (state.reason, state.message) if text)
