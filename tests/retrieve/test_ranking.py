"""The ranker over several calls, with filters and exclusions, against brute force over full score vectors."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calrec.config import RetrieveConfig
from calrec.generate.samples import Generation
from calrec.retrieve.bm25 import Index
from calrec.retrieve.catalogue import Catalogue
from calrec.retrieve.ranking import Asked, Ranker
from calrec.retrieve.search import Search
from tests.retrieve.test_fusion import EPSILON, brute

WORDS = ["red", "blue", "tea", "cup", "pot"]
texts = st.lists(st.sampled_from([*WORDS, "foreign"]), max_size=4).map(" ".join)


def catalogue(group_texts: list[str], sizes: list[int]) -> Catalogue:
    """Items 0, 1, … of groups of the given sizes."""
    items = np.arange(sum(sizes))
    names = [f"i{item}" for item in items]
    members = [row.tolist() for row in np.split(items, np.cumsum(sizes)[:-1])]
    group_of = np.repeat(np.arange(len(sizes)), sizes)
    return Catalogue(items, names, names, names, group_of, group_texts, members, np.zeros(len(items), np.int64))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_lists_are_those_of_brute_force_in_every_call(data: st.DataObject):
    groups = data.draw(st.integers(1, 9))
    group_texts = [" ".join(data.draw(st.lists(st.sampled_from(WORDS), min_size=1, max_size=4))) for _ in range(groups)]
    things = catalogue(group_texts, data.draw(st.lists(st.integers(1, 3), min_size=groups, max_size=groups)))
    listed = np.array(data.draw(st.lists(st.booleans(), min_size=len(things.items), max_size=len(things.items))))
    index = Index.build(group_texts)
    config = RetrieveConfig(k=data.draw(st.integers(1, 6)), last_title=data.draw(st.sampled_from([0.0, 0.5, 1.0])))
    ranker = Ranker(things, Search(index, 1, "numpy"), config, listed=listed)
    for _ in range(3):  # what is remembered of earlier users must not matter
        users = [
            Asked(
                user=str(at),
                last=data.draw(texts),
                last_item=-1,
                generations=[
                    Generation(text, data.draw(st.floats(-50, 0))) for text in data.draw(st.lists(texts, max_size=4))
                ],
                banned=frozenset(data.draw(st.sets(st.sampled_from(things.items.tolist()), max_size=4))),
            )
            for at in range(data.draw(st.integers(0, 3)))
        ]
        for one, ranked in zip(users, ranker(users), strict=True):
            queries = [(g.text, math.exp(EPSILON * g.logprob)) for g in one.generations]
            queries += [(one.last, config.last_title)] if one.last and config.last_title else []
            scores = brute([index.scores(text) for text, _ in queries], np.array([w for _, w in queries]), groups)
            order = sorted(range(groups), key=lambda group: (-scores[group], group))
            open_items = [i for g in order for i in things.members[g] if listed[i] and i not in one.banned]
            assert [place.item for place in ranked] == open_items[: config.k]
            assert [place.score for place in ranked] == [scores[things.group(place.item)] for place in ranked]


def test_a_catalogue_of_one_item_recommends_it():
    ranker = Ranker(catalogue(["red tea"], [1]), Search(Index.build(["red tea"]), 1), RetrieveConfig())
    (ranked,) = ranker([Asked("u", "red tea", 0, [Generation("red tea", -1.0), Generation("", -2.0)])])
    assert [(one.item, one.reason.source) for one in ranked] == [(0, "fill")]  # one item is no choice


def test_what_reads_the_model_needs_one():
    with pytest.raises(ValueError, match="read the model"):
        Ranker(catalogue(["red"], [1]), Search(Index.build(["red"]), 1), RetrieveConfig(dense=1))
