"""Compiled loops of the cleaning rules.

All work on some users' events, grouped by user. Arrays of events have a row per event; `length` has an entry per user.
An item of -1 marks an event that is dropped but still takes its place.
"""

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from calrec.compiled import Int32, Int64, compiled

Array = TypeVar("Array", bound=NDArray[Any])


@compiled
def by_user(user: Int32, size: int) -> tuple[Int32, Int32]:
    """Rows in order of user, rows of one user as they came; and the rows of each of `size` users. Linear time."""
    length = np.zeros(size, np.int32)
    for code in user:
        length[code] += 1
    place, total = np.empty(size, np.int32), 0
    for code in range(size):
        place[code] = total
        total += length[code]
    order = np.empty(len(user), np.int32)
    for row in range(len(user)):
        order[place[user[row]]] = row
        place[user[row]] += 1
    return order, length


@compiled
def gather(values: Array, rows: Int32) -> Array:
    """values[rows], in half of numpy's time: numpy widens the rows to 64 bits first."""
    out = np.empty(len(rows), values.dtype)
    for at in range(len(rows)):
        out[at] = values[rows[at]]
    return out  # type: ignore[return-value]


@compiled
def _before(time: Int64, tie: Int32, a: int, b: int) -> Any:
    return time[a] < time[b] or (time[a] == time[b] and tie[a] < tie[b])


@compiled
def _insert(order: Int32, lo: int, hi: int, time: Int64, tie: Int32) -> None:
    """Sort order[lo:hi] by (time, tie), stable; for a few rows, or rows that are sorted already."""
    for at in range(lo + 1, hi):
        row, to = order[at], at
        while to > lo and _before(time, tie, row, order[to - 1]):
            order[to] = order[to - 1]
            to -= 1
        order[to] = row


@compiled
def _merge(order: Int32, lo: int, middle: int, hi: int, time: Int64, tie: Int32, spare: Int32) -> None:
    """Merge the sorted order[lo:middle] and order[middle:hi], stable."""
    if not _before(time, tie, order[middle], order[middle - 1]):
        return
    left = middle - lo
    spare[:left] = order[lo:middle]
    a, b, to = 0, middle, lo
    while a < left:
        if b < hi and _before(time, tie, order[b], spare[a]):
            order[to] = order[b]
            b += 1
        else:
            order[to] = spare[a]
            a += 1
        to += 1


@compiled
def sort_history(order: Int32, lo: int, hi: int, time: Int64, tie: Int32, spare: Int32) -> None:
    """Sort the rows order[lo:hi] of one user by (time, tie), stable: O(n log n) whatever the input."""
    width = 16
    for start in range(lo, hi, width):
        _insert(order, start, min(start + width, hi), time, tie)
    while width < hi - lo:
        for start in range(lo, hi - width, 2 * width):
            _merge(order, start, start + width, min(start + 2 * width, hi), time, tie, spare)
        width *= 2


@compiled
def tidy(
    length: Int32,
    item: Int32,
    time: Int64,
    tie: Int32,
    dedup: int,
    popularity: Int64,
    base: int,
    seen: Int64,
    bought: Int64,
) -> tuple[Int32, int, int]:
    """Sort each history, drop exact duplicates, then repeats; the first of equals stays.

    Args:
        length: rows per user; becomes how many of them stay.
        item: item codes, in order of user and, inside a user, of the file.
        time: milliseconds.
        tie: among equal times the smaller tie is first, then the smaller row.
        dedup: 0 none, 1 consecutive, 2 first.
        popularity: events per item code; the events that stay are added.
        base: rows that earlier calls have taken, plus one: keeps their marks apart from this call's.
        seen: marks by item code of the time an item was last met at; zeros before the first call.
        bought: marks by item code of the user that last had it; zeros before the first call.

    Returns:
        The rows that stay, in order; how many were exact duplicates; how many were repeats.
    """
    order = np.arange(len(item)).astype(np.int32)
    spare = np.empty(length.max() if len(length) else 0, np.int32)
    stay, duplicates, repeats, lo = 0, 0, 0, 0
    for user in range(len(length)):
        hi, first = lo + length[user], stay
        sort_history(order, lo, hi, time, tie, spare)
        moment, now, previous = lo, np.int64(0), np.int32(-1)
        for at in range(lo, hi):
            row = order[at]
            x = item[row]
            if time[row] != now:
                moment = at
            now = time[row]
            if moment < at or (at + 1 < hi and time[order[at + 1]] == now):
                if seen[x] == base + moment:
                    duplicates += 1
                    continue
                seen[x] = base + moment
            if dedup == 2:
                if bought[x] == base + lo:
                    repeats += 1
                    continue
                bought[x] = base + lo
            elif dedup == 1 and x == previous:
                repeats += 1
                continue
            previous = x
            popularity[x] += 1
            order[stay] = row
            stay += 1
        length[user] = stay - first
        lo = hi
    return order[:stay], duplicates, repeats


@compiled
def sweep(
    size: Int32, length: Int32, item: Int32, popularity: Int64, min_user: int, min_item: int, collapse: bool
) -> int:
    """Drop rare users' events, events of rare items, and repeats that become adjacent by that.

    Args:
        size: places of each user in `item`.
        length: events of each user that are left; updated.
        item: item of each place; becomes -1 where the event is dropped.
        popularity: events per item code, all users together; updated at once, so that one sweep does the work of many.
        min_user: fewest events of a user.
        min_item: fewest events of an item.
        collapse: whether the later one of two adjacent events with one item is dropped.

    Returns:
        How many events were dropped.
    """
    dropped, lo = 0, 0
    for user in range(len(size)):
        hi, before = lo + size[user], length[user]
        if before:
            left = 0
            if before >= min_user:
                previous = np.int32(-1)
                for at in range(lo, hi):
                    x = item[at]
                    if x < 0:
                        continue
                    if popularity[x] < min_item or (collapse and x == previous):
                        popularity[x] -= 1
                        item[at] = -1
                    else:
                        previous = x
                        left += 1
            if left < min_user:
                left = 0
                for at in range(lo, hi):
                    if item[at] >= 0:
                        popularity[item[at]] -= 1
                        item[at] = -1
            length[user] = left
            dropped += before - left
        lo = hi
    return dropped
