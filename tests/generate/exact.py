"""What the tests of decoding compare with: the network's own plain forward pass, and chi-square.

Random weights of the usual size hardly attend: other prompts would give nearly the same logits. `lively` networks do.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from calrec.config import ModelConfig
from calrec.finetune.tuning import add_adapters
from calrec.generate.samples import Prompt, Sample
from tests.finetune.networks import VOCABULARY, made

END = 0
SIZES = (1, 20, 33, 7)


def _enlarged(network: Any, by: float) -> Any:
    with torch.no_grad():
        for weight in network.parameters():
            if weight.dim() > 1:
                weight.mul_(by)
    return network.eval()


def lively(family: str, seed: int = 0) -> Any:
    """A network of that family whose next token depends on all that came before."""
    return _enlarged(made(family, seed), 12)


def few_tokens(vocabulary: int, seed: int = 0) -> Any:
    """A network of a few tokens, none of them rare."""
    torch.manual_seed(seed)
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    return _enlarged(LlamaForCausalLM(LlamaConfig(**shape, vocab_size=vocabulary)), 5)  # type: ignore[arg-type]


def with_adapters(family: str, dora: bool = False) -> Any:
    """A network under LoRA as after training, with dropout; not merged."""
    network = add_adapters(lively(family), ModelConfig(tuning="lora", lora_rank=4, lora_dropout=0.5, dora=dora))
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.3)
    return network


def always(token: int, never: bool = False) -> Any:
    """A network that writes one token and no other, or every token but that one."""
    network = lively("phi")
    with torch.no_grad():
        network.lm_head.bias[:] = 0 if never else -torch.inf
        network.lm_head.bias[token] = -torch.inf if never else 0
    return network


def uniform(family: str = "llama-untied") -> Any:
    """A network that gives each token the same probability."""
    network = lively(family)
    with torch.no_grad():
        network.get_output_embeddings().weight.zero_()
    return network


def asked(sizes: Sequence[int] = SIZES, vocabulary: int = VOCABULARY, seed: int = 0) -> list[Prompt]:
    """Prompts of so many random tokens."""
    rng = np.random.default_rng(seed)
    return [Prompt(f"u{i}", rng.integers(1, vocabulary, size).astype(np.int32)) for i, size in enumerate(sizes)]


def plain_logits(network: Any, tokens: Sequence[int]) -> torch.Tensor:
    """Logits behind each token, without any cache."""
    with torch.no_grad():
        return network(torch.tensor([list(map(int, tokens))]), use_cache=False).logits[0]  # type: ignore[no-any-return]


def plain_logprob(network: Any, prompt: Sequence[int], tokens: Sequence[int]) -> float:
    """Teacher-forced log p(tokens | prompt) by one plain pass."""
    logp = plain_logits(network, [*prompt, *tokens]).double().log_softmax(-1)
    return sum(logp[len(prompt) - 1 + i, token].item() for i, token in enumerate(tokens))


def closed(one: Sample) -> list[int]:
    """A sample's tokens, with the end token when it was drawn."""
    return [*one.tokens, *([END] if one.finished else [])]


def drawn(samples: Sequence[Sample]) -> list[tuple[tuple[int, ...], bool, int]]:
    """All of the samples but their log-probabilities, which may differ by rounding."""
    return [(one.tokens, one.finished, one.count) for one in samples]


def same(ours: Sequence[Sequence[Sample]], theirs: Sequence[Sequence[Sample]]) -> bool:
    """Whether each user has the same samples in the same order, with the same log-probabilities up to rounding.

    One sample of all may differ: about 1 in 300,000 draws falls so near to a border that rounding decides, and the
    rounding is the processor's.
    """
    flipped = 0
    for mine, other in zip(ours, theirs, strict=True):
        a, b = ({(one.tokens, one.finished): one for one in samples} for samples in (mine, other))
        moved = {key: abs(sum(one[key].count * sign for one, sign in ((a, 1), (b, -1)) if key in one)) for key in a | b}
        flipped += sum(moved.values())
        kept = [[key for key in one if not moved[key]] for one in (a, b)]
        if kept[0] != kept[1] or any(abs(a[key].logprob - b[key].logprob) > 1e-4 for key in a.keys() & b.keys()):
            return False
    return flipped <= 2  # counted where it is missing and where it is too many


def p_value(counts: Any, probabilities: Any) -> float:
    """Of Pearson's chi-square for counts that should have these probabilities; none of a cell with probability 0."""
    counts, probabilities = np.asarray(counts, np.float64), np.asarray(probabilities, np.float64)
    assert abs(probabilities.sum() - 1) < 1e-5
    assert not counts[probabilities == 0].any()
    counts, expected = counts[probabilities > 0], probabilities[probabilities > 0] * counts.sum()
    assert expected.min() > 5, "too few draws for the asymptotics"
    return _tail(((counts - expected) ** 2 / expected).sum(), len(counts) - 1)


def p_value_two(counts: Any, others: Any) -> float:
    """Of the chi-square that two samples come from one distribution."""
    table = np.array([counts, others], np.float64)
    expected = table.sum(1, keepdims=True) * table.sum(0) / table.sum()
    assert expected.min() > 5, "too few draws for the asymptotics"
    return _tail(((table - expected) ** 2 / expected).sum(), table.shape[1] - 1)


def _tail(statistic: float, freedom: int) -> float:
    half = torch.tensor([freedom / 2, statistic / 2], dtype=torch.float64)
    return float(torch.special.gammaincc(half[0], half[1]))


def sequences(network: Any, prompt: Sequence[int], temperature: float, steps: int) -> Iterator[tuple[Any, float]]:
    """Every continuation of at most so many tokens, as (tokens, finished), and its probability."""

    def go_on(tokens: tuple[int, ...], so_far: float) -> Iterator[tuple[Any, float]]:
        logits = plain_logits(network, [*prompt, *tokens])[-1].double()
        for token, p in enumerate((logits / temperature).softmax(-1).tolist()):
            if token == END:
                yield (tokens, True), so_far * p
            elif len(tokens) == steps - 1:
                yield ((*tokens, token), False), so_far * p
            else:
                yield from go_on((*tokens, token), so_far * p)

    return go_on((), 1.0)


def state(network: Any) -> Any:
    """What decoding must leave as it was."""
    inner = network.get_base_model() if hasattr(network, "get_base_model") else network
    modules = [module.training for module in network.modules()]
    return inner.config._attn_implementation, modules, len(inner.get_decoder()._forward_hooks)
