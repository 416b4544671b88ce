"""Validation against plain arithmetic."""

import math

import pytest
import torch

from calrec.finetune.ranks import Ranks
from calrec.finetune.towers import Towers
from calrec.finetune.validation import proxy, validate
from tests.finetune.networks import batches, made


def test_the_proxy_is_ndcg_among_distinct_targets():
    eye = torch.eye(4)
    assert proxy(eye, eye, torch.arange(4)) == 1.0
    # The first user is nearer to the target of the second; the others find their own first.
    users = torch.stack([eye[1] + 0.5 * eye[0], *eye[1:]])
    assert proxy(users, eye, torch.arange(4)) == pytest.approx((3 + 1 / math.log2(3)) / 4)
    # Two users with one target are not each other's rivals.
    same = torch.stack([eye[1], eye[1], eye[2], eye[3]])
    assert proxy(users, same, torch.tensor([7, 7, 8, 9])) == 1.0
    assert proxy(users.flip(0), eye, torch.arange(4), k=1) == 0.0


def test_ties_stand_before_the_target():
    eye, groups = torch.eye(4), torch.arange(4)
    assert proxy(eye, torch.ones(4, 4), groups) == pytest.approx(1 / math.log2(5))  # each target is the fourth of four
    assert proxy(torch.zeros(4, 4), eye, groups) == pytest.approx(1 / math.log2(5))
    assert proxy(torch.ones(12, 8), torch.ones(12, 8), torch.arange(12)) == 0
    torch.manual_seed(0)
    one = torch.randn(1, 301).repeat(40, 1) * torch.rand(40, 1)  # one direction, up to rounding
    assert proxy(one, one, torch.arange(40)) == 0
    # The first two targets are one vector under two texts.
    twin = torch.stack([eye[0], eye[0], eye[2], eye[3]])
    assert proxy(twin, twin, groups) == pytest.approx((2 / math.log2(3) + 2) / 4)


def test_a_model_that_gives_no_numbers_is_an_error_and_not_perfect():
    network, rows = made("llama"), batches([4])
    with torch.no_grad():
        network.model.norm.weight[0] = math.nan
    towers = Towers(network)
    with pytest.raises(FloatingPointError, match="validation: what the model gives .* is not finite; lower lr"):
        validate(towers, rows, Ranks())
    towers.close()


def test_validation_sums_over_rows_and_divides_once():
    network, rows = made("llama"), batches([3, 1])
    towers = Towers(network)
    whole = validate(towers, batches([4]), Ranks())
    parts = validate(towers, rows, Ranks())
    by_hand = sum(float(towers(row).nll.detach()) for row in rows) / sum(len(row.label_N) for row in rows)
    towers.close()
    assert parts["nig"] == pytest.approx(by_hand) == pytest.approx(whole["nig"], rel=1e-5)
    assert parts["ndcg"] == pytest.approx(whole["ndcg"])
