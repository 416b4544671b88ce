"""The rows that are decoded together: distinct beginnings of continuations, each of one prompt.

Shape suffixes: U prompts, R rows, C children of rows, T tokens that are read, V vocabulary.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calrec.arrays.ragged import Ints, Ragged, running
from calrec.generate.attention import Branches
from calrec.generate.decoder import Decoder
from calrec.generate.samples import Prompt, bar, not_finite

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


class Rows:
    """Prompts that were read, and the rows that continue them; keys, values, tokens and log-probabilities of each."""

    def __init__(self, decoder: Decoder, prompts: Sequence[Prompt], owners: Ints, room: int):
        """Read the prompts; no row has a token of its own yet.

        Args:
            decoder: reads.
            prompts: of the users that are decoded together.
            owners: prompt of each row, [R].
            room: most own tokens of a row.
        """
        self.decoder, self.prompts = decoder, prompts
        read, logits_UV, _ = decoder.prefill([prompt.ids for prompt in prompts])
        bar(logits_UV, prompts)
        rows = self._there(owners)
        self.branches = Branches(read, rows)
        self.owner_R = owners
        self.length_R = np.zeros(len(owners), dtype=np.int64)
        self.total_R = np.zeros(len(owners))
        """Sum of log-probabilities at temperature 1."""
        self._tokens = np.zeros((len(owners), room), dtype=np.int32)
        self.logits_RV = logits_UV if len(owners) == len(prompts) else logits_UV[rows]
        """Of each row's next token."""

    def __len__(self) -> int:
        return len(self.owner_R)

    def tokens(self, row: int) -> tuple[int, ...]:
        """The row's own tokens."""
        return tuple(self._tokens[row, : self.length_R[row]].tolist())

    def advance(self, parent_C: Ints, total_C: Floats, runs: Ragged) -> Ints:
        """Replace the rows by children that each read a run of tokens.

        Args:
            parent_C: row that each child continues.
            total_C: log-probability up to and with the first token of the child's run.
            runs: C rows of at least one token; what follows the first is forced, and its log-probability is added.

        Returns:
            the row of each child, [C].
        """
        slots = self.branches.select(self._there(parent_C)).cpu().numpy()
        for name in ("owner_R", "length_R", "_tokens"):
            old = getattr(self, name)[parent_C]
            new = np.empty_like(old)
            new[slots] = old
            setattr(self, name, new)
        self.total_R = np.empty(len(slots))
        self.total_R[slots] = total_C
        child_of = np.argsort(slots)
        sizes = runs.lengths()[child_of]
        flat = np.concatenate([runs[child] for child in child_of.tolist()]) if sizes.max() > 1 else runs.flat[child_of]
        offsets = running(sizes)
        row_T = np.repeat(np.arange(len(sizes)), sizes)
        self._tokens[row_T, self.length_R[row_T] + np.arange(len(flat)) - offsets[row_T]] = flat
        self.length_R = self.length_R + sizes
        logits_TV = self.decoder.extend(self.branches, self._there(flat), self._there(sizes))
        if len(flat) > len(sizes):
            self.total_R += self._forced(logits_TV, flat, offsets)
            logits_TV = logits_TV[self._there(offsets[1:] - 1)]
        self.logits_RV = logits_TV
        return slots

    def _forced(self, logits_TV: Tensor, flat: NDArray[np.int32], offsets: Ints) -> Floats:
        """Log-probability of each row's run without its first token."""
        forced = np.setdiff1d(np.arange(len(flat)), offsets[:-1])
        before = self._there(forced - 1)
        logits = logits_TV[before]
        logprobs = logits.gather(1, self._there(flat[forced])[:, None])[:, 0] - logits.logsumexp(-1)
        row = np.searchsorted(offsets, forced, side="right") - 1
        total: Floats = np.bincount(row, logprobs.double().cpu().numpy(), len(offsets) - 1).astype(np.float64)
        return total

    def require_finite(self, norm_R: Tensor) -> None:
        """Refuse logits whose log-sum-exp is not finite, with the first user whose row it is.

        Raises:
            FloatingPointError: NaN or infinite logits.
        """
        if not bool(torch.isfinite(norm_R).all()):
            row = int((~torch.isfinite(norm_R)).nonzero()[0])
            owner = self.owner_R[row]
            raise not_finite(self.prompts[owner].user, len(self.prompts[owner].ids) + int(self.length_R[row]))

    def _there(self, numbers: NDArray[np.int32] | NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(numbers.astype(np.int64)).to(self.decoder.device)
