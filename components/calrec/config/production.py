"""Sections about a model in production: what it must show, what its pods get, whom it recommends to."""

import json
from dataclasses import dataclass
from typing import Any

from calrec.config import naming
from calrec.config.checks import check

# The image that carries this package; `calrec compile --image` puts another one into the YAML.
IMAGE = "calrec:0.1.0"


@dataclass(frozen=True)
class GateConfig:
    """What a model must show before it may be used."""

    metric: str = "recall_at_10"
    beat: tuple[str, ...] = ("popularity",)
    """Baselines that the model's metric must exceed."""
    min_gain: float = 0.0
    """By how much, in units of the metric; the champion must be exceeded by more than this too."""
    champion: bool = True
    """Whether the champion, ranked for the same users, must be exceeded when there is one."""
    significant: bool = True
    """Whether the paired bootstrap 95 % interval of the gain over the champion must lie above zero."""
    max_slice_loss: float = 0.05
    """How far below the champion the metric may be among the users of any kind, where the 95 % interval of the loss
    excludes zero; 1, the farthest: none counts."""
    slice_users: int = 100
    """Fewest users of a kind that counts."""
    max_seconds: float = 0.0
    """Most seconds that all training stages together may take; 0: no limit. What is limited must have been measured."""
    max_seconds_per_user: float = 0.0
    """Most seconds that generating may take per user; 0: no limit."""
    max_memory_gb: float = 0.0
    """Most GiB that any stage, or generating, may hold at its peak; 0: no limit."""

    def __post_init__(self) -> None:
        check(-1 <= self.min_gain <= 1, f"gate.min_gain is a difference of metrics, -1 to 1; got {self.min_gain}")
        check(
            0 <= self.max_slice_loss <= 1,
            f"gate.max_slice_loss is a loss of a metric, 0 to 1, where 1 allows any; got {self.max_slice_loss}",
        )
        check(self.slice_users >= 1, f"gate.slice_users must be >= 1, got {self.slice_users}")
        for name in ("max_seconds", "max_seconds_per_user", "max_memory_gb"):
            check(getattr(self, name) >= 0, f"gate.{name} must be >= 0, 0 for no limit; got {getattr(self, name)}")


@dataclass(frozen=True)
class BatchConfig:
    """Recommendations for all users of a log, from the champion."""

    destination: str = ""
    """gs://BUCKET/FOLDER, s3://BUCKET/FOLDER or a folder of a mounted volume, into which a category's lists are copied,
    as the partition target=NAME/date=TODAY/content=HASH; empty: they are an artifact of the run alone."""
    k: int = 0
    """Items per user; 0: as many as the champion was judged by."""
    min_length: int = 1
    """Fewest events of a user; `data.min_length` is for training, and min_user and min_item are 0 here."""
    max_unknown: float = 0.2
    """The step stops when more than this share of the histories' items is unknown to the champion's index."""

    def __post_init__(self) -> None:
        check(self.k >= 0, f"batch.k must be >= 0, got {self.k}")
        check(self.min_length >= 1, f"batch.min_length must be >= 1, got {self.min_length}")
        check(0 <= self.max_unknown <= 1, f"batch.max_unknown is a share, 0 to 1; got {self.max_unknown}")


@dataclass(frozen=True)
class ClusterConfig:
    """What a step's pod asks for and may take, the two being equal. A local run has what the machine has.

    No parameter of a pipeline: it is compiled into the YAML, so that it reaches a pod without a way through every DAG.
    """

    data_cpu: str = "2"
    """CPUs of the steps that read and write tables: watch, ingest, textify, base model, evaluate, find champions."""
    data_memory: str = "8Gi"
    """Memory of these steps."""
    train_cpu: str = "4"
    """CPUs of stage 1, stage 2 and the refit."""
    train_memory: str = "16Gi"
    """Memory of these stages, of which /dev/shm may take 2 GiB."""
    train_gpus: str = "0"
    """GPUs of these stages, each of which starts a process per GPU that it sees; 0: none."""
    infer_cpu: str = "4"
    """CPUs of the steps that let a model work: index, generate, retrieve, champion, promote, recommend."""
    infer_memory: str = "8Gi"
    """Memory of these steps."""
    infer_gpus: str = "0"
    """GPUs of these steps; 0: none."""
    accelerator: str = "nvidia.com/gpu"
    """Resource name of the GPUs."""
    node_selector: str = "{}"
    """Labels of the nodes that train and infer, as JSON: {"cloud.google.com/gke-accelerator": "nvidia-l4"}."""
    tolerations: str = "[]"
    """Taints that these pods bear, as JSON: [{"key": "nvidia.com/gpu", "operator": "Exists"}]."""

    def __post_init__(self) -> None:
        for part in ("data", "train", "infer"):
            naming.cpus(f"cluster.{part}_cpu", getattr(self, f"{part}_cpu"))
            naming.memory(f"cluster.{part}_memory", getattr(self, f"{part}_memory"))
        for name in ("train_gpus", "infer_gpus"):
            naming.count(f"cluster.{name}", getattr(self, name))
        naming.resource("cluster.accelerator", self.accelerator)
        naming.labels("cluster.node_selector", _json("node_selector", self.node_selector, dict, '{"pool": "gpu"}'))
        for one in _json("tolerations", self.tolerations, list, '[{"key": "gpu", "operator": "Exists"}]'):
            naming.toleration("cluster.tolerations", one)


def _json(name: str, text: str, kind: type, example: str) -> Any:
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = None
    check(isinstance(value, kind), f"cluster.{name} must be JSON such as {example}; got {text!r}")
    return value
