"""A pod of a TrainJob, and what its container has written."""

import datetime
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from kubernetes import client

from tests.launch.trainer_api.contract import NAMESPACE


@dataclass
class Pod:
    """One pod of a job, and what its container has written."""

    name: str
    job: str
    index: int
    containers: tuple[str, ...] = ("node",)
    phase: str = "Pending"
    status: dict[str, Any] = field(default_factory=dict)
    """More of its status, in the client's words."""
    lines: list[tuple[datetime.datetime, bytes]] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)
    """Bytes after which the next streams break."""
    process: "subprocess.Popen[bytes] | None" = None
    changed: threading.Condition = field(default_factory=threading.Condition)

    def start(self) -> "Pod":
        self.phase = "Running"
        return self

    def write(self, text: str, moment: datetime.datetime | None = None) -> None:
        with self.changed:
            self.lines.append((moment or datetime.datetime.now(datetime.UTC), text.encode()))
            self.changed.notify_all()

    def end(self, code: int = 0) -> None:
        with self.changed:
            self.phase = "Failed" if code else "Succeeded"
            self.changed.notify_all()

    @property
    def over(self) -> bool:
        return self.phase in ("Succeeded", "Failed")

    def resource(self) -> Any:
        labels = {
            "jobset.sigs.k8s.io/jobset-name": self.job,
            "jobset.sigs.k8s.io/replicatedjob-name": "node",
            "batch.kubernetes.io/job-completion-index": str(self.index),
        }
        containers = [client.V1Container(name=name, image="calrec") for name in self.containers]
        pod = client.V1Pod(
            metadata=client.V1ObjectMeta(name=self.name, namespace=NAMESPACE, labels=labels),
            spec=client.V1PodSpec(containers=containers),
            status=client.V1PodStatus(phase=self.phase, **self.status),
        )
        return client.ApiClient().sanitize_for_serialization(pod)

    def log(self, query: dict[str, str]) -> Iterator[bytes]:
        """The lines since `sinceSeconds`, with `follow` until the container ends."""
        since = datetime.datetime.min.replace(tzinfo=datetime.UTC)
        if "sinceSeconds" in query:
            since = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=int(query["sinceSeconds"]))
        for number in count():
            with self.changed:
                while number >= len(self.lines) and not self.over and _true(query, "follow"):
                    self.changed.wait(1)
                if number >= len(self.lines):
                    return
            moment, text = self.lines[number]
            if moment >= since:
                stamp = f"{moment:%Y-%m-%dT%H:%M:%S.%f}{number % 1000:03d}Z ".encode()
                yield (stamp if _true(query, "timestamps") else b"") + text + b"\n"


def _true(query: dict[str, str], name: str) -> bool:
    return query.get(name, "false") in ("1", "t", "T", "true", "True", "TRUE")  # what Go's ParseBool takes


def pipe(pod: Pod) -> None:
    """A process's output into its pod's log, until it ends."""
    assert pod.process and pod.process.stdout
    for line in pod.process.stdout:
        pod.write(line.decode(errors="replace").rstrip("\n"))
    pod.end(pod.process.wait())
