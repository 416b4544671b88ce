"""Packed rows against the padded reference, and the reference against the model's own loss and states."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from calrec.config import ModelConfig, StageConfig
from calrec.finetune.attention import Packing, packed_attention
from calrec.finetune.gradients import backward
from calrec.finetune.ranks import Ranks
from calrec.finetune.towers import Towers, drop, recompute, suits
from calrec.finetune.tuning import add_adapters
from tests.finetune.networks import PACKED, UNPACKED, batches, made

FP32 = torch.float32
STAGE = StageConfig(alpha=0.2, beta=-0.1)


def loss_and_gradients(network, kernel: str, rows, dtype: torch.dtype = FP32, **options):
    network.zero_grad()
    towers = Towers(network, kernel=kernel, dtype=dtype)
    terms = backward(towers, rows, STAGE, Ranks(), **options)
    towers.close()
    found = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
    return torch.stack(list(vars(terms).values())), found


def assert_equal(ours, reference, rel: float = 1e-5) -> None:
    """Loss terms and each parameter's gradient to `rel` of their size."""
    assert torch.allclose(ours[0], reference[0], rtol=rel, atol=0)
    assert ours[1].keys() == reference[1].keys() and ours[1]
    size = torch.stack([g.norm() for g in reference[1].values()]).norm()
    for name, gradient in reference[1].items():
        error = (ours[1][name] - gradient).norm()
        assert error <= rel * max(gradient.norm(), 1e-3 * size), (name, float(error), float(gradient.norm()))


@pytest.mark.parametrize("train_on", ["last", "all"])
@pytest.mark.parametrize("family", PACKED)
def test_packed_equals_padded_in_loss_and_each_gradient(family: str, train_on: str):
    network, rows = made(family), batches([6], train_on)
    assert suits(network, "loop", FP32) == ""
    assert_equal(loss_and_gradients(network, "loop", rows), loss_and_gradients(network, "padded", rows))


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_packed_equals_padded_with_adapters(family: str, dora: bool):
    network = add_adapters(made(family), ModelConfig(tuning="lora", lora_rank=4, dora=dora))
    with torch.no_grad():
        for name, p in network.named_parameters():
            if "lora_B" in name:
                p.normal_(std=0.1)
    rows = batches([6])
    found = loss_and_gradients(network, "loop", rows)
    assert_equal(found, loss_and_gradients(network, "padded", rows))
    assert all("lora_" in name for name in found[1])


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_recomputed_layers_give_the_same_gradient(family: str):
    network, rows = made(family), batches([6])
    plain = loss_and_gradients(network, "loop", rows)
    network.train()
    recompute(network)
    assert_equal(loss_and_gradients(network, "loop", rows), plain)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_bf16_products_are_near(family: str):
    network, rows = made(family), batches([6])
    exact, near = (loss_and_gradients(network, "loop", rows, dtype=dtype)[0] for dtype in (FP32, torch.bfloat16))
    assert torch.allclose(exact, near, rtol=2e-2) and not torch.equal(exact, near)


@pytest.mark.parametrize("family", UNPACKED)
def test_what_cannot_be_packed_is_found_out(family: str):
    network = made(family)
    assert suits(network, "loop", FP32)
    assert network.config._attn_implementation in ("sdpa", "eager") and not network.get_decoder()._forward_hooks


def test_flex_attention_equals_the_loop():
    torch.manual_seed(0)
    q, k, v = torch.randn(1, 4, 90, 16), torch.randn(1, 2, 90, 16), torch.randn(1, 2, 90, 16)
    for window in (None, 7):
        loop, flex = (
            packed_attention(
                None, q, k, v, None, scaling=0.3, sliding_window=window,
                packing=Packing([0, 40, 41, 90], kernel, q.device),
            )[0]
            for kernel in ("loop", "flex")
        )  # fmt: skip
        assert torch.allclose(loop, flex, atol=1e-6)


def test_a_sequence_sees_nothing_of_the_others():
    network, (together,) = made("llama"), batches([3])
    for other in (batches([3], seed=1)[0], batches([3], seed=2)[0]):
        ids = together.ids_T.clone()
        a, b = together.offsets[1:3]
        ids[:a], ids[b:] = other.ids_T.repeat(9)[:a], other.ids_T.repeat(9)[b : len(ids)]
        changed = type(together)(**{**vars(together), "ids_T": ids})
        towers = Towers(network)
        one, same = towers(together).vectors_3BD, towers(changed).vectors_3BD
        towers.close()
        assert torch.allclose(one[:2, 1], same[:2, 1], atol=1e-6) and not torch.allclose(one[:2, 0], same[:2, 0])


def test_the_towers_are_means_of_the_right_states_and_the_loss_is_the_models_own():
    network, (batch,) = made("llama"), batches([2])
    towers = Towers(network)
    read = towers(batch)
    towers.close()
    nll = 0.0
    for i in range(2):
        a, b = batch.offsets[i], batch.offsets[i + 1]
        joint, alone = batch.ids_T[a:b], batch.ids_T[batch.offsets[2 + i] : batch.offsets[3 + i]]
        prompt, labels = int(batch.prompt_B[i]), joint.clone()
        labels[:prompt] = -100
        out = network(joint[None], labels=labels[None], output_hidden_states=True)
        states = out.hidden_states[-1][0]
        target = network(alone[None], output_hidden_states=True).hidden_states[-1][0]
        for ours, theirs in zip(
            read.vectors_3BD[:, i], (states[:prompt].mean(0), states[prompt:].mean(0), target.mean(0)), strict=True
        ):
            assert torch.allclose(ours, theirs, atol=1e-5)
        nll += float(out.loss.detach()) * len(alone)
    assert read.nll.item() == pytest.approx(nll, rel=1e-5)


def test_a_model_that_changes_its_logits_is_trained_on_the_changed_ones():
    shape = LlamaConfig(
        vocab_size=300, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64
    )

    class Scaled(LlamaForCausalLM):
        def forward(self, *args, **kwargs):
            out = super().forward(*args, **kwargs)
            out.logits = out.logits * 0.5
            return out

    torch.manual_seed(0)
    network, plain, rows = Scaled(shape), LlamaForCausalLM(shape), batches([2])
    plain.load_state_dict(network.state_dict())
    assert_equal(loss_and_gradients(network, "loop", rows), loss_and_gradients(network, "padded", rows))
    assert loss_and_gradients(network, "loop", rows)[0][1] != loss_and_gradients(plain, "loop", rows)[0][1]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_dropout_acts_in_training_alone_and_leaves_with_its_hooks(family: str):
    network, (batch,) = made(family), batches([6])
    towers = Towers(network, kernel="loop")
    plain = towers(batch).nll.item()
    hooks = drop(network, 0.3)
    network.eval()
    assert towers(batch).nll.item() == plain
    network.train()
    torch.manual_seed(0)
    first, other = towers(batch).nll.item(), towers(batch).nll.item()
    torch.manual_seed(0)
    assert towers(batch).nll.item() == first != other
    assert len(hooks) == 1 + 2 * network.config.num_hidden_layers  # embeddings, attention and feed-forward layers
    for hook in hooks:
        hook.remove()
    assert towers(batch).nll.item() == plain
    towers.close()


def test_dropout_zeroes_the_share_and_keeps_the_mean():
    network = made("llama")
    drop(network, 0.25)
    network.train()
    torch.manual_seed(0)
    embeddings = network.get_input_embeddings()
    with torch.no_grad():
        embeddings.weight.fill_(1.0)
    seen = embeddings(torch.zeros(400, dtype=torch.long))
    assert seen.unique().tolist() == pytest.approx([0, 4 / 3])
    assert (seen == 0).float().mean().item() == pytest.approx(0.25, abs=0.02)
