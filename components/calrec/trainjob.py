"""A training as a TrainJob of Kubeflow Trainer v2.

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
from calrec.cluster import GROUP, VERSION, Cluster
from calrec.config import IMAGE, LaunchConfig
from calrec.exchange import ERROR, INTERRUPTED, JOB, RESULT, STOPPED, Exchange
from calrec.podlogs import PodLogs, selector

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
        ChildProcessError: the job failed; it is left there when its logs could not be shown.
        SystemExit: its processes were stopped, after a checkpoint.
    """
    if not job["checkpoints"]:
        raise ValueError(
            "launch.launcher = trainjob needs a place that all of its machines reach; give --checkpoints "
            "gs://BUCKET/FOLDER or a folder that is mounted in all pods (in the pipeline: CALREC_CHECKPOINTS)"
        )
    cluster, name = Cluster(sleep), _name(job, inputs, launch)
    exchange = Exchange(f"{job['checkpoints'].rstrip('/')}/{name}")
    if not exchange.has(RESULT):
        exchange.remove(ERROR, STOPPED)
        for part, folder in inputs.items():
            exchange.upload(folder, part)
        exchange.write(JOB, json.dumps(job))
        print(f"{job['name']}: TrainJob {name} on {launch.nodes} machines", flush=True)
        _train(cluster, resource(name, exchange.uri, job["name"], launch), exchange)
    exchange.download(RESULT, out)
    cluster.give_up(name)
    exchange.remove()


def _name(job: Mapping[str, Any], inputs: Mapping[str, Path], launch: LaunchConfig) -> str:
    digests = [artifacts.read_manifest(folder).digest for folder in inputs.values()]
    said = {**job, "run": os.environ.get("KFP_RUN_ID", "")}  # the MLflow run is another one in each attempt
    # Categories are in the hash alone: what JobSet makes of the name, NAME-node-0-9999-abcde, must be a DNS label, too.
    return f"calrec-{job['name']}-{artifacts.short_hash([said, digests, repr(launch), _image()])}"


def _image() -> str:
    return os.environ.get("CALREC_IMAGE", IMAGE)


def resource(name: str, uri: str, stage: str, launch: LaunchConfig) -> dict[str, Any]:
    """The TrainJob whose processes do the job of the shared folder `uri`.

    What its pods need of the cluster (node selector, tolerations, volumes, service account) is in the runtime.
    """
    kind, _, runtime = launch.runtime.rpartition("/")
    trainer: dict[str, Any] = {
        "image": _image(),
        "command": ["torchrun", "-m", "calrec.cli", "work", uri],  # the runtime tells torchrun the rest by PET_*
        "numNodes": launch.nodes,
        "env": _environment(),
    }
    if launch.processes:
        trainer["numProcPerNode"] = launch.processes
    gpus = str(launch.processes) if launch.processes else ""
    asked = {"cpu": launch.cpu, "memory": launch.memory, launch.accelerator: gpus}
    if any(asked.values()):  # takes the place of all that the runtime says of resources
        trainer["resourcesPerNode"] = {"limits": {name: value for name, value in asked.items() if value}}
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


def _train(cluster: Cluster, body: Mapping[str, Any], exchange: Exchange) -> None:
    """Make the job, show what its pods write, and wait for its end.

    The job is deleted when it is this waiting that ends, and when it failed and all of its output was shown.
    """
    name, ended, shown = body["metadata"]["name"], "", False
    try:
        cluster.begin(body)
        with PodLogs(cluster.core, cluster.namespace, name) as output:
            ended, message = cluster.wait(name)
            shown = output.drain()
    finally:
        if not ended or (ended == "Failed" and shown):
            cluster.give_up(name)
    if exchange.has(STOPPED):
        sys.exit(INTERRUPTED)
    if ended == "Failed":
        where = "above" if shown else f"in the cluster: kubectl logs -n {cluster.namespace} -l {selector(name)}"
        raise ChildProcessError(f"TrainJob {name} failed: {message} {exchange.read(ERROR)}; its output is {where}")
