"""Sections about the model that is trained, and about what generates, retrieves and evaluates with it."""

from dataclasses import dataclass

from calrec.config.checks import check, one_of

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
class ModelConfig:
    """The base model and which of its weights are trained."""

    name: str = "scratch"
    """scratch, a Hugging Face name, a local folder, a gs:// or an s3:// URI."""
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
        check(
            bool(self.name), "model.name is empty; give scratch, a Hugging Face name, a folder, a gs:// or an s3:// URI"
        )
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
    """Sampling of next-item texts (PAPER.md, "Inference")."""

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
    """Each user draws from random numbers made from this seed and the user's id."""
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
    """BM25 and fusion (PAPER.md, "Inference")."""

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
    """Metrics and baselines (PAPER.md, "Metrics")."""

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
