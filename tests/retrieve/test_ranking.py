"""The ranker over several calls, with filters and exclusions, against brute force over full score vectors."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calrec.config import RetrieveConfig
from calrec.generate.samples import Generation, Prompt
from calrec.retrieve import ranking
from calrec.retrieve.bm25 import Index
from calrec.retrieve.candidates import Asked
from calrec.retrieve.catalogue import Catalogue
from calrec.retrieve.evidence import FEATURES, Evidence, Fusion
from calrec.retrieve.ranking import Ranker
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
    return Catalogue(items, names, names, names, names, group_of, group_texts, members, np.zeros(len(items), np.int64))


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


def test_a_user_with_a_long_history_makes_the_search_deeper_for_nobody_else(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ranking, "_REMEMBERED", 200)
    group_texts = [f"{' '.join(['tea'] * (1 + at % 5))} {'pot ' * (at % 7)}cup{at}" for at in range(40)]
    things, search = catalogue(group_texts, [1] * 40), Search(Index.build(group_texts), 1, "numpy")
    searched: list[tuple[int, int]] = []
    real = search.top

    def top(texts: list[str], depth: int, allowed: object) -> object:
        searched.append((len(texts), depth))
        return real(texts, depth, allowed)

    monkeypatch.setattr(search, "top", top)
    ranker = Ranker(things, search, RetrieveConfig(k=5))
    written = [Generation("pot", -1.0), Generation("tea", -2.0)]
    users = [
        Asked(f"{bans}", [*written, Generation(f"cup{bans}", -3.0)], banned=frozenset(range(bans)))
        for bans in (0, 1, 35, 15, 0)
    ]
    lists = list(ranker(users))
    assert sorted(searched) == [(3, 5), (3, 40), (4, 20)]  # no ban; at most 15; at most 75, of which there are 40
    assert ranker.counts()["distinct_texts"] == 2 + 4  # not once for each depth
    assert lists == [next(Ranker(things, search, RetrieveConfig(k=5))([user])) for user in users]
    for number in range(100):
        user = Asked("u", [Generation(f"tea cup{number % 40} pot{number}", -1.0)], banned=frozenset(range(number % 20)))
        assert list(ranker([user])) == list(Ranker(things, search, RetrieveConfig(k=5))([user]))
        assert sum(found.matches.groups.size for found in ranker._known.values()) <= 200 + 40


def test_a_catalogue_of_one_item_recommends_it():
    ranker = Ranker(catalogue(["red tea"], [1]), Search(Index.build(["red tea"]), 1), RetrieveConfig())
    (ranked,) = ranker([Asked("u", [Generation("red tea", -1.0), Generation("", -2.0)], "red tea", history=[0])])
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


def test_learned_weights_rank_by_hand_arithmetic():
    """Group 0 was bought; group 2 followed it twice and 3 once; "red tea" is the last title, of three in all."""
    things = catalogue(["red tea", "red cup", "blue pot", "tea pot", "lamp"], [1, 1, 1, 1, 1])
    index = Index.build(things.group_texts)
    evidence = Evidence.of([[0, 2], [0, 2], [0, 3], [0, 0], [1, 4], [1, 4]], things, fused=True)
    logprobs = np.log([0.1, 0.2, 0.1, 0.1, 0.1])
    weights = dict.fromkeys(FEATURES, 0.0) | {"model": 1.0, "followed": 0.5, "last_title": 0.25, "popular": 0.125}
    config = RetrieveConfig(k=4, rerank=10, fusion_users=1)
    ranker = Ranker(
        things,
        Search(index, 1),
        config,
        Believes(logprobs.tolist()),
        evidence,
        Fusion(weights, 1, 0),  # type: ignore[arg-type]
    )
    prompt = Prompt("u", np.array([1], np.int32))
    asked = Asked("u", [], "red tea", "lamp blue pot red tea", [4, 2, 0], frozenset([0]), prompt)
    (ranked,) = ranker([asked])
    followed, events = np.array([1, 0, 2, 1, 0]), np.array([5, 2, 2, 1, 2])
    model = np.log(0.99 * np.array([0, 0.4, 0.2, 0.2, 0.2]) + 0.01 / 4)  # group 0 is banned and so no candidate
    scores = model + 0.5 * np.log1p(followed) + 0.25 * index.scores("red tea") + 0.125 * np.log1p(events)
    expected = sorted(range(1, 5), key=lambda group: -scores[group])
    assert [one.item for one in ranked] == expected
    assert [one.score for one in ranked] == pytest.approx(scores[expected].tolist(), rel=1e-6)
    assert [one.reason.logprob for one in ranked] == pytest.approx(logprobs[expected].tolist())
    sources = {one.item: one.reason.source for one in ranked}
    assert sources == {1: "last_title", 2: "cooccurrence", 3: "last_title", 4: "recent_titles"}


def test_a_fused_list_does_not_depend_on_who_else_is_asked_for():
    """Another user's long history makes the search deeper: what it finds beyond `rerank` must change nothing."""
    group_texts = [f"{' '.join(['tea'] * (1 + at % 5))} {'pot ' * (at % 7)}cup{at}" for at in range(40)]
    things = catalogue(group_texts, [1] * 40)
    rng = np.random.default_rng(0)
    evidence = Evidence.of([rng.integers(0, 40, 6).tolist() for _ in range(30)], things, fused=True)
    weights = dict.fromkeys(FEATURES, 0.0) | {"model": 0.1, "last_title": 1.0, "recent_titles": -0.5, "similar": 0.3}
    config = RetrieveConfig(k=12, rerank=5, fusion_users=1)
    prompt = Prompt("u", np.array([1], np.int32))

    def lists(*users: Asked) -> list[list[tuple[int, float | None]]]:
        reader = Believes(np.linspace(-1, 0, 40).tolist())
        ranker = Ranker(things, Search(Index.build(group_texts), 1), config, reader, evidence, Fusion(weights, 1, 0))  # type: ignore[arg-type]
        return [[(one.item, one.score) for one in ranked] for ranked in ranker(users)]

    one = Asked("u", [], "tea", "tea pot tea", [3, 4, 5], frozenset([3]), prompt)
    other = Asked("v", [], "pot", "pot", [9], frozenset(range(30)), prompt)
    assert lists(one) == lists(one, other)[:1] == lists(other, one)[1:]


def test_a_list_with_near_items_does_not_depend_on_who_else_is_asked_for():
    """Places count in the sums that join the two rankings, so what another user's long history adds must stay out."""
    group_texts = [f"{' '.join(['tea'] * (1 + at % 5))} {'pot ' * (at % 7)}cup{at}" for at in range(40)]
    things = catalogue(group_texts, [1] * 40)
    rng = np.random.default_rng(1)

    class Near:
        """A model to which each user is near to all groups, in an order of his own."""

        orders = {user: rng.permutation(40).astype(np.int64) for user in ("u", "v")}  # noqa: RUF012

        def nearest(self, prompts: list[Prompt], depth: int, allowed: object) -> list[np.ndarray]:
            return [self.orders[prompt.user][:depth] for prompt in prompts]

    def lists(*users: Asked) -> list[list[tuple[int, float | None]]]:
        config = RetrieveConfig(k=6, dense=4)
        ranker = Ranker(things, Search(Index.build(group_texts), 1), config, Near())  # type: ignore[arg-type]
        return [[(one.item, one.score) for one in ranked] for ranked in ranker(users)]

    written = [Generation("tea tea pot", -1.0, 2, True), Generation("pot pot tea", -2.0, 1, True)]
    one = Asked("u", written, prompt=Prompt("u", np.array([1], np.int32)))
    other = Asked("v", written, banned=frozenset(range(25)), prompt=Prompt("v", np.array([1], np.int32)))
    assert lists(one) == lists(one, other)[:1] == lists(other, one)[1:]
