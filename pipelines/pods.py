"""What every pod gets: its name in the run view, settings and secrets by name, resources, retries, a time limit.

A pipeline says which of three kinds of pod a step needs: `data`, `train` or `infer`. What such a pod gets is written
into the compiled YAML by `furnish`, from the configuration. kfp runs the functions of the pipelines when their modules
are imported, before there is a configuration; so the kind stands in the YAML itself, as a label, and nothing global
holds a configuration: several can be compiled at a time.
"""

import json
from typing import Any

from kfp import dsl, kubernetes

from calrec.config import IMAGE, ClusterConfig
from calrec.storage import s3

# Where the tracking server and the store of s3:// are, and their credentials, the cache of raw files, the place of
# checkpoints, and whether a model hub may be asked: all optional, and none in the YAML.
SETTINGS = "calrec"
_CONFIG = (
    "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "CALREC_TRACKING", "CALREC_CACHE", "CALREC_CHECKPOINTS",
    "HF_HUB_OFFLINE", *s3.SETTINGS,
)  # fmt: skip
_SECRET = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", *s3.KEYS)
_PART_OF = "app.kubernetes.io/part-of"  # what the network policy of the steps knows them by
_KIND = "app.kubernetes.io/component"
_RETRIES = 2  # attempts after the first; trainings and batches go on from what is in CALREC_CHECKPOINTS
_PAUSE_S = 30  # before the first retry, twice as long before each further one
_HOUR = 3600
_TRAINING_S = 72 * _HOUR
_QUEUE_S = 24 * _HOUR  # that a pod may wait for a node before its time limit begins
_SHARED_MEMORY = "2Gi"  # of /dev/shm, which the processes of torchrun share; Kubernetes gives 64 MiB
_SCRATCH = "50Gi"  # of /tmp, where steps spill and download; a pod that writes more is evicted, and its node goes on
_CACHE = "/cache"  # where a claim is mounted


def data(task: dsl.PipelineTask, title: str, effects: bool = False) -> dsl.PipelineTask:
    """A step that reads and writes tables; one with effects beside its outputs is never taken from the cache."""
    return _common(task, "data", title, 6 * _HOUR).set_caching_options(not effects)


def train(task: dsl.PipelineTask, title: str) -> dsl.PipelineTask:
    """A training, whose pod is told its image and its time limit, which a TrainJob takes too."""
    _common(task, "train", title, _TRAINING_S).set_env_variable("CALREC_IMAGE", IMAGE)
    kubernetes.empty_dir_mount(task, "shm", "/dev/shm", medium="Memory", size_limit=_SHARED_MEMORY)
    return task.set_env_variable("CALREC_TIME_LIMIT", str(_TRAINING_S))


def infer(task: dsl.PipelineTask, title: str, effects: bool = False) -> dsl.PipelineTask:
    """A step that reads or writes texts with a model."""
    return _common(task, "infer", title, 24 * _HOUR).set_caching_options(not effects)


def _common(task: dsl.PipelineTask, kind: str, title: str, seconds: int) -> dsl.PipelineTask:
    kubernetes.use_field_path_as_env(task, "KFP_RUN_ID", "metadata.labels['pipeline/runid']")
    kubernetes.use_config_map_as_env(task, SETTINGS, {name: name for name in _CONFIG}, optional=True)
    kubernetes.use_secret_as_env(task, SETTINGS, {name: name for name in _SECRET}, optional=True)
    kubernetes.add_pod_label(task, _PART_OF, "calrec")
    kubernetes.add_pod_label(task, _KIND, kind)
    kubernetes.set_timeout(task, seconds)
    # What KFP's compiler does not set by itself; that no privilege is gained, no capability kept, it does (2.17).
    kubernetes.set_security_context(task, run_as_non_root=True)
    kubernetes.empty_dir_mount(task, "tmp", "/tmp", size_limit=_SCRATCH)
    task.set_retry(
        _RETRIES, f"{_PAUSE_S}s", backoff_factor=2.0, backoff_max_duration=f"{_until_the_last_ends(seconds)}s"
    )
    return task.set_display_name(title)


def _until_the_last_ends(seconds: int) -> int:
    """Seconds from the start of the first attempt to the latest end of the last one.

    Argo counts `backoff_max_duration` from the first attempt's start, begins no retry after it, and kills one at it.
    """
    return (_RETRIES + 1) * (_QUEUE_S + seconds) + _PAUSE_S * ((1 << _RETRIES) - 1)


def furnish(documents: list[Any], cluster: ClusterConfig, image: str = "", claim: str = "") -> None:
    """Write what the configuration says of the pods into the two documents of a compiled pipeline, in place.

    Args:
        documents: the pipeline's and the platform's, compiled from pipelines whose steps have a kind.
        cluster: what the pods of each kind get.
        image: image of every step instead of the default one.
        claim: a PersistentVolumeClaim that every step mounts.
    """
    specification, platform = documents
    pods = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    for step, executor in specification["deploymentSpec"]["executors"].items():
        container, pod = executor["container"], pods[step]
        kind = pod["podMetadata"]["labels"][_KIND]
        container["resources"] = _resources(cluster, kind)
        if kind != "data":
            pod |= _nodes(cluster)
        if image:
            container["image"] = image
            for variable in container.get("env", []):
                if variable["name"] == "CALREC_IMAGE":
                    variable["value"] = image
        if claim:
            folders = {"CALREC_CACHE": f"{_CACHE}/calrec", "HF_HOME": f"{_CACHE}/hf"}
            container.setdefault("env", []).extend({"name": name, "value": at} for name, at in folders.items())
            by_name = {"constant": claim, "pvcNameParameter": {"runtimeValue": {"constant": claim}}}
            pod["pvcMount"] = [{**by_name, "mountPath": _CACHE}]


def _resources(cluster: ClusterConfig, kind: str) -> dict[str, Any]:
    cpu, memory = getattr(cluster, f"{kind}_cpu"), getattr(cluster, f"{kind}_memory")
    gpus = getattr(cluster, f"{kind}_gpus", "0")  # a data pod has none
    return {
        **{f"resourceCpu{what}": cpu for what in ("Request", "Limit")},
        **{f"resourceMemory{what}": memory for what in ("Request", "Limit")},
        **({"accelerator": {"resourceType": cluster.accelerator, "resourceCount": gpus}} if gpus != "0" else {}),
    }


def _nodes(cluster: ClusterConfig) -> dict[str, Any]:
    labels, tolerations = json.loads(cluster.node_selector), json.loads(cluster.tolerations)
    return {
        **({"nodeSelector": {"labels": labels}} if labels else {}),
        **({"tolerations": tolerations} if tolerations else {}),
    }
