"""Which users train at which step, and their rows as padded tensors.

Shape suffixes: B rows, T tokens of history + target, S tokens of a target.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calrec.model.loading import Users
from calrec.textify.tokens import TokenCache

Ints = NDArray[np.int64]
IGNORE = -100
_BUCKET_BATCHES = 8


@dataclass(frozen=True)
class Row:
    """A history and its target, in item codes."""

    history: Sequence[int] | NDArray[np.int32]
    target: int


@dataclass(frozen=True)
class Batch:
    """Right-padded rows. Under causal attention a pad behind a sequence is never seen by it, so no mask is needed."""

    joint_BT: Tensor
    """Tokens of history and target."""
    labels_BT: Tensor
    """Token that follows position t, where it is to be predicted; else IGNORE."""
    target_BS: Tensor
    """Tokens of the target alone."""
    prompt_B: Tensor
    """Tokens before the target."""
    length_B: Tensor
    """Tokens of history and target."""
    group_B: Tensor
    """Text group of the target."""

    @property
    def tokens(self) -> int:
        """Real tokens that both towers read."""
        return int((2 * self.length_B - self.prompt_B).sum())


def collate(rows: Sequence[Row], cache: TokenCache, groups: NDArray[np.int32], train_on: str) -> Batch:
    """Tokens and labels of a batch.

    With train_on = "all" every item of the history is predicted too, each closed by the end token as a target is: the
    label after its last token is the end token, although the next-item phrase follows in the text.
    """
    prompts = cache.assemble([row.history for row in rows])
    targets = cache.targets([row.target for row in rows])
    before, alone = prompts.lengths, targets.lengths()
    at_T, at_S = np.arange((before + alone).max()), np.arange(alone.max())
    in_prompt_BT = at_T < before[:, None]
    in_target_BT = ~in_prompt_BT & (at_T < (before + alone)[:, None])
    joint_BT = np.full(in_prompt_BT.shape, cache.end, dtype=np.int64)
    joint_BT[in_prompt_BT], joint_BT[in_target_BT] = prompts.ids, targets.flat
    target_BS = np.full((len(rows), len(at_S)), cache.end, dtype=np.int64)
    target_BS[at_S < alone[:, None]] = targets.flat
    predicted_BT = in_target_BT.copy()
    if train_on == "all":
        predicted_BT[in_prompt_BT] = prompts.inside_items()
    labels_BT = np.full_like(joint_BT, IGNORE)
    labels_BT[:, :-1][predicted_BT[:, 1:]] = joint_BT[:, 1:][predicted_BT[:, 1:]]
    if train_on == "all":
        row = np.repeat(np.arange(len(rows)), prompts.kept)
        labels_BT[row, prompts.ends - prompts.offsets[row]] = cache.end
    return Batch(
        joint_BT=torch.from_numpy(joint_BT),
        labels_BT=torch.from_numpy(labels_BT),
        target_BS=torch.from_numpy(target_BS),
        prompt_B=torch.from_numpy(before),
        length_B=torch.from_numpy(before + alone),
        group_B=torch.from_numpy(groups[[row.target for row in rows]].astype(np.int64)),
    )


# --- order ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Order:
    """The whole stage's draws, fixed before the first step, so that a resumed stage sees the same rows."""

    user: Ints
    """User of each draw."""
    cut: Ints
    """Position of the draw's target in the user's sequence."""

    def rows(self, users: Users, step: int, batch_size: int) -> list[Row]:
        """The rows of one step."""
        draw = slice(step * batch_size, (step + 1) * batch_size)
        pairs = zip(self.user[draw].tolist(), self.cut[draw].tolist(), strict=True)
        return [Row(users.items[user][:cut], int(users.items[user][cut])) for user, cut in pairs]


def order(users: Users, steps: int, batch_size: int, mix: str, position: str, seed: int) -> Order:
    """Draw users by category shares, each category in shuffled epochs, and cut each history at a training item.

    Users need two training items, a history and a target; others are left out (see :func:`trainable`).
    """
    rng, draws = np.random.default_rng(seed), steps * batch_size
    able = np.flatnonzero(trainable(users))
    if mix == "proportional":
        user = _epochs(able, draws, rng)
    else:
        names, code = np.unique(users.domain[able], return_inverse=True)
        share = np.bincount(code) ** (0.5 if mix == "sqrt" else 0.0)
        domain = rng.choice(len(names), size=draws, p=share / share.sum())
        user = np.empty(draws, dtype=np.int64)
        for d in range(len(names)):
            user[domain == d] = _epochs(able[code == d], int((domain == d).sum()), rng)
    newest = users.train_end[user] - 1
    cut = newest if position == "last" else 1 + (rng.random(draws) * newest).astype(np.int64)
    by_length = _bucketed(cut, batch_size, rng)
    return Order(user[by_length], cut[by_length])


def _bucketed(length: Ints, batch_size: int, rng: np.random.Generator) -> Ints:
    """An order in which the rows of a batch have similar lengths, for less padding.

    Draws are sorted by length inside windows of 8 batches, and the batches of a window are shuffled again.
    """
    batch = np.arange(len(length)) // batch_size
    window = batch // _BUCKET_BATCHES
    inside = np.lexsort((length, window))
    shuffled = np.lexsort((rng.random(int(batch[-1]) + 1), np.arange(int(batch[-1]) + 1) // _BUCKET_BATCHES))
    return np.concatenate([inside[b * batch_size : (b + 1) * batch_size] for b in shuffled])


def trainable(users: Users) -> NDArray[np.bool_]:
    """Users with at least two training items."""
    return users.train_end >= 2


def _epochs(ids: Ints, draws: int, rng: np.random.Generator) -> Ints:
    """Shuffled epochs over `ids`, one after the other."""
    epochs = [rng.permutation(ids) for _ in range(-(-draws // len(ids)))]
    return np.concatenate([*epochs, ids[:0]])[:draws]
