"""How often one item followed another: candidates that no text has to find."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calrec.arrays.ragged import Ragged
from calrec.model.loading import Users

Ints = NDArray[np.int64]


def countable(users: Users, split: str) -> list[list[int]]:
    """The items of every user that may be counted, see :meth:`Users.counted_until`."""
    ends = users.counted_until(split)
    return [items[:end].tolist() for items, end in zip(users.items, ends.tolist(), strict=True)]


@dataclass(frozen=True, eq=False)
class Following:
    """Which items came next after an item, and how often; rows are sorted by falling count, then by rising code."""

    before: Ints
    """Codes that something followed, ascending."""
    after: Ragged
    """Row i: what followed before[i]."""
    count: Ints
    """Parallel to after.flat."""

    @staticmethod
    def of(histories: Ragged | Sequence[Any]) -> "Following":
        """Count neighbours in histories of item codes, oldest first."""
        rows = Ragged.of(histories)
        flat = rows.flat.astype(np.int64)
        inside = np.ones(len(flat), dtype=np.bool_)
        inside[rows.offsets[:-1][rows.lengths() > 0]] = False  # the first of a history follows nothing
        second = np.flatnonzero(inside)
        width = int(flat.max()) + 1 if len(flat) else 1
        pairs, count = np.unique(flat[second - 1] * width + flat[second], return_counts=True)
        before, after = pairs // width, pairs % width
        order = np.lexsort((after, -count, before))
        known, first = np.unique(before, return_index=True)
        offsets = np.append(first, len(before)).astype(np.int64)
        return Following(known, Ragged(after[order].astype(np.int32), offsets), count[order])

    def save(self, path: Path) -> None:
        """Write it as one .npz file."""
        np.savez(path, before=self.before, after=self.after.flat, offsets=self.after.offsets, count=self.count)

    @staticmethod
    def load(path: Path) -> "Following":
        """Read what :meth:`save` wrote."""
        with np.load(path) as stored:
            return Following(stored["before"], Ragged(stored["after"], stored["offsets"]), stored["count"])

    def next(self, item: int) -> tuple[Ints, Ints]:
        """(codes, counts) of what came next after an item, most frequent first; empty when nothing did."""
        at = int(np.searchsorted(self.before, item))
        if at == len(self.before) or self.before[at] != item:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        where = slice(self.after.offsets[at], self.after.offsets[at + 1])
        return self.after.flat[where].astype(np.int64), self.count[where]
