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
from calrec.config import IMAGE, LaunchConfig
from calrec.launch.kubernetes import GROUP, VERSION, Cluster, UnseenError
from calrec.launch.pod_logs import PodLogs, selector
from calrec.launch.shared_folder import ERROR, INTERRUPTED, JOB, RESULT, STOPPED, SharedFolder, TrainingError
from calrec.storage import s3
from calrec.system.printing import redact

_SECRET = "calrec"  # the Secret that the pipeline's pods read, too; a TrainJob must not show what is in it
_SECRETS = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", *s3.KEYS)
# All else that its processes need: they write points of curves to a run of MLflow, and read and write CHECKPOINTS.
_SETTINGS = (
    "CALREC_IMAGE", "CALREC_TRACKING", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT", "MLFLOW_TRACKING_AUTH", "MLFLOW_TRACKING_URI",
    "MLFLOW_WORKSPACE", *s3.SETTINGS,
)  # fmt: skip
_OF_THE_STEP = (
    "CALREC_CACHE", "CALREC_CHECKPOINTS", "CALREC_COMMIT", "CALREC_PARENT_RUN", "CALREC_TIME_LIMIT",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "MLFLOW_RUN_ID",
    "MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL",
)  # fmt: skip


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
        ValueError: no place that all machines reach, a secret that would be shown, no Kubeflow Trainer in the cluster.
        PermissionError, ConnectionError: of the cluster; the job may go on, and the same command finds it.
        ChildProcessError: the job failed; it is left there when its logs could not be shown.
        SystemExit: its processes were stopped, after a checkpoint.
    """
    if not job["checkpoints"]:
        raise ValueError(
            "launch.launcher = trainjob needs a place that all of its machines reach; give --checkpoints "
            "gs://BUCKET/FOLDER, s3://BUCKET/FOLDER or a folder that is mounted in all pods (in the pipeline: "
            "CALREC_CHECKPOINTS)"
        )
    cluster, name = Cluster(sleep), _name(job, inputs, launch)
    exchange = SharedFolder(f"{job['checkpoints'].rstrip('/')}/{name}")
    body = resource(name, exchange.uri, job["name"], launch)
    if not exchange.has(RESULT):
        exchange.remove(ERROR, STOPPED)
        for part, folder in inputs.items():
            exchange.upload(folder, part)
        exchange.write(JOB, json.dumps(job))
        print(f"{job['name']}: TrainJob {name} on {launch.nodes} machines", flush=True)
        _train(cluster, body, exchange)
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

    Raises:
        ValueError: an address with a user or password in it, which the TrainJob would show.
    """
    _plain("--checkpoints", uri)
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
            **_deadline(),
        },
    }


def _deadline() -> dict[str, int]:
    """The step's own time limit, if it has one: a job that nobody waits for any more ends by itself."""
    limit = os.environ.get("CALREC_TIME_LIMIT", "")
    return {"activeDeadlineSeconds": int(limit)} if limit else {}


def _environment() -> list[dict[str, Any]]:
    """What the pods are told, by a list of names: all who may look at TrainJobs read it."""
    for name in _SETTINGS:
        _plain(name, os.environ.get(name, ""))
    secret = [name for name in _SECRETS if os.environ.get(name)]
    if secret and not os.environ.get("KFP_RUN_ID"):  # a pipeline's pod has them from that Secret itself
        print(f"TrainJob: its pods take {', '.join(secret)} from Secret {_SECRET}, not from here", flush=True)
    known = {*_SETTINGS, *_SECRETS, *_OF_THE_STEP}
    left = sorted(name for name in os.environ if name.startswith(("MLFLOW_", "CALREC_")) and name not in known)
    if left:
        print(f"TrainJob: its pods are not told {', '.join(left)}; set it in the image or the runtime", flush=True)
    told = [{"name": name, "value": os.environ[name]} for name in _SETTINGS if name in os.environ]
    source = {"name": _SECRET, "optional": True}
    return told + [{"name": name, "valueFrom": {"secretKeyRef": {**source, "key": name}}} for name in secret]


def _plain(name: str, value: str) -> None:
    if redact(value) != value:
        raise ValueError(
            f"{name}={redact(value)} has a user, a password or a query in it, which a TrainJob would show to all who "
            "may look at it; write the address without them. The user and password of MLflow belong into Secret "
            f"{_SECRET}, as MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        )


def _train(cluster: Cluster, body: Mapping[str, Any], exchange: SharedFolder) -> None:
    """Make the job, show what its pods write, and wait for its end.

    The job is deleted when it is this waiting that ends, and when it failed and all of its output was shown. It is not
    when the API of Kubernetes does not answer: then nobody knows whether it failed.
    """
    name, shown, keep = body["metadata"]["name"], False, False
    try:
        cluster.begin(body)
        with PodLogs(cluster.core, cluster.namespace, name) as output:
            ended, message = cluster.wait(name)
            shown = output.drain()
        keep = ended == "Complete" or not shown
    except UnseenError as error:
        keep = True  # it may well train: an attempt that sees it again goes on with it, and its own deadline ends it
        raise ConnectionError(
            f"{error}; TrainJob {name} was left as it was: the same command goes on with it, kubectl delete trainjob "
            f"-n {cluster.namespace} {name} ends it"
        ) from None
    finally:
        if not keep:
            cluster.give_up(name)
    if exchange.has(STOPPED):
        sys.exit(INTERRUPTED)
    if ended == "Failed":
        where = "above" if shown else f"in the cluster: kubectl logs -n {cluster.namespace} -l {selector(name)}"
        why = exchange.read(ERROR)
        raise TrainingError(f"TrainJob {name} failed: {message} {why}; its output is {where}", why)
