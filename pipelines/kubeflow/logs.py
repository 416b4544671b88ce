"""What the pods of a run have written, through the API of Kubernetes."""

import contextlib
import io
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from pipelines.kubeflow.connection import POD_NAMESPACE
from pipelines.kubeflow.steps import Specification, number_turns, title

POLL_S = 5.0
PAUSES_S = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0)  # between two requests to an API that answered before
TIMEOUT_S = 15
_NODE = "workflows.argoproj.io/node-name"
_RUN = "pipeline/runid"


@dataclass(frozen=True)
class Pod:
    """A pod of a step; `key` is the task's name in the specification, `driver` one that only prepares the step."""

    name: str
    step: str
    key: str
    driver: bool
    phase: str
    waiting: str


class Pods:
    """The pods of one run."""

    def __init__(self, run_id: str, specification: Specification, namespace: str = ""):
        from kubernetes import client

        self._run_id, self._specification, self._answered = run_id, specification, False
        here = _load_cluster()
        self.namespace = namespace or here or "kubeflow"
        configuration = client.Configuration.get_default_copy()
        configuration.retries = False  # a cluster that is not there is said after one time limit, not after four
        self._core = client.CoreV1Api(client.ApiClient(configuration))

    def list(self) -> list[Pod]:
        """Those that are left, the oldest first."""
        label = f"{_RUN}={self._run_id}"
        answer = self._ask(
            lambda: self._core.list_namespaced_pod(self.namespace, label_selector=label, _request_timeout=TIMEOUT_S),
            "list pods",
        )
        pods = sorted(answer.items, key=lambda pod: (pod.metadata.creation_timestamp, pod.metadata.name))
        paths = [_path(pod) for pod in pods]
        names = number_turns([title(self._specification, path) for path in paths])
        return [
            Pod(pod.metadata.name, name, path[-1].removesuffix("-driver"), path[-1].endswith("-driver"),
                pod.status.phase or "", _waiting(pod))
            for pod, name, path in zip(pods, names, paths, strict=True)
        ]  # fmt: skip

    def print(self, pod: Pod, stream: TextIO, follow: bool = False, tail: int | None = None) -> None:
        """Write a pod's log, or its last lines, to a stream; with `follow` until the pod ends."""
        answer = self._ask(
            lambda: self._core.read_namespaced_pod_log(
                pod.name,
                self.namespace,
                container="main",
                follow=follow,
                _preload_content=False,
                **({} if tail is None else {"tail_lines": tail}),
                _request_timeout=(TIMEOUT_S, None if follow else TIMEOUT_S),
            ),
            f"read the log of pod {pod.name}",
        )
        from urllib3.exceptions import HTTPError

        try:
            for part in answer.stream(2**16):
                stream.write(part.decode(errors="replace"))
                stream.flush()
        except HTTPError as error:
            raise RuntimeError(f"the log of pod {pod.name} broke off ({error}); run the same command again") from None
        finally:
            answer.release_conn()

    def _ask(self, call: Callable[[], Any], what: str) -> Any:
        """The answer; silence and refusals of an API that has answered before are borne for a while: it starts anew."""
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        pauses = list(PAUSES_S) if self._answered else []
        while True:
            try:
                answer = call()
            except HTTPError as error:
                said = f"cannot {what}: no answer from Kubernetes: {error}; check KUBECONFIG"
            except ApiException as error:
                said = f"cannot {what} in namespace {self.namespace}: {error.status} {error.reason}"
                if error.status in (401, 403):
                    said += "; your account needs get and list on pods and pods/log there, or give another --namespace"
                elif error.status < 500:
                    raise RuntimeError(said) from None
            else:
                self._answered = True
                return answer
            if not pauses:
                raise RuntimeError(said)
            time.sleep(pauses.pop(0))


def chosen(pods: Sequence[Pod], step: str) -> list[Pod]:
    """The pods of a step by its name in the table or the specification; without a name all that ran a step.

    Raises:
        ValueError: no such step, with those that there are.
    """
    if not step:
        return [pod for pod in pods if not pod.driver or pod.phase == "Failed"]
    wanted = step.lower()
    found = [pod for pod in pods if wanted in (pod.step.lower(), pod.step.rpartition(" [")[0].lower())]
    if not found:  # by the task's name, also numbered: where names are not told apart the table shows it so
        name, _, turn = wanted.removesuffix("]").partition(" [")
        found = [pod for pod in pods if name == pod.key.lower() and not pod.driver]
        found = found[int(turn) - 1 : int(turn)] if turn.isdigit() else found
    if not found:
        there = ", ".join(sorted({pod.step for pod in pods if not pod.driver}))
        raise ValueError(f"no pod of a step {step!r} is left in this run; there are: {there or 'none'}")
    return found


def logs(
    pods: Pods, step: str, stream: TextIO, running: Callable[[], bool], follow: bool = False,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:  # fmt: skip
    """Write the logs of a run or of one of its steps; says whether there was one.

    Args:
        pods: those of the run.
        step: its name; empty for all.
        stream: where to.
        running: whether the run still goes on, so that more pods may come.
        follow: wait for pods, and for what they will write.
        sleep: waits between two looks.
    """
    done: set[str] = set()
    while True:
        goes_on = follow and running()
        there = pods.list()
        with contextlib.nullcontext() if not goes_on else contextlib.suppress(ValueError):  # the step may yet come
            for pod in chosen(there, step) if there else []:
                if pod.name in done or (goes_on and pod.phase == "Pending"):
                    continue
                done.add(pod.name)
                _one(pods, pod, stream, follow)
        if not goes_on:
            return bool(there)
        sleep(POLL_S)


def last_words(run_id: str, specification: Specification, namespace: str, lines: int = 10) -> list[str]:
    """The last lines of the pods that failed, where Kubernetes can be reached: the pipeline API does not say why."""
    found: list[str] = []
    with contextlib.suppress(ValueError, RuntimeError):
        pods = Pods(run_id, specification, namespace)
        for pod in pods.list():
            if pod.phase == "Failed":
                stream = io.StringIO()
                pods.print(pod, stream, tail=lines)
                found += [f"{pod.step}, the last lines of its log:"]
                found += [f"  {line}" for line in stream.getvalue().splitlines()]
    return found


def _one(pods: Pods, pod: Pod, stream: TextIO, follow: bool) -> None:
    print(f"==> {pod.step} ({pod.name}, {pod.phase.lower()}) <==", file=stream, flush=True)
    if pod.phase == "Pending":
        print(f"it has not started{f': {pod.waiting}' if pod.waiting else ''}", file=stream, flush=True)
    else:
        pods.print(pod, stream, follow)


def _path(pod: Any) -> list[str]:
    """The names of the tasks around a pod; the last one is the step's own."""
    node = (pod.metadata.annotations or {}).get(_NODE, pod.metadata.name)
    path = [part for part in node.split(".") if not part.startswith("executor")]
    return path or [pod.metadata.name]


def _waiting(pod: Any) -> str:
    """Why a pod has not started: an image that cannot be pulled, a volume, no room."""
    for status in pod.status.container_statuses or []:
        if status.state and status.state.waiting and status.state.waiting.reason:
            return f"{status.state.waiting.reason}: {status.state.waiting.message or ''}".rstrip(": ")
    return next((one.message for one in pod.status.conditions or [] if one.status == "False" and one.message), "")


def _load_cluster() -> str:
    """Find the cluster; gives the namespace of the pod or of the kubeconfig's context, empty when it has none."""
    from kubernetes import config

    with contextlib.suppress(config.ConfigException):
        config.load_incluster_config()
        return POD_NAMESPACE.read_text().strip()
    file = os.environ.get("KUBECONFIG")
    try:
        config.load_kube_config(file)
        context = config.list_kube_config_contexts(file)[1]
    except config.ConfigException as error:
        raise ValueError(
            f"the logs are read from Kubernetes, and no cluster is known ({error}); set KUBECONFIG"
        ) from None
    return str(context["context"].get("namespace", ""))
