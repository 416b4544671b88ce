"""What an evaluation found, as plain values: the step fills them in, metrics.json holds them, the report draws them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from calrec.recommend.drift import Drift

METHOD = "calrec"
CHAMPION = "champion"
"""The model that is in use."""


@dataclass(frozen=True)
class Figure:
    """The mean of a metric over users with its bootstrap 95 % interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """Method a less method b in one metric, over the same users."""

    mean: float
    low: float
    high: float
    """Paired bootstrap 95 % interval of the mean difference."""
    p: float
    """Two-sided: exact McNemar for hits (Recall), paired bootstrap for the rest."""
    p_holm: float
    """The same after Holm's correction over all differences of the table."""
    effect: float
    """Mean difference by its standard deviation over users (Cohen's d_z); 0 when all differences are equal."""
    wins: int
    """Users for whom a is better."""
    losses: int
    """Users for whom b is better."""


@dataclass(frozen=True)
class Ties:
    """Mean of a metric when items of one score in a list are ordered for, by chance, and against the target."""

    best: float
    mean: float
    worst: float


@dataclass(frozen=True)
class Method:
    """Everything about one method."""

    figures: Mapping[str, Figure]
    """By metric, on item ids."""
    on_texts: Mapping[str, float]
    """The same metrics when items with identical text count as one."""
    ties: Mapping[str, Ties]
    coverage: float
    """Share of the catalogue that is in some user's list."""
    novelty: float
    """Mean of -log2(share of the training events) over listed items, in bits; an item without events counts as half
    an event."""
    against: Mapping[str, Difference] = field(default_factory=dict)
    """By metric: the model less this method; empty for the model itself."""


@dataclass(frozen=True)
class Slice:
    """The users of one kind."""

    by: str
    """Such as "target frequency"."""
    value: str
    """Such as "1-5"."""
    users: int
    figures: Mapping[str, Mapping[str, Figure]]
    """Method → metric."""


@dataclass(frozen=True)
class Example:
    """One user as a person sees it; texts are titles."""

    user_id: str
    history: Sequence[str]
    """The newest items, oldest first."""
    target: str
    rank: int
    """Of the target in the list; 0: not in it."""
    recommended: Sequence[str]
    generated: Sequence[tuple[str, int]]
    """(text, how many samples), most frequent first."""


@dataclass(frozen=True)
class Evaluation:
    """All of one evaluation."""

    domain: str
    split: str
    users: int
    eligible: int
    """Users that have a held-out item; more than `users` when a random sample was taken."""
    items: int
    k: int
    exclude_seen: bool
    methods: Mapping[str, Method]
    """The model (METHOD) first."""
    slices: Sequence[Slice]
    explanations: Mapping[str, float]
    """What explains the figures: distinct texts per sample, samples that are an item's text, margin of the best BM25
    match, targets in the history."""
    examples: Sequence[Example]
    curves: Mapping[str, Sequence[Mapping[str, float]]]
    """stage → rows of {step, loss terms, validation …} as the stage logged them; a row has the names that it has."""
    cost: Mapping[str, Mapping[str, float]]
    """step (stage1, stage2, generate …) → seconds, tokens, peak memory in bytes, as far as known."""
    data: Mapping[str, Any]
    """Data manifest: digest of texts, counts."""
    config: Mapping[str, Any]
    """Settings of every step, by section."""
    warnings: Sequence[str] = ()
    """What is wrong with the lists that were judged, in sentences."""
    drift: Drift | None = None
    """How far the data moved from the champion's; None: there was no champion whose data are known."""
    meaning: str = ""
    """What the figures mean where events share their times, see :func:`calrec.textify.baskets.meaning`."""

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics, in the order of the table."""
        return list(self.methods[METHOD].figures)


def means(document: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Method → metric → mean of an evaluation as metrics.json holds it."""
    return {
        method: {name: float(figure["mean"]) for name, figure in its["figures"].items()}
        for method, its in document["methods"].items()
    }
