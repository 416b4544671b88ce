"""Loss terms against closed forms."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from calrec.finetune.losses import combine, info_nce, token_nll

B, D = 6, 8
APART = torch.arange(B)


@pytest.mark.parametrize("direction", ["both", "user", "target"])
def test_equal_embeddings_give_ln_b(direction: str):
    same = torch.ones(B, D)
    assert info_nce(same, same, APART, 0.5, direction).item() == pytest.approx(math.log(B), rel=1e-6)


@pytest.mark.parametrize("direction", ["both", "user", "target"])
def test_orthogonal_embeddings_give_the_floor_of_cosines_at_least_zero(direction: str):
    eye = torch.eye(B, D)
    floor = math.log(1 + (B - 1) * math.exp(-2))
    assert info_nce(eye, eye, APART, 0.5, direction).item() == pytest.approx(floor, rel=1e-6)


def test_opposite_embeddings_give_the_floor_of_cosines_at_minus_one():
    pair = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    floor = math.log(1 + math.exp(-4))
    assert info_nce(pair, pair, torch.arange(2), 0.5, "both").item() == pytest.approx(floor, rel=1e-5)


def test_rows_of_one_text_group_are_no_negatives():
    a, p = torch.randn(4, D), torch.randn(4, D)
    group = torch.tensor([0, 1, 0, 2])
    cosine = torch.nn.functional.normalize(a, dim=-1) @ torch.nn.functional.normalize(p, dim=-1).T / 0.5
    allowed = [[0, 1, 3], [0, 1, 2, 3], [1, 2, 3], [0, 1, 2, 3]]
    by_hand = np.mean(
        [math.log(sum(math.exp(cosine[i, j]) for j in js)) - cosine[i, i].item() for i, js in enumerate(allowed)]
    )
    assert info_nce(a, p, group, 0.5, "user").item() == pytest.approx(by_hand, rel=1e-5)


def test_a_batch_of_one_group_has_nothing_to_tell_apart():
    a = torch.randn(3, D, requires_grad=True)
    loss = info_nce(a, torch.randn(3, D), torch.zeros(3, dtype=torch.long), 0.5, "both")
    loss.backward()
    assert loss.item() == 0
    assert a.grad is not None and torch.isfinite(a.grad).all()


def test_both_directions_are_the_mean_of_the_two():
    a, p = torch.randn(B, D), torch.randn(B, D)
    user, target = (info_nce(a, p, APART, 0.5, d) for d in ("user", "target"))
    assert user != target
    assert torch.isclose(info_nce(a, p, APART, 0.5, "both"), (user + target) / 2)
    assert torch.isclose(target, info_nce(p, a, APART, 0.5, "user"))


def test_token_nll_is_the_sum_of_minus_log_softmax():
    logits = torch.tensor([[1.0, 2.0, 0.5], [0.0, 0.0, 3.0]])
    by_hand = -(2 - math.log(math.e + math.e**2 + math.e**0.5)) - (3 - math.log(2 + math.e**3))
    nothing = torch.empty(0, dtype=torch.long)
    assert token_nll(logits, torch.tensor([1, 2]), nothing, 0).item() == pytest.approx(by_hand, rel=1e-6)


def test_what_cannot_begin_an_item_is_no_part_of_its_distribution():
    """Of the second row token 0 is left out: its logit says nothing and gets no gradient."""
    logits = torch.tensor([[1.0, 2.0, 3.0], [90.0, 0.5, 1.5]], requires_grad=True)
    nll = token_nll(logits, torch.tensor([0, 2]), torch.tensor([1]), 0)
    by_hand = math.log(math.exp(1) + math.exp(2) + math.exp(3)) - 1 + math.log(math.exp(0.5) + math.exp(1.5)) - 1.5
    assert nll.item() == pytest.approx(by_hand, rel=1e-6)
    nll.backward()
    assert logits.grad is not None and logits.grad[1, 0] == 0 and logits.grad[0, 0] != 0
    assert logits.detach()[1, 0] == 90


@settings(max_examples=50)
@given(st.floats(0, 0.4), st.floats(-0.5, 0.5))
def test_the_terms_are_weighted_as_in_the_paper(alpha: float, beta: float):
    terms = combine(torch.tensor(3.0), torch.tensor(5.0), torch.tensor(7.0), alpha, beta)
    assert terms.loss.item() == pytest.approx((1 - alpha - beta) * 3 + alpha * 5 + beta * 7, rel=1e-5)
