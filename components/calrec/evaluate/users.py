"""The users to be judged: those that something was generated for."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from calrec.arrays.ragged import Ragged, running, spans
from calrec.evaluate.metrics import Target
from calrec.model.loading import Users
from calrec.retrieve.catalogue import Catalogue

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Judged:
    """Users in the order of their generations; items are codes."""

    user_id: pa.Array
    target: Target
    """What was held out."""
    histories: Ragged
    """What came before it, oldest first."""
    eligible: int
    """Users of the category that have a held-out item."""
    known: pa.Array
    """All users of the category."""

    def __len__(self) -> int:
        return len(self.user_id)

    def history(self, users: Ints) -> Ragged:
        """Histories of some of the users."""
        sizes = self.histories.lengths(users)
        return Ragged(self.histories.flat[spans(self.histories.offsets[users], sizes)], running(sizes))

    @property
    def repeated(self) -> NDArray[np.bool_]:
        """Whether the target of each user is in the history."""
        same = self.histories.flat == np.repeat(self.target.item, self.histories.lengths())
        found = np.concatenate([[0], np.cumsum(same)])[self.histories.offsets]
        return np.diff(found) > 0


def load_judged(users: Users, chosen: pa.Array, catalogue: Catalogue, split: str, source: Path) -> Judged:
    """Targets and histories of the chosen users.

    Args:
        users: of the category.
        chosen: ids of those to be judged.
        catalogue: the category's items.
        split: which item is held out, test or valid.
        source: where the choice comes from, for errors.

    Raises:
        ValueError: nobody is chosen, somebody twice, an unknown user or one without a held-out item.
    """
    at = users.test_at if split == "test" else users.valid_at
    known = pa.array(users.user_id, pa.string())
    rows = pc.fill_null(pc.index_in(chosen, value_set=known), -1).to_numpy().astype(np.int64)
    faults = {"unknown": rows < 0, f"without a {split} item": (rows >= 0) & (at[rows] < 0)}
    for what, which in faults.items():
        if which.any():
            name = chosen[int(which.argmax())]
            raise ValueError(f"{source}: user {name} is {what}; it was made from other texts, run generate again")
    if not len(rows) or len(np.unique(rows)) < len(rows):
        raise ValueError(f"{source} names {'a user twice' if len(rows) else 'no user'}; run generate again")
    flat = Ragged.of(users.items)
    target = flat.flat[flat.offsets[rows] + at[rows]].astype(np.int64)
    histories = Ragged(flat.flat[spans(flat.offsets[rows], at[rows])], running(at[rows]))
    group = catalogue.group_of[np.searchsorted(catalogue.items, target)]
    return Judged(chosen, Target(target, group), histories, int((at >= 1).sum()), known)
