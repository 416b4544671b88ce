"""Ranked lists of many users as arrays, as every method gives them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Lists:
    """One list per user, best first."""

    items: Ints
    """Item codes, (users, k); -1 after the end of a list."""
    scores: Floats
    """What a list is sorted by, (users, k), never rising; nan where there is none. Equal neighbours are a tie."""

    def __len__(self) -> int:
        return len(self.items)

    @staticmethod
    def empty(users: int, k: int) -> "Lists":
        """Lists without items, to be filled."""
        return Lists(np.full((users, k), -1, np.int64), np.full((users, k), np.nan))

    @staticmethod
    def of(items: Sequence[Sequence[int]], k: int, scores: Sequence[Sequence[float]] | None = None) -> "Lists":
        """Lists from the rows of each user, of which none is longer than k.

        Args:
            items: codes, best first.
            k: places of a list.
            scores: parallel to `items`; None: there are none.
        """
        lists = Lists.empty(len(items), k)
        for user, row in enumerate(items):
            lists.items[user, : len(row)] = row
        for user, values in enumerate(scores or ()):
            lists.scores[user, : len(values)] = values
        return lists

    @property
    def lengths(self) -> Ints:
        """Items of each list."""
        lengths: Ints = (self.items >= 0).sum(axis=1)
        return lengths
