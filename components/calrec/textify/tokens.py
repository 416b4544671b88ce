"""Token ids of units, and prompts assembled from them without tokenising again."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calrec.arrays.ragged import Ids, Ints, Ragged, running, spans


@dataclass(frozen=True)
class Prompts:
    """Token ids of many prompts, one after the other, and where the items of their histories are."""

    ids: Ids
    offsets: Ints
    """Prompt i is ids[offsets[i] : offsets[i + 1]]; one more than prompts."""
    kept: Ints
    """How many of the newest items each prompt holds."""
    starts: Ints
    """Position in `ids` of the first token of each kept item, prompt by prompt, oldest first."""
    ends: Ints
    """Position in `ids` of the last token of each kept item."""

    def __len__(self) -> int:
        return len(self.kept)

    @property
    def lengths(self) -> Ints:
        """Tokens of each prompt."""
        return np.diff(self.offsets)

    def rows(self) -> list[Ids]:
        """The ids of each prompt."""
        return Ragged(self.ids, self.offsets).rows()

    def inside_items(self) -> NDArray[np.bool_]:
        """For each token of `ids`, whether it belongs to an item."""
        change = np.zeros(len(self.ids) + 1, dtype=np.int8)
        change[self.starts] += 1
        change[self.ends + 1] -= 1
        return np.cumsum(change[:-1], dtype=np.int8).astype(np.bool_)


@dataclass(frozen=True)
class TokenCache:
    """Ids of every item text and of the template's phrases, and the limits they obey."""

    units: Ragged
    """Row i is item i followed by the next-item phrase, as a prompt has them; then come two rows more: the phrase
    alone, which may be empty, and the opening. A prompt is thus a list of rows."""
    end: int
    """The end-of-text token that closes every target."""
    max_tokens: int

    @staticmethod
    def units_of(opening: Ids, following: Ids, items: Sequence[Ids]) -> Ragged:
        """The rows of a cache from the ids of the opening, of the next-item phrase and of each item."""
        return Ragged.of([*(np.concatenate([item, following]) for item in items), following, opening])

    @property
    def opening(self) -> Ids:
        """Ids that every prompt begins with."""
        return self.units[len(self.units) - 1]

    @property
    def following(self) -> Ids:
        """Ids of the next-item phrase."""
        return self.units[len(self.units) - 2]

    @property
    def barred(self) -> int | None:
        """The end token where items follow each other without a phrase, else None: no item begins with it.

        There the place behind an item is the one before the next item. If an end and a beginning were both likely at
        it, a model would write the empty text for many users, and two items for others.
        """
        return None if len(self.following) else self.end

    def targets(self, items: Sequence[int] | Ints) -> Ragged:
        """Ids of items as targets: each item's text and the end token."""
        rows = np.asarray(items, dtype=np.int64)
        lengths = self.units.lengths(rows) - len(self.following) + 1
        flat = self.units.flat[spans(self.units.offsets[rows], lengths)]
        flat[np.cumsum(lengths) - 1] = self.end  # in place of what follows in the flat array
        return Ragged(flat, running(lengths))

    def target(self, item: int) -> Ids:
        """Ids of one item as a target."""
        return self.targets([item]).flat

    def fit(self, histories: Ragged) -> tuple[Ints, Ints]:
        """How many of its newest items each history keeps, and the tokens of its prompt.

        Whole oldest items are dropped until opening, items and phrases fit into `max_tokens`.
        """
        upto = running(self.units.lengths(histories.flat))
        first, last = histories.offsets[:-1], histories.offsets[1:]
        room = self.max_tokens - len(self.opening)
        oldest = np.clip(np.searchsorted(upto, upto[last] - room), first, last)
        return last - oldest, len(self.opening) + upto[last] - upto[oldest]

    def assemble(self, histories: Ragged | Sequence[Any]) -> Prompts:
        """The prompts after many histories of item codes, each oldest item first."""
        histories = Ragged.of(histories)
        kept, _ = self.fit(histories)
        newest = histories.tails(kept)
        rows = np.insert(newest.flat, newest.offsets[:-1], len(self.units) - 1)
        lengths = self.units.lengths(rows)
        ids = self.units.flat[spans(self.units.offsets[rows], lengths)]
        at, is_item = running(lengths), rows < len(self.units) - 2
        starts = at[:-1][is_item]
        return Prompts(
            ids=ids,
            offsets=np.append(at[:-1][~is_item], at[-1]),
            kept=kept,
            starts=starts,
            ends=starts + lengths[is_item] - len(self.following) - 1,
        )

    def history(self, items: Sequence[int]) -> tuple[Ids, Ints, int]:
        """One prompt: its ids, the position of each kept item's last token in it, the number of kept items."""
        one = self.assemble([items])
        return one.ids, one.ends, int(one.kept[0])
