"""How a stage trains, and where."""

from dataclasses import dataclass

from calrec.config import naming
from calrec.config.checks import at_least_zero, check, one_of


@dataclass(frozen=True)
class LossConfig:
    """The loss of a step (PAPER.md, "Loss")."""

    alpha: float = 0.125
    """Weight of L_TT, target against target-in-context."""
    beta: float = 0.025
    """Weight of L_UT, history against target; may be negative (the ablation)."""
    tau: float = 0.5
    """Temperature of both contrastive losses."""
    direction: str = "both"
    """Side that is normalised over in InfoNCE: user, target, or both (their mean)."""
    negatives: str = "batch"
    """Whose targets are negatives: batch (all users of the step, over ranks and packed rows, by GradCache), ranks
    (those that all ranks work on at one time), or micro (those of one packed row on one rank)."""

    def __post_init__(self) -> None:
        check(
            self.alpha >= 0 and self.alpha + abs(self.beta) < 1,
            f"alpha must be >= 0 and alpha + |beta| < 1, got {self.alpha} + {abs(self.beta)}; lower alpha or beta",
        )
        check(self.tau > 0, f"tau must be > 0, got {self.tau}")
        one_of("direction", self.direction, ("both", "user", "target"))
        one_of("negatives", self.negatives, ("batch", "ranks", "micro"))


@dataclass(frozen=True)
class OptimizerConfig:
    """How the weights change."""

    steps: int = 1000
    """Optimizer steps; 0 passes the model through (the ablation)."""
    lr: float = 1e-3
    """Peak learning rate, after a linear warm-up."""
    schedule: str = "cosine"
    """From the peak on: cosine to a tenth, linear to a tenth, or constant."""
    warmup: float = 0.05
    """Share of the steps that warm up."""
    weight_decay: float = 0.01
    """Of matrices; norms and biases are not decayed."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    ema: float = 0.0
    """Decay of an exponential moving average of the weights, which is then validated and kept; 0: none."""
    dropout: float = 0.0
    """Share of the embeddings, and of what each attention and feed-forward layer adds, that is zeroed in training."""

    def __post_init__(self) -> None:
        at_least_zero(self, "steps")
        check(self.lr > 0, f"lr must be > 0, got {self.lr}")
        one_of("schedule", self.schedule, ("cosine", "linear", "constant"))
        check(0 <= self.warmup < 1, f"warmup is a share of the steps, 0 <= warmup < 1; got {self.warmup}")
        check(0 <= self.dropout < 1, f"dropout is a share, 0 <= dropout < 1; got {self.dropout}")
        check(0 <= self.ema < 1, f"ema is a decay, 0 <= ema < 1 (0: none); got {self.ema}")


@dataclass(frozen=True)
class SamplingConfig:
    """Whose histories, cut where, a step works on."""

    batch_size: int = 32
    """Users per step, over all ranks; with negatives = "batch" each has batch_size - 1 negatives."""
    train_on: str = "last"
    """Items whose tokens are predicted: last (the target), or all (each item of the history is a next item too)."""
    position: str = "random"
    """Where a user's history is cut in an epoch: random, or last (always the newest training item is the target)."""
    domains: tuple[str, ...] = ()
    """Categories trained jointly; empty means all."""
    mix: str = "proportional"
    """Share of a category in the batches: proportional to its users, sqrt of it, uniform, or weights such as
    nutrition=2,deli=1."""
    until: str = "valid"
    """Up to which held-out item a history is trained on: valid, or test: the validation items too, with settings that
    validation chose before; then nothing is validated and the last weights are kept."""
    seed: int = 0

    def __post_init__(self) -> None:
        check(
            self.batch_size >= 2,
            f"batch_size must be >= 2, got {self.batch_size}: with one row both contrastive losses are identically 0; "
            "raise batch_size",
        )
        one_of("train_on", self.train_on, ("last", "all"))
        one_of("position", self.position, ("random", "last"))
        one_of("until", self.until, ("valid", "test"))
        mix_weights(self.mix)


@dataclass(frozen=True)
class ValidationConfig:
    """When the weights are judged on held-out items, and which are kept."""

    valid_every: int = 100
    """Steps between validations. 0: no validation, the last weights are kept."""
    valid_users: int = 256
    """Held-out users in a validation."""
    valid_metric: str = "nig"
    """What chooses the best: nig (nats per token of the held-out target, least is best), or ndcg (NDCG@10 of the
    held-out target among those of all validation users by the cosine of v_U and v_T, a proxy)."""
    keep: str = "best"
    """Which weights are kept: best (in valid_metric), or last."""
    patience: int = 0
    """Validations without gain after which the stage ends; 0: never."""

    def __post_init__(self) -> None:
        at_least_zero(self, "valid_every", "patience")
        check(self.valid_users >= 2, f"valid_users must be >= 2, got {self.valid_users}")
        one_of("valid_metric", self.valid_metric, ("nig", "ndcg"))
        one_of("keep", self.keep, ("best", "last"))


@dataclass(frozen=True)
class CheckpointConfig:
    """When a stage writes what an interrupted one goes on from."""

    checkpoint_every: int = 200
    """Steps between checkpoints, from which an interrupted stage goes on; 0: none by steps."""
    checkpoint_minutes: float = 5.0
    """Most minutes between checkpoints, looked at after each step, whichever comes first: what a killed pod loses; 0:
    none by time. No number of the training depends on it."""
    keep_checkpoints: int = 2
    """Newest checkpoints that are kept."""

    def __post_init__(self) -> None:
        at_least_zero(self, "checkpoint_every", "checkpoint_minutes")
        check(self.keep_checkpoints >= 1, f"keep_checkpoints must be >= 1, got {self.keep_checkpoints}")


@dataclass(frozen=True)
class ComputeConfig:
    """How the machine computes it; but for rounding it changes no result."""

    micro_tokens: int = 16384
    """Tokens of one packed row, which bound the memory; a longer batch is worked on in several rows. 0: no bound."""
    attention: str = "auto"
    """How packed rows attend: loop (one causal SDPA per sequence), varlen (FlashAttention, GPU and bf16), flex (flex
    attention, GPU); auto takes the fastest that fits; padded is the reference path without packing."""
    precision: str = "auto"
    """Of matrix products: fp32, bf16 (weights and their updates stay fp32), or auto: bf16 on GPUs and on CPUs with AMX,
    fp32 on others. The model's manifest says what auto chose, and a stage that goes on elsewhere keeps it."""
    gradient_checkpointing: bool = False
    """Compute each layer again in the backward pass: less memory, about a third more time."""
    compile: bool = False
    """torch.compile of each layer."""
    threads: int = 0
    """CPU threads; 0: all that the container may use."""

    def __post_init__(self) -> None:
        at_least_zero(self, "micro_tokens", "threads")
        one_of("attention", self.attention, ("auto", "loop", "varlen", "flex", "padded"))
        one_of("precision", self.precision, ("auto", "fp32", "bf16"))


@dataclass(frozen=True)
class StageConfig(  # dataclasses take the fields of the last base first
    ComputeConfig, CheckpointConfig, ValidationConfig, SamplingConfig, LossConfig, OptimizerConfig
):
    """One stage of fine-tuning; stage 1, stage 2 and the refit have one each. A function takes the group it needs."""

    def __post_init__(self) -> None:
        for group in StageConfig.__bases__:
            group.__post_init__(self)  # type: ignore[attr-defined]
        check(
            self.until == "valid" or self.patience == 0,
            f"until = test leaves nothing to validate, so patience = {self.patience} cannot end the stage; set it to 0",
        )


def mix_weights(mix: str) -> dict[str, float]:
    """Weights of `nutrition=2,deli=1` by category; nothing for proportional, sqrt and uniform."""
    if mix in ("proportional", "sqrt", "uniform"):
        return {}
    weights = {}
    for part in mix.split(","):
        name, _, weight = part.partition("=")
        try:
            weights[name.strip()] = float(weight)
        except ValueError:
            raise ValueError(
                f"mix must be proportional, sqrt, uniform, or weights such as nutrition=2,deli=1; got {mix!r}"
            ) from None
    check(
        all(0 <= weight < float("inf") for weight in weights.values()) and sum(weights.values()) > 0,
        f"mix: weights must be >= 0 and one of them > 0, got {mix!r}",
    )
    return weights


@dataclass(frozen=True)
class LaunchConfig:
    """Where a stage trains; nothing of it changes what is learned, so an interrupted stage may go on elsewhere."""

    launcher: str = "auto"
    """local (this process), torchrun (several processes on this machine), trainjob (a TrainJob of Kubeflow Trainer,
    several machines), or auto: torchrun when the step sees several GPUs, else local."""
    processes: int = 0
    """Processes per machine; 0: one per GPU, or one. For trainjob also the GPUs that each machine is asked for."""
    nodes: int = 1
    """Machines of a TrainJob."""
    sharding: str = "ddp"
    """ddp: each process holds the whole model; fsdp: weights, gradients and optimizer are spread over them."""
    runtime: str = "torch-distributed"
    """The ClusterTrainingRuntime of a TrainJob, or TrainingRuntime/NAME for one of the namespace."""
    cpu: str = ""
    """CPUs of each machine of a TrainJob, such as 8; empty: the runtime's, unless GPUs are asked for."""
    memory: str = ""
    """Memory of each machine of a TrainJob, such as 32Gi; empty: the runtime's, unless GPUs are asked for."""
    accelerator: str = "nvidia.com/gpu"
    """Resource name of the GPUs that a TrainJob asks for."""

    def __post_init__(self) -> None:
        one_of("launch.launcher", self.launcher, ("auto", "local", "torchrun", "trainjob"))
        one_of("launch.sharding", self.sharding, ("ddp", "fsdp"))
        check(self.processes >= 0, f"launch.processes must be >= 0, got {self.processes}")
        check(self.nodes >= 1, f"launch.nodes must be >= 1, got {self.nodes}")
        check(
            self.nodes == 1 or self.launcher == "trainjob",
            f"launch.nodes = {self.nodes} needs launch.launcher = trainjob, got {self.launcher}",
        )
        kind, slash, runtime = self.runtime.rpartition("/")
        check(
            not slash or kind in ("TrainingRuntime", "ClusterTrainingRuntime"),
            f"launch.runtime is NAME, or TrainingRuntime/NAME for one of the namespace; got {self.runtime!r}",
        )
        naming.subdomain("launch.runtime", runtime)
        naming.resource("launch.accelerator", self.accelerator)
        if self.cpu:
            naming.cpus("launch.cpu", self.cpu)
        if self.memory:
            naming.memory("launch.memory", self.memory)
