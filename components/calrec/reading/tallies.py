"""Counts of (item, text) pairs and the newest prices of each item, as loops over a batch of events."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from calrec.arrays.compiled import Int32, Int64, compiled

TEXTS = 16
"""Different texts of an item that are counted."""
PRICES = 9
"""Newest prices of an item that are kept: their median bears four odd ones, and follows a change soon."""
NEVER = np.iinfo(np.int64).min
"""Time of a price that is not there."""
Flags = NDArray[np.bool_]


def at_least(array: Any, n: int, value: int) -> Any:
    """The array with room for n entries, at least doubled when it grows; new ones hold `value`."""
    if n <= len(array):
        return array
    larger = np.full((max(n, 2 * len(array)), *array.shape[1:]), value, array.dtype)
    larger[: len(array)] = array
    return larger


@compiled
def _slot(key: Any, keys: Int64, slots: Int32) -> Any:
    """Where the key stands in the table, or where it would."""
    mask = np.uint64(len(slots) - 1)
    h = np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)
    at = (h ^ (h >> np.uint64(32))) & mask
    while slots[at] != 0 and keys[slots[at] - 1] != key:
        at = (at + np.uint64(1)) & mask
    return at


@compiled
def enter(keys: Int64, size: int, slots: Int32) -> None:
    """Enter the first keys into an empty table."""
    for k in range(size):
        slots[_slot(keys[k], keys, slots)] = k + 1


@compiled
def count_pairs(
    item: Int32, text: Int32, time: Int64, counted: Flags, slots: Int32, keys: Int64, counts: Int64, newest: Int64,
    distinct: Int32, size: int,
) -> int:  # fmt: skip
    """Count each pair of an item and a text; returns how many pairs there are now."""
    for k in range(len(item)):
        if text[k] < 0:
            continue
        key = np.int64(item[k]) << 32 | np.int64(text[k])
        at = _slot(key, keys, slots)
        if slots[at] == 0:
            if distinct[item[k]] >= TEXTS:
                continue
            keys[size], counts[size], newest[size] = key, 0, NEVER
            distinct[item[k]] += 1
            size += 1
            slots[at] = size
        pair = slots[at] - 1
        counts[pair] += counted[k]
        newest[pair] = max(newest[pair], time[k])
    return size


@compiled
def keep_newest(item: Int32, price: Int32, time: Int64, times: Int64, prices: Int32) -> None:
    """Keep the newest prices of each item, oldest first; of one time the later rows."""
    for k in range(len(item)):
        its_times, its_prices, at = times[item[k]], prices[item[k]], 0
        if time[k] < its_times[0]:
            continue
        while at + 1 < PRICES and its_times[at + 1] <= time[k]:
            its_times[at], its_prices[at] = its_times[at + 1], its_prices[at + 1]
            at += 1
        its_times[at], its_prices[at] = time[k], price[k]
