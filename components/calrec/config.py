"""Frozen configuration: one dataclass per section, one section per pipeline parameter.

A section travels to a step as one dictionary, so that changing `retrieve.k1` leaves every cached training valid.
Bad values are refused when a section is built, with the value and the remedy.
"""

import dataclasses
import datetime
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

# The image that carries this package; `python -m pipelines compile --image` puts another one into the YAML.
IMAGE = "calrec:0.1.0"


FORMATS = (
    "auto", "sample", "amazon2014", "amazon2018", "amazon2023", "movielens", "recbole", "sequences", "table",
)  # fmt: skip


def _check(ok: bool, message: str) -> None:
    if not ok:
        raise ValueError(message)


def _one_of(name: str, value: str, allowed: Sequence[str]) -> None:
    _check(value in allowed, f"{name} must be one of {', '.join(allowed)}; got {value!r}")


@dataclass(frozen=True)
class Source:
    """One category of the catalogue and where its raw log lies."""

    domain: str
    """Name of the category; the key of every later table, metric and model."""
    uri: str
    """`sample:DEPARTMENT`, or folders, files and globs, local, gs:// or https://, separated by commas."""
    snapshot: str = ""
    """Version of the data behind the URI (date or hash). Part of the cache key: a new value reads the log again."""

    def __post_init__(self) -> None:
        _check(bool(self.domain), f"a source needs a domain name, got {self.domain!r} for {self.uri!r}")
        _check(bool(self.uri), f"source {self.domain!r} has no uri; give a folder, a URI or sample:DEPARTMENT")


@dataclass(frozen=True)
class Columns:
    """Names of the log's columns (`--set data.columns.user=CustomerID`); an empty one is found by its usual names."""

    user: str = ""
    item: str = ""
    time: str = ""
    """Without any time column the order of the file counts."""
    weight: str = ""
    """Rating or quantity."""
    title: str = ""
    category: str = ""
    brand: str = ""
    price: str = ""


@dataclass(frozen=True)
class DataConfig:
    """Reading and cleaning of the raw log (method.md, "Data")."""

    format: str = "auto"
    """auto looks at the files and says what it found; else one of FORMATS."""
    events: str = ""
    """Glob of the event files inside the source, such as logs/2026-*.csv; empty: all that are not item files."""
    items: str = ""
    """Glob of the item files; empty: meta_*, items.*, products.*, movies.* and the like."""
    columns: Columns = field(default_factory=Columns)
    """Column map of the table format."""
    filters: tuple[str, ...] = ()
    """Events that count, such as quantity>0 or event_type=purchase|cart; operators = != > >= < <=."""
    time_format: str = "auto"
    """auto (seconds, milliseconds, ISO 8601), s, ms, or a pattern such as %m/%d/%Y %H:%M (UTC)."""
    delimiter: str = ""
    """Of CSV files; empty: found in the first line. Write \\t for a tab."""
    encoding: str = "utf-8"
    """Of text files of the table format: utf-8 or latin-1."""
    since: str = ""
    """Events before this ISO date or time (UTC) are dropped."""
    until: str = ""
    """Events at or after this ISO date or time (UTC) are dropped."""
    dedup: str = "consecutive"
    """consecutive: adjacent repeats of an item collapse; first: only the first purchase counts; none."""
    tie_break: str = "hash"
    """Order of events at one time: hash of the item id (file order leaks), or file."""
    min_user: int = 5
    """k-core: fewest events of a user."""
    min_item: int = 5
    """k-core: fewest events of an item."""
    min_length: int = 3
    """Fewest events of a user after the k-core; a history, a validation and a test item need 3."""
    min_weight: float = 0.0
    """Events with a rating or quantity below this are dropped."""
    category: str = "first"
    """Which entry of a list of categories is the item's single category: first (the main one) or last (the finest)."""
    missing_metadata: str = "keep"
    """Events of items without metadata: keep (attributes are Unknown) or drop."""
    max_reject_share: float = 0.01
    """The step stops when more than this share of the rows of events, or of items, cannot be read."""
    memory_gb: float = 0.0
    """Memory that the events may take before they are cleaned in parts on disk; 0: 30 % of the machine's."""

    def __post_init__(self) -> None:
        _one_of("data.format", self.format, FORMATS)
        _one_of("data.encoding", self.encoding, ("utf-8", "latin-1"))
        _one_of("data.dedup", self.dedup, ("consecutive", "first", "none"))
        _one_of("data.tie_break", self.tie_break, ("hash", "file"))
        _one_of("data.category", self.category, ("first", "last"))
        _one_of("data.missing_metadata", self.missing_metadata, ("keep", "drop"))
        for name in ("min_user", "min_item", "min_weight", "memory_gb"):
            _check(getattr(self, name) >= 0, f"data.{name} must be >= 0, got {getattr(self, name)}")
        _check(
            self.min_length >= 3,
            f"data.min_length must be >= 3, got {self.min_length}: a history, a validation and a test item",
        )
        _check(
            0 <= self.max_reject_share <= 1, f"data.max_reject_share is a share, 0 to 1; got {self.max_reject_share}"
        )
        _check(
            self.time_format in ("auto", "s", "ms") or "%" in self.time_format,
            f"data.time_format must be auto, s, ms or a pattern such as %m/%d/%Y %H:%M; got {self.time_format!r}",
        )
        for text in self.filters:
            event_filter(text)
        since, until = instant("data.since", self.since), instant("data.until", self.until)
        if since is not None and until is not None:
            _check(since < until, f"data.since must be before data.until, got {self.since} and {self.until}")


_FILTER = re.compile(r"\s*([^=!<>]+?)\s*(>=|<=|!=|=|>|<)\s*(.*?)\s*$")


def event_filter(text: str) -> tuple[str, str, str]:
    """(column, operator, value) of an entry of `data.filters`; > >= < <= compare numbers."""
    match = _FILTER.match(text)
    _check(match is not None, f"data.filters takes COLUMN OPERATOR VALUE such as quantity>0, got {text!r}")
    assert match
    column, operator, value = match.groups()
    if operator[0] in "<>":
        try:
            float(value)
        except ValueError:
            raise ValueError(f"data.filters: {operator} needs a number, got {text!r}") from None
    return column, operator, value


def instant(name: str, text: str) -> int | None:
    """An ISO 8601 date or time as milliseconds since 1970, UTC unless it says otherwise; None when it is empty."""
    if not text:
        return None
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{name} must be an ISO date or time such as 2026-05-01, got {text!r}") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return round(moment.timestamp() * 1000)


@dataclass(frozen=True)
class SplitConfig:
    """Which events of a user are training, validation and test (method.md, "Data")."""

    kind: str = "leave_last_out"
    """leave_last_out: the last item is the test target, the one before the validation target; time: two global cuts,
    a user's first event in a window is the window's target."""
    valid_from: str = ""
    """time: start of the validation window, an ISO date or time (UTC); empty: set by the shares."""
    test_from: str = ""
    """time: start of the test window; empty: set by the shares."""
    valid_share: float = 0.1
    """time: share of the events that lie in the validation window."""
    test_share: float = 0.1
    """time: share of the events that lie in the test window."""

    def __post_init__(self) -> None:
        _one_of("split.kind", self.kind, ("leave_last_out", "time"))
        for name in ("valid_share", "test_share"):
            share = getattr(self, name)
            _check(0 < share < 1, f"split.{name} is a share of the events, between 0 and 1; got {share}")
        _check(
            self.valid_share + self.test_share < 1,
            f"split.valid_share + split.test_share must be < 1, got {self.valid_share} + {self.test_share}",
        )
        _check(
            bool(self.valid_from) == bool(self.test_from),
            f"split.valid_from and split.test_from go together; got {self.valid_from!r} and {self.test_from!r}",
        )
        valid, test = instant("split.valid_from", self.valid_from), instant("split.test_from", self.test_from)
        if valid is not None and test is not None:
            _check(
                valid < test,
                f"split.valid_from must be before split.test_from, got {self.valid_from}, {self.test_from}",
            )


@dataclass(frozen=True)
class TextConfig:
    """How items and histories become text (method.md, "Text")."""

    attributes: tuple[str, ...] = ("title", "category", "brand", "price")
    """Attributes of an item's text, in this order."""
    max_tokens: int = 1024
    """Longest history in tokens; whole oldest items are dropped until it fits."""
    max_item_tokens: int = 64
    """Longest item text in tokens, end token not counted; longer ones are cut."""

    def __post_init__(self) -> None:
        for name in self.attributes:
            _one_of("text.attributes", name, ("title", "category", "brand", "price"))
        _check(bool(self.attributes), "text.attributes is empty; name at least title")
        _check(len(set(self.attributes)) == len(self.attributes), f"text.attributes repeats a name: {self.attributes}")
        _check(self.max_item_tokens >= 1, f"text.max_item_tokens must be >= 1, got {self.max_item_tokens}")
        _check(
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
    tuning: str = "full"
    """full: every weight is trained; lora: low-rank adapters, merged when the stage ends."""
    lora_rank: int = 16
    lora_alpha: float = 32.0
    seed: int = 0
    """Seed of a scratch model's first weights and of the adapters'."""

    def __post_init__(self) -> None:
        _check(bool(self.name), "model.name is empty; give scratch, a Hugging Face name, a folder or a gs:// URI")
        _one_of("model.size", self.size, ("tiny", "small", "base"))
        _one_of("model.tuning", self.tuning, ("full", "lora"))
        _check(self.vocab_size >= 300, f"model.vocab_size must be >= 300 (256 bytes and merges), got {self.vocab_size}")
        _check(self.lora_rank >= 1, f"model.lora_rank must be >= 1, got {self.lora_rank}")


@dataclass(frozen=True)
class StageConfig:
    """One stage of fine-tuning (method.md, "Loss"); stage 1 and stage 2 have one each."""

    steps: int = 1000
    """Optimizer steps; 0 passes the model through (the ablation)."""
    batch_size: int = 32
    """Users per step; each has batch_size - 1 in-batch negatives."""
    lr: float = 1e-3
    """Peak learning rate: linear warm-up, then cosine to a tenth."""
    warmup: float = 0.05
    """Share of the steps that warm up."""
    weight_decay: float = 0.01
    clip: float = 1.0
    """Largest norm of the gradient."""
    alpha: float = 0.125
    """Weight of L_TT, target against target-in-context."""
    beta: float = 0.025
    """Weight of L_UT, history against target; may be negative (the ablation)."""
    tau: float = 0.5
    """Temperature of both contrastive losses."""
    direction: str = "both"
    """Side that is normalised over in InfoNCE: user, target, or both (their mean)."""
    train_on: str = "last"
    """Items whose tokens are predicted: last (the target), or all (each item of the history is a next item too)."""
    position: str = "random"
    """Where a user's history is cut in an epoch: random, or last (always the newest training item is the target)."""
    domains: tuple[str, ...] = ()
    """Categories trained jointly; empty means all."""
    mix: str = "proportional"
    """Share of a category in the batches: proportional to its users, sqrt of it, or uniform."""
    valid_every: int = 100
    """Steps between validations; the best one's weights are kept. 0: no validation, the last weights."""
    valid_users: int = 256
    """Held-out users in a validation."""
    patience: int = 0
    """Validations without gain after which the stage ends; 0: never."""
    checkpoint_every: int = 200
    """Steps between checkpoints, from which an interrupted stage goes on; 0: none."""
    seed: int = 0
    threads: int = 0
    """CPU threads; 0: all that the container may use."""

    def __post_init__(self) -> None:
        _check(self.steps >= 0, f"steps must be >= 0, got {self.steps}")
        _check(
            self.batch_size >= 2,
            f"batch_size must be >= 2, got {self.batch_size}: with one row both contrastive losses are identically 0; "
            "raise batch_size",
        )
        _check(
            self.alpha >= 0 and self.alpha + abs(self.beta) < 1,
            f"alpha must be >= 0 and alpha + |beta| < 1, got {self.alpha} + {abs(self.beta)}; lower alpha or beta",
        )
        _check(self.tau > 0, f"tau must be > 0, got {self.tau}")
        _check(self.lr > 0, f"lr must be > 0, got {self.lr}")
        _check(0 <= self.warmup < 1, f"warmup is a share of the steps, 0 <= warmup < 1; got {self.warmup}")
        _one_of("direction", self.direction, ("both", "user", "target"))
        _one_of("train_on", self.train_on, ("last", "all"))
        _one_of("position", self.position, ("random", "last"))
        _one_of("mix", self.mix, ("proportional", "sqrt", "uniform"))
        for name in ("valid_every", "patience", "checkpoint_every", "threads"):
            _check(getattr(self, name) >= 0, f"{name} must be >= 0, got {getattr(self, name)}")
        _check(self.valid_users >= 2, f"valid_users must be >= 2, got {self.valid_users}")


@dataclass(frozen=True)
class GenerateConfig:
    """Sampling of next-item texts (method.md, "Inference")."""

    backend: str = "hf"
    """hf: transformers' generate, the reference."""
    samples: int = 32
    """Independent samples per user."""
    temperature: float = 0.5
    max_new_tokens: int = 64
    split: str = "test"
    """Which held-out item is to be predicted: test or valid."""
    max_users: int = 0
    """A fixed random sample of so many users; 0: all."""
    batch_users: int = 8
    """Users decoded together; memory grows with batch_users x samples."""
    seed: int = 0
    threads: int = 0
    """CPU threads; 0: all that the container may use."""

    def __post_init__(self) -> None:
        _one_of("generate.backend", self.backend, ("hf",))
        _one_of("generate.split", self.split, ("test", "valid"))
        _check(
            self.temperature > 0, f"generate.temperature must be > 0, got {self.temperature}; use 0.01 for near-greedy"
        )
        for name in ("samples", "max_new_tokens", "batch_users"):
            _check(getattr(self, name) >= 1, f"generate.{name} must be >= 1, got {getattr(self, name)}")
        for name in ("max_users", "threads"):
            _check(getattr(self, name) >= 0, f"generate.{name} must be >= 0, got {getattr(self, name)}")


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
    """Leave out what is in the history; applied to the floors alike."""

    def __post_init__(self) -> None:
        _check(self.k >= 1, f"retrieve.k must be >= 1, got {self.k}")
        _check(self.k1 >= 0, f"retrieve.k1 must be >= 0, got {self.k1}")
        _check(0 <= self.b <= 1, f"retrieve.b must be between 0 and 1, got {self.b}")
        _check(self.epsilon >= 0, f"retrieve.epsilon must be >= 0, got {self.epsilon}")


@dataclass(frozen=True)
class EvaluateConfig:
    """Metrics and floors (method.md, "Metrics")."""

    recall_at: tuple[int, ...] = (1, 5, 10, 20)
    ndcg_at: tuple[int, ...] = (10,)
    floors: tuple[str, ...] = ("popularity", "markov", "repeat_last", "bm25_last")
    bootstrap: int = 1000
    """Resamples of the users behind each 95 % interval."""
    seed: int = 0

    def __post_init__(self) -> None:
        for k in (*self.recall_at, *self.ndcg_at):
            _check(k >= 1, f"evaluate: a cut-off must be >= 1, got {k}")
        for name in self.floors:
            _one_of("evaluate.floors", name, ("popularity", "markov", "repeat_last", "bm25_last"))
        _check(self.bootstrap >= 1, f"evaluate.bootstrap must be >= 1, got {self.bootstrap}")


@dataclass(frozen=True)
class GateConfig:
    """What a model must show before it may be used."""

    metric: str = "recall_at_10"
    beat: tuple[str, ...] = ("popularity",)
    """Floors that the model's metric must exceed."""
    min_gain: float = 0.0
    """By how much, in units of the metric."""


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
    generate: GenerateConfig = field(default_factory=GenerateConfig)
    retrieve: RetrieveConfig = field(default_factory=RetrieveConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    gate: GateConfig = field(default_factory=GateConfig)

    def __post_init__(self) -> None:
        domains = [source.domain for source in self.sources]
        _check(bool(domains), "a run needs at least one source; give --source NAME=URI")
        _check(len(set(domains)) == len(domains), f"two sources have one domain name: {', '.join(domains)}")
        _check(bool(self.targets), "a run needs at least one target; give --target NAME")
        _check(len(set(self.targets)) == len(self.targets), f"a target is named twice: {', '.join(self.targets)}")
        for what, names in (("target", self.targets), ("stage1.domains", self.stage1.domains)):
            for name in names:
                _check(name in domains, f"{what} {name!r} is not a category of this run; sources: {', '.join(domains)}")
        _check(
            not self.stage2.domains,
            f"stage2.domains is set by the pipeline to the target; leave it empty, got {self.stage2.domains}",
        )
        deepest = max(*self.evaluate.recall_at, *self.evaluate.ndcg_at, 1)
        _check(
            deepest <= self.retrieve.k,
            f"evaluate looks at rank {deepest} but retrieve.k is {self.retrieve.k}; raise retrieve.k",
        )
        known = metric_names(self.evaluate)
        _check(
            self.gate.metric in known, f"gate.metric {self.gate.metric!r} is not computed; one of {', '.join(known)}"
        )
        for name in self.gate.beat:
            _check(
                name in self.evaluate.floors,
                f"gate.beat {name!r} is not among evaluate.floors: {', '.join(self.evaluate.floors)}",
            )


def metric_names(evaluate: EvaluateConfig) -> list[str]:
    """Names of the ranking metrics, valid in MLflow (`recall@10` is not)."""
    return [f"recall_at_{k}" for k in evaluate.recall_at] + [f"ndcg_at_{k}" for k in evaluate.ndcg_at] + ["mrr"]


SECTIONS = tuple(f.name for f in dataclasses.fields(Config) if f.name not in ("sources", "targets"))
