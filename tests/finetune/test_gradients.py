"""GradCache and the choice of negatives against one row that holds everything."""

from dataclasses import replace

import pytest
import torch

from calrec.config import StageConfig
from calrec.finetune.gradients import Interrupted, backward, random_state, set_random_state
from calrec.finetune.losses import info_nce
from calrec.finetune.ranks import Ranks
from calrec.finetune.towers import Towers
from tests.finetune.networks import batches, dropping, made
from tests.finetune.test_towers import STAGE, assert_equal, loss_and_gradients


@pytest.mark.parametrize("train_on", ["last", "all"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("sizes", [[4, 4, 4], [5, 3, 4], [1] * 12])
def test_gradcache_equals_one_row(family: str, sizes: list[int], train_on: str):
    network = made(family)
    whole = loss_and_gradients(network, "loop", batches([12], train_on))
    parts = loss_and_gradients(network, "loop", batches(sizes, train_on))
    assert torch.allclose(parts[0], whole[0], rtol=1e-6)
    assert_equal(parts, whole)


def test_gradcache_replays_the_dropout_of_its_first_reading():
    """Against one graph over both rows, with the same draws."""
    network, rows, stage = dropping().train(), batches([4, 4]), StageConfig(alpha=0.3, beta=0.2)
    torch.manual_seed(5)
    towers = Towers(network)
    backward(towers, rows, stage, Ranks())
    ours = [p.grad.clone() for p in network.parameters()]
    network.zero_grad()
    torch.manual_seed(5)
    first = [towers(row) for row in rows]
    vectors = torch.cat([read.vectors_3BD for read in first], 1)
    group = torch.cat([row.group_B for row in rows])
    nll = sum(read.nll for read in first) / sum(len(row.label_N) for row in rows)
    tt, ut = (info_nce(vectors[i], vectors[2], group, stage.tau, stage.direction) for i in (1, 0))
    (0.5 * nll + 0.3 * tt + 0.2 * ut).backward()
    towers.close()
    for gradient, p in zip(ours, network.parameters(), strict=True):
        assert torch.allclose(gradient, p.grad, atol=1e-6)


def test_gradient_accumulation_alone_adds_no_negatives():
    network, rows = made("llama"), batches([4, 4])
    towers = Towers(network)
    micro = backward(towers, rows, replace(STAGE, negatives="micro"), Ranks())
    apart = [backward(towers, [row], STAGE, Ranks()) for row in rows]
    towers.close()
    assert torch.isclose(micro.tt, (apart[0].tt + apart[1].tt) / 2) and torch.isclose(
        micro.ut, (apart[0].ut + apart[1].ut) / 2
    )
    tokens = [len(row.label_N) for row in rows]
    assert torch.isclose(micro.nig, (apart[0].nig * tokens[0] + apart[1].nig * tokens[1]) / sum(tokens))


def test_an_interrupted_step_leaves_the_draws_as_they_were():
    network, rows = dropping().train(), batches([2, 2])
    towers, before, asked = Towers(network), random_state(), iter([False, False, False, True])
    with pytest.raises(Interrupted):
        backward(towers, rows, STAGE, Ranks(), lambda: next(asked))
    towers.close()
    assert not torch.equal(before["cpu"], random_state()["cpu"])
    set_random_state(before)
    assert torch.equal(before["cpu"], random_state()["cpu"])
