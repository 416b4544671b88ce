"""The configuration of a whole run: sources, targets, and one section per step."""

import dataclasses
from dataclasses import dataclass, field

from calrec.config.checks import check
from calrec.config.data import DataConfig, Source, SplitConfig
from calrec.config.model import EvaluateConfig, GenerateConfig, ModelConfig, RetrieveConfig
from calrec.config.production import BatchConfig, ClusterConfig, GateConfig
from calrec.config.text import TextConfig
from calrec.config.training import LaunchConfig, StageConfig


@dataclass(frozen=True)
class Config:
    """A whole run: sources, targets and one section per step."""

    sources: tuple[Source, ...]
    targets: tuple[str, ...]
    data: DataConfig = field(default_factory=DataConfig)
    split: SplitConfig = field(default_factory=SplitConfig)
    text: TextConfig = field(default_factory=TextConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    stage1: StageConfig = field(default_factory=StageConfig)
    stage2: StageConfig = field(default_factory=StageConfig)
    refit: StageConfig = field(default_factory=lambda: StageConfig(steps=0, until="test"))
    launch: LaunchConfig = field(default_factory=LaunchConfig)
    generate: GenerateConfig = field(default_factory=GenerateConfig)
    retrieve: RetrieveConfig = field(default_factory=RetrieveConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    gate: GateConfig = field(default_factory=GateConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)

    def __post_init__(self) -> None:
        domains = [source.domain for source in self.sources]
        check(bool(domains), "a run needs at least one source; give --source NAME=URI")
        check(len(set(domains)) == len(domains), f"two sources have one domain name: {', '.join(domains)}")
        check(bool(self.targets), "a run needs at least one target; give --target NAME")
        check(len(set(self.targets)) == len(self.targets), f"a target is named twice: {', '.join(self.targets)}")

    def whole(self) -> "Config":
        """The same, if its sections fit together for a run of the whole pipeline; a single step needs less.

        Raises:
            ValueError: they do not; with the values and the remedy.
        """
        domains = [source.domain for source in self.sources]
        for what, names in (("target", self.targets), ("stage1.domains", self.stage1.domains)):
            for name in names:
                check(name in domains, f"{what} {name!r} is not a category of this run; sources: {', '.join(domains)}")
        check(
            self.data.min_length >= 3,
            f"data.min_length must be >= 3, got {self.data.min_length}: a history, a validation and a test item",
        )
        for name, stage in (("stage2", self.stage2), ("refit", self.refit)):
            check(
                not stage.domains,
                f"{name}.domains is set by the pipeline to the target; leave it empty, got {stage.domains}",
            )
        check(
            self.refit.until == "test" or not self.refit.steps,
            f"refit.until is {self.refit.until}, and stage 2 has trained that far; set refit.until=test",
        )
        deepest = max(*self.evaluate.recall_at, *self.evaluate.ndcg_at, 1)
        check(
            deepest <= self.retrieve.k,
            f"evaluate looks at rank {deepest} but retrieve.k is {self.retrieve.k}; raise retrieve.k",
        )
        known = metric_names(self.evaluate)
        check(self.gate.metric in known, f"gate.metric {self.gate.metric!r} is not computed; one of {', '.join(known)}")
        for name in self.gate.beat:
            check(
                name in self.evaluate.baselines,
                f"gate.beat {name!r} is not among evaluate.baselines: {', '.join(self.evaluate.baselines)}",
            )
        return self


def metric_names(evaluate: EvaluateConfig) -> list[str]:
    """Names of the ranking metrics, valid in MLflow (`recall@10` is not)."""
    return [f"recall_at_{k}" for k in evaluate.recall_at] + [f"ndcg_at_{k}" for k in evaluate.ndcg_at] + ["mrr"]


SECTIONS = tuple(f.name for f in dataclasses.fields(Config) if f.name not in ("sources", "targets"))
