"""Drawing tokens: one uniform number a sample, inverted through the distribution of the sample's row.

A sample's numbers come from its user's own stream, so what is drawn depends neither on who else is decoded nor on
whether equal prefixes are computed once.

Shape suffixes: R rows, S samples, V vocabulary, B blocks of the vocabulary.
"""

import hashlib
import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_CACHED = 2**18  # logits that are summed up at once on a CPU: 1 MiB stays in the cache and is not mapped anew
_BLOCK = 128  # a sum over each block, then a running sum inside one: a full running sum is slower and less exact


def stream(seed: int, user: str) -> np.random.Generator:
    """The user's own random numbers."""
    digest = hashlib.sha256(f"{seed}:{user}".encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


def uniforms(seed: int, user: str, steps: int, samples: int) -> NDArray[np.float64]:
    """A number in [0, 1) for each step and sample of a user: [steps, samples]."""
    return stream(seed, user).random((steps, samples))


class Draws:
    """The next token's distribution of every row."""

    def __init__(self, logits_RV: Tensor, temperature: float):
        """Sum up the distributions p ∝ exp(logit / temperature).

        Args:
            logits_RV: fp32.
            temperature: > 0.
        """
        self.logits_RV, self.temperature = logits_RV, temperature
        vocabulary = logits_RV.shape[1]
        self._blocks = math.ceil(vocabulary / _BLOCK)
        rows = len(logits_RV) if logits_RV.is_cuda else max(1, _CACHED // vocabulary)
        parts = [self._sums(part) for part in logits_RV.split(rows)]  # type: ignore[no-untyped-call]
        self.norm_R, self._top_R, sums_RB = (torch.cat(each) for each in zip(*parts, strict=True))
        self._upto_RB = sums_RB.double().cumsum(-1)

    def _sums(self, logits_RV: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log-sum-exp at temperature 1, the highest logit, and the mass of each block of the vocabulary."""
        whole = logits_RV.shape[1] // _BLOCK * _BLOCK
        top_R1 = logits_RV.amax(-1, keepdim=True)
        shifted_RV = logits_RV - top_R1
        norm_R = shifted_RV.exp().sum(-1).log_() + top_R1[:, 0]
        weights_RV = shifted_RV.div_(self.temperature).exp_()
        sums_RB = torch.unflatten(weights_RV[:, :whole], 1, (-1, _BLOCK)).sum(-1) if whole else weights_RV[:, :0]
        if self._blocks * _BLOCK > whole:
            sums_RB = torch.cat([sums_RB, weights_RV[:, whole:].sum(-1, keepdim=True)], 1)
        return norm_R, top_R1[:, 0], sums_RB

    def draw(self, row_S: Tensor, uniform_S: Tensor) -> Tensor:
        """A token for each sample: the first whose cumulative probability exceeds the sample's number.

        Args:
            row_S: the row that each sample is in.
            uniform_S: in [0, 1), fp64.
        """
        upto_SB = self._upto_RB[row_S]
        wanted_S1 = (uniform_S * upto_SB[:, -1])[:, None]
        block_S1 = _first_above(upto_SB, wanted_S1)
        before_S1 = torch.where(block_S1 > 0, upto_SB.gather(1, (block_S1 - 1).clamp(min=0)), 0.0)
        place_SK = block_S1 * _BLOCK + torch.arange(_BLOCK, device=row_S.device)
        vocabulary = self.logits_RV.shape[1]
        logits_SK = self.logits_RV[row_S[:, None], place_SK.clamp(max=vocabulary - 1)]
        weights_SK = ((logits_SK - self._top_R[row_S, None]) / self.temperature).double().exp_()
        inside_SK = weights_SK.masked_fill_(place_SK >= vocabulary, 0.0).cumsum(-1)
        # The block's sum was rounded to fp32, its running sum was not: stretch the remainder to the running sum.
        mass_S1 = upto_SB.gather(1, block_S1) - before_S1
        wanted_S1 = (wanted_S1 - before_S1) / mass_S1 * inside_SK[:, -1:]
        return (block_S1 * _BLOCK + _first_above(inside_SK, wanted_S1))[:, 0]

    def logprob(self, row: Tensor, token: Tensor) -> Tensor:
        """Log-probability at temperature 1 of tokens of rows, fp64."""
        return (self.logits_RV[row, token] - self.norm_R[row]).double()


def _first_above(upto: Tensor, wanted: Tensor) -> Tensor:
    """First place of each row whose running sum exceeds `wanted`, [S, 1]; never a place that adds nothing."""
    last = torch.searchsorted(upto, upto[:, -1:].contiguous())  # the last place that adds something
    return torch.minimum(torch.searchsorted(upto, wanted.contiguous(), right=True), last)
