"""What is asked for a user, what may be in the list, and why."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calrec.generate.samples import Generation, Prompt

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

# Sources of a candidate.
GENERATION, LAST_TITLE, DENSE, COOCCURRENCE, FILL = "generation", "last_title", "dense", "cooccurrence", "fill"
RECENT_TITLES, HISTORY = "recent_titles", "history"


@dataclass(frozen=True)
class Asked:
    """What is known of one user."""

    user: str
    generations: Sequence[Generation]
    last: str = ""
    """Text of the last item of the history; empty without one."""
    recent: str = ""
    """Texts of the last evidence.RECENT items, one after the other."""
    history: Sequence[int] = ()
    """Codes of the items that the catalogue holds, oldest first."""
    banned: frozenset[int] = frozenset()
    """Items that may not be listed."""
    prompt: Prompt | None = None
    """Only the model needs it."""

    @staticmethod
    def of(
        user: str,
        history: Sequence[int],
        newest: Sequence[str],
        prompt: Prompt | None,
        generations: Sequence[Generation],
        banned: frozenset[int],
    ) -> "Asked":
        """A user by the codes of the known items and the texts of the newest RECENT ones, both oldest first."""
        return Asked(user, generations, newest[-1] if newest else "", " ".join(newest), history, banned, prompt)


@dataclass(frozen=True)
class Reason:
    """Why a group is in a list."""

    source: str
    text: str = ""
    """What found it."""
    logprob: float | None = None
    """Of the text; of the group itself where the list is ranked by it."""
    match: float | None = None
    """The text's BM25 score between its lowest (0) and highest (1)."""


@dataclass(frozen=True)
class Candidate:
    """A group that may be listed."""

    group: int
    score: float
    reason: Reason


@dataclass(frozen=True)
class Ranked:
    """One place of a user's list."""

    item: int
    score: float | None
    """What the list is sorted by; None where nothing speaks for the item in a list of log-probabilities."""
    reason: Reason


@dataclass(frozen=True, eq=False)
class Pool:
    """What is re-ranked for a user."""

    reasons: dict[int, Reason]
    """By group."""
    groups: Ints
    logprobs: Floats
    """Of each group's text."""
    features: Floats
    """Of each group, evidence.FEATURES; none where nothing is fused."""
