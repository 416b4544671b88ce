"""Rows of users as one packed row of tokens.

Shape suffixes: B users, T tokens of all sequences, N predicted tokens, M items that begin among them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calrec.arrays.ragged import Ragged, running, spans
from calrec.textify.tokens import TokenCache


@dataclass(frozen=True)
class Row:
    """A history and its target, in item codes."""

    history: Sequence[int] | NDArray[np.int32]
    target: int


@dataclass(frozen=True)
class Batch:
    """2·B sequences one after the other, without padding: [U1 T1] … [UB TB] and then [T1] … [TB]."""

    ids_T: Tensor
    """Token ids."""
    position_T: Tensor
    """Position of each token in its sequence; starts at 0 for each."""
    offsets: list[int]
    """Sequence i is ids_T[offsets[i] : offsets[i + 1]]."""
    prompt_B: Tensor
    """Tokens before the target in the joint sequences."""
    predict_N: Tensor
    """Positions in ids_T whose next token is predicted."""
    label_N: Tensor
    """That token."""
    group_B: Tensor
    """Text group of the target."""
    begin_M: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    """Which of the N are the first token of an item that must not be `barred`; none when nothing is barred."""
    barred: int = 0
    """A token that is left out of the distribution there."""

    def __len__(self) -> int:
        return len(self.group_B)

    @property
    def tokens(self) -> int:
        """Tokens that both towers read."""
        return len(self.ids_T)

    @property
    def squares(self) -> int:
        """Sum of squared lengths, which attention costs."""
        return int((np.diff(self.offsets).astype(np.int64) ** 2).sum())

    def to(self, device: torch.device) -> "Batch":
        """The same batch there."""
        moved = {name: v.to(device, non_blocking=True) for name, v in vars(self).items() if isinstance(v, Tensor)}
        return Batch(**{**vars(self), **moved})


def collate(rows: Sequence[Row], cache: TokenCache, groups: NDArray[np.int32], train_on: str) -> Batch:
    """Tokens and labels of some rows; no position has two labels.

    With train_on = "all" every item of the history is predicted too. Where a phrase stands behind it, it is closed by
    the end token as a target is: the label after its last token is the end token, although the phrase follows in the
    text. Without phrases that place predicts the next item's first token, and the end is learned behind targets; the
    two do not compete, as the distribution over first tokens leaves out the end token.
    """
    prompts = cache.assemble([row.history for row in rows])
    targets = cache.targets([row.target for row in rows])
    before, alone = prompts.lengths, targets.lengths()
    offsets = running(np.concatenate([before + alone, alone]))
    begins = offsets[: len(rows)]
    prompt_at, target_at = spans(begins, before), spans(begins + before, alone)
    ids = np.empty(offsets[-1], dtype=np.int64)
    ids[prompt_at], ids[target_at], ids[offsets[len(rows)] :] = prompts.ids, targets.flat, targets.flat
    predicted, label = target_at - 1, targets.flat.astype(np.int64)
    begin = running(alone)[:-1]
    if train_on == "all":
        inside = prompts.inside_items()
        ends = prompt_at[prompts.ends] if cache.barred is None else prompt_at[:0]
        predicted = np.concatenate([prompt_at[inside] - 1, ends, predicted])
        label = np.concatenate([prompts.ids[inside], np.full(len(ends), cache.end), label])
        begin = np.concatenate([np.cumsum(inside)[prompts.starts] - 1, int(inside.sum()) + len(ends) + begin])
    return Batch(
        ids_T=torch.from_numpy(ids),
        position_T=torch.from_numpy(spans(np.zeros(len(offsets) - 1, dtype=np.int64), np.diff(offsets))),
        offsets=offsets.tolist(),
        prompt_B=torch.from_numpy(before),
        predict_N=torch.from_numpy(predicted),
        label_N=torch.from_numpy(label.astype(np.int64)),
        group_B=torch.from_numpy(groups[[row.target for row in rows]].astype(np.int64)),
        begin_M=torch.from_numpy(begin[label[begin] != cache.barred] if cache.barred is not None else begin[:0]),
        barred=cache.end,
    )


def row_tokens(rows: Sequence[Row], cache: TokenCache) -> NDArray[np.int64]:
    """Tokens of each row in both towers, without assembling them."""
    _, before = cache.fit(Ragged.of([row.history for row in rows]))
    alone = cache.targets([row.target for row in rows]).lengths()
    return np.asarray(before + 2 * alone, dtype=np.int64)
