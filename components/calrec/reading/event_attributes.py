"""Attributes that stand beside the events: each event says them again, and not always the same.

Of texts the most frequent one counts, of prices the median of the newest. Returns and the like (a weight of 0 or less)
count only for an item that no other event describes, a price of 0 only where no other is known. What is kept is
bounded: `TEXTS` different texts of an item and `PRICES` prices; texts that come later are not looked at.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from calrec.arrays.compiled import Int32, Int64
from calrec.arrays.vocabulary import Vocabulary
from calrec.reading.prices import amount, clean_price
from calrec.reading.tallies import NEVER, PRICES, TEXTS, Flags, at_least, count_pairs, enter, keep_newest

_MOST = 1 << 22  # different prices of a log
_LAST_RESORT = NEVER + 1  # time of an odd price
_EXAMPLES = 2
_FAR, _TENTH = 2.0, 0.1


@dataclass
class Chosen:
    """One attribute of some items."""

    raw: list[str]
    """As it was read; empty where no event has it."""
    disagree: int = 0
    """Items whose events do not agree on it."""
    examples: list[str] = field(default_factory=list)
    """What the events of an item say, of those with the most that disagree."""


class Texts:
    """One attribute: how often, and when last, each of an item's texts stood beside an event."""

    def __init__(self) -> None:
        self._words = Vocabulary()
        self._keys: Int64 = np.zeros(1 << 10, np.int64)  # item << 32 | text, in order of appearance
        self._counts: Int64 = np.zeros(1 << 10, np.int64)
        self._newest: Int64 = np.zeros(1 << 10, np.int64)
        self._slots: Int32 = np.zeros(1 << 12, np.int32)  # a hash table: number of a key plus one, or 0
        self._distinct: Int32 = np.zeros(1 << 10, np.int32)  # of each item
        self._size = 0

    def add(self, items: Int32, column: pa.Array, time: Int64, counts: Flags) -> tuple[Int32, Flags]:
        """Count one text of each event; returns the codes of the texts, -1: none, and which events have one."""
        self._distinct = at_least(self._distinct, int(items.max(initial=0)) + 1, 0)
        filled = pc.not_equal(column, "").to_numpy(zero_copy_only=False)
        column, items, time, counts = column.filter(pa.array(filled)), items[filled], time[filled], counts[filled]
        codes = self._words.lookup(column)
        new = (codes < 0) & self._room(items)
        codes[new] = self._words.encode(column.filter(pa.array(new)))
        self._reserve(len(codes))
        self._size = count_pairs(
            items, codes, time, counts, self._slots, self._keys, self._counts, self._newest, self._distinct, self._size
        )
        return codes, filled

    def _room(self, items: Int32) -> Flags:
        """Whether a new text of these items is kept."""
        return self._distinct[items] < TEXTS  # type: ignore[no-any-return]

    def _reserve(self, n: int) -> None:
        needed = self._size + n
        self._keys, self._counts, self._newest = (
            at_least(a, needed, 0) for a in (self._keys, self._counts, self._newest)
        )
        if needed * 2 > len(self._slots):
            self._slots = np.zeros(1 << (4 * needed).bit_length(), np.int32)
            enter(self._keys, self._size, self._slots)

    def mark_described(self, found: Flags) -> None:
        """Mark the items that an event describes."""
        found[(self._keys[: self._size] >> 32)] = True

    def choose(self, codes: Int64, clean: Callable[[str], str], names: Sequence[str]) -> Chosen:
        """The most frequent text of each item, of equals the newest, then the first by its letters.

        Args:
            codes: the items.
            clean: what a text is worth: empty ones count only where there is no other, those that are equal but for
                capitals count together.
            names: ids of the items, for the examples.
        """
        words = self.words()
        item, text, counts, newest = self._pairs(codes)
        group, rank = _grouped(words, clean)
        both, run = np.unique(item * (len(words) + 1) + group[text] + 1, return_inverse=True)
        total = np.bincount(run, counts, len(both)).astype(np.int64)
        last = np.full(len(both), NEVER)
        np.maximum.at(last, run, newest)
        order = np.lexsort((rank[text], -counts, -last[run], -total[run], group[text] < 0, item))
        first = order[np.unique(item[order], return_index=True)[1]]
        raw = [""] * len(codes)
        for at, word in zip(item[first].tolist(), text[first].tolist(), strict=True):
            raw[at] = words[word]
        filled = (both % (len(words) + 1) > 0) & (total > 0)
        owner = both // (len(words) + 1)
        groups = np.bincount(owner[filled], minlength=len(codes))
        others = np.bincount(owner[filled], total[filled], len(codes))
        others[item[first]] -= total[run[first]]
        return Chosen(raw, *self._disagreeing(codes, np.where(groups > 1, others, 0), names))

    def _pairs(self, codes: Int64) -> tuple[Int64, Int64, Int64, Int64]:
        """Of some items each pair: place of the item among them, text, events that count, time of the newest."""
        keys, counts, newest = (a[: self._size] for a in (self._keys, self._counts, self._newest))
        item = keys >> 32
        place = np.full(max(int(codes.max(initial=-1)), int(item.max(initial=-1))) + 1, -1, np.int64)
        place[codes] = np.arange(len(codes))
        kept = place[item] >= 0
        return place[item[kept]], keys[kept] & 0xFFFFFFFF, counts[kept], newest[kept]

    def _disagreeing(self, codes: Int64, off: NDArray[Any], names: Sequence[str]) -> tuple[int, list[str]]:
        """How many items have events that disagree (`off` of each), and what those with the most say."""
        worst = np.argsort(-off, kind="stable")[:_EXAMPLES]
        worst = worst[off[worst] > 0]
        words = self._words.strings()
        item, text, counts, _ = self._pairs(codes[worst])
        said = []
        for at, name in enumerate(names[place] for place in worst.tolist()):
            order = np.flatnonzero((item == at) & (counts > 0))
            order = order[np.argsort(-counts[order], kind="stable")][:3]
            said.append(f"{name}: " + ", ".join(f"{words[int(text[k])].as_py()!r:.60} ({counts[k]:,}x)" for k in order))
        return int((off > 0).sum()), said

    def words(self) -> list[str]:
        """All different texts."""
        return self._words.strings().to_pylist()  # type: ignore[no-any-return]


def _grouped(words: Sequence[str], clean: Callable[[str], str]) -> tuple[Int64, Int64]:
    """For each text the number of its group, -1 when it is worth nothing, and its place by its letters."""
    numbers: dict[str, int] = {"": -1}
    group = np.array([numbers.setdefault(clean(w).casefold(), len(numbers)) for w in words], np.int64)
    rank = np.empty(len(words), np.int64)
    rank[sorted(range(len(words)), key=words.__getitem__)] = np.arange(len(words))
    return group, rank


class Prices(Texts):
    """Prices: the same, and the newest of each item."""

    def __init__(self) -> None:
        super().__init__()
        self._times: Int64 = np.full((1 << 10, PRICES), NEVER)
        self._codes: Int32 = np.full((1 << 10, PRICES), -1, np.int32)
        self._worth: NDArray[np.float64] = np.zeros(0)  # of each text; nan: no price

    def add(self, items: Int32, column: pa.Array, time: Int64, counts: Flags) -> tuple[Int32, Flags]:
        """Count, and keep the newest."""
        codes, filled = super().add(items, column, time, counts)
        if len(self._words) > len(self._worth):
            new = self._words.take(np.arange(len(self._worth), len(self._words))).to_pylist()
            self._worth = np.concatenate([self._worth, [amount(clean_price(w) or "nan") for w in new]])
        self._times = at_least(self._times, len(self._distinct), NEVER)
        self._codes = at_least(self._codes, len(self._distinct), -1)
        worth = np.append(self._worth, np.nan)[codes]
        odd = ~counts[filled] | (worth == 0)
        readable = ~np.isnan(worth)
        at = np.where(odd, _LAST_RESORT, time[filled])[readable]
        keep_newest(items[filled][readable], codes[readable], at, self._times, self._codes)
        return codes, filled

    def _room(self, items: Int32) -> Flags:
        return np.full(len(items), len(self._words) < _MOST)

    def choose(self, codes: Int64, clean: Callable[[str], str], names: Sequence[str]) -> Chosen:
        """The median of each item's newest prices, the lower one of two.

        An item's events disagree when more than a tenth are 2x or more off their median.
        """
        words = self.words()
        raw = super().choose(codes, clean, names).raw  # where there is no price: what stands there instead
        worth = np.array([amount(clean(word) or "nan") for word in words] + [np.nan])
        most = int(codes.max(initial=-1)) + 1
        its, times = at_least(self._codes, most, -1)[codes], at_least(self._times, most, NEVER)[codes]
        usual = times > _LAST_RESORT
        usable = np.where(usual.any(1, keepdims=True), usual, its >= 0)
        value = np.where(usable, worth[its], np.nan)
        positive = value > 0
        value[~positive & positive.any(1, keepdims=True)] = np.nan
        number = (~np.isnan(value)).sum(1)
        middle = np.argsort(value, axis=1, kind="stable")[np.arange(len(its)), np.maximum(number - 1, 0) // 2]
        taken = its[np.arange(len(its)), middle]
        for at in np.flatnonzero(number).tolist():
            raw[at] = words[taken[at]]
        off = _off(*self._pairs(codes)[:3], worth, len(codes))
        return Chosen(raw, *self._disagreeing(codes, off, names))


def _off(item: Int64, text: Int64, counts: Int64, worth: NDArray[np.float64], n: int) -> NDArray[Any]:
    """Events of each item that are 2x or more off their median price; 0 where they are a tenth or less."""
    usable = (worth[text] > 0) & (counts > 0)
    item, value, counts = item[usable], worth[text[usable]], counts[usable]
    order = np.lexsort((value, item))
    item, value, counts = item[order], value[order], counts[order]
    events = np.bincount(item, counts, n)
    before = np.cumsum(counts) - np.append(0, np.cumsum(events))[item]  # events of the item up to this price
    middle = np.flatnonzero(before * 2 >= events[item])
    median = np.zeros(n)
    median[item[middle][::-1]] = value[middle][::-1]  # the first one of each item stays
    off = np.bincount(item, counts * (np.maximum(value / median[item], median[item] / value) >= _FAR), n)
    return np.where(off > _TENTH * events, off, 0)
