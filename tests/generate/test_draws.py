"""Draws against the plain inverse CDF in fp64 and against chi-square."""

import math

import numpy as np
import pytest
import torch

from calrec.generate.draws import Draws, stream, uniforms
from tests.generate.exact import p_value

INF = math.inf
SIZES = (1, 2, 127, 128, 129, 300, 50257)
BELOW_1 = math.nextafter(1, 0)


def logits(rows: int, vocabulary: int, seed: int = 0, spread: float = 3.0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(0, spread, (rows, vocabulary)).astype(np.float32))


def draw(of: torch.Tensor, rows, numbers, temperature: float = 1.0) -> np.ndarray:
    rows, numbers = np.zeros(len(numbers), np.int64) + rows, np.asarray(numbers, np.float64)
    return Draws(of, temperature).draw(torch.from_numpy(rows), torch.from_numpy(numbers)).numpy()


def probabilities(of: torch.Tensor, temperature: float) -> np.ndarray:
    return (of.double() / temperature).softmax(-1).numpy()


@pytest.mark.parametrize("temperature", [0.1, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("vocabulary", SIZES)
def test_a_draw_is_the_inverse_cdf_except_within_a_millionth_of_a_border(vocabulary: int, temperature: float):
    of = logits(3, vocabulary)
    of[1, : vocabulary // 2] = -INF
    of[2, 1::3] = -INF
    rng = np.random.default_rng(1)
    rows, numbers = rng.integers(0, 3, 6000), np.append(rng.random(5998), [0.0, BELOW_1])
    found = draw(of, rows, numbers, temperature)
    upto = probabilities(of, temperature).cumsum(-1)
    exact, low, high = (
        np.array([np.searchsorted(upto[row], u * upto[row, -1], "right") for row, u in zip(rows, moved, strict=True)])
        for moved in (numbers, np.maximum(numbers - 1e-6, 0), np.minimum(numbers + 1e-6, BELOW_1))
    )
    assert ((low <= found) & (found <= high)).all()
    assert (found == exact).mean() > 0.98


@pytest.mark.parametrize("temperature", [0.5, 2.0])
@pytest.mark.parametrize("vocabulary", [2, 129, 1000])
def test_draws_follow_the_softmax(vocabulary: int, temperature: float):
    of, rng = logits(2, vocabulary, seed=3, spread=0.3), np.random.default_rng(vocabulary)
    rows = rng.permutation(np.repeat([0, 1], 100_000))
    found = draw(of, rows, rng.random(len(rows)), temperature)
    for row, p in enumerate(probabilities(of, temperature)):
        assert p_value(np.bincount(found[rows == row], minlength=vocabulary), p) > 1e-4


@pytest.mark.parametrize("temperature", [0.05, 1.0])
@pytest.mark.parametrize("vocabulary", [127, 128, 129, 300, 50257])
def test_no_token_of_probability_0_is_drawn(vocabulary: int, temperature: float):
    numbers = np.concatenate([[0.0, 5e-324, 0.5, BELOW_1], np.random.default_rng(0).random(200)])
    for kept in ([0], [vocabulary - 1], [vocabulary // 2], [3, vocabulary - 2], list(range(5, vocabulary - 5, 11))):
        of = torch.full((1, vocabulary), -INF)
        of[0, kept] = logits(1, len(kept))[0]
        assert set(draw(of, 0, numbers, temperature)) <= set(kept)


@pytest.mark.parametrize("vocabulary", SIZES)
def test_the_extreme_numbers_give_the_first_and_the_last_possible_token(vocabulary: int):
    of = torch.zeros(2, vocabulary)
    if vocabulary > 2:
        of[1, 0] = of[1, -1] = -INF
    first, last = (draw(of, [0, 1], [u, u]).tolist() for u in (0.0, BELOW_1))
    assert first == [0, vocabulary > 2] and last == [vocabulary - 1, vocabulary - 1 - (vocabulary > 2)]


def test_one_token_that_outweighs_all_is_always_drawn():
    of = logits(1, 300)
    of[0, 200] = 1e4
    assert set(draw(of, 0, np.random.default_rng(0).random(100))) == {200}


def test_a_low_temperature_draws_the_highest_logit():
    of = logits(50, 300)
    found = draw(of, np.arange(50), np.random.default_rng(0).random(50), 1e-3)
    assert found.tolist() == of.argmax(-1).tolist()


def test_a_row_draws_the_same_beside_any_others():
    of, numbers = logits(700, 1000), np.random.default_rng(0).random(700)  # 700,000 logits: several cached parts
    together = draw(of, np.arange(700), numbers, 0.7)
    alone = np.concatenate([draw(of[i : i + 1], 0, numbers[i : i + 1], 0.7) for i in range(700)])
    order = np.random.default_rng(1).permutation(700)
    permuted = draw(of[order], np.arange(700), numbers[order], 0.7)
    # A number may lie so near to a border that the rounding of a sum decides.
    assert (together != alone).sum() <= 1 and (together[order] != permuted).sum() <= 1


@pytest.mark.parametrize("temperature", [0.3, 1.0])
@pytest.mark.parametrize("vocabulary", SIZES)
def test_log_probabilities_are_those_at_temperature_1(vocabulary: int, temperature: float):
    of = logits(4, vocabulary) + 100
    kept, draws = of.clone(), Draws(of, temperature)
    tokens = torch.randint(0, vocabulary, (4,), generator=torch.Generator().manual_seed(0))
    found = draws.logprob(torch.arange(4), tokens)
    assert torch.allclose(found, of.double().log_softmax(-1)[torch.arange(4), tokens], atol=2e-5)
    assert torch.allclose(draws.norm_R.double(), of.double().logsumexp(-1), rtol=1e-6)
    assert torch.equal(of, kept)


@pytest.mark.parametrize("bad", [math.nan, INF])
def test_what_is_no_distribution_shows_in_the_norm(bad: float):
    of = logits(3, 300)
    of[1, 7] = bad
    assert Draws(of, 1.0).norm_R.isfinite().tolist() == [True, False, True]
    of[1] = -INF
    assert Draws(of, 1.0).norm_R.isfinite().tolist() == [True, False, True]


def test_each_user_has_uniform_numbers_of_his_own():
    numbers = {name: uniforms(7, name, 10, 5000) for name in ("ann", "bob", "")}
    assert all(found.shape == (10, 5000) and 0 <= found.min() <= found.max() < 1 for found in numbers.values())
    for found in numbers.values():
        assert p_value(np.bincount((found * 50).astype(int).ravel(), minlength=50), np.full(50, 0.02)) > 1e-4
    assert np.array_equal(numbers["ann"], uniforms(7, "ann", 10, 5000))
    assert abs(np.corrcoef([found.ravel() for found in numbers.values()]) - np.eye(3)).max() < 0.02
    assert not np.isin(numbers["ann"], uniforms(8, "ann", 10, 5000)).any()
    assert stream(1, "1:a").random() != stream(1, "a").random() != stream(11, ":a").random()
