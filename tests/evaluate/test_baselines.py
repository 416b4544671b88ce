"""Baselines by hand, against brute force and against the library; lists that are whole whatever is asked."""

import itertools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from implicit.als import AlternatingLeastSquares
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from calrec.config import BASELINES, DataConfig, RetrieveConfig, TextConfig
from calrec.evaluate import metrics
from calrec.evaluate.baselines import named as module
from calrec.evaluate.baselines.candidates import Shelf
from calrec.evaluate.baselines.named import REPEATS, baselines, repeats
from calrec.evaluate.lists import Lists
from calrec.ingest.step import ingest
from calrec.model.loading import load_users
from calrec.retrieve.bm25 import Index
from calrec.retrieve.catalogue import Catalogue, load_catalogue
from calrec.textify.step import textify
from tests.conftest import shared

# Items 10 .. 14 with ids a .. e, bought 3, 2, 1, 1 and 0 times.
CATALOGUE = Catalogue(
    items=np.array([10, 11, 12, 13, 14]), item_id=list("abcde"), title=list("ABCDE"), category=[""] * 5, price=[""] * 5,
    group_of=np.arange(5), group_texts=["red tea", "red cup", "blue cup", "tea pot", "lamp"],
    members=[[10], [11], [12], [13], [14]],
    train_count=np.array([3, 2, 1, 1, 0]),
)  # fmt: skip
HISTORIES = [[10, 11, 12], [10, 11], [10, 13]]
CONFIG = RetrieveConfig(k=4)
NAN = math.nan


def arrays(histories: Sequence[Sequence[int]]) -> list[NDArray[np.int64]]:
    return [np.array(items, np.int64) for items in histories]


def rank(
    name: str, history: Sequence[int], excluded: Sequence[int] = (), histories: Sequence[Sequence[int]] = HISTORIES,
    catalogue: Catalogue = CATALOGUE, config: RetrieveConfig = CONFIG,
) -> tuple[list[int], list[float]]:  # fmt: skip
    made = baselines([name], arrays(histories), catalogue, config, seed=0)[name]
    lists = made(arrays([history]), [frozenset(excluded)])
    return lists.items[0].tolist(), lists.scores[0].tolist()


@pytest.mark.parametrize(
    ("name", "history", "excluded", "items", "scores"),
    [
        ("popularity", [12], (), [10, 11, 12, 13], [3, 2, 1, 1]),
        ("popularity", [12], (10, 12), [11, 13, 14, -1], [2, 1, NAN, NAN]),
        ("popularity", [], (11,), [10, 12, 13, 14], [3, 1, 1, NAN]),
        # The newest fifth of each history of up to five events is its last one: 12, 11 and 13, once each.
        ("recent_popularity", [12], (), [11, 12, 13, 10], [1, 1, 1, NAN]),
        ("recent_popularity", [12], (12,), [11, 13, 10, 14], [1, 1, NAN, NAN]),
        ("repeat_last", [13, 12, 13], (), [13, 12, 10, 11], [3, 2, NAN, NAN]),
        ("repeat_last", [13, 12, 13], (13,), [12, 10, 11, 14], [2, NAN, NAN, NAN]),
        ("repeat_last", [], (), [10, 11, 12, 13], [NAN] * 4),
        ("markov", [12, 10], (), [11, 13, 10, 12], [2, 1, NAN, NAN]),
        ("markov", [12, 10], (11,), [13, 10, 12, 14], [1, NAN, NAN, NAN]),
        ("markov", [14], (), [10, 11, 12, 13], [NAN] * 4),
        ("markov", [], (), [10, 11, 12, 13], [NAN] * 4),
    ],
)
def test_counts_by_hand(name, history, excluded, items, scores):
    found = rank(name, history, excluded)
    assert found[0] == items
    np.testing.assert_array_equal(found[1], scores)


@pytest.mark.parametrize(
    ("name", "history", "excluded", "items"),
    [
        ("bm25_last", [14, 10], (), [10, 11, 13, 12]),
        ("bm25_last", [14, 10], (10,), [11, 13, 12, 14]),
        ("bm25_last", [], (), [10, 11, 12, 13]),
        # Nobody bought an item twice, so the history comes last. "red tea lamp": 11 and 13 share a word, 12 none.
        ("bm25_history", [14, 10], (), [11, 13, 12, 10]),
        ("bm25_history", [14, 10], (13, 10), [11, 12, 14, -1]),
    ],
)
def test_bm25_by_hand(name, history, excluded, items):
    assert rank(name, history, excluded)[0] == items


def test_bm25_scores_by_hand():
    """Five texts, mean length 9 / 5: "red cup" holds one of the words red and tea, which two texts each hold."""
    idf, norm = math.log(1 + (5 - 2 + 0.5) / (2 + 0.5)), 1.5 * (1 - 0.75 + 0.75 * 2 / (9 / 5))
    items, scores = rank("bm25_last", [10])
    assert items == [10, 11, 13, 12]
    np.testing.assert_allclose(scores, [2 * idf / (1 + norm), idf / (1 + norm), idf / (1 + norm), NAN], rtol=1e-6)


def test_item_knn_by_hand():
    """Users bought ab, ab, ad of five items: idf is ln 5 - ln 3 for each, so that the cosines are those of 0 and 1."""
    items, scores = rank("item_knn", [11, 10], histories=[[10, 11], [11, 10], [10, 13]])
    # cos(a, b) = 2 / sqrt(3 * 2), cos(a, d) = 1 / sqrt(3); b and d share no user. What was bought stands last.
    assert items == [13, 12, 14, 10]
    np.testing.assert_allclose(scores, [1 / math.sqrt(3), NAN, NAN, NAN])
    items, scores = rank("item_knn", [10, 14], histories=[[10, 11], [11, 10], [10, 13]])
    np.testing.assert_allclose(scores, [0.8 * 2 / math.sqrt(6), 0.8 / math.sqrt(3), NAN, NAN])
    assert items == [11, 13, 12, 10]


def test_groceries_are_bought_again_and_games_are_not():
    """Three of eight events repeat an item of the user, so the history is found, and itself most of all."""
    groceries = [[10, 11, 10, 11], [10, 13, 10, 14]]
    assert repeats(Shelf.of(arrays(groceries), CATALOGUE).histories, 5) == 3 / 8 >= REPEATS
    assert rank("item_knn", [11, 10], histories=groceries)[0][:2] == [10, 11]
    assert rank("bm25_history", [11, 10], histories=groceries)[0][:2] == [10, 11]
    assert {13, 14} < set(rank("matrix_factorisation", [13, 14], histories=groceries)[0][:3])
    assert rank("matrix_factorisation", [13, 14])[0][:3] == [10, 11, 12]


# --- brute force ------------------------------------------------------------------------------------------------------


class World:
    """Random users and items; some texts are shared, some items were never bought, some histories are empty."""

    def __init__(self, seed: int, again: bool):
        rng = np.random.default_rng(seed)
        self.again = again
        size = 40
        words = np.array(["red", "blue", "tea", "cup", "pot", "lamp", "desk", "oak"])
        texts = [" ".join(rng.choice(words, rng.integers(1, 4))) for _ in range(size)]
        self.ids = [f"i{number:03d}" for number in rng.permutation(size)]
        self.codes = np.sort(rng.choice(200, size, replace=False))
        drawn = [rng.choice(size - 5, rng.integers(0, 12), replace=again) for _ in range(60)]
        self.histories = [self.codes[items].tolist() for items in drawn]
        self.counts = Counter(itertools.chain.from_iterable(self.histories))
        group_texts = sorted(set(texts))
        group_of = np.array([group_texts.index(text) for text in texts])
        members = [
            sorted(self.codes[group_of == g].tolist(), key=lambda c: (-self.counts[c], self.id_of(c)))
            for g in range(len(group_texts))
        ]
        train_count = np.array([self.counts[code] for code in self.codes.tolist()])
        nothing = [""] * size
        self.catalogue = Catalogue(
            self.codes, self.ids, nothing, nothing, nothing, group_of, group_texts, members, train_count
        )
        self.popular = sorted(self.codes.tolist(), key=lambda code: (-self.counts[code], self.id_of(code)))
        self.asked = [*self.histories, [int(self.codes[-1])]]
        seen = [frozenset(items) for items in self.asked]
        self.excluded = [items if at % 3 else frozenset[int]() for at, items in enumerate(seen)]
        self.config = RetrieveConfig(k=9)

    def id_of(self, code: int) -> str:
        return self.ids[int(np.searchsorted(self.codes, code))]

    def column(self, code: int) -> int:
        return int(np.searchsorted(self.codes, code))

    def lists(self, name: str, seed: int = 0) -> Lists:
        made = baselines([name], arrays(self.histories), self.catalogue, self.config, seed)[name]
        return made(arrays(self.asked), self.excluded)

    def text(self, code: int) -> str:
        return self.catalogue.text(code)


WORLDS = [World(seed, again) for seed in range(3) for again in (False, True)]


def scored(world: World, name: str, history: list[int]) -> dict[int, float]:
    """The score of every item that a counting baseline proposes."""
    if name == "popularity":
        return dict(world.counts)
    if name == "recent_popularity":
        newest = (items[-math.ceil(len(items) / 5) :] for items in world.histories if items)
        return dict(Counter(itertools.chain.from_iterable(newest)))
    if name == "repeat_last":
        return {item: number for number, item in enumerate(history, 1)}
    pairs = Counter(pair for items in world.histories for pair in itertools.pairwise(items))
    return {after: count for (before, after), count in pairs.items() if history and before == history[-1]}


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("name", ["popularity", "recent_popularity", "repeat_last", "markov"])
def test_counts_by_brute_force(world: World, name: str):
    lists = world.lists(name)
    place = {item: at for at, item in enumerate(world.popular)}
    for user, (history, excluded) in enumerate(zip(world.asked, world.excluded, strict=True)):
        scores = scored(world, name, history)
        order = sorted(set(world.popular) - excluded, key=lambda item: (-scores.get(item, 0), place[item]))[:9]
        assert lists.items[user].tolist() == order
        np.testing.assert_array_equal(lists.scores[user], [scores.get(item, NAN) for item in order])


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize(("name", "newest"), [("bm25_last", 1), ("bm25_history", 20)])
def test_bm25_by_brute_force(world: World, name: str, newest: int):
    lists = world.lists(name)
    index = Index.build(world.catalogue.group_texts)
    last = name == "bm25_history" and not world.again
    for user, (history, excluded) in enumerate(zip(world.asked, world.excluded, strict=True)):
        scores = index.scores(" ".join(world.text(item) for item in history[-newest:]))
        groups = sorted(np.flatnonzero(scores).tolist(), key=lambda group: (-scores[group], group))
        found = [item for group in groups for item in world.catalogue.members[group]]
        ignored = {*excluded, *history} if last else excluded
        first = [item for item in dict.fromkeys([*found, *world.popular]) if item not in ignored]
        rest = [item for item in world.popular if item in ignored - excluded]
        assert lists.items[user].tolist() == [*first, *rest][:9]


@pytest.mark.parametrize("world", WORLDS)
def test_item_knn_by_brute_force(world: World):
    """TF-IDF with users as the words of an item, written out."""
    size = len(world.codes)
    bought = np.zeros((len(world.histories), size))
    for user, history in enumerate(world.histories):
        bought[user, [world.column(item) for item in history]] = 1
    weighted = bought * (np.log(size) - np.log1p(bought.sum(axis=1)))[:, None]
    length = np.sqrt((weighted**2).sum(axis=0))
    unit = weighted / np.where(length > 0, length, 1)
    cosine = unit.T @ unit
    check_scores(world, "item_knn", lambda history: decayed(world, history) @ cosine)


@pytest.mark.parametrize("world", WORLDS)
def test_matrix_factorisation_solves_for_the_user(world: World):
    """(YY' + sum (c - 1) yy' + r) x = sum c y; an item's confidence c is 40 * 0.8 ** age, summed over its events."""
    shelf = Shelf.of(arrays(world.histories), world.catalogue)
    model = AlternatingLeastSquares(128, regularization=10, alpha=40, iterations=15, num_threads=1, random_state=0)
    bought = csr_matrix(
        (np.ones(len(shelf.histories.flat)), shelf.histories.flat, shelf.histories.offsets),
        shape=(len(world.histories), len(world.codes)),
    )
    bought.sum_duplicates()
    bought.data[:] = 1
    model.fit(bought, show_progress=False)
    factors = model.item_factors[shelf.place_of].astype(np.float64)

    def scores(history: list[int]) -> NDArray[np.float64]:
        confidence = 40 * decayed(world, history)
        left = factors.T @ (np.where(confidence > 0, confidence, 1)[:, None] * factors) + 10 * np.eye(factors.shape[1])
        return factors @ np.linalg.solve(left, factors.T @ confidence)

    check_scores(world, "matrix_factorisation", scores, 2e-3)


def decayed(world: World, history: list[int]) -> NDArray[np.float64]:
    weights = np.zeros(len(world.codes))
    for age, item in enumerate(reversed(history)):
        weights[world.column(item)] += 0.8**age
    return weights


def check_scores(
    world: World, name: str, of: Callable[[list[int]], NDArray[np.float64]], tolerance: float = 1e-6
) -> None:
    """The lists hold the best scores, each of the right item; near ties may stand either way."""
    lists = world.lists(name)
    for user, (history, excluded) in enumerate(zip(world.asked, world.excluded, strict=True)):
        scores = of(history)
        ignored = excluded if world.again else {*excluded, *history}
        may = [world.column(item) for item in world.popular if item not in ignored]
        if name == "item_knn" or not history:  # what nothing speaks for only fills the list
            may = [column for column in may if scores[column] > 0]
        best = np.sort(scores[may])[::-1][:9]
        found = [world.column(item) for item in lists.items[user, : len(best)].tolist()]
        np.testing.assert_allclose(lists.scores[user, : len(best)], best, atol=tolerance)
        np.testing.assert_allclose(scores[found], best, atol=tolerance)
        assert set(found) <= set(may)
        fill = [item for item in world.popular if world.column(item) not in found and item not in ignored]
        rest = [item for item in world.popular if item in ignored - excluded]
        assert lists.items[user, len(best) :].tolist() == [*fill, *rest][: 9 - len(best)]


# --- what holds for all -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BASELINES)
def test_lists_are_whole_unique_and_the_same_every_time(name: str, monkeypatch: pytest.MonkeyPatch):
    for world in WORLDS[:2]:
        lists, again = world.lists(name), world.lists(name)
        for row, excluded in zip(lists.items.tolist(), world.excluded, strict=True):
            assert len(set(row)) == 9 and not set(row) & excluded and set(row) <= set(world.popular)
        np.testing.assert_array_equal(lists.items, again.items)
        np.testing.assert_array_equal(lists.scores, again.scores)
        ends = np.isnan(lists.scores)
        assert (ends[:, 1:] >= ends[:, :-1]).all()  # what has no score stands last
        falling = lists.scores[:, 1:] <= lists.scores[:, :-1]
        assert (falling | ends[:, 1:]).all()
        monkeypatch.setattr(module, "_CELLS", 3 * len(world.codes))  # three users at a time
        few = world.lists(name)
        np.testing.assert_array_equal(few.items, lists.items)
        np.testing.assert_allclose(few.scores, lists.scores, rtol=1e-5)


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("histories", [[], [[]], [[14]], [[10, 11, 12, 13, 14]], HISTORIES])
def test_small_worlds(name: str, histories: list[list[int]]):
    """Nothing to count, one event, a user who has all; the catalogue, less what is excluded, is shorter than k."""
    for history, excluded in itertools.product(([], [14], [10, 11, 12, 13, 14]), ((), (11, 14), (10, 11, 12, 13, 14))):
        items, _ = rank(name, history, excluded, histories, config=RetrieveConfig(k=7))
        assert set(items[: 5 - len(excluded)]) == {10, 11, 12, 13, 14} - {*excluded}
        assert items[5 - len(excluded) :] == [-1] * (2 + len(excluded))


@pytest.mark.parametrize("name", BASELINES)
def test_nobody_to_be_ranked_for(name: str):
    lists = baselines([name], arrays(HISTORIES), CATALOGUE, CONFIG, 0)[name]([], [])
    assert lists.items.shape == lists.scores.shape == (0, 4)


@pytest.mark.parametrize("world", WORLDS)
def test_made_together_in_any_order_they_are_what_each_is_alone(world: World):
    """A library that sorts or merges a matrix in place would change the histories that the next one counts."""
    for names in (BASELINES, BASELINES[::-1]):
        together = baselines(names, arrays(world.histories), world.catalogue, world.config, 0)
        for name in names:
            lists, alone = together[name](arrays(world.asked), world.excluded), world.lists(name)
            np.testing.assert_array_equal(lists.items, alone.items)
            np.testing.assert_array_equal(lists.scores, alone.scores)


def test_ties_go_to_the_popular_then_to_the_smaller_id():
    """b, c and d followed a once each; b was bought once more, and c has a smaller id and a larger code than d."""
    catalogue = Catalogue(
        items=np.array([10, 11, 12, 13]), item_id=["a", "d", "c", "b"], title=[""] * 4, category=[""] * 4,
        price=[""] * 4,
        group_of=np.zeros(4, np.int64), group_texts=["tea"], members=[[10, 13, 12, 11]], train_count=np.zeros(4),
    )  # fmt: skip
    histories = [[10, 11], [10, 12], [10, 13], [13]]
    assert rank("markov", [10], [10], histories, catalogue)[0] == [13, 12, 11, -1]
    assert rank("popularity", [], [], histories, catalogue)[0] == [10, 13, 12, 11]
    assert rank("recent_popularity", [], [], histories, catalogue)[0] == [13, 12, 11, 10]
    assert rank("bm25_last", [10], [], histories, catalogue)[0] == [10, 13, 12, 11]
    # With 13 bought alone once more its cosine with 10 is the smallest; those of 11 and 12 are equal.
    assert rank("item_knn", [10], [10], histories, catalogue)[0] == [12, 11, 13, -1]


def test_the_seed_decides_the_factors():
    world = WORLDS[0]
    a, b, c = (world.lists("matrix_factorisation", seed).scores for seed in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)


def test_popularity_on_a_known_set(tmp_path: Path):
    """Another program's popularity on this set: Recall@10 .0315, NDCG@10 .0180 with the history left out."""
    source = shared("data", "scientific2018")
    ingest("s", str(source), tmp_path / "s", DataConfig(dedup="none", min_user=0, min_item=0))
    textify([tmp_path / "s"], tmp_path / "texts", TextConfig())
    users, catalogue = load_users(tmp_path / "texts"), load_catalogue(tmp_path / "texts", "s")
    before = [items[:-1].astype(np.int64) for items in users.items]
    rank_all = baselines(["popularity"], before, catalogue, RetrieveConfig(), seed=0)["popularity"]
    hit = rank_all(before, [frozenset(items.tolist()) for items in before]).items == [
        [items[-1]] for items in users.items
    ]
    ranks = np.where(hit.any(axis=1), hit.argmax(axis=1) + 1, 0)
    assert metrics.recall(ranks, 10).mean() == pytest.approx(0.0315, abs=5e-5)
    assert metrics.ndcg(ranks, 10).mean() == pytest.approx(0.0180, abs=5e-5)
