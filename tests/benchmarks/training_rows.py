"""What the benchmarks of training share: models with random weights, synthetic rows, the loss as it is often written.

It needs torch, transformers and this package's core, nothing of a pipeline.
"""

import resource
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from calrec.config import StageConfig
from calrec.finetune.batches import Row
from calrec.textify.tokens import TokenCache

Draw = np.random.Generator
Rows = list[list[Row]]

ITEMS = 2000
LONGEST_PROMPT, LONGEST_TARGET = 960, 64
FIRST_WORD = 3  # ids below are padding, begin and end
STAGE = StageConfig(train_on="last", lr=1e-4)

LLAMAS = {
    "1M": {"hidden_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 4,
           "intermediate_size": 256, "vocab_size": 4096},
    "10M": {"hidden_size": 256, "num_hidden_layers": 6, "num_attention_heads": 8, "num_key_value_heads": 8,
            "intermediate_size": 688, "vocab_size": 16384},
    "135M": {"hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
             "intermediate_size": 1536, "vocab_size": 49152},
}  # fmt: skip


def llama(size: str, device: str) -> Any:
    """A Llama with random weights, the same ones each time."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        **LLAMAS[size],
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        attn_implementation="sdpa",
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return LlamaForCausalLM(config).to(device).train()


def synthetic(vocabulary: int, batches: int, users: int, seed: int = 0) -> tuple[TokenCache, Rows]:
    """Batches of rows: prompts log-normal around 366 tokens, 60 to 960; targets of 25 to 64 tokens, all distinct."""
    rng = np.random.default_rng(seed)
    items = [_words(vocabulary, size, rng) for size in rng.integers(24, LONGEST_TARGET, ITEMS)]
    opening, following = _words(vocabulary, 6, rng), _words(vocabulary, 4, rng)
    cache = TokenCache(TokenCache.units_of(opening, following, items), end=2, max_tokens=LONGEST_PROMPT)
    return cache, [_batch(cache, users, rng) for _ in range(batches)]


def _batch(cache: TokenCache, users: int, rng: Draw) -> list[Row]:
    wanted = np.clip(rng.lognormal(np.log(366) - 0.25, 0.7, users), 60, LONGEST_PROMPT)
    targets = rng.permutation(ITEMS)[:users]
    return [Row(_history(cache, tokens, rng), int(target)) for tokens, target in zip(wanted, targets, strict=True)]


def _history(cache: TokenCache, tokens: float, rng: Draw) -> list[int]:
    """Items whose prompt comes nearest to so many tokens."""
    drawn = rng.integers(0, ITEMS, 40)
    reached = len(cache.opening) + np.cumsum(cache.units.lengths(drawn))
    reached = reached[reached <= LONGEST_PROMPT]
    return drawn[: 1 + int(np.abs(reached - tokens).argmin())].tolist()  # type: ignore[no-any-return]


def _words(vocabulary: int, size: int, rng: Draw) -> Any:
    return rng.integers(FIRST_WORD, vocabulary, size).astype(np.int32)


# --- the loss as it is often written ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Pair:
    """Token ids of a prompt and of its target."""

    prompt: Tensor
    target: Tensor


def pairs(rows: Sequence[Row], cache: TokenCache) -> list[Pair]:
    """The rows as token ids, as a tokenised data set holds them."""
    prompts, targets = cache.assemble([row.history for row in rows]).rows(), [cache.target(row.target) for row in rows]
    return [Pair(_ids(prompt), _ids(target)) for prompt, target in zip(prompts, targets, strict=True)]


def naive_loss(network: Any, batch: Sequence[Pair], widths: tuple[int, int] | None, stage: StageConfig) -> Tensor:
    """CALRec's loss with padding, all hidden states and all logits, and the model's own token loss.

    Args:
        network: a causal LM of transformers.
        batch: rows with distinct targets.
        widths: tokens to pad the joint and the target tower to; None pads each to its longest sequence.
        stage: weights and temperature; InfoNCE goes in both directions.
    """
    to_joint, to_alone = widths or (None, None)
    ids, mask = _padded([torch.cat([p.prompt, p.target]) for p in batch], to_joint, network.device)
    prompt_B = torch.tensor([len(p.prompt) for p in batch], device=ids.device)
    in_prompt = (torch.arange(ids.shape[1], device=ids.device) < prompt_B[:, None]).long()
    in_target = mask - in_prompt
    labels = ids.masked_fill(in_target == 0, -100)
    options = {"output_hidden_states": True, "use_cache": False}
    joint = network(input_ids=ids, attention_mask=mask, labels=labels, **options)
    states = joint.hidden_states[-1]
    ids, mask = _padded([p.target for p in batch], to_alone, network.device)
    alone = network(input_ids=ids, attention_mask=mask, **options).hidden_states[-1]
    v_u, v_tu, v_t = _mean(states, in_prompt), _mean(states, in_target), _mean(alone, mask)
    tt, ut = _info_nce(v_tu, v_t, stage.tau), _info_nce(v_u, v_t, stage.tau)
    nig: Tensor = joint.loss
    return (1 - stage.alpha - stage.beta) * nig + stage.alpha * tt + stage.beta * ut


def _padded(sequences: Sequence[Tensor], width: int | None, device: torch.device) -> tuple[Tensor, Tensor]:
    ids = torch.nn.utils.rnn.pad_sequence(list(sequences), batch_first=True)
    ids = F.pad(ids, (0, (width or ids.shape[1]) - ids.shape[1]))
    sizes = torch.tensor([len(sequence) for sequence in sequences])
    mask = (torch.arange(ids.shape[1]) < sizes[:, None]).long()
    return ids.to(device), mask.to(device)


def _mean(states: Tensor, chosen: Tensor) -> Tensor:
    return (states * chosen[..., None]).sum(1) / chosen.sum(1, keepdim=True)


def _info_nce(a: Tensor, b: Tensor, tau: float) -> Tensor:
    scores = F.normalize(a.float(), dim=-1) @ F.normalize(b.float(), dim=-1).T / tau
    own = torch.arange(len(a), device=a.device)
    return (F.cross_entropy(scores, own) + F.cross_entropy(scores.T, own)) / 2


def _ids(ids: Any) -> Tensor:
    return torch.from_numpy(ids.astype(np.int64))


# --- memory -----------------------------------------------------------------------------------------------------


def peak_bytes() -> int:
    """The most memory this process took: of the GPU when one is in use, else of the machine."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    if status.is_file():  # ru_maxrss begins with what the parent took before this process's own program started
        peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(peak.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
