"""The optimizer, the schedules and the moving average, on a real tiny model."""

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from calrec.config import StageConfig
from calrec.finetune.optimizer import Average, adamw, rate, trainable_parameters

STAGE = StageConfig(steps=100, warmup=0.1)


@pytest.fixture
def network() -> Any:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=50,
            tie_word_embeddings=True,
        )
    )  # fmt: skip


def step(network: Any, optimizer: torch.optim.Optimizer) -> None:
    network(torch.arange(12)[None], labels=torch.arange(12)[None]).loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def values(network: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in network.named_parameters()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_matrices_are_decayed_and_vectors_are_not(network: Any):
    matrices, vectors = adamw(network, replace(STAGE, weight_decay=0.3)).param_groups
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.3, 0.0)
    assert {p.ndim for p in matrices["params"]} == {2} and {p.ndim for p in vectors["params"]} == {1}
    assert any(p is network.get_input_embeddings().weight for p in matrices["params"])
    assert len(matrices["params"]) + len(vectors["params"]) == len(list(network.parameters()))


def test_frozen_weights_are_left_alone(network: Any):
    network.model.requires_grad_(False)
    network.model.norm.requires_grad_(True)
    (group,) = adamw(network, STAGE).param_groups
    assert group["weight_decay"] == 0.0 and group["params"][0] is network.model.norm.weight
    assert trainable_parameters(network).keys() == {"model.norm.weight"}


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_each_schedule_warms_up_to_the_peak(schedule: str):
    rates = [rate(at, replace(STAGE, schedule=schedule)) for at in range(100)]
    assert rates[:11] == [*((at + 1) / 10 for at in range(10)), 1.0]
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))


def test_the_schedules_end_where_they_say():
    ends = {s: rate(100, replace(STAGE, schedule=s)) for s in ("cosine", "linear", "constant")}
    assert ends == pytest.approx({"cosine": 0.1, "linear": 0.1, "constant": 1.0})
    assert rate(55, STAGE) == 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * 45 / 90))
    assert rate(55, replace(STAGE, schedule="linear")) == 1 - 0.9 * 45 / 90
    assert rate(0, StageConfig(steps=1)) == 1.0


def test_the_average_follows_the_weights(network: Any):
    optimizer, average = adamw(network, STAGE), Average(network, 0.9)
    expected = values(network)
    for _ in range(3):
        step(network, optimizer)
        average.update(network, 10**9)
        expected = {name: expected[name].lerp(now, 1 - 0.9) for name, now in values(network).items()}
    assert same(average.tensors, expected) and not same(expected, values(network))


def test_the_averages_are_swapped_in_and_out(network: Any):
    average = Average(network, 0.5)
    step(network, adamw(network, STAGE))
    average.update(network, 10**9)
    weights = values(network)
    with pytest.raises(RuntimeError, match="in between"), average.applied_to(network):
        assert same(values(network), average.tensors)
        assert network.lm_head.weight is network.get_input_embeddings().weight
        raise RuntimeError("in between")
    assert same(values(network), weights)


def test_averages_are_fp32_where_weights_are_not(network: Any):
    network.to(torch.bfloat16)
    average, before = Average(network, 0.999), values(network)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(1.0)
    average.update(network, 10**9)
    name = "model.norm.weight"
    assert average.tensors[name].dtype == torch.float32
    assert torch.equal(average.tensors[name], before[name].float().lerp(values(network)[name].float(), 1 - 0.999))
    weights = values(network)
    with average.applied_to(network):
        assert torch.equal(values(network)[name], average.tensors[name].bfloat16())
    assert same(values(network), weights)


def test_without_decay_nothing_is_kept(network: Any):
    average, weights = Average(network, 0.0), values(network)
    average.update(network, 10**9)
    with average.applied_to(network):
        assert same(values(network), weights)
    assert average.tensors == {}


def test_an_average_goes_on_from_its_state(network: Any):
    average, fresh = Average(network, 0.5), Average(network, 0.5)
    step(network, adamw(network, STAGE))
    average.update(network, 10**9)
    fresh.load({name: tensor.clone() for name, tensor in average.tensors.items()})
    assert same(fresh.tensors, average.tensors)
    with pytest.raises(ValueError, match=r"averages are of other weights than are trained, such as lm_head|model\."):
        fresh.load({})


def test_sharded_weights_are_averaged_too(network: Any, tmp_path: Any):
    from torch import distributed
    from torch.distributed.fsdp import fully_shard

    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        mesh = distributed.device_mesh.init_device_mesh("cpu", (1,))
        plain = Average(network, 0.5).tensors
        fully_shard(network, mesh=mesh)
        optimizer, average = adamw(network, STAGE), Average(network, 0.5)
        step(network, optimizer)
        average.update(network, 10**9)
        weights = {name: p.full_tensor() for name, p in trainable_parameters(network).items()}  # type: ignore[attr-defined]
        half = {name: tensor.full_tensor() for name, tensor in average.tensors.items()}  # type: ignore[attr-defined]
        assert same(half, {name: plain[name].lerp(weights[name], 0.5) for name in plain})
        before = network(torch.arange(12)[None]).logits
        with average.applied_to(network):
            swapped = network(torch.arange(12)[None]).logits
        assert torch.equal(network(torch.arange(12)[None]).logits, before)
        assert not torch.equal(swapped, before)
    finally:
        distributed.destroy_process_group()


def test_the_average_forgets_the_first_weights_soon():
    network = torch.nn.Linear(1, 1, bias=False)
    network.weight.data.fill_(0.0)
    average = Average(network, 0.999)
    expected = 0.0
    for step in range(1, 6):
        network.weight.data.fill_(1.0)
        average.update(network, step)
        expected += (1 - (1 + step) / (10 + step)) * (1 - expected)
    assert average.tensors["weight"].item() == pytest.approx(expected, rel=1e-6)
