"""The reference sampler: transformers' `generate`, with every decoding option spelled out.

Shape suffixes: U users of a batch, N samples per user, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache, GenerationConfig, LogitsProcessor, LogitsProcessorList

from calrec.config import GenerateConfig


@dataclass(frozen=True)
class Sample:
    """One sampled continuation."""

    tokens: tuple[int, ...]
    """Without the end token."""
    logprob: float
    """Sum of log-probabilities at temperature 1, end token included."""
    finished: bool
    """The end token was drawn; False when the text was cut."""


class SequenceLogProb(LogitsProcessor):  # type: ignore[misc]
    """Adds up log-probabilities at temperature 1 while `generate` samples; it sees logits without temperature."""

    def __init__(self, end: int):
        self.end = end
        self.total: Tensor | None = None
        self._last: Tensor | None = None
        self._open: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Called by `generate` before each draw with the tokens so far and the next token's logits."""
        if self._last is not None:
            self.add(input_ids[:, -1])
        self._last = torch.log_softmax(scores.float(), -1)
        return scores

    def add(self, drawn: Tensor) -> None:
        """Count the token that was drawn from the last logits, for rows that had not ended before."""
        assert self._last is not None
        logp = self._last.gather(1, drawn[:, None])[:, 0].double()
        if self.total is None or self._open is None:
            self.total, self._open = logp, torch.ones_like(drawn, dtype=torch.bool)
        else:
            self.total = self.total + logp * self._open
        self._open = self._open & (drawn != self.end)


def sample(
    network: Any, prompts: Sequence[NDArray[np.int32]], end: int, config: GenerateConfig
) -> Iterator[list[Sample]]:
    """`config.samples` independent continuations for each prompt, in the order of the prompts.

    Deterministic for one seed, one `batch_users` and one number of threads.
    """
    network.eval()
    device = next(network.parameters()).device
    options = GenerationConfig(
        do_sample=True,
        temperature=config.temperature,
        top_k=0,
        top_p=1.0,
        typical_p=1.0,
        repetition_penalty=1.0,
        num_beams=1,
        max_new_tokens=config.max_new_tokens,
        min_new_tokens=0,
        use_cache=True,
        eos_token_id=end,
        pad_token_id=end,
        bos_token_id=None,
    )
    network.generation_config = options  # what a checkpoint stored must not fill in anything
    torch.manual_seed(config.seed)
    for start in range(0, len(prompts), config.batch_users):
        batch = prompts[start : start + config.batch_users]
        ids, mask = (tensor.to(device) for tensor in _left_padded(batch, end))
        logprob = SequenceLogProb(end)
        with torch.no_grad():
            out = network.generate(
                ids.repeat_interleave(config.samples, 0),
                attention_mask=mask.repeat_interleave(config.samples, 0),
                past_key_values=_prefilled(network, ids, mask, config.samples),
                generation_config=options,
                logits_processor=LogitsProcessorList([logprob]),
            )
        logprob.add(out[:, -1])
        assert logprob.total is not None
        rows = _cut(out[:, ids.shape[1] :].tolist(), logprob.total.tolist(), end)
        for at in range(0, len(rows), config.samples):
            yield rows[at : at + config.samples]


def _prefilled(network: Any, ids: Tensor, mask: Tensor, samples: int) -> Any:
    """Keys and values of all prompt tokens but the last, computed once per user and copied for each sample.

    `generate(num_return_sequences=…)` would compute them once per sample.
    """
    cache = DynamicCache(config=network.config)
    if ids.shape[1] > 1:
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        network(
            input_ids=ids[:, :-1], attention_mask=mask[:, :-1], position_ids=positions[:, :-1],
            past_key_values=cache, use_cache=True, logits_to_keep=1,
        )  # fmt: skip
        cache.batch_repeat_interleave(samples)
    return cache


def _left_padded(prompts: Sequence[NDArray[np.int32]], pad: int) -> tuple[Tensor, Tensor]:
    longest = max(map(len, prompts))
    ids = np.full((len(prompts), longest), pad, dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = prompt
        mask[row, longest - len(prompt) :] = 1
    return torch.from_numpy(ids), torch.from_numpy(mask)


def _cut(rows: list[list[int]], logprobs: list[float], end: int) -> list[Sample]:
    samples = []
    for tokens, logprob in zip(rows, logprobs, strict=True):
        at = tokens.index(end) if end in tokens else len(tokens)
        samples.append(Sample(tuple(tokens[:at]), logprob, at < len(tokens)))
    return samples
