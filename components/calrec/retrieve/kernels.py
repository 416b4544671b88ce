"""Compiled loops of the BM25 search: for each bag of terms the best groups, the highest and the lowest score.

Groups are worked on in blocks whose scores stay in the processor's cache. Within a group the terms are added in
ascending order, in float32, count · weight first: the bits are those of :meth:`calrec.retrieve.bm25.Index.sum_of`.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from calrec.arrays.compiled import compiled
from calrec.retrieve.bm25 import Bags

Ints = NDArray[np.int32]
Longs = NDArray[np.int64]
Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

BLOCK = 1 << 16
"""Groups of a block: 256 KiB of scores. Measured: 16K to 256K are equally fast."""
_STRIDE = 512  # groups whose highest score is found before any is looked at: most strides hold nothing of the best


class Postings(NamedTuple):
    """An index as compiled code takes it: of term t the entries offsets[t] … offsets[t + 1] − 1, or a row of `rows`."""

    offsets: Longs
    groups: Ints
    """Groups that hold the term, ascending."""
    weights: Floats
    """What the term adds to the score of the group, above 0."""
    row_of: Ints
    """Row of a frequent term, or -1."""
    rows: Floats
    """Weights of frequent terms for all groups, 0 where a group lacks the term; [rows, groups]."""


@compiled
def _worse(score: Any, group: Any, than_score: Any, than_group: Any) -> Any:
    return score < than_score or (score == than_score and group > than_group)


@compiled
def _sink(scores: Floats, groups: Ints, n: int, score: Any, group: Any) -> None:
    """Put an entry at the top of a heap of n, the worst on top, in place of the entry there."""
    at = 0
    while 2 * at + 1 < n:
        child = 2 * at + 1
        if child + 1 < n and _worse(scores[child + 1], groups[child + 1], scores[child], groups[child]):
            child += 1
        if not _worse(scores[child], groups[child], score, group):
            break
        scores[at], groups[at] = scores[child], groups[child]
        at = child
    scores[at], groups[at] = score, group


@compiled
def _rise(scores: Floats, groups: Ints, n: int, score: Any, group: Any) -> None:
    """Add an entry to a heap of n, the worst on top."""
    at = n
    while at > 0:
        parent = (at - 1) // 2
        if not _worse(score, group, scores[parent], groups[parent]):
            break
        scores[at], groups[at] = scores[parent], groups[parent]
        at = parent
    scores[at], groups[at] = score, group


@compiled
def _sort(scores: Floats, groups: Ints, n: int) -> None:
    """Turn a heap of n into a list, best first."""
    for last in range(n - 1, 0, -1):
        score, group = scores[last], groups[last]
        scores[last], groups[last] = scores[0], groups[0]
        _sink(scores, groups, last, score, group)


@compiled
def _keep(sums: Floats, start: int, allowed: Bytes, scores: Floats, groups: Ints, n: int) -> int:
    """Put the groups from `start` on, whose scores are `sums`, into the heap of the best where they belong; its size.

    Groups come in rising order, so of equal scores the one in the heap stays.
    """
    for x in range(len(sums)):
        if n < len(scores) or sums[x] > scores[0]:
            if len(allowed) and not allowed[start + x]:
                continue
            if n < len(scores):
                _rise(scores, groups, n, sums[x], start + x)
                n += 1
            else:
                _sink(scores, groups, n, sums[x], start + x)
    return n


@compiled
def _highest(integers: Ints) -> Any:
    best = integers[0]
    for x in range(1, len(integers)):
        best = max(best, integers[x])
    return best


@compiled
def _lowest(integers: Ints) -> Any:
    best = integers[0]
    for x in range(1, len(integers)):
        best = min(best, integers[x])
    return best


@compiled
def _add(sums: Floats, start: int, terms: Ints, counts: Floats, at: Longs, postings: Postings) -> None:
    """Scores of the block that begins at group `start`; at[i] is where term i has got to, and goes on."""
    stop = start + len(sums)
    sums[:] = 0
    for i in range(len(terms)):
        count, row = counts[i], postings.row_of[terms[i]]
        if row >= 0:
            dense = postings.rows[row, start:stop]
            for x in range(len(sums)):
                sums[x] += count * dense[x]
        else:
            p, end = at[i], postings.offsets[terms[i] + 1]
            while p < end and postings.groups[p] < stop:
                sums[postings.groups[p] - start] += count * postings.weights[p]
                p += 1
            at[i] = p


@compiled
def search(
    first: int,
    last: int,
    bags: Bags,
    postings: Postings,
    size: int,
    allowed: Bytes,
    block: int,
    groups: Ints,
    scores: Floats,
    highest: Floats,
    lowest: Floats,
) -> None:
    """Fill the rows first … last − 1 of the results.

    Args:
        first: first bag to work on.
        last: one after the last bag.
        bags: the bags of all rows.
        postings: the index.
        size: number of groups.
        allowed: 1 for each group that may be listed; of length 0 when all may.
        block: groups of a block; the result does not depend on it.
        groups: best groups, falling score, then rising group; beyond them nothing is written. [bags, depth]
        scores: their scores. [bags, depth]
        highest: highest score of all groups, allowed or not. [bags]
        lowest: lowest score of all groups. [bags]
    """
    block = min(block, size)
    buffer = np.empty(block, np.float32)
    for bag in range(first, last):
        terms = bags.terms[bags.offsets[bag] : bags.offsets[bag + 1]]
        counts = bags.counts[bags.offsets[bag] : bags.offsets[bag + 1]]
        at, n = postings.offsets[terms], 0
        # Scores are never negative, so their bits as integers are in the same order; of integers the compiler
        # compares several at a time, of floats it does not.
        high, low = np.int32(0), np.int32(np.iinfo(np.int32).max)
        for start in range(0, size, block):
            sums = buffer[: min(block, size - start)]
            _add(sums, start, terms, counts, at, postings)
            bits = sums.view(np.int32)
            if low > 0:
                low = min(low, _lowest(bits))
            for x in range(0, len(sums), _STRIDE):
                here = _highest(bits[x : x + _STRIDE])
                high = max(high, here)
                if n < groups.shape[1] or here > scores[bag].view(np.int32)[0]:
                    n = _keep(sums[x : x + _STRIDE], start + x, allowed, scores[bag], groups[bag], n)
        _sort(scores[bag], groups[bag], n)
        bounds = np.array([high, low], np.int32).view(np.float32)
        highest[bag], lowest[bag] = bounds[0], bounds[1]
