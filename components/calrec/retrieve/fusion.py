"""Fusion of the BM25 rankings of a user's texts ("quasi-round-robin", PAPER.md, "Inference"), and by places."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calrec.retrieve.search import Matches

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

PLACES = 60  # of reciprocal-rank fusion: the constant of its authors (Cormack, Clarke and Büttcher, 2009)


@dataclass(frozen=True, eq=False)
class Fused:
    """A user's groups, best first: falling score, ties by group."""

    groups: Ints
    scores: Floats
    """Above 0."""
    text: Ints
    """Index of the text that attains the score."""
    match: Floats
    """That text's BM25 score between its lowest (0) and highest (1)."""


def fuse(found: Matches, weights: Floats) -> Fused:
    """score(d) = max over texts g of w_g · (s_g(d) − min_g) / (max_g − min_g), w_g = exp(ε·logp_g) for generations.

    A text that cannot tell the catalogue's groups apart (max = min) says nothing and is left out. A group of the final
    top k is in the top k of the text that attains its maximum, so each text's best k are enough.

    Args:
        found: each text's best groups.
        weights: of each text.
    """
    lowest = found.lowest.astype(np.float64)[:, None]
    spread = found.highest.astype(np.float64)[:, None] - lowest
    match = np.divide(found.scores - lowest, spread, out=np.zeros(found.scores.shape), where=spread > 0)
    scores = weights[:, None] * match
    text, place = np.nonzero((scores > 0) & (found.groups >= 0))
    group, score = found.groups[text, place].astype(np.int64), scores[text, place]
    order = np.lexsort((text, group, -score))
    _, first = np.unique(group[order], return_index=True)
    best = order[np.sort(first)]
    return Fused(group[best], score[best], text[best], match[text, place][best])


def reciprocal(rankings: Sequence[Ints]) -> tuple[Ints, Floats]:
    """Groups by falling Σ over rankings of 1 / (60 + place), ties by group; and these sums.

    Args:
        rankings: groups of each, best first.
    """
    groups = np.concatenate(rankings)
    shares = np.concatenate([1 / (PLACES + 1 + np.arange(len(ranking))) for ranking in rankings])
    distinct, at = np.unique(groups, return_inverse=True)
    sums: Floats = np.bincount(at, shares, len(distinct)).astype(np.float64)
    order = np.lexsort((distinct, -sums))
    return distinct[order], sums[order]


def top_items(
    groups: Sequence[int], members: Sequence[Sequence[int]], k: int, may: Callable[[int], bool]
) -> list[tuple[int, int | None]]:
    """The first k items that may be listed, each with its place in `groups`; a group's items follow each other.

    Groups that are not named come behind, in their own order, with place None. Shorter than k only when the catalogue
    is.
    """
    named = set(groups)
    unnamed = ((None, group) for group in range(len(members)) if group not in named)
    chosen: list[tuple[int, int | None]] = []
    for place, group in itertools.chain(enumerate(groups), unnamed):
        chosen += [(item, place) for item in members[group] if may(item)]
        if len(chosen) >= k:
            break
    return chosen[:k]
