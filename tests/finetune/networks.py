"""Tiny random networks of several families, and rows of random tokens for them."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GemmaConfig,
    GemmaForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from calrec.finetune.batches import Batch, Row, collate
from calrec.textify.tokens import TokenCache

VOCABULARY = 300
_SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 64, "max_position_embeddings": 256,
}  # fmt: skip
_WIDE = {key: value for key, value in _SHAPE.items() if key != "num_key_value_heads"}
_GPT2: dict[str, Any] = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}
_NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}

# What a packed row must equal the reference for.
PACKED: dict[str, Callable[[], Any]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**_SHAPE, tie_word_embeddings=True)),
    "llama-untied": lambda: LlamaForCausalLM(LlamaConfig(**_SHAPE, tie_word_embeddings=False)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**_SHAPE)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**_SHAPE, head_dim=16)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**_SHAPE, sliding_window=16)),
    "gemma": lambda: GemmaForCausalLM(GemmaConfig(**_SHAPE, head_dim=16)),
    "gemma3": lambda: Gemma3ForCausalLM(
        Gemma3TextConfig(**_SHAPE, head_dim=16, sliding_window=16, layer_types=["sliding_attention", "full_attention"])
    ),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**_GPT2, **_NO_DROPOUT)),
    "gpt-neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**_WIDE)),
    "phi": lambda: PhiForCausalLM(PhiConfig(**_WIDE)),
    "granite": lambda: GraniteForCausalLM(GraniteConfig(**_SHAPE, logits_scaling=4.0)),
}
# What cannot be packed: attention that is soft-capped, and positions that are not told by position_ids.
UNPACKED: dict[str, Callable[[], Any]] = {
    "gemma2": lambda: Gemma2ForCausalLM(Gemma2Config(**_SHAPE, head_dim=16)),
    "bloom": lambda: BloomForCausalLM(BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4)),
}


def made(name: str, seed: int = 0) -> Any:
    """A network of that family with random weights."""
    torch.manual_seed(seed)
    return {**PACKED, **UNPACKED}[name]()


def dropping() -> Any:
    """A GPT-2 with dropout everywhere."""
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(**_GPT2))


def batches(sizes: list[int], train_on: str = "last", seed: int = 0) -> list[Batch]:
    """Packed rows of so many users each, with distinct random items."""
    rng = np.random.default_rng(seed)
    items = [rng.integers(5, VOCABULARY, rng.integers(2, 9)).astype(np.int32) for _ in range(60)]
    phrases = (np.array([1, 2], np.int32), np.array([3], np.int32))
    cache = TokenCache(TokenCache.units_of(*phrases, items), end=0, max_tokens=100)
    targets = rng.permutation(60)[: sum(sizes)].tolist()
    rows = [Row(rng.integers(0, 60, rng.integers(1, 12)), target) for target in targets]
    cuts = np.cumsum([0, *sizes])
    groups = np.arange(60, dtype=np.int32)
    return [collate(rows[a:b], cache, groups, train_on) for a, b in itertools.pairwise(cuts)]
