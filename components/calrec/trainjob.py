"""A training as a TrainJob of Kubeflow Trainer v2, made and watched through the API of Kubernetes.

The job is named after what it trains and after the pipeline's run: a second attempt finds the first one's job.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from calrec import artifacts
from calrec.config import IMAGE, LaunchConfig
from calrec.exchange import ERROR, INTERRUPTED, JOB, RESULT, STOPPED, Exchange

GROUP, VERSION, PLURAL = "trainer.kubeflow.org", "v1alpha1", "trainjobs"
FIRST_PAUSE_S, LONGEST_PAUSE_S = 2.0, 30.0  # between two looks at the job
_TRIES = 8  # of one request to a server that does not answer: four minutes and a half
_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_SECRET = "calrec"  # the Secret that the pipeline's pods read, too; a TrainJob must not show what is in it
_SECRETS = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")


def run(
    job: Mapping[str, Any],
    inputs: Mapping[str, Path],
    out: Path,
    launch: LaunchConfig,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Train on the machines of a TrainJob; inputs and model pass through the job's folder below `job["checkpoints"]`.

    Args:
        job: what its processes read; the names of `inputs` are their paths in it.
        inputs: folders of earlier steps by name.
        out: where the model is put.
        launch: machines, processes, runtime.
        sleep: waits between two looks at the job.

    Raises:
        ValueError: no place that all machines reach, or no Kubeflow Trainer in the cluster.
        PermissionError, ConnectionError: of the cluster.
        ChildProcessError: the job failed; it is left there for its logs.
        SystemExit: its processes were stopped, after a checkpoint.
    """
    if not job["checkpoints"]:
        raise ValueError(
            "launch.launcher = trainjob needs a place that all of its machines reach; give --checkpoints "
            "gs://BUCKET/FOLDER or a folder that is mounted in all pods (in the pipeline: CALREC_CHECKPOINTS)"
        )
    name = _name(job, inputs, launch)
    exchange = Exchange(f"{job['checkpoints'].rstrip('/')}/{name}")
    if not exchange.has(RESULT):
        exchange.remove(ERROR, STOPPED)
        for part, folder in inputs.items():
            exchange.upload(folder, part)
        exchange.write(JOB, json.dumps(job))
        print(f"{job['name']}: TrainJob {name} on {launch.nodes} machines", flush=True)
        _train(Cluster(sleep), resource(name, exchange.uri, job["name"], launch), exchange)
    exchange.download(RESULT, out)
    exchange.remove()


def _name(job: Mapping[str, Any], inputs: Mapping[str, Path], launch: LaunchConfig) -> str:
    digests = [artifacts.read_manifest(folder).digest for folder in inputs.values()]
    said = {**job, "run": os.environ.get("KFP_RUN_ID", "")}  # the MLflow run is another one in each attempt
    return f"calrec-{job['name']}-{artifacts.short_hash([said, digests, repr(launch), _image()])}"


def _image() -> str:
    return os.environ.get("CALREC_IMAGE", IMAGE)


def resource(name: str, uri: str, stage: str, launch: LaunchConfig) -> dict[str, Any]:
    """The TrainJob whose processes do the job of the shared folder `uri`."""
    kind, _, runtime = launch.runtime.rpartition("/")
    trainer: dict[str, Any] = {
        "image": _image(),
        "command": ["torchrun", "-m", "calrec.cli", "work", uri],  # the runtime tells torchrun the rest by PET_*
        "numNodes": launch.nodes,
        "env": _environment(),
    }
    if launch.processes:
        trainer["numProcPerNode"] = launch.processes
        trainer["resourcesPerNode"] = {"limits": {"nvidia.com/gpu": str(launch.processes)}}
    labels = {"app.kubernetes.io/name": "calrec", "app.kubernetes.io/component": stage}
    if os.environ.get("KFP_RUN_ID"):
        labels["pipeline/runid"] = os.environ["KFP_RUN_ID"]
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "TrainJob",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "runtimeRef": {"apiGroup": GROUP, "kind": kind or "ClusterTrainingRuntime", "name": runtime},
            "trainer": trainer,
        },
    }


def _environment() -> list[dict[str, Any]]:
    given = sorted(name for name in os.environ if name.startswith(("MLFLOW_", "CALREC_")) and name != "MLFLOW_RUN_ID")
    return [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": _SECRET, "key": name, "optional": True}}}
        if name in _SECRETS
        else {"name": name, "value": os.environ[name]}
        for name in given
    ]


def _train(cluster: "Cluster", body: Mapping[str, Any], exchange: Exchange) -> None:
    """Make the job and wait for its end; when it is this waiting that ends, the job is deleted."""
    name, ended = body["metadata"]["name"], ""
    try:
        cluster.begin(body)
        ended, message = cluster.wait(name)
    finally:
        if not ended:
            cluster.give_up(name)
    if exchange.has(STOPPED):
        sys.exit(INTERRUPTED)
    if ended == "Failed":
        logs = f"kubectl logs -n {cluster.namespace} -l jobset.sigs.k8s.io/jobset-name={name}"
        raise ChildProcessError(f"TrainJob {name} failed: {message} {exchange.read(ERROR)}; its output: {logs}")


class Cluster:
    """TrainJobs of one namespace: the pod's own, or that of the kubeconfig."""

    def __init__(self, sleep: Callable[[float], None] = time.sleep):
        from kubernetes import client, config

        self._sleep = sleep
        try:
            config.load_incluster_config()
            self.namespace = _NAMESPACE.read_text().strip()
        except config.ConfigException:
            self.namespace = _from_kubeconfig()
        self._api = client.CustomObjectsApi()

    def begin(self, body: Mapping[str, Any]) -> None:
        """Make the job, or adopt it when it runs already; one that ended or is on its way out makes room."""
        name = body["metadata"]["name"]
        while not self._ask("create", body):
            old = self._ask("get", name)
            if old and "deletionTimestamp" not in old["metadata"]:
                if not _end(old)[0]:
                    print(f"TrainJob {name} runs already; waiting for it", flush=True)
                    return
                self._delete(name)
            self._sleep(FIRST_PAUSE_S)

    def wait(self, name: str) -> tuple[str, str]:
        """How the job ended, Complete or Failed, and the message about it."""
        pause, shown = FIRST_PAUSE_S, ""
        while True:
            job = self._ask("get", name)
            if job is None:
                raise ChildProcessError(f"TrainJob {name} was deleted by someone else; run the same command again")
            ended, message = _end(job)
            if ended in ("Complete", "Failed"):
                return ended, message
            if message != shown:
                print(f"TrainJob {name}: {message}", flush=True)
            shown = message
            self._sleep(pause)
            pause = min(1.5 * pause, LONGEST_PAUSE_S)

    def give_up(self, name: str) -> None:
        """Delete the job, so that it does not go on unwatched; its processes write a checkpoint first."""
        try:
            self._delete(name)
        except OSError as error:
            print(f"TrainJob {name} may still run: {error}", file=sys.stderr, flush=True)

    def _delete(self, name: str) -> None:
        # Foreground: the name is free only when the pods are gone, and their last checkpoint is written.
        self._ask("delete", name, propagation_policy="Foreground")

    def _ask(self, verb: str, about: Any, **options: Any) -> Any:
        """The answer to one request; None when there is no such job, or, to create, when there is one."""
        import urllib3
        from kubernetes.client import ApiException

        call = getattr(self._api, f"{verb}_namespaced_custom_object")
        for again in range(_TRIES):
            try:
                return call(GROUP, VERSION, self.namespace, PLURAL, about, _request_timeout=30, **options)
            except ApiException as error:
                if error.status == (409 if verb == "create" else 404):
                    return None
                if error.status < 500 and error.status != 429:
                    raise _refused(error, verb, self.namespace) from None
                why: Exception = error
            except urllib3.exceptions.HTTPError as error:
                why = error
            self._sleep(min(FIRST_PAUSE_S * 2**again, 60))
        raise ConnectionError(f"the API of Kubernetes did not answer {_TRIES} times in a row: {why}")


def _from_kubeconfig() -> str:
    from kubernetes import config

    file = os.environ.get("KUBECONFIG")
    try:
        config.load_kube_config(file)
        context = config.list_kube_config_contexts(file)[1]
    except config.ConfigException as error:
        raise ValueError(f"no cluster for the TrainJob ({error}); run in a pod, or set KUBECONFIG") from None
    return str(context["context"].get("namespace", "default"))


def _end(job: Mapping[str, Any]) -> tuple[str, str]:
    """The last condition that holds and ends the job, or else "", and a message about its state."""
    conditions = [c for c in job.get("status", {}).get("conditions", []) if c.get("status") == "True"]
    messages = {c["type"]: c.get("message") or c.get("reason", "") for c in conditions}
    for kind in ("Complete", "Failed"):
        if kind in messages:
            return kind, messages[kind]
    return "", f"suspended, {messages['Suspended']}" if "Suspended" in messages else "running"


def _refused(error: Any, verb: str, namespace: str) -> Exception:
    try:
        message = json.loads(error.body)["message"]
    except (TypeError, ValueError, KeyError):
        message = error.reason
    if error.status in (401, 403):
        return PermissionError(
            f"TrainJobs of namespace {namespace}: {message}; give this step's service account a Role with create, get "
            f"and delete on {PLURAL} of {GROUP}"
        )
    if error.status == 404:
        return ValueError(
            f"no TrainJobs in this cluster ({message}); install Kubeflow Trainer v2, or set launch.launcher"
        )
    return ValueError(f"TrainJob refused, {verb}: {message}; check launch.runtime and the image")
