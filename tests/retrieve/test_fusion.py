"""Fusion against brute force over whole score vectors."""

import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calrec.retrieve.bm25 import Index
from calrec.retrieve.fusion import fuse, reciprocal, top_items
from calrec.retrieve.search import Matches, Search
from calrec.textify.words import words

EPSILON = 1 / 5000


def matches_of(vectors: list[np.ndarray], depth: int) -> Matches:
    """What a search gives for these score vectors."""
    depth = min(depth, len(vectors[0])) if vectors else depth
    found = Matches.empty(len(vectors), depth)
    for row, scores in enumerate(vectors):
        best = np.argsort(-scores, kind="stable")[:depth]
        found.groups[row], found.scores[row] = best, scores[best]
        found.highest[row], found.lowest[row] = scores.max(), scores.min()
    return found


def brute(vectors: list[np.ndarray], weights: np.ndarray, groups: int) -> np.ndarray:
    """The formula on every group."""
    fused = np.zeros(groups)
    for scores, weight in zip(vectors, weights, strict=True):
        s = scores.astype(np.float64)
        if s.max() > s.min():
            fused = np.maximum(fused, weight * ((s - s.min()) / (s.max() - s.min())))
    return fused


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_fusion_of_top_lists_equals_brute_force_over_all_scores(data: st.DataObject):
    n = data.draw(st.integers(1, 15))
    row = st.lists(st.sampled_from([0.0, 0.5, 1.0, 1.7, 3.0]), min_size=n, max_size=n)
    vectors = [np.array(data.draw(row), np.float32) for _ in range(data.draw(st.integers(0, 6)))]
    weights = np.exp(EPSILON * np.array([data.draw(st.floats(-200, 0)) for _ in vectors]))
    sizes = data.draw(st.lists(st.integers(1, 3), min_size=n, max_size=n))
    members = [m.tolist() for m in np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])]
    k = data.draw(st.integers(1, 12))
    banned = data.draw(st.sets(st.integers(0, sum(sizes) - 1), max_size=4))
    found = fuse(matches_of(vectors, k + len(banned)), weights)
    ranked = [item for item, _ in top_items(found.groups.tolist(), members, k, lambda item: item not in banned)]
    scores = brute(vectors, weights, n)
    order = sorted(range(n), key=lambda g: (-scores[g], g))
    assert ranked == [item for g in order for item in members[g] if item not in banned][:k]
    assert len(set(ranked)) == len(ranked) == min(k, sum(sizes) - len(banned))


def tokens_with_labels(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


@pytest.mark.parametrize("tokenise", [words, tokens_with_labels], ids=["without labels", "with labels"])
@pytest.mark.parametrize("engine", ["numba", "numpy"])
def test_ordered_top_10_of_10000_random_users_is_that_of_brute_force(engine, tokenise):
    rng = np.random.default_rng(0)
    names = [f"{a}{b}" for a in ("red", "tea", "cup", "pot") for b in ("", "s", "ish")]
    catalogue = [f"Title: {' '.join(rng.choice(names, 3))}. Price: {rng.integers(1, 4)}." for _ in range(150)]
    catalogue += catalogue[:40]  # duplicates tie
    pool = [
        *rng.choice(catalogue, 60).tolist(),
        *(" ".join(rng.choice([*names, "unknown"], 4)) for _ in range(200)),
        "",
    ]
    index = Index.build(catalogue, tokenise=tokenise)
    search = Search(index, threads=2, engine=engine)
    found, vectors = search.top(pool, 10), [index.scores(text) for text in pool]
    members = [[group] for group in range(len(catalogue))]
    for _ in range(10_000):
        chosen = rng.integers(0, len(pool), rng.integers(1, 6))
        weights = np.exp(EPSILON * -rng.gamma(2, 10, len(chosen)))
        fused = fuse(found.take(chosen), weights)
        ours = [item for item, _ in top_items(fused.groups.tolist(), members, 10, lambda item: True)]
        scores = brute([vectors[at] for at in chosen], weights, len(catalogue))
        assert ours == np.argsort(-scores, kind="stable")[:10].tolist()


def test_the_score_is_the_formula_and_names_its_text():
    vectors = [np.array([0, 2, 1], np.float32), np.array([4, 0, 3], np.float32)]
    fused = fuse(matches_of(vectors, 3), np.exp(EPSILON * np.array([-10.0, -20.0])))
    rows = dict(zip(fused.groups.tolist(), zip(fused.scores, fused.text, fused.match, strict=True), strict=True))
    assert rows[1] == (pytest.approx(math.exp(-10 / 5000)), 0, 1.0)
    assert rows[0] == (pytest.approx(math.exp(-20 / 5000)), 1, 1.0)
    assert rows[2] == (pytest.approx(math.exp(-20 / 5000) * 3 / 4), 1, 0.75)


def test_texts_that_tell_nothing_leave_the_list_to_the_order_of_groups():
    fused = fuse(matches_of([np.zeros(4, np.float32)], 2), np.ones(1))
    members = [[7], [3, 5], [1], [0]]
    assert top_items(fused.groups.tolist(), members, 3, lambda item: True) == [(7, None), (3, None), (5, None)]


def test_one_group_is_no_choice():
    assert not len(fuse(matches_of([np.array([2.5], np.float32)], 1), np.ones(1)).groups)


def test_reciprocal_ranks_are_summed_and_ties_go_by_group():
    groups, sums = reciprocal([np.array([5, 2, 9]), np.array([2, 7])])
    assert groups.tolist() == [2, 5, 7, 9]
    assert sums.tolist() == pytest.approx([1 / 62 + 1 / 61, 1 / 61, 1 / 62, 1 / 63])
    assert reciprocal([np.array([3, 1]), np.array([1, 3])])[0].tolist() == [1, 3]
    assert reciprocal([np.array([], np.int64), np.array([4])])[0].tolist() == [4]
