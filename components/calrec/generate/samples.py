"""What every sampler takes and gives: prompts, and the distinct continuations of each."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from calrec.arrays.ragged import Ids


@dataclass(frozen=True)
class Prompt:
    """What a user's next item is asked with."""

    user: str
    """Names the user's own random numbers."""
    ids: Ids
    barred: int | None = None
    """A token that the text cannot begin with, see :attr:`calrec.textify.tokens.TokenCache.barred`."""


@dataclass(frozen=True)
class Sample:
    """One distinct continuation of a prompt."""

    tokens: tuple[int, ...]
    """Without the end token."""
    logprob: float
    """Sum of log-probabilities at temperature 1, end token included."""
    finished: bool
    """The end token was drawn; False when the text was cut."""
    count: int = 1
    """How many samples are this one."""


@dataclass(frozen=True)
class Generation:
    """One distinct text that was written for a user."""

    text: str
    logprob: float
    """At temperature 1, end token included; the best of the samples that gave this text."""
    count: int = 1
    finished: bool = True
    """False when the text was cut."""


def bar(logits_UV: Any, prompts: Sequence[Prompt]) -> None:
    """Take the prompts' barred tokens out of the distributions of their first tokens, in place."""
    for row, prompt in enumerate(prompts):
        if prompt.barred is not None:
            logits_UV[row, prompt.barred] = float("-inf")


def merge_samples(samples: Sequence[Sample]) -> list[Sample]:
    """Equal continuations as one with their count, in the order of their first occurrence."""
    found: dict[tuple[tuple[int, ...], bool], Sample] = {}
    for one in samples:
        same = found.setdefault((one.tokens, one.finished), dataclasses.replace(one, count=0))
        found[one.tokens, one.finished] = dataclasses.replace(same, count=same.count + one.count)
    return list(found.values())


def not_finite(user: str, tokens: int) -> FloatingPointError:
    """What a sampler raises on logits that are NaN or infinite."""
    return FloatingPointError(
        f"the model's logits for user {user} after {tokens} tokens are not finite; its weights are damaged or "
        "overflow: train again with a lower learning rate, or take an earlier checkpoint"
    )
