"""Which users train at which step, and which rows are worked on together."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calrec.config import StageConfig
from calrec.config.training import mix_weights
from calrec.finetune.batches import Row
from calrec.model.loading import Users

Ints = NDArray[np.int64]


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


def order(users: Users, stage: StageConfig) -> Order:
    """Draw users by category shares, each category in shuffled epochs, and cut each history at a training item.

    Users need two training items, a history and a target; others are left out (see :func:`trainable`).

    Raises:
        ValueError: weights of `stage.mix` for a category that is not trained on, or none for one that is.
    """
    rng, draws = np.random.default_rng(stage.seed), stage.steps * stage.batch_size
    able = np.flatnonzero(trainable(users))
    if stage.mix == "proportional":
        user = _epochs(able, draws, rng)
    else:
        names, code = np.unique(users.domain[able].astype(str), return_inverse=True)
        share = _shares(stage.mix, names.tolist(), np.bincount(code))
        domain = rng.choice(len(names), size=draws, p=share / share.sum())
        user = np.empty(draws, dtype=np.int64)
        for d in range(len(names)):
            user[domain == d] = _epochs(able[code == d], int((domain == d).sum()), rng)
    newest = users.train_end[user] - 1
    cut = newest if stage.position == "last" else 1 + (rng.random(draws) * newest).astype(np.int64)
    return Order(user, cut)


def _shares(mix: str, names: Sequence[str], users: NDArray[np.int64]) -> NDArray[np.float64]:
    """Weight of each category, in the order of `names`."""
    if not (weights := mix_weights(mix)):
        return np.asarray(users ** (0.5 if mix == "sqrt" else 0.0), dtype=np.float64)
    if weights.keys() != set(names):
        raise ValueError(
            f"mix = {mix} must name each category that is trained on, with 0 to leave one out: {', '.join(names)}"
        )
    return np.array([weights[name] for name in names])


def trainable(users: Users) -> NDArray[np.bool_]:
    """Users with at least two training items."""
    return users.train_end >= 2


def _epochs(ids: Ints, draws: int, rng: np.random.Generator) -> Ints:
    """Shuffled epochs over `ids`, one after the other."""
    epochs = [rng.permutation(ids) for _ in range(-(-draws // len(ids)))]
    return np.concatenate([*epochs, ids[:0]])[:draws]


def shares(tokens: Ints, ranks: int, budget: int) -> list[list[Ints]]:
    """Which rows each rank works on, and which of them at one time: result[rank][turn] holds row numbers.

    Every rank has as many rows as every other, and in each turn too, so that they can exchange embeddings; rows are
    dealt out by length, to and fro, so that tokens are even as well. A rank takes as few turns as `budget` allows.

    Args:
        tokens: tokens of each row, both towers.
        ranks: must divide the number of rows.
        budget: most tokens of a turn; 0 means no bound. A longer row is a turn by itself.
    """
    if ranks == 1 and (budget == 0 or tokens.sum() <= budget):
        return [[np.arange(len(tokens))]]
    by_length = np.argsort(-tokens, kind="stable")
    of_rank = [_dealt(by_length, ranks, rank) for rank in range(ranks)]
    each = len(of_rank[0])
    for turns in range(1, each + 1):
        dealt = [[_dealt(rows, turns, turn) for turn in range(turns)] for rows in of_rank]
        if budget == 0 or max(int(tokens[rows].sum()) for own in dealt for rows in own) <= budget:
            break
    return [[np.sort(rows) for rows in own] for own in dealt]


def _dealt(rows: Ints, hands: int, hand: int) -> Ints:
    """What one of several hands gets when rows are dealt to and fro."""
    turn, place = np.divmod(np.arange(len(rows)), hands)
    dealt: Ints = rows[np.where(turn % 2, hands - 1 - place, place) == hand]
    return dealt
