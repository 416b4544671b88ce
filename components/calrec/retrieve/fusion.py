"""Fusion of the BM25 rankings of a user's generated texts ("quasi-round-robin", method.md)."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Match:
    """What the fusion needs of one text's scores: its best groups, the highest and the lowest score of all."""

    groups: NDArray[np.int64]
    """Best groups, falling score, ties by group."""
    scores: Floats
    highest: float
    lowest: float


def match(scores: Floats, depth: int) -> Match:
    """The best `depth` groups of a full score vector, without sorting it."""
    depth = min(depth, len(scores))
    least = np.partition(scores, len(scores) - depth)[len(scores) - depth]
    above, equal = np.flatnonzero(scores > least), np.flatnonzero(scores == least)
    best = np.concatenate([above, equal[: depth - len(above)]])
    best = best[np.argsort(-scores[best], kind="stable")]
    return Match(best, scores[best], float(scores.max()), float(scores.min()))


def fuse(matches: Sequence[Match], logprobs: Sequence[float], epsilon: float) -> dict[int, tuple[float, int]]:
    """score(d) = max over texts g of exp(ε·logp_g) · (s_g(d) − min_g) / (max_g − min_g).

    A text that cannot tell the catalogue's groups apart (max = min) says nothing and is left out. A group of the final
    top k is in the top k of the text that attains its maximum, so each text's best k are enough.

    Returns:
        group → (score, index of the text that attains it), for scores above 0.
    """
    best: dict[int, tuple[float, int]] = {}
    for g, (found, logprob) in enumerate(zip(matches, logprobs, strict=True)):
        spread = found.highest - found.lowest
        if spread <= 0:
            continue
        fused = math.exp(epsilon * logprob) * ((found.scores - found.lowest) / spread)
        for group, score in zip(found.groups.tolist(), fused.tolist(), strict=True):
            if score > 0 and (group not in best or score > best[group][0]):
                best[group] = (score, g)
    return best


@dataclass(frozen=True)
class Ranked:
    """One place of a user's list."""

    item: int
    score: float
    text: int | None
    """Index of the generated text behind it; None when the item only fills the list."""


def rank(
    fused: dict[int, tuple[float, int]], members: Sequence[Sequence[int]], k: int, excluded: Collection[int] = ()
) -> list[Ranked]:
    """The top k items: groups by score, ties by group; a group's items follow each other.

    Groups without a score have score 0 and fill the list in their order. Shorter than k only when the catalogue is.
    """
    scored = sorted(fused, key=lambda group: (-fused[group][0], group))
    ranked: list[Ranked] = []
    for group in (*scored, *(g for g in range(len(members)) if g not in fused)):
        score, text = fused.get(group, (0.0, None))
        ranked += [Ranked(item, score, text) for item in members[group] if item not in excluded]
        if len(ranked) >= k:
            break
    return ranked[:k]
