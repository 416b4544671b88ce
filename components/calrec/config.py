"""Frozen configuration: one dataclass per section, one section per pipeline parameter.

A section travels to a step as one dictionary, so that changing `retrieve.k1` leaves every cached training valid.
Bad values are refused when a section is built, with the value and the remedy.
"""

import dataclasses
from dataclasses import dataclass, field

from calrec.checks import check, one_of
from calrec.config_data import Columns as Columns
from calrec.config_data import DataConfig as DataConfig
from calrec.config_data import Source as Source
from calrec.config_data import SplitConfig as SplitConfig
from calrec.config_production import BatchConfig as BatchConfig
from calrec.config_production import ClusterConfig as ClusterConfig
from calrec.config_production import GateConfig as GateConfig
from calrec.config_training import LaunchConfig as LaunchConfig
from calrec.config_training import StageConfig as StageConfig

# The image that carries this package; `python -m pipelines compile --image` puts another one into the YAML.
IMAGE = "calrec:0.1.0"
BASELINES = (
    "popularity",
    "recent_popularity",
    "repeat_last",
    "markov",
    "item_knn",
    "matrix_factorisation",
    "bm25_last",
    "bm25_history",
)
"""What a model is compared with: calrec.evaluate.baselines."""


@dataclass(frozen=True)
class TextConfig:
    """How items and histories become text (method.md, "Text")."""

    attributes: tuple[str, ...] = ("title", "category", "brand", "price")
    """Attributes of an item's text, in this order."""
    max_tokens: int = 1024
    """Longest history in tokens; whole oldest items are dropped until it fits."""
    max_item_tokens: int = 64
    """Longest item text in tokens, end token not counted; longer ones are cut."""
    phrases: bool = True
    """Whether a phrase stands behind each item of a history. Beyond the paper: without it the next item is predicted
    from where the last one ends, which small models learn faster."""

    def __post_init__(self) -> None:
        for name in self.attributes:
            one_of("text.attributes", name, ("title", "category", "brand", "price"))
        check(bool(self.attributes), "text.attributes is empty; name at least title")
        check(len(set(self.attributes)) == len(self.attributes), f"text.attributes repeats a name: {self.attributes}")
        check(self.max_item_tokens >= 1, f"text.max_item_tokens must be >= 1, got {self.max_item_tokens}")
        check(
            self.max_tokens >= 2 * self.max_item_tokens,
            f"text.max_tokens must hold the prompt and one item, >= 2 x max_item_tokens = {2 * self.max_item_tokens}; "
            f"got {self.max_tokens}",
        )


@dataclass(frozen=True)
class ModelConfig:
    """The base model and which of its weights are trained."""

    name: str = "scratch"
    """scratch, a Hugging Face name, a local folder or a gs:// URI."""
    size: str = "small"
    """Size of a scratch model: tiny, small or base (calrec.model.scratch.SIZES)."""
    vocab_size: int = 4096
    """Vocabulary of a scratch model's byte-level BPE tokenizer."""
    whole_texts: int = 0
    """Beyond the paper: item texts with at least so many training events are single tokens of a scratch tokenizer,
    beside `vocab_size`; 0: none."""
    tuning: str = "full"
    """full: every weight is trained; lora: low-rank adapters, merged when the stage ends, and kept in `adapter/`."""
    lora_rank: int = 16
    lora_alpha: float = 32.0
    lora_targets: tuple[str, ...] = ()
    """Names of the linear layers that get adapters, such as q_proj,v_proj; empty means all but the output layer."""
    lora_dropout: float = 0.0
    dora: bool = False
    """Weight-decomposed adapters (DoRA): direction and length are trained apart."""
    seed: int = 0
    """Seed of a scratch model's first weights and of the adapters'."""

    def __post_init__(self) -> None:
        check(bool(self.name), "model.name is empty; give scratch, a Hugging Face name, a folder or a gs:// URI")
        one_of("model.size", self.size, ("tiny", "small", "base"))
        one_of("model.tuning", self.tuning, ("full", "lora"))
        check(self.vocab_size >= 300, f"model.vocab_size must be >= 300 (256 bytes and merges), got {self.vocab_size}")
        check(self.whole_texts >= 0, f"model.whole_texts must be >= 0, got {self.whole_texts}")
        check(
            self.whole_texts == 0 or self.name == "scratch",
            f"model.whole_texts = {self.whole_texts} is for a scratch tokenizer; {self.name} brings its own",
        )
        check(self.lora_rank >= 1, f"model.lora_rank must be >= 1, got {self.lora_rank}")
        check(0 <= self.lora_dropout < 1, f"model.lora_dropout must be >= 0 and < 1, got {self.lora_dropout}")


@dataclass(frozen=True)
class GenerateConfig:
    """Sampling of next-item texts (method.md, "Inference")."""

    backend: str = "shared_prefix"
    """shared_prefix: each prompt is read once; hf: transformers' generate, the reference; vllm: for large models."""
    samples: int = 32
    """Independent samples per user; beams of a beam search."""
    temperature: float = 0.5
    max_new_tokens: int = 64
    merge: bool = True
    """Compute samples that begin alike once. What is drawn stays the same."""
    trie: str = "off"
    """sample or beam: only item texts of the catalogue are generated; off: any text."""
    split: str = "test"
    """Which held-out item is to be predicted: test or valid."""
    max_users: int = 0
    """A fixed random sample of so many users; 0: all."""
    memory_gb: float = 1.0
    """Memory for the users that are decoded together: keys, values and logits. It changes speed, not samples."""
    seed: int = 0
    """Each user draws from numbers of his own, made from this seed and his id."""
    threads: int = 0
    """CPU threads; 0: all that the container may use."""

    def __post_init__(self) -> None:
        one_of("generate.backend", self.backend, ("shared_prefix", "hf", "vllm"))
        one_of("generate.trie", self.trie, ("off", "sample", "beam"))
        one_of("generate.split", self.split, ("test", "valid"))
        check(
            self.temperature > 0, f"generate.temperature must be > 0, got {self.temperature}; use 0.01 for near-greedy"
        )
        for name in ("samples", "max_new_tokens"):
            check(getattr(self, name) >= 1, f"generate.{name} must be >= 1, got {getattr(self, name)}")
        for name in ("max_users", "threads"):
            check(getattr(self, name) >= 0, f"generate.{name} must be >= 0, got {getattr(self, name)}")
        check(self.memory_gb > 0, f"generate.memory_gb must be > 0, got {self.memory_gb}")
        check(
            self.trie == "off" or self.backend == "shared_prefix",
            f"generate.trie={self.trie} needs generate.backend=shared_prefix, got {self.backend}",
        )


@dataclass(frozen=True)
class RetrieveConfig:
    """BM25 and fusion (method.md, "Inference")."""

    k: int = 20
    """Items per user."""
    k1: float = 1.5
    b: float = 0.75
    epsilon: float = 1 / 5000
    """Weight of a generation's log-probability in the fusion."""
    exclude_seen: bool = False
    """Leave out what is in the history; applied to the baselines alike."""
    last_title: float = 0.0
    """Beyond the paper: the last item's text as one more query; 0: off, 1: weighs as a text of probability 1."""
    dense: int = 0
    """Beyond the paper: so many items nearest to the history by cos(v_U, v_T) join by reciprocal ranks; 0: off."""
    rerank: int = 0
    """Beyond the paper: the best so many of each source are ranked by the model's exact log-probability; 0: off."""
    fusion_users: int = 0
    """Beyond the paper: with rerank, learn on so many validation users how much the model's probability, co-occurrence,
    BM25 of the newest titles, popularity and the history itself weigh; 0: the probability alone."""
    memory_gb: float = 1.0
    """Memory for the candidates that the model reads together."""
    threads: int = 0
    """CPU threads; 0: all that the container may use."""

    def __post_init__(self) -> None:
        check(self.k >= 1, f"retrieve.k must be >= 1, got {self.k}")
        check(self.k1 >= 0, f"retrieve.k1 must be >= 0, got {self.k1}")
        check(0 <= self.b <= 1, f"retrieve.b must be between 0 and 1, got {self.b}")
        check(self.epsilon >= 0, f"retrieve.epsilon must be >= 0, got {self.epsilon}")
        check(0 <= self.last_title <= 1, f"retrieve.last_title must be between 0 and 1, got {self.last_title}")
        for name in ("dense", "rerank", "fusion_users", "threads"):
            check(getattr(self, name) >= 0, f"retrieve.{name} must be >= 0, got {getattr(self, name)}")
        check(
            self.fusion_users == 0 or self.rerank > 0,
            f"retrieve.fusion_users={self.fusion_users} learns how to re-rank, but retrieve.rerank is 0; "
            "set retrieve.rerank=100",
        )
        check(self.memory_gb > 0, f"retrieve.memory_gb must be > 0, got {self.memory_gb}")

    @property
    def reads_model(self) -> bool:
        """Whether ranking needs the model, not only what it generated."""
        return self.dense > 0 or self.rerank > 0


@dataclass(frozen=True)
class EvaluateConfig:
    """Metrics and baselines (method.md, "Metrics")."""

    recall_at: tuple[int, ...] = (1, 5, 10, 20)
    ndcg_at: tuple[int, ...] = (10, 20)
    baselines: tuple[str, ...] = BASELINES
    """What is ranked for the same users beside the model."""
    bootstrap: int = 1000
    """Resamples of the users behind each 95 % interval; differences of methods take at least 10,000."""
    seed: int = 0
    """Of the resamples, and of baselines that draw."""

    def __post_init__(self) -> None:
        for k in (*self.recall_at, *self.ndcg_at):
            check(k >= 1, f"evaluate: a cut-off must be >= 1, got {k}")
        for name in self.baselines:
            one_of("evaluate.baselines", name, BASELINES)
        for what in ("recall_at", "ndcg_at", "baselines"):
            named = getattr(self, what)
            check(len(set(named)) == len(named), f"evaluate.{what} repeats a value: {', '.join(map(str, named))}")
        check(self.bootstrap >= 1, f"evaluate.bootstrap must be >= 1, got {self.bootstrap}")


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
