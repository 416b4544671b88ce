"""The ranker over several calls, with filters and exclusions, against brute force over full score vectors."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calrec.config import RetrieveConfig
from calrec.generate.samples import Generation, Prompt
from calrec.retrieve.bm25 import Index
from calrec.retrieve.catalogue import Catalogue
from calrec.retrieve.following import Following
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


class Believes:
    """A model that gives each group the same log-probability for every prompt."""

    def __init__(self, logprobs: list[float]):
        self.known = np.array(logprobs)

    def logprobs(self, prompts, groups):
        return (self.known[its] for its in groups)


def test_a_mixture_of_the_model_of_counts_and_of_the_last_title_by_hand_arithmetic():
    things = catalogue(["red tea", "red cup", "blue pot", "tea pot"], [1, 1, 1, 1])
    index = Index.build(things.group_texts)
    config = RetrieveConfig(k=3, rerank=10, mix_following=0.3, mix_last_title=0.2)
    following = Following.of([[0, 2], [0, 2], [0, 3], [0, 0]])  # after item 0: twice 2, once 3, once 0 itself
    reader = Believes([math.log(0.1), math.log(0.2), math.log(0.1), math.log(0.1)])
    ranker = Ranker(things, Search(index, 1), config, reader, following)  # type: ignore[arg-type]
    prompt = Prompt("u", np.array([1], np.int32))
    (ranked,) = ranker([Asked("u", "red tea", 0, [], frozenset([0]), prompt)])
    model = np.array([0.1, 0.2, 0.1, 0.1]) / 0.5
    model = model / (1 - 0.2)  # item 0 is banned and so no candidate: what is left sums to 1
    like = np.exp(index.scores("red tea")[[1, 3]].astype(np.float64) / 4)
    expected = {
        1: 0.5 * model[1] + 0.2 * like[0] / like.sum(),
        2: 0.5 * model[2] + 0.3 * 2 / 3,
        3: 0.5 * model[3] + 0.3 / 3 + 0.2 * like[1] / like.sum(),
    }
    assert [one.item for one in ranked] == sorted(expected, key=lambda item: -expected[item])
    for one in ranked:
        assert one.score is not None and math.exp(one.score) == pytest.approx(expected[one.item], rel=1e-6)
