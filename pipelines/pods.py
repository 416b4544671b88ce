"""What every pod gets: its name in the run view, settings and secrets by name, resources, retries, a time limit."""

from dataclasses import dataclass

from kfp import dsl, kubernetes

from calrec.config import IMAGE

# Where the tracking server is, and its credentials, the cache of raw files, the place of checkpoints, and whether a
# model hub may be asked: all optional, and none in the YAML.
SETTINGS = "calrec"
_CONFIG = (
    "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "CALREC_TRACKING", "CALREC_CACHE", "CALREC_CHECKPOINTS",
    "HF_HUB_OFFLINE",
)  # fmt: skip
_SECRET = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
_PART_OF = "app.kubernetes.io/part-of"  # what the network policy of the steps knows them by
_RETRIES = 2  # attempts after the first; trainings and batches go on from what is in CALREC_CHECKPOINTS
_PAUSE_S = 30  # before the first retry, twice as long before each further one
_HOUR = 3600
_TRAINING_S = 72 * _HOUR
_QUEUE_S = 24 * _HOUR  # that a pod may wait for a node before its time limit begins
_SHARED_MEMORY = "2Gi"  # of /dev/shm, which the processes of torchrun share; Kubernetes gives 64 MiB
_SCRATCH = "50Gi"  # of /tmp, where steps spill and download; a pod that writes more is evicted, and its node goes on


@dataclass(frozen=True)
class Pods:
    """Puts tasks into pods; the fields are pipeline parameters, see :class:`calrec.config.ClusterConfig`.

    Inside a loop or a condition the compiler loses parameters that nothing but resources uses, so each sub-pipeline
    takes them as parameters of its own.
    """

    data_cpu: str
    data_memory: str
    train_cpu: str = ""
    train_memory: str = ""
    train_gpus: str = ""
    infer_cpu: str = ""
    infer_memory: str = ""
    infer_gpus: str = ""
    accelerator: str = ""
    node_selector: dict | None = None
    tolerations: list | None = None

    def data(self, task: dsl.PipelineTask, title: str, effects: bool = False) -> dsl.PipelineTask:
        """A step that reads and writes tables; one with effects beside its outputs is never taken from the cache."""
        _common(task, title, 6 * _HOUR).set_caching_options(not effects)
        return _sized(task, self.data_cpu, self.data_memory)

    def train(self, task: dsl.PipelineTask, title: str) -> dsl.PipelineTask:
        """A training, whose pod is told its image and its time limit, which a TrainJob takes too."""
        _common(task, title, _TRAINING_S).set_env_variable("CALREC_IMAGE", IMAGE)
        task.set_env_variable("CALREC_TIME_LIMIT", str(_TRAINING_S))
        kubernetes.empty_dir_mount(task, "shm", "/dev/shm", medium="Memory", size_limit=_SHARED_MEMORY)
        return self._on_gpus(_sized(task, self.train_cpu, self.train_memory), self.train_gpus)

    def infer(self, task: dsl.PipelineTask, title: str, effects: bool = False) -> dsl.PipelineTask:
        """A step that reads or writes texts with a model."""
        _common(task, title, 24 * _HOUR).set_caching_options(not effects)
        return self._on_gpus(_sized(task, self.infer_cpu, self.infer_memory), self.infer_gpus)

    def _on_gpus(self, task: dsl.PipelineTask, gpus: str) -> dsl.PipelineTask:
        task.set_accelerator_type(self.accelerator).set_accelerator_limit(gpus)
        kubernetes.add_node_selector_json(task, self.node_selector)
        return kubernetes.add_toleration_json(task, self.tolerations)


def _common(task: dsl.PipelineTask, title: str, seconds: int) -> dsl.PipelineTask:
    kubernetes.use_field_path_as_env(task, "KFP_RUN_ID", "metadata.labels['pipeline/runid']")
    kubernetes.use_config_map_as_env(task, SETTINGS, {name: name for name in _CONFIG}, optional=True)
    kubernetes.use_secret_as_env(task, SETTINGS, {name: name for name in _SECRET}, optional=True)
    kubernetes.add_pod_label(task, _PART_OF, "calrec")
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


def _sized(task: dsl.PipelineTask, cpu: str, memory: str) -> dsl.PipelineTask:
    task.set_cpu_request(cpu).set_cpu_limit(cpu)
    return task.set_memory_request(memory).set_memory_limit(memory)
