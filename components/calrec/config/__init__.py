"""Frozen configuration: one dataclass per section, one section per pipeline parameter.

A section travels to a step as one dictionary, so that changing `retrieve.k1` leaves every cached training valid.
Bad values are refused when a section is built, with the value and the remedy.
"""

from calrec.config.data import Columns, DataConfig, Source, SplitConfig
from calrec.config.model import BASELINES, EvaluateConfig, GenerateConfig, ModelConfig, RetrieveConfig
from calrec.config.production import IMAGE, BatchConfig, ClusterConfig, GateConfig
from calrec.config.text import TextConfig
from calrec.config.training import (
    CheckpointConfig,
    ComputeConfig,
    LaunchConfig,
    LossConfig,
    OptimizerConfig,
    SamplingConfig,
    StageConfig,
    ValidationConfig,
)
from calrec.config.whole import SECTIONS, Config, metric_names

__all__ = [
    "BASELINES", "IMAGE", "SECTIONS", "BatchConfig", "CheckpointConfig", "ClusterConfig", "Columns", "ComputeConfig",
    "Config", "DataConfig", "EvaluateConfig", "GateConfig", "GenerateConfig", "LaunchConfig", "LossConfig",
    "ModelConfig", "OptimizerConfig", "RetrieveConfig", "SamplingConfig", "Source", "SplitConfig", "StageConfig",
    "TextConfig", "ValidationConfig", "metric_names",
]  # fmt: skip
