"""Baskets: events of one user at one time. A held-out basket has one target, and the target stands first in it.

So history is what precedes the target, as with single events, and the rest of the basket is in no history that ends
before it.
"""

import hashlib
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from calrec.arrays.ragged import running, spans
from calrec.textify.sequences import Histories, Ints

FEWEST = 3
"""Baskets of a user for leave-last-out: a history, a validation and a test basket."""
_TIED = 0.3  # share of the targets from which on the figures mean something else


def meaning(unit: str, tied: float) -> str:
    """What the figures over held-out items mean where events share their times; empty where hardly any do.

    Args:
        unit: of the split.
        tied: share of the targets that have the time of the event before.
    """
    if unit == "basket":
        return (
            "A target is one item of a basket (a user's events of one time): the history ends before the basket, and "
            "its other items are in neither."
        )
    if tied <= _TIED:
        return ""
    return (
        f"{tied:.0%} of the targets are any item of a basket (a user's events of one time) whose other items are in "
        "the history, so the figures tell how well a basket is completed; --set split.unit=basket asks for the next one"
    )


def starts(histories: Histories) -> NDArray[np.bool_]:
    """Of each event, whether a basket begins with it."""
    found = np.ones(len(histories.codes), dtype=np.bool_)
    found[1:] = histories.times[1:] != histories.times[:-1]
    found[histories.offsets[:-1]] = True
    return found


def leave_last_out(histories: Histories) -> tuple[Ints, Ints, Ints]:
    """The last basket is test, the one before validation, the rest training; with fewer than three all is training.

    Returns:
        (train_end, valid_at, test_at) per user: where the training part ends and the two baskets begin, or -1.
    """
    begins = starts(histories)
    event = np.flatnonzero(begins)
    upto = running(begins.astype(np.int64))[histories.offsets]  # baskets of the users before each one
    held = np.diff(upto) >= FEWEST
    last, before = (
        np.where(held, event[np.maximum(upto[1:] - back, 0)] - histories.offsets[:-1], -1) for back in (1, 2)
    )
    return np.where(held, before, histories.lengths), before, last


def targets_first(histories: Histories, at: Iterable[Ints], item_id: pa.ChunkedArray) -> NDArray[np.int32]:
    """The item codes with the target of each held-out basket in its first place.

    Which item it is depends on a hash of user and item alone: on no order of the file, no other user and no item's
    popularity, and an item that was bought before is as likely as any other.

    Args:
        histories: of all categories.
        at: places where held-out baskets begin, -1: none; one array for each part of the split.
        item_id: id of each item code.
    """
    user, first = (np.concatenate(each) for each in zip(*(_places(histories, places) for places in at), strict=True))
    ends = np.append(np.flatnonzero(starts(histories)), len(histories.codes))
    sizes = ends[np.searchsorted(ends, first, side="right")] - first
    event, of = spans(first, sizes), np.repeat(np.arange(len(first)), sizes)
    items = np.unique(histories.codes[event])
    hash_of_item = _hashes(item_id.take(pa.array(items)))[np.searchsorted(items, histories.codes[event])]
    draw = _mixed(_hashes(histories.user_id.take(pa.array(user)))[of], hash_of_item)
    chosen = event[np.lexsort((draw, of))[running(sizes)[:-1]]]
    codes = histories.codes.copy()
    codes[first], codes[chosen] = histories.codes[chosen], histories.codes[first]
    return codes


def has_tie(histories: Histories, at: Ints) -> NDArray[np.bool_]:
    """Of each user, whether the event before the one at this place has its time."""
    user, event = _places(histories, np.where(at > 0, at, -1))
    found = np.zeros(len(at), dtype=np.bool_)
    found[user] = histories.times[event] == histories.times[event - 1]
    return found


def _places(histories: Histories, at: Ints) -> tuple[Ints, Ints]:
    """The users that have such an event, and its number."""
    user = np.flatnonzero(at >= 0)
    return user, histories.offsets[user] + at[user]


def _hashes(names: pa.ChunkedArray) -> NDArray[np.uint64]:
    digests = (hashlib.blake2b(name.encode(), digest_size=8).digest() for name in names.to_pylist())
    return np.frombuffer(b"".join(digests), dtype="<u8")


def _mixed(user: NDArray[np.uint64], item: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """One hash of two: the finalizer of splitmix64, which no item keeps its place through."""
    h = user * np.uint64(0x9E3779B97F4A7C15) ^ item
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        h = (h ^ (h >> np.uint64(shift))) * np.uint64(factor)
    return h ^ (h >> np.uint64(31))
