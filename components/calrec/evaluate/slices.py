"""Users by kind: where a method is strong and where it is weak."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calrec.config import EvaluateConfig
from calrec.evaluate.figures import figures
from calrec.evaluate.metrics import Scores
from calrec.evaluate.results import Slice

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
CATEGORIES = 8  # that have a slice of their own


@dataclass(frozen=True, eq=False)
class Division:
    """One way to divide the users: every user has exactly one value."""

    by: str
    values: Sequence[str]
    of: Ints
    """Index into `values` of each user."""


def frequency(train_count: Ints) -> Division:
    """By how often the target is in the training events; what never was is cold."""
    values = ("0 (cold)", "1-5", "6-20", "over 20")
    return Division("target frequency", values, np.searchsorted([1, 6, 21], train_count, side="right"))


def history(lengths: Ints) -> Division:
    """By the items before the target."""
    values = ("under 5", "5-9", "10-19", "20-49", "50 and more")
    return Division("history length", values, np.searchsorted([5, 10, 20, 50], lengths, side="right"))


def repeat(repeated: NDArray[np.bool_]) -> Division:
    """By whether the target is in the history."""
    return Division("target", ("new", "repeat"), repeated.astype(np.int64))


def category(target: Ints, categories: Sequence[str]) -> list[Division]:
    """By category of the target: the most frequent ones, and the rest together; nothing when no item has one.

    Args:
        target: each user's, as a position in the catalogue.
        categories: of each item of the catalogue.
    """
    names, code = np.unique(np.asarray(categories, dtype=str), return_inverse=True)
    if names.tolist() == [""]:
        return []
    order = np.lexsort((names, -np.bincount(code[target], minlength=len(names))))
    place = np.empty(len(names), np.int64)
    place[order] = np.arange(len(names))
    kept = len(names) if len(names) <= CATEGORIES + 1 else CATEGORIES
    values = [name or "no category" for name in names[order][:kept].tolist()]
    return [Division("category", [*values, "all others"], np.minimum(place, kept)[code[target]])]


def price(target: Ints, prices: Floats) -> list[Division]:
    """By price of the target, in quarters of the catalogue's items that have one; nothing when none has.

    Args:
        target: each user's, as a position in the catalogue.
        prices: of each item of the catalogue; nan: it has none.
    """
    known = prices[~np.isnan(prices)]
    if not len(known):
        return []
    edges = np.unique(np.quantile(known, [0.25, 0.5, 0.75], method="inverted_cdf"))
    shown = [f"{edge:.2f}" for edge in edges]
    between = [f"over {low} to {high}" for low, high in itertools.pairwise(shown)]
    values = [f"up to {shown[0]}", *between, f"over {shown[-1]}", "no price"]
    band = np.where(np.isnan(prices), len(values) - 1, np.searchsorted(edges, np.nan_to_num(prices), side="left"))
    return [Division("price", values, band[target])]


def slice_figures(divisions: Sequence[Division], methods: Mapping[str, Scores], config: EvaluateConfig) -> list[Slice]:
    """The figures of every method in every slice that has users."""
    found = []
    for division in divisions:
        counts = {name: _counts(division, scores) for name, scores in methods.items()}
        users = np.bincount(division.of, minlength=len(division.values))
        for at in np.flatnonzero(users).tolist():
            its = {name: figures(table[at], config) for name, table in counts.items()}
            found.append(Slice(division.by, division.values[at], int(users[at]), its))
    return found


def _counts(division: Division, scores: Scores) -> Ints:
    """Users by slice and rank."""
    shape = len(division.values), scores.k + 1
    return np.bincount(division.of * shape[1] + scores.rank, minlength=shape[0] * shape[1]).reshape(shape)
