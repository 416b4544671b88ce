"""Metrics, ties, coverage and novelty by hand arithmetic and by brute force."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calrec.config import EvaluateConfig, metric_names
from calrec.evaluate import metrics
from calrec.evaluate.figures import correct_holm, differences, figures, means
from calrec.evaluate.lists import Lists
from calrec.evaluate.metrics import Scores, Target
from calrec.retrieve.catalogue import Catalogue

RANKS = np.array([1, 2, 0, 10, 11])
CONFIG = EvaluateConfig(recall_at=(1, 3), ndcg_at=(2, 3), bootstrap=200)
# items 10..14; 12 and 13 share a text
CATALOGUE = Catalogue(
    items=np.arange(10, 15), item_id=list("abcde"), title=list("ABCDE"), category=[""] * 5, price=[""] * 5,
    group_of=np.array([0, 1, 2, 2, 3]), group_texts=["red tea", "red cup", "blue cup", "lamp"],
    members=[[10], [11], [12, 13], [14]], train_count=np.array([4, 2, 1, 1, 0]),
)  # fmt: skip


def test_metrics_by_hand():
    assert metrics.recall(RANKS, 1).mean() == 1 / 5
    assert metrics.recall(RANKS, 10).mean() == 3 / 5
    assert metrics.ndcg(RANKS, 10).mean() == pytest.approx((1 + 1 / math.log2(3) + 1 / math.log2(11)) / 5)
    assert metrics.reciprocal_rank(RANKS).mean() == pytest.approx((1 + 1 / 2 + 1 / 10 + 1 / 11) / 5)


def test_metric_names_are_what_is_computed():
    config = EvaluateConfig()
    assert metrics.worth(RANKS, config).shape == (5, len(metric_names(config)))
    assert dict(zip(metric_names(config), metrics.worth(np.array([6]), config)[0], strict=True)) == {
        "recall_at_1": 0, "recall_at_5": 0, "recall_at_10": 1, "recall_at_20": 1,
        "ndcg_at_10": pytest.approx(1 / math.log2(7)), "ndcg_at_20": pytest.approx(1 / math.log2(7)),
        "mrr": pytest.approx(1 / 6),
    }  # fmt: skip
    assert all("@" not in name for name in metric_names(config))  # the tracking server refuses it


def scores_of(items: list[list[int]], target: list[int], scores: list[list[float]] | None = None, k: int = 3) -> Scores:
    group = CATALOGUE.group_of[np.array(target) - 10]
    found = Scores(Target(np.array(target), group), CATALOGUE, k)
    found.add(np.arange(len(items)), Lists.of(items, k, scores))
    return found


def test_ranks_of_items_and_of_texts():
    found = scores_of([[10, 11, 12], [11, 13, 12], [14], []], [10, 12, 12, 10])
    assert found.rank.tolist() == [1, 3, 0, 0]
    assert found.rank_text.tolist() == [1, 2, 0, 0]
    assert found.rank_counts().tolist() == [2, 1, 0, 1]
    assert found.rank_counts(on_texts=True).tolist() == [2, 1, 1, 0]


def test_blocks_may_come_in_any_order_of_users():
    found = Scores(Target(np.array([10, 11, 12]), np.array([0, 1, 2])), CATALOGUE, 2)
    found.add(np.array([2]), Lists.of([[11, 12]], 2))
    found.add(np.array([1, 0]), Lists.of([[11, 10], [11, 12]], 2))
    assert found.rank.tolist() == [0, 1, 2]


def test_coverage_and_novelty_by_hand():
    """Of 8 training events item 10 has 4, 11 two, 12 and 13 one, and 14 counts as half an event."""
    found = scores_of([[10, 11, 14], [10]], [10, 10])
    assert found.coverage == 3 / 5
    assert found.novelty == pytest.approx((1 + 2 + 4 + 1) / 4)


def test_a_tie_is_where_scores_are_equal_and_there_are_scores():
    one, inf = [[10, 11, 12]], -math.inf
    for scores, expected in (
        ([3.0, 2.0, 1.0], (2, 2)),
        ([2.0, 2.0, 1.0], (1, 2)),
        ([2.0, 2.0, 2.0], (1, 3)),
        ([2.0, 1.0, 1.0], (2, 3)),
        ([2.0, inf, inf], (2, 3)),  # what only fills the list
    ):
        found = scores_of(one, [11], [scores])
        assert (found.best[0], found.worst[0]) == expected
    found = scores_of(one, [11])
    assert (found.best[0], found.worst[0]) == (2, 2)
    found = scores_of([[10, 11]], [11], [[2.0, 2.0]])  # a short list ends where it ends
    assert (found.best[0], found.worst[0]) == (1, 2)


def test_what_is_not_in_the_list_stays_outside_even_of_a_tie_at_its_end():
    found = scores_of([[10, 11, 12]], [14], [[1.0, 1.0, 1.0]])
    assert (found.rank[0], found.best[0], found.worst[0]) == (0, 0, 0)
    assert {name: (t.best, t.mean, t.worst) for name, t in found.ties(CONFIG).items()} == dict.fromkeys(
        metric_names(CONFIG), (0, 0, 0)
    )


def test_ties_by_hand():
    """One target tied over places 1 to 3, one settled at 2, one not there."""
    found = scores_of([[10, 11, 12], [11, 10], [11]], [12, 10, 10], [[1.0, 1.0, 1.0], [2.0, 1.0], [1.0]])
    ties = found.ties(CONFIG)
    assert (ties["recall_at_1"].best, ties["recall_at_1"].worst) == pytest.approx((1 / 3, 0))
    assert ties["recall_at_1"].mean == pytest.approx(1 / 9)
    assert ties["mrr"].best == pytest.approx((1 + 1 / 2) / 3)
    assert ties["mrr"].mean == pytest.approx(((1 + 1 / 2 + 1 / 3) / 3 + 1 / 2) / 3)
    assert ties["mrr"].worst == pytest.approx((1 / 3 + 1 / 2) / 3)
    assert ties["ndcg_at_2"].mean == pytest.approx(((1 + 1 / math.log2(3)) / 3 + 1 / math.log2(3)) / 3)


@given(st.permutations([10, 11, 12, 13, 14]), st.lists(st.integers(0, 2), min_size=4, max_size=4), st.integers(10, 14))
def test_ties_are_the_mean_over_all_orders(items: list[int], drops: list[int], target: int):
    values = [10.0 - sum(drops[:at]) for at in range(4)]
    found = scores_of([items[:4]], [target], [values], k=4).ties(CONFIG)
    orders = [
        order for order in itertools.permutations(range(4))
        if all(values[a] >= values[b] for a, b in itertools.pairwise(order))
    ]  # fmt: skip
    ranks = [next((place for place, at in enumerate(order, 1) if items[at] == target), 0) for order in orders]
    worth = metrics.worth(np.array(ranks), CONFIG)
    for at, name in enumerate(metric_names(CONFIG)):
        assert found[name].mean == pytest.approx(worth[:, at].mean())
        assert (found[name].best, found[name].worst) == pytest.approx((worth[:, at].max(), worth[:, at].min()))


def test_figures_of_counted_users():
    counts = np.array([2, 1, 0, 1])  # ranks 0, 0, 1, 3
    found = figures(counts, CONFIG)
    assert {name: one.mean for name, one in found.items()} == means(counts, CONFIG)
    assert found["recall_at_1"].mean == 1 / 4 and found["mrr"].mean == pytest.approx((1 + 1 / 3) / 4)
    assert all(one.low <= one.mean <= one.high for one in found.values())


def test_differences_by_hand():
    ours, theirs = np.array([1, 1, 0, 3, 2], np.int32), np.array([2, 0, 1, 3, 0], np.int32)
    found = differences(ours, theirs, CONFIG)
    hit = found["recall_at_1"]  # differences 1, 1, -1, 0, 0
    assert (hit.mean, hit.wins, hit.losses, hit.p) == (pytest.approx(1 / 5), 2, 1, 1.0)
    assert hit.effect == pytest.approx(0.2 / math.sqrt((2 * 0.8**2 + 1.2**2 + 2 * 0.2**2) / 4))
    mrr = found["mrr"]  # differences 1/2, 1, -1, 0, 1/2
    assert (mrr.mean, mrr.wins, mrr.losses) == (pytest.approx(1 / 5), 3, 1)
    assert mrr.low <= mrr.mean <= mrr.high and 0 < mrr.p <= 1
    back = differences(theirs, ours, CONFIG)["mrr"]
    assert (back.mean, back.wins, back.losses) == (pytest.approx(-1 / 5), 1, 3)


def test_holm_goes_over_all_tables_together():
    rng = np.random.default_rng(0)
    ours = rng.integers(0, 3, 300).astype(np.int32)
    others = [np.where(rng.random(300) < 0.2, 0, ours).astype(np.int32), ours]
    tables = correct_holm([differences(ours, other, CONFIG) for other in others])
    found = [one for table in tables for one in table.values()]
    assert len(found) == 2 * len(metric_names(CONFIG))
    smallest = min(found, key=lambda one: one.p)
    assert smallest.p_holm == pytest.approx(len(found) * smallest.p)
    assert {(one.p, one.p_holm, one.mean) for one in tables[1].values()} == {(1.0, 1.0, 0.0)}
