"""The catalogue trie against a trie of dictionaries, draws against the softmax over the children."""

import bisect
import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calrec.arrays.ragged import Ragged
from calrec.generate.trie import ROOT, Trie, best

END = 0
CATALOGUES = st.lists(st.lists(st.integers(1, 4), max_size=6).map(tuple), min_size=1, max_size=25, unique=True)
compiling = settings(deadline=None)  # the first example waits for machine code
NaN, INF = float("nan"), float("inf")


def closed(items) -> list[list[int]]:
    return [[*item, END] for item in items]


def build(items) -> Trie:
    return Trie.build(Ragged.of(closed(items)))


def plain(items) -> dict[int, Any]:
    """Token → what follows; the end token → the item."""
    root: dict[int, Any] = {}
    for at, item in enumerate(items):
        node = root
        for token in item:
            node = node.setdefault(token, {})
        node[END] = at
    return root


def children(trie: Trie, node: int) -> list[int]:
    return list(range(trie.offsets[node], trie.offsets[node + 1]))


def pairs(trie: Trie, items):
    """Each node and the dictionary or item that it must be."""
    left = [(ROOT, plain(items))]
    while left:
        node, expected = left.pop()
        yield node, expected
        if isinstance(expected, dict):
            assert len(children(trie, node)) == len(expected)
            left += [(c, expected[t]) for c, t in zip(children(trie, node), sorted(expected), strict=True)]


@compiling
@given(CATALOGUES)
def test_the_trie_is_that_of_dictionaries(items):
    trie, seen = build(items), set()
    for node, expected in pairs(trie, items):
        seen.add(node)
        if isinstance(expected, dict):
            assert trie.token[children(trie, node)].tolist() == sorted(expected)
            assert trie.leaf_group[node] == -1
        else:
            assert trie.leaf_group[node] == expected and not children(trie, node)
    assert seen == set(range(len(trie)))
    assert trie.token[ROOT] == -1 and {a.dtype for a in (trie.offsets, trie.token, trie.leaf_group)} == {np.dtype("i4")}


@compiling
@given(CATALOGUES)
def test_only_items_lead_to_leaves(items):
    trie, known = build(items), {tuple(row): at for at, row in enumerate(closed(items))}
    begins = {row[:size] for row in known for size in range(len(row) + 1)}
    for size in range(4):
        for tokens in itertools.product(range(6), repeat=size):
            assert (trie.walk(tokens) >= 0) == (tokens in begins)
    for row, at in known.items():
        assert trie.leaf_group[trie.walk(row)] == at
        assert trie.walk([*row, END]) == -1
    assert sorted(trie.leaf_group[trie.leaf_group >= 0]) == sorted(known.values())


@compiling
@given(CATALOGUES)
def test_forced_runs(items):
    trie = build(items)
    runs, final = trie.skip_forced(np.arange(len(trie)))
    for node, expected in pairs(trie, items):
        tokens, at = [], node
        while isinstance(expected, dict) and len(expected) == 1:
            ((token, expected),) = expected.items()
            tokens.append(token)
            (at,) = children(trie, at)
        assert runs[node].tolist() == tokens and final[node] == at


def test_one_item_is_forced_from_the_root_to_its_leaf():
    trie = build([(7, 8, 9)])
    (run,), (final,) = (found.rows() if isinstance(found, Ragged) else found for found in trie.skip_forced([ROOT]))
    assert run.tolist() == [7, 8, 9, END] and trie.leaf_group[final] == 0
    assert trie.skip_forced([])[0].rows() == []
    drawn = trie.draw(np.zeros((1, 10), np.float32), [ROOT], [0, 0], [0.0, 0.999], 1.0)
    assert trie.token[drawn].tolist() == [7, 7]


def test_size_and_order_do_not_depend_on_the_order_of_the_items():
    rng = np.random.default_rng(0)
    items = [tuple(row) for row in np.unique(rng.integers(1, 9, (3000, 6)), axis=0).tolist()]
    one, order = build(items), rng.permutation(len(items))
    other = build([items[i] for i in order])
    assert one.token.tolist() == other.token.tolist() and one.offsets.tolist() == other.offsets.tolist()
    leaf = one.leaf_group >= 0
    assert one.leaf_group[leaf].tolist() == order[other.leaf_group[leaf]].tolist()
    assert one.nbytes == 12 * len(one) + 4
    assert one.vocabulary == 9


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "at least one sequence"),
        ([[1, 0], []], "sequence 1 is empty"),
        ([[1, 0], [2, 3, 0], [1, 2, 0], [2, 3, 0]], "sequences 1 and 3 are equal"),
        ([[2, 0], [1, 2, 0], [1]], "sequence 2 begins sequence 1"),
        ([[1, 2], [1, 2, 3, 4, 0], [9]], "sequence 0 begins sequence 1"),
        ([[1, -1, 0]], "0 or more, got -1"),
    ],
)
def test_unusable_sequences_are_refused(rows, message):
    with pytest.raises(ValueError, match=message):
        Trie.build(Ragged.of(rows))


def inverse(trie: Trie, logits, node: int, u: float, temperature: float) -> int:
    """The child by running sums in plain Python; -1 without a distribution."""
    of = [float(logits[trie.token[c]]) for c in children(trie, node)]
    if any(math.isnan(x) or x == INF for x in of) or all(x == -INF for x in of):
        return -1
    upto = list(itertools.accumulate(math.exp((x - max(of)) / temperature) for x in of))
    return children(trie, node)[bisect.bisect_right(upto, u * upto[-1])]


@compiling
@given(CATALOGUES, st.data())
def test_a_draw_equals_the_inverse_cdf(items, data):
    trie = build(items)
    inside = np.flatnonzero(np.diff(trie.offsets)).tolist()
    nodes = data.draw(st.lists(st.sampled_from(inside), min_size=1, max_size=6))
    value = st.floats(-9, 9, width=32) | st.sampled_from([-INF, -INF, -INF, NaN, INF])
    logits = np.array([[data.draw(value) for _ in range(6)] for _ in nodes], np.float32)
    row_of = data.draw(st.lists(st.integers(0, len(nodes) - 1), max_size=12))
    u = [data.draw(st.floats(0, 1, exclude_max=True) | st.just(math.nextafter(1, 0))) for _ in row_of]
    temperature = data.draw(st.sampled_from([0.25, 0.5, 1.0, 2.0]))
    drawn = trie.draw(logits, nodes, row_of, u, temperature)
    for row, x, child in zip(row_of, u, drawn.tolist(), strict=True):
        expected = inverse(trie, logits[row], nodes[row], x, temperature)
        if child != expected:  # exp of numpy and of Python may differ in the last bit
            assert inverse(trie, logits[row], nodes[row], min(x + 1e-12, 1 - 1e-16), temperature) == child or (
                inverse(trie, logits[row], nodes[row], max(x - 1e-12, 0), temperature) == child
            )
        assert child == -1 or logits[row, trie.token[child]] > -INF


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_draws_follow_the_softmax_over_the_children(temperature):
    rng = np.random.default_rng(1)
    trie = build([(a, b) for a in range(1, 9) for b in range(1, a + 2)])
    logits = rng.normal(size=(3, 12)).astype(np.float32)
    nodes = [ROOT, trie.walk([3]), trie.walk([8])]
    row_of = rng.permutation(np.repeat(np.arange(3), 100_000))
    drawn = trie.draw(logits, nodes, row_of, rng.random(len(row_of)), temperature)
    for row, node in enumerate(nodes):
        of = children(trie, node)
        weight = np.exp(logits[row, trie.token[of]].astype(np.float64) / temperature)
        expected = 100_000 * weight / weight.sum()
        counts = np.array([(drawn[row_of == row] == c).sum() for c in of])
        assert counts.sum() == 100_000
        freedom = len(of) - 1  # chi-square: mean `freedom`, variance twice that
        assert ((counts - expected) ** 2 / expected).sum() < freedom + 5 * math.sqrt(2 * freedom)


def test_only_the_childrens_logits_count_and_no_child_of_probability_0_is_drawn():
    trie = build([(2,), (4,), (6,), (8,)])
    logits = np.full((1, 10), NaN, np.float32)
    logits[0, [2, 4, 6, 8]] = -INF, 500.0, -INF, -INF
    extremes = [0.0, 0.5, math.nextafter(1, 0)]
    assert set(trie.token[trie.draw(logits, [ROOT], [0, 0, 0], extremes, 0.1)].tolist()) == {4}
    for bad in (NaN, INF):
        logits[0, 8] = bad
        assert trie.draw(logits, [ROOT], [0], [0.3], 1.0).tolist() == [-1]
    logits[0, [4, 8]] = -INF
    assert trie.draw(logits, [ROOT], [0], [0.3], 1.0).tolist() == [-1]
    leaf = trie.walk([2, END])
    assert trie.draw(np.zeros((1, 10), np.float32), [leaf], [0], [0.3], 1.0).tolist() == [-1]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"temperature": NaN}, "temperature must be above 0"),
        ({"logits": np.zeros((1, 4), np.float32)}, "at least 5 tokens"),
        ({"logits": np.zeros((2, 5), np.float32)}, "1 rows"),
        ({"nodes": [-1]}, "nodes must be from 0 to"),
        ({"nodes": [99]}, "nodes must be from 0 to"),
        ({"nodes": [[0]]}, "must be a list"),
        ({"row_of": [1, 0]}, "rows must be from 0 to 0"),
        ({"row_of": [0]}, "one entry per sample"),
        ({"u": [0.5, 1.0]}, "u must be from 0 to below 1"),
        ({"u": [0.5, NaN]}, "u must be from 0 to below 1"),
    ],
)
def test_what_does_not_fit_is_refused(given, message):
    usable = {"logits": np.zeros((1, 5), np.float32), "nodes": [ROOT], "row_of": [0, 0], "u": [0, 0], "temperature": 1}
    with pytest.raises(ValueError, match=message):
        build([(1, 2), (4,)]).draw(**{**usable, **given})


@compiling
@given(CATALOGUES, st.data())
def test_expanding_lists_every_child(items, data):
    trie = build(items)
    nodes = data.draw(st.lists(st.integers(0, len(trie) - 1), max_size=6))
    logits = np.arange(6 * len(nodes), dtype=np.float32).reshape(len(nodes), 6)
    found = list(zip(*(column.tolist() for column in trie.expand(logits, nodes)), strict=True))
    assert found == [
        (row, child, logits[row, trie.token[child]]) for row, n in enumerate(nodes) for child in children(trie, n)
    ]


@compiling
@given(
    st.lists(st.tuples(st.integers(0, 4), st.sampled_from([-INF, -3.0, -1.5, 0.0, 1.0, 2.0])), max_size=60),
    st.integers(1, 7),
)
def test_the_best_of_each_user(candidates, beams):
    user, scores = [u for u, _ in candidates], np.array([s for _, s in candidates])
    expected = []
    for one in sorted(set(user)):
        of = [i for i, (u, s) in enumerate(candidates) if u == one and s > -INF]
        expected += sorted(of, key=lambda i: (-scores[i], i))[:beams]
    assert best(scores, np.array(user, np.int64), beams).tolist() == expected


@pytest.mark.parametrize(
    ("scores", "user", "beams", "message"),
    [
        ([1.0, NaN], [0, 0], 1, "candidate 1 is NaN"),
        ([1.0], [0], 0, "beams must be at least 1"),
        ([1.0], [-1], 1, "users must be from 0"),
        ([1.0], [0, 0], 1, "one entry per candidate"),
    ],
)
def test_candidates_without_an_order_are_refused(scores, user, beams, message):
    with pytest.raises(ValueError, match=message):
        best(np.array(scores), user, beams)
