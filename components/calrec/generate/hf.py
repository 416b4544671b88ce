"""The reference sampler: transformers' `generate`, one user at a time, with every decoding option spelled out."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, GenerationConfig, LogitsProcessor, LogitsProcessorList

from calrec.config import GenerateConfig
from calrec.generate.draws import stream
from calrec.generate.samples import Prompt, Sample, merge_samples, not_finite


class SequenceLogProb(LogitsProcessor):  # type: ignore[misc]
    """Adds up log-probabilities at temperature 1 while `generate` samples; it sees logits without temperature."""

    def __init__(self, end: int, prompt: Prompt):
        self.end, self.prompt = end, prompt
        self.total: Tensor | None = None
        self._last: Tensor | None = None
        self._open: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Called by `generate` before each draw with the tokens so far and the next token's logits."""
        if self._last is not None:
            self.add(input_ids[:, -1])
        elif self.prompt.barred is not None:
            scores = scores.index_fill(1, torch.tensor([self.prompt.barred], device=scores.device), float("-inf"))
        self._last = torch.log_softmax(scores.float(), -1)
        if bool(self._last.isnan().any()):
            raise not_finite(self.prompt.user, input_ids.shape[1])
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


def sample(network: Any, prompts: Sequence[Prompt], end: int, config: GenerateConfig) -> Iterator[list[Sample]]:
    """`config.samples` independent continuations of each prompt, equal ones with their count, in the order given.

    Deterministic for one seed and one number of threads; the draws are not those of the other samplers.
    """
    network.eval()
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
    for prompt in prompts:
        ids = torch.from_numpy(prompt.ids.astype(np.int64))[None].to(network.device)
        logprob = SequenceLogProb(end, prompt)
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(int(stream(config.seed, prompt.user).integers(2**63)))
            out = network.generate(
                ids.repeat(config.samples, 1),
                attention_mask=torch.ones_like(ids).repeat(config.samples, 1),
                past_key_values=_prefilled(network, ids, config.samples),
                generation_config=options,
                logits_processor=LogitsProcessorList([logprob]),
            )
        logprob.add(out[:, -1])
        assert logprob.total is not None
        yield merge_samples(_cut(out[:, ids.shape[1] :].tolist(), logprob.total.tolist(), end))


def _prefilled(network: Any, ids: Tensor, samples: int) -> Any:
    """Keys and values of all prompt tokens but the last, computed once and copied for each sample.

    `generate(num_return_sequences=…)` would compute them once per sample.
    """
    cache = DynamicCache(config=network.config)
    if ids.shape[1] > 1:
        network(input_ids=ids[:, :-1], past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache.batch_repeat_interleave(samples)
    return cache


def _cut(rows: list[list[int]], logprobs: list[float], end: int) -> list[Sample]:
    samples = []
    for tokens, logprob in zip(rows, logprobs, strict=True):
        at = tokens.index(end) if end in tokens else len(tokens)
        samples.append(Sample(tuple(tokens[:at]), logprob, at < len(tokens)))
    return samples
