"""Intervals and tests against hand arithmetic, every possible resample, scipy, and what must hold by theory."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from calrec.evaluate import statistics


def counted(values: list[float]) -> tuple[np.ndarray, np.ndarray]:
    distinct, counts = np.unique(values, return_counts=True)
    return distinct[:, None], counts


def test_a_bootstrap_draws_each_resample_as_often_as_drawing_users_does():
    """Three users, 27 equally likely resamples."""
    values = [0.0, 1.0, 1.0]
    every = [sum(drawn) / 3 for drawn in itertools.product(values, repeat=3)]
    means = statistics.bootstrap(*counted(values), 100_000, 0)[:, 0]
    for mean in set(every):
        share = np.isclose(means, mean).mean()
        assert share == pytest.approx(every.count(mean) / 27, abs=4 * math.sqrt(0.25 / 100_000))
    assert np.isclose(means[:, None], sorted(set(every))).any(axis=1).all()


def test_its_interval_is_scipys():
    rng = np.random.default_rng(1)
    values = rng.choice([0.0, 0.3, 0.5, 1.0], 200, p=[0.6, 0.2, 0.1, 0.1])
    low, high = statistics.interval(statistics.bootstrap(*counted(values.tolist()), 20_000, 0))
    theirs = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=2).confidence_interval
    assert (low[0], high[0]) == pytest.approx(tuple(theirs), abs=0.004)


def test_the_interval_narrows_with_the_root_of_the_users():
    low, high = statistics.interval(statistics.bootstrap(np.array([[0.0], [1.0]]), np.array([3500, 1500]), 2000, 0))
    assert high[0] - low[0] == pytest.approx(2 * 1.96 * math.sqrt(0.3 * 0.7 / 5000), rel=0.1)


def test_metrics_of_one_resample_belong_together_and_a_seed_repeats_it():
    values, counts = np.array([[0.0, 1.0], [1.0, 0.0], [9.0, 9.0]]), np.array([5, 5, 0])
    means = statistics.bootstrap(values, counts, 50, 3)
    assert np.allclose(means.sum(axis=1), 1.0)
    assert np.array_equal(means, statistics.bootstrap(values, counts, 50, 3))
    assert not np.array_equal(means, statistics.bootstrap(values, counts, 50, 4))


def test_many_outcomes_are_drawn_in_parts(monkeypatch: pytest.MonkeyPatch):
    values, counts = np.arange(50.0)[:, None], np.ones(50, np.int64)
    whole = statistics.bootstrap(values, counts, 64, 0)
    monkeypatch.setattr(statistics, "_CELLS", 500)
    assert np.array_equal(statistics.bootstrap(values, counts, 64, 0), whole)


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_the_exact_binomial_test(wins: int, losses: int):
    expected = stats.binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
    assert statistics.mcnemar(wins, losses) == pytest.approx(expected, rel=1e-9)


def test_mcnemar_by_hand():
    assert statistics.mcnemar(0, 5) == pytest.approx(2 / 32)
    assert statistics.mcnemar(1, 4) == pytest.approx(2 * (1 + 5) / 32)
    assert statistics.mcnemar(3, 3) == 1.0
    assert statistics.mcnemar(250_500, 249_500) == pytest.approx(stats.binomtest(250_500, 500_000).pvalue, rel=1e-8)


def test_holm_by_hand():
    assert statistics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert statistics.holm([0.5, 0.9]) == [1.0, 1.0]
    assert statistics.holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_lies_between_none_and_bonferroni_and_keeps_the_order(p: list[float]):
    adjusted = statistics.holm(p)
    assert all(a <= b <= min(1, a * len(p)) + 1e-12 for a, b in zip(p, adjusted, strict=True))
    assert sorted(range(len(p)), key=lambda i: (p[i], i)) == sorted(range(len(p)), key=lambda i: (adjusted[i], p[i], i))


def test_the_effect_by_hand():
    """Differences 1, 1, -1, 0: mean 1/4, variance (2 (3/4)² + (5/4)² + (1/4)²) / 3 = 11/12."""
    effect = statistics.effect_size(np.array([[-1.0], [0.0], [1.0]]), np.array([1, 1, 2]))
    assert effect[0] == pytest.approx(0.25 / math.sqrt(11 / 12))
    assert statistics.effect_size(np.array([[0.5]]), np.array([7]))[0] == 0


def test_the_effect_is_that_of_the_t_test():
    rng = np.random.default_rng(0)
    values = rng.normal(0.2, 1, 50)
    effect = statistics.effect_size(values[:, None], np.ones(50, np.int64))[0]
    assert effect * math.sqrt(50) == pytest.approx(stats.ttest_1samp(values, 0).statistic)


def p_of(values: np.ndarray, resamples: int = 2000) -> float:
    table, counts = counted(values.tolist())
    return float(statistics.p_values(statistics.bootstrap(table, counts, resamples, 0), values.mean()[None])[0])


def test_a_paired_bootstrap_is_near_the_t_test_for_many_users():
    rng = np.random.default_rng(5)
    for shift in (0.0, 0.1, 0.2):
        values = rng.choice([-1.0, -0.5, 0.0, 0.5, 1.0], 400) + shift
        assert p_of(values, 20_000) == pytest.approx(stats.ttest_1samp(values, 0).pvalue, abs=0.015)


def test_without_a_difference_it_rejects_as_rarely_as_it_says():
    rng = np.random.default_rng(0)
    found = [p_of(rng.choice([-1.0, 0.0, 0.0, 1.0], 100)) for _ in range(400)]
    assert np.mean(np.array(found) < 0.05) == pytest.approx(0.05, abs=0.03)


def test_the_smallest_p_and_the_largest():
    assert p_of(np.full(10, 0.5), 99) == 1 / 100
    assert p_of(np.zeros(10), 99) == 1.0
    assert p_of(np.array([-1.0, 1.0]), 99) == 1.0
