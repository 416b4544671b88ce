"""Adapters on Llama-style and GPT-2-style networks."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from calrec.config import ModelConfig
from calrec.finetune.tuning import add_adapters, merge_adapters

LORA = ModelConfig(tuning="lora", lora_rank=4, lora_alpha=8.0)
IDS = torch.arange(3, 23)[None]


def llama(tied: bool = True) -> Any:
    torch.manual_seed(1)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    return LlamaForCausalLM(LlamaConfig(**shape, vocab_size=60, tie_word_embeddings=tied)).eval()  # type: ignore[arg-type]


def gpt2() -> Any:
    torch.manual_seed(1)
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    return GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=60, n_positions=64, **ends)).eval()


def moved(network: Any) -> Any:
    """As after training: B is not zero, magnitudes are no longer those of the base."""
    torch.manual_seed(2)
    with torch.no_grad():
        for name, p in network.named_parameters():
            if "lora_B" in name:
                p.normal_(std=0.1)
            if "lora_magnitude" in name:
                p.mul_(1 + 0.3 * torch.rand_like(p))
    return network


@pytest.mark.parametrize("make", [llama, gpt2])
@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_merging_keeps_the_logits_and_the_names(make: Any, dora: bool, dtype: torch.dtype, tmp_path: Path):
    make().save_pretrained(tmp_path / "base")
    network = make().to(dtype)
    plain = network(IDS).logits.clone()
    network = moved(add_adapters(network, replace(LORA, dora=dora)).eval())
    before = network(IDS).logits
    assert not torch.allclose(before, plain, atol=0.05)
    out = merge_adapters(network)
    assert torch.allclose(out(IDS).logits, before, atol=1e-5 if dtype == torch.float32 else 0.02)
    assert out.get_output_embeddings().weight is out.get_input_embeddings().weight
    out.save_pretrained(tmp_path / "out")
    names = {folder: set(load_file(tmp_path / folder / "model.safetensors")) for folder in ("base", "out")}
    assert names["base"] == names["out"]


@pytest.mark.parametrize("make", [llama, gpt2])
@pytest.mark.parametrize("dora", [False, True])
def test_only_adapters_are_trained(make: Any, dora: bool):
    network = add_adapters(make(), replace(LORA, dora=dora))
    names = {name for name, p in network.named_parameters() if p.requires_grad}
    kinds = {"lora_A", "lora_B"} | ({"lora_magnitude_vector"} if dora else set())
    assert {kind for name in names for kind in kinds if f".{kind}." in name} == kinds
    assert all("lora_" in name and "head" not in name and "wte" not in name for name in names)


def test_an_untouched_adapter_changes_nothing():
    assert torch.allclose(add_adapters(llama(), LORA).eval()(IDS).logits, llama()(IDS).logits, atol=1e-6)


def test_the_settings_reach_the_adapters():
    network = add_adapters(llama(), replace(LORA, lora_targets=("q_proj", "1.mlp.down_proj"), lora_dropout=0.25))
    wrapped = {name: m for name, m in network.named_modules() if hasattr(m, "lora_A")}
    names = {name.removeprefix("base_model.model.model.layers.") for name in wrapped}
    assert names == {"0.self_attn.q_proj", "1.self_attn.q_proj", "1.mlp.down_proj"}
    one = next(iter(wrapped.values()))
    assert (one.r["default"], one.scaling["default"], one.lora_dropout["default"].p) == (4, 2.0, 0.25)


def test_the_seed_decides_the_adapters():
    def first(seed: int) -> torch.Tensor:
        network = add_adapters(llama(), replace(LORA, seed=seed))
        return next(p.detach() for name, p in network.named_parameters() if "lora_A" in name)

    assert torch.equal(first(0), first(0)) and not torch.equal(first(0), first(1))


def test_full_trains_every_weight_and_merges_into_itself():
    network = llama()
    network.requires_grad_(False)
    assert add_adapters(network, ModelConfig()) is network and merge_adapters(network) is network
    assert all(p.requires_grad for p in network.parameters())


def test_an_output_layer_of_its_own_can_be_a_target():
    network = moved(add_adapters(llama(tied=False), replace(LORA, lora_targets=("lm_head",))).eval())
    before = network(IDS).logits
    out = merge_adapters(network)
    assert torch.allclose(out(IDS).logits, before, atol=1e-5)
    assert torch.equal(out.get_input_embeddings().weight, llama(tied=False).get_input_embeddings().weight)


@pytest.mark.parametrize(
    ("make", "target", "message"),
    [
        (llama, "query", r"'query' is no linear layer of LlamaForCausalLM; those are: down_proj, gate_proj, k_proj, "),
        (llama, "proj", r"'proj' is no linear layer"),
        (llama, "embed_tokens", r"'embed_tokens' is no linear layer"),
        (llama, "lm_head", r"'lm_head' shares its weights with the input embedding.*up_proj, v_proj$"),
        (gpt2, "q_proj", r"'q_proj' is no linear layer of GPT2LMHeadModel; those are: c_attn, c_fc, c_proj"),
    ],
)
def test_a_target_that_is_none_is_refused(make: Any, target: str, message: str):
    known = "c_attn" if make is gpt2 else "v_proj"
    with pytest.raises(ValueError, match=message):
        add_adapters(make(), replace(LORA, lora_targets=(known, target)))


def test_a_merged_weight_that_is_not_finite_is_refused():
    network = add_adapters(llama(), LORA)
    with torch.no_grad():
        next(p for name, p in network.named_parameters() if "lora_B" in name).fill_(float("nan"))
    with pytest.raises(ValueError, match="NaN"):
        merge_adapters(network)
