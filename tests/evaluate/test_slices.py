"""Every user has one value of each division, and its figures are those of its users."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calrec.config import EvaluateConfig
from calrec.evaluate import slices
from calrec.evaluate.metrics import Scores, Target
from calrec.evaluate.slices import Division
from calrec.retrieve.catalogue import Catalogue

CONFIG = EvaluateConfig(recall_at=(1, 3), ndcg_at=(3,), bootstrap=50)
NAN = float("nan")


def values(division: Division) -> list[str]:
    return [division.values[at] for at in division.of.tolist()]


def test_bands_begin_and_end_where_they_say():
    assert values(slices.frequency(np.array([0, 1, 5, 6, 20, 21]))) == [
        "0 (cold)", "1-5", "1-5", "6-20", "6-20", "over 20",
    ]  # fmt: skip
    assert values(slices.history(np.array([1, 4, 5, 9, 10, 19, 20, 49, 50]))) == [
        "under 5", "under 5", "5-9", "5-9", "10-19", "10-19", "20-49", "20-49", "50 and more",
    ]  # fmt: skip
    assert values(slices.repeat(np.array([True, False]))) == ["repeat", "new"]


def test_the_most_frequent_categories_stand_alone():
    names = [f"kind {i:02}" for i in range(12)]
    target = np.repeat(np.arange(12), np.arange(12, 0, -1))  # kind 00 is the target of 12 users, kind 11 of one
    (found,) = slices.category(target, names)
    assert list(found.values) == [*names[: slices.CATEGORIES], "all others"]
    assert values(found) == [names[at] if at < slices.CATEGORIES else "all others" for at in target.tolist()]


def test_few_categories_all_stand_alone_also_the_missing_one():
    (found,) = slices.category(np.array([0, 1, 2, 2]), ["b", "a", ""])
    assert values(found) == ["b", "a", "no category", "no category"]
    assert slices.category(np.array([0, 1]), ["", ""]) == []


def test_prices_are_cut_at_the_quarters_of_the_catalogue():
    prices = np.array([1.0, 2.0, 3.0, 4.0, NAN])
    (found,) = slices.price(np.arange(5), prices)
    assert values(found) == ["up to 1.00", "over 1.00 to 2.00", "over 2.00 to 3.00", "over 3.00", "no price"]
    assert slices.price(np.array([0]), np.array([NAN])) == []


def test_equal_prices_make_fewer_bands():
    (found,) = slices.price(np.arange(5), np.array([5.0, 5.0, 5.0, 5.0, 7.0]))
    assert values(found) == ["up to 5.00"] * 4 + ["over 5.00"]


def scores_of(ranks: list[int]) -> Scores:
    catalogue = Catalogue(
        np.arange(2), ["a", "b"], ["", ""], ["", ""], ["", ""], np.arange(2), ["", ""], [[0], [1]], np.ones(2)
    )
    scores = Scores(Target(np.zeros(len(ranks), np.int64), np.zeros(len(ranks), np.int64)), catalogue, 3)
    scores.rank[:] = ranks
    return scores


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=30))
def test_figures_of_a_slice_are_those_of_its_users(users: list[tuple[int, int, int]]):
    of, ours, theirs = (list(column) for column in zip(*users, strict=True))
    methods = {"calrec": scores_of(ours), "markov": scores_of(theirs)}
    found = slices.slice_figures([Division("kind", ("x", "y", "z"), np.array(of))], methods, CONFIG)
    assert sum(one.users for one in found) == len(users)
    assert [one.value for one in found] == ["xyz"[at] for at in sorted(set(of))]
    for one in found:
        for name, ranks in (("calrec", ours), ("markov", theirs)):
            its = [rank for rank, at in zip(ranks, of, strict=True) if "xyz"[at] == one.value]
            assert one.users == len(its)
            figure = one.figures[name]["recall_at_3"]
            assert figure.mean == pytest.approx(sum(rank > 0 for rank in its) / len(its))
            assert figure.low <= figure.mean + 1e-12 and figure.mean <= figure.high + 1e-12
