"""Ranking metrics: where the target stands in each user's list, what that is worth, and what all lists show.

A target that is not in a list of k has rank 0 and is worth 0 in every metric, MRR too: where it would have stood
further down cannot be known from the list. Neighbours of equal score are a tie. The method itself settles it, and
that order is what counts; beside it stand the best, the worst and the average order. Only the k places of the list are
known: of a tie that goes on beyond them its part inside is reordered, and a target outside stays outside.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calrec.config import EvaluateConfig, metric_names
from calrec.evaluate.lists import Lists
from calrec.evaluate.results import Ties
from calrec.evaluate.statistics import mean_of
from calrec.retrieve.catalogue import Catalogue

Ints = NDArray[np.int64]
Ranks = NDArray[np.int32]
Floats = NDArray[np.float64]


def recall(ranks: NDArray[np.integer], k: int) -> Floats:
    """1 when the one target is among the first k."""
    return ((ranks >= 1) & (ranks <= k)).astype(np.float64)


def ndcg(ranks: NDArray[np.integer], k: int) -> Floats:
    """1 / log2(rank + 1) within the first k; the ideal is 1 as there is one target."""
    return np.where(recall(ranks, k) > 0, 1 / np.log2(np.maximum(ranks, 1) + 1), 0.0)


def reciprocal_rank(ranks: NDArray[np.integer]) -> Floats:
    """1 / rank within the list, 0 beyond it."""
    return np.where(ranks >= 1, 1 / np.maximum(ranks, 1), 0.0)


def worth(ranks: NDArray[np.integer], config: EvaluateConfig) -> Floats:
    """Every configured metric of ranks, (ranks, metrics) in the order of :func:`calrec.config.metric_names`."""
    columns = [recall(ranks, k) for k in config.recall_at] + [ndcg(ranks, k) for k in config.ndcg_at]
    return np.column_stack([*columns, reciprocal_rank(ranks)])


@dataclass(frozen=True, eq=False)
class Target:
    """What is looked for in lists: item codes and their text groups, by user."""

    item: Ints
    group: Ints


class Scores:
    """What a method's lists are worth: ranks by user, and how often each item is listed. Filled block by block."""

    def __init__(self, target: Target, catalogue: Catalogue, k: int):
        """Begin with no list.

        Args:
            target: of every user.
            catalogue: the items that are ranked.
            k: places of a list.
        """
        users = len(target.item)
        self._target, self._catalogue = target, catalogue
        self.k = k
        self.rank = np.zeros(users, np.int32)
        """Of the target; 0: not in the list."""
        self.best = np.zeros(users, np.int32)
        """Rank if the target came first among the items of its score."""
        self.worst = np.zeros(users, np.int32)
        self.rank_text = np.zeros(users, np.int32)
        """Of the first item with the target's text."""
        self._listed = np.zeros(len(catalogue.items), np.int64)
        self._group_of = np.full(int(catalogue.items[-1]) + 2, -1, np.int64)  # its last entry is for code -1
        self._group_of[catalogue.items] = catalogue.group_of

    def add(self, users: Ints, lists: Lists) -> None:
        """Take the lists of these users."""
        hit = lists.items == self._target.item[users, None]
        self.rank[users] = first_place(hit)
        self.rank_text[users] = first_place(self._group_of[lists.items] == self._target.group[users, None])
        self.best[users], self.worst[users] = tie_range(hit, lists)
        codes = lists.items[lists.items >= 0]
        self._listed += np.bincount(codes, minlength=len(self._group_of) - 1)[self._catalogue.items]

    def rank_counts(self, on_texts: bool = False) -> Ints:
        """Users by rank, from 0 to k."""
        return np.bincount(self.rank_text if on_texts else self.rank, minlength=self.k + 1)

    @property
    def coverage(self) -> float:
        """Share of the catalogue that is in some list."""
        return float((self._listed > 0).mean())

    @property
    def novelty(self) -> float:
        """Mean of -log2(share of the training events) over listed items; one without events counts as half an event."""
        events = np.maximum(self._catalogue.train_count, 0.5)
        bits = np.log2(max(1, self._catalogue.train_count.sum())) - np.log2(events)
        return float(self._listed @ bits / max(1, self._listed.sum()))

    def ties(self, config: EvaluateConfig) -> dict[str, Ties]:
        """Means of each metric when ties are ordered for, by chance and against the target; names in their order."""
        table = worth(np.arange(self.k + 1), config)
        sums = np.cumsum(table, axis=0)
        best, worst, users = count_rank_pairs(self.best, self.worst)
        before = np.where(best[:, None] > 0, sums[np.maximum(best, 1) - 1], 0.0)
        average = (sums[worst] - before) / (worst - best + 1)[:, None]
        means = [mean_of(values, users) for values in (table[best], average, table[worst])]
        return {
            name: Ties(*map(float, its))
            for name, its in zip(metric_names(config), zip(*means, strict=True), strict=True)
        }


def count_rank_pairs(first: Ranks, second: Ranks) -> tuple[Ints, Ints, Ints]:
    """The distinct pairs of two ranks of each user, (first, second), and how many users have each."""
    width = int(second.max()) + 1
    codes, users = np.unique(first.astype(np.int64) * width + second, return_counts=True)
    return codes // width, codes % width, users


def first_place(found: NDArray[np.bool_]) -> Ranks:
    """Place of the first True of each row, from 1; 0 when there is none."""
    return np.where(found.any(axis=1), found.argmax(axis=1) + 1, 0).astype(np.int32)


def tie_range(hit: NDArray[np.bool_], lists: Lists) -> tuple[Ranks, Ranks]:
    """First and last place of the tie that each user's hit is in; 0 without a hit."""
    best, worst = np.zeros(len(hit), np.int32), np.zeros(len(hit), np.int32)
    rows = np.flatnonzero(hit.any(axis=1))
    scores, at = lists.scores[rows], hit[rows].argmax(axis=1)
    run = np.zeros(scores.shape, np.int64)
    run[:, 1:] = np.cumsum(scores[:, 1:] != scores[:, :-1], axis=1)
    same = (run == run[np.arange(len(rows)), at][:, None]) & (lists.items[rows] >= 0)
    best[rows] = same.argmax(axis=1) + 1
    worst[rows] = best[rows] + same.sum(axis=1) - 1
    return best, worst
