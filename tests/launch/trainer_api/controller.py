"""What Trainer, JobSet and the API do with TrainJobs: a state machine, and real processes where they are asked for."""

import datetime
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import uuid
from pathlib import Path
from typing import Any

from tests.launch.trainer_api.contract import NAMESPACE, POLICIES, RFC3339, ROLE, Fault, RefusedError, misfit
from tests.launch.trainer_api.pods import Pod, pipe


class Controller:
    """The cluster.

    `ends` is what becomes of a new job: "" it waits for its test, "run" its command is run here, Complete or Failed
    with `message`, after a pod wrote `output` if that is not empty.
    """

    def __init__(self) -> None:
        self.jobs: dict[str, dict[str, Any]] = {}
        self.pods: dict[str, Pod] = {}
        self.allowed, self.installed = set(ROLE), True
        self.runtimes = {"ClusterTrainingRuntime/torch-distributed", "TrainingRuntime/ours"}
        self.ends, self.message = "", ""
        self.output: list[str] = []
        self.faults: list[Fault] = []
        self.starting: list[int] = []  # what a server that has just started answers to the next requests: 401, 403, 404
        self.slow_s = 1.0
        self.requests: list[str] = []  # about TrainJobs
        self.logs: list[dict[str, str]] = []  # what was asked of the logs
        self.used: set[tuple[str, str]] = set()
        self.orphans: list[str] = []

    # --- what the controllers do --------------------------------------------------------------------------------

    def pod(self, job: str, index: int = 0) -> Pod:
        """A new pod of a job, in the place of an older one of its index."""
        for old in [pod for pod in self.pods.values() if (pod.job, pod.index) == (job, index)]:
            del self.pods[old.name]
        name = f"{job}-node-0-{index}-{uuid.uuid4().hex[:5]}"
        self.pods[name] = Pod(name, job, index)
        return self.pods[name]

    def suspend(self, name: str, message: str) -> None:
        self._condition(name, "Suspended", True, message)

    def resume(self, name: str) -> None:
        self._condition(name, "Suspended", False, "")
        part = {"name": "node", "ready": 1, "active": 1, "succeeded": 0, "failed": 0, "suspended": 0}
        self.jobs[name]["status"]["jobsStatus"] = [part]

    def end(self, name: str, kind: str) -> None:
        """Complete or Failed."""
        for pod in self._pods_of(name):
            if not pod.over:
                pod.end(kind == "Failed")
        self._condition(name, kind, True, self.message)

    def _condition(self, name: str, kind: str, holds: bool, message: str) -> None:
        conditions = self.jobs[name].setdefault("status", {}).setdefault("conditions", [])
        conditions[:] = [condition for condition in conditions if condition["type"] != kind]
        conditions.append(
            {"type": kind, "status": str(holds), "reason": "Test", "message": message, "lastTransitionTime": _now()}
        )

    def _pods_of(self, name: str) -> list[Pod]:
        return [pod for pod in self.pods.values() if pod.job == name]

    def _run(self, name: str) -> None:
        """What Trainer and JobSet make of the job: a pod per node, each with torchrun's settings."""
        trainer = self.jobs[name]["spec"]["trainer"]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        for index in range(trainer["numNodes"]):
            pod = self.pod(name, index).start()
            torch = {
                "PET_NNODES": trainer["numNodes"], "PET_NODE_RANK": index, "PET_MASTER_ADDR": "127.0.0.1",
                "PET_MASTER_PORT": port, "PET_NPROC_PER_NODE": trainer.get("numProcPerNode", 1),
                "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
                "TMPDIR": tempfile.mkdtemp(prefix="node-"),  # each machine has its own
            }  # fmt: skip
            given = {one["name"]: one["value"] for one in trainer["env"] if "value" in one}
            environment = {**os.environ, **given, **{key: str(value) for key, value in torch.items()}}
            pod.process = subprocess.Popen(
                trainer["command"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
        pods = self._pods_of(name)
        threads = [threading.Thread(target=pipe, args=(pod,), daemon=True) for pod in pods]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if name in self.jobs:
            self.end(name, "Failed" if any(pod.phase == "Failed" for pod in pods) else "Complete")

    # --- what the API answers -----------------------------------------------------------------------------------

    def create(self, body: dict[str, Any]) -> dict[str, Any]:
        if error := misfit(body):
            raise RefusedError(422, f"TrainJob is invalid: {error}")
        name, reference = body["metadata"]["name"], body["spec"]["runtimeRef"]
        if not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name) or len(f"{name}-node-0-9999-abcde") > 63:
            raise _denied(f"metadata.name: Invalid value: {name!r}")
        if f"{reference['kind']}/{reference['name']}" not in self.runtimes:
            kind = reference["kind"][0].lower() + reference["kind"][1:]
            raise _denied(
                f"spec.runtimeRef: Invalid value: {json.dumps(reference)}: {reference['kind']}.trainer.kubeflow.org "
                f'"{reference["name"]}" not found: specified {kind} must be created before the TrainJob is created'
            )
        if name in self.jobs:
            raise RefusedError(409, f'trainjobs.trainer.kubeflow.org "{name}" already exists')
        metadata = {**body["metadata"], "namespace": NAMESPACE, "uid": str(uuid.uuid4()), "creationTimestamp": _now()}
        self.jobs[name] = {**body, "metadata": metadata}
        answer = self._copy(name)
        if self.ends == "run":
            threading.Thread(target=self._run, args=(name,), daemon=True).start()
        elif self.ends:
            if self.output:
                pod = self.pod(name).start()
                for line in self.output:
                    pod.write(line)
            self.end(name, self.ends)
        return answer

    def get(self, name: str) -> dict[str, Any]:
        job = self._copy(name)
        # With its dependents deleted in the foreground it is there until they are gone: here, until the second look.
        if "deletionTimestamp" in job["metadata"] and all(pod.over for pod in self._pods_of(name)):
            self._remove(name)
        return job

    def _copy(self, name: str) -> dict[str, Any]:
        if name not in self.jobs:
            raise RefusedError(404, f'trainjobs.trainer.kubeflow.org "{name}" not found')
        assert not misfit(self.jobs[name]), f"the stub's own answer: {misfit(self.jobs[name])}"
        return dict(json.loads(json.dumps(self.jobs[name])))

    def delete(self, name: str, query: dict[str, str]) -> dict[str, Any]:
        policy = query.get("propagationPolicy", "Background")
        if policy not in POLICIES:
            raise RefusedError(422, f"propagationPolicy must be one of {', '.join(POLICIES)}; got {policy!r}")
        job = self._copy(name)
        for pod in self._pods_of(name):
            if pod.process and pod.process.poll() is None:
                pod.process.send_signal(signal.SIGTERM)
            elif not pod.over:
                pod.end(1)
        if policy == "Foreground":
            self.jobs[name]["metadata"] |= {"deletionTimestamp": _now(), "finalizers": ["foregroundDeletion"]}
        else:
            self.orphans += [pod.name for pod in self._pods_of(name) if not pod.over]
            self._remove(name)
        return job

    def _remove(self, name: str) -> None:
        for pod in self._pods_of(name):
            del self.pods[pod.name]
        del self.jobs[name]

    def list(self, query: dict[str, str]) -> dict[str, Any]:
        wanted = dict(part.split("=") for part in query.get("labelSelector", "").split(",") if part)
        pods = [pod.resource() for pod in self.pods.values()]
        items = [pod for pod in pods if wanted.items() <= pod["metadata"]["labels"].items()]
        return {"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}

    def log(self, name: str, query: dict[str, str]) -> Pod:
        pod = self.pods.get(name)
        if not pod:
            raise RefusedError(404, f'pods "{name}" not found')
        if "container" not in query and len(pod.containers) > 1:
            raise RefusedError(
                400, f"a container name must be specified for pod {name}, choose one of: {pod.containers}"
            )
        if query.get("container", pod.containers[0]) not in pod.containers:
            raise RefusedError(400, f"container {query['container']} is not valid for pod {name}")
        if pod.phase == "Pending":
            raise RefusedError(400, f'container "node" in pod "{name}" is waiting to start: ContainerCreating')
        return pod


def _denied(why: str) -> RefusedError:
    return RefusedError(403, f'admission webhook "validator.trainjob.trainer.kubeflow.org" denied the request: {why}')


def _now() -> str:
    return f"{datetime.datetime.now(datetime.UTC):{RFC3339}}"
