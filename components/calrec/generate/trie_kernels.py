"""Compiled loops over a catalogue's trie; trie.py says what they do and checks what they are given."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from calrec.arrays.compiled import Int32, Int64, compiled

Floats = NDArray[np.floating[Any]]
Float64 = NDArray[np.float64]
ROOT = 0


@compiled
def walk(offsets: Int32, token: Int32, tokens: Int64) -> Any:
    """The node that tokens lead to from the root, or -1."""
    node = np.int64(ROOT)
    for wanted in tokens:
        lo, hi = np.int64(offsets[node]), np.int64(offsets[node + 1])
        node = lo + np.searchsorted(token[lo:hi], wanted)
        if node == hi or token[node] != wanted:
            return -1
    return node


@compiled
def run_lengths(offsets: Int32, nodes: Int32) -> tuple[Int64, Int32]:
    """How many nodes follow each one without a choice, and the last of them."""
    length, final = np.zeros(len(nodes), np.int64), nodes.copy()
    for row in range(len(nodes)):
        node = nodes[row]
        while offsets[node + 1] - offsets[node] == 1:
            node = offsets[node]
            length[row] += 1
        final[row] = node
    return length, final


@compiled
def run_tokens(offsets: Int32, token: Int32, nodes: Int32, to: Int64) -> Int32:
    """The tokens of these nodes, one row after the other; row i is to[i] … to[i + 1] - 1."""
    flat = np.empty(to[-1], np.int32)
    for row in range(len(nodes)):
        node = nodes[row]
        for at in range(to[row], to[row + 1]):
            node = offsets[node]
            flat[at] = token[node]
    return flat


@compiled
def exponents(
    offsets: Int32, token: Int32, logits: Floats, nodes: Int32, samples: Int32, inverse: float
) -> tuple[Float64, Int64]:
    """Exponents of the children's weights, at most 0, one row after the other, and where each row begins.

    Rows without samples are left out. NaN where a row's children give no distribution: a NaN, +inf or only -inf.
    """
    start = np.zeros(len(nodes) + 1, np.int64)
    for row in range(len(nodes)):
        start[row + 1] = start[row] + (offsets[nodes[row] + 1] - offsets[nodes[row]] if samples[row] else 0)
    flat = np.empty(start[-1])
    for row in range(len(nodes)):
        lo, top = offsets[nodes[row]] - start[row], -np.inf
        for at in range(start[row], start[row + 1]):
            flat[at] = logits[row, token[lo + at]]
            top = max(top, flat[at])
        for at in range(start[row], start[row + 1]):
            flat[at] = (flat[at] - top) * inverse
    return flat, start


@compiled
def choose(
    offsets: Int32, nodes: Int32, weight: Float64, start: Int64, order: Int32, samples: Int32, u: Float64
) -> Int32:
    """Running sums of the weights in place, once per row, then a search per sample.

    `order` has the samples row by row, `samples` of each row.
    """
    child, done = np.full(len(u), -1, np.int32), 0
    for row in range(len(nodes)):
        upto, total = weight[start[row] : start[row + 1]], 0.0
        for at in range(len(upto)):
            total += upto[at]
            upto[at] = total
        for sample in order[done : done + samples[row]]:
            if total > 0:  # not NaN, not a leaf; "right": the first sum above, which a weight of 0 never has
                child[sample] = offsets[nodes[row]] + np.searchsorted(upto, u[sample] * total, "right")
        done += samples[row]
    return child


@compiled
def expand(offsets: Int32, token: Int32, logits: Floats, nodes: Int32) -> tuple[Int32, Int32, Floats]:
    """Every child of every row's node: its row, the child, its logit."""
    size, at = 0, 0
    for node in nodes:
        size += offsets[node + 1] - offsets[node]
    row_of, child_of, logit = np.empty(size, np.int32), np.empty(size, np.int32), np.empty(size, logits.dtype)
    for row in range(len(nodes)):
        for child in range(offsets[nodes[row]], offsets[nodes[row] + 1]):
            row_of[at], child_of[at], logit[at] = row, child, logits[row, token[child]]
            at += 1
    return row_of, child_of, logit


@compiled
def best(scores: Floats, user: Int64, top: Int64, held: Int64) -> None:
    """The best indices per user into `top`, sorted by insertion: almost every candidate fails against the worst."""
    beams = top.shape[1]
    for at in range(len(scores)):
        score, mine = scores[at], top[user[at]]
        to = held[user[at]]
        if score == -np.inf or (to == beams and score <= scores[mine[to - 1]]):
            continue
        if to < beams:
            held[user[at]] += 1
        else:
            to -= 1
        while to and score > scores[mine[to - 1]]:
            mine[to] = mine[to - 1]
            to -= 1
        mine[to] = at
