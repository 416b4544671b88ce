"""Compiled loops of the cleaning rules.

All work on some users' events, grouped by user. Arrays of events have a row per event; `length` has an entry per user.
An item of -1 marks an event that is dropped but still takes its place.
"""

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from calrec.arrays.compiled import Int32, Int64, compiled

Array = TypeVar("Array", bound=NDArray[Any])
Float32 = NDArray[np.float32]
_ROUNDING = 1e-6  # of a weight: less than this is left over by the rounding of float32 alone


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
def _take_back(
    order: Int32,
    lo: int,
    hi: int,
    item: Int32,
    time: Int64,
    weight: Float32,
    base: int,
    seen: Int64,
    below: Int32,
    lost: Int64,
) -> int:
    """Returns of one user take their quantity back from the newest purchases of the item.

    Purchases at the time of a return are before it. What is left of a purchase is its new weight. order[lo:hi] are the
    user's rows by time; those that stay move to the front. `seen` holds the row of an item's newest purchase that has
    something left, `below` that of the purchase before it, if any. Adds to lost[0] the returns without a purchase, to
    lost[1] the other returns, to lost[2] the purchases with nothing left. Returns where the rows end.
    """
    at = lo
    while at < hi:
        start = at
        while at < hi and time[order[at]] == time[order[start]]:
            row = order[at]
            if weight[row] > 0:
                below[row] = max(seen[item[row]] - base, -1)
                seen[item[row]] = base + row
            at += 1
        for place in range(start, at):
            row = order[place]
            if weight[row] < 0:
                bought = seen[item[row]] - base
                lost[0 if bought < lo else 1] += 1
                owed = -float(weight[row])
                nothing = owed * _ROUNDING
                while bought >= lo and owed > nothing:
                    rest = float(weight[bought]) - owed
                    owed = max(-rest, 0.0)
                    if rest > nothing:
                        weight[bought] = rest
                    else:
                        weight[bought] = np.nan  # neither a purchase nor a return
                        lost[2] += 1
                        bought = np.int64(below[bought])
                seen[item[row]] = base + bought if bought >= lo else 0
    stay = lo
    for place in range(lo, hi):
        row = order[place]
        seen[item[row]] = 0
        if weight[row] >= 0:
            order[stay] = row
            stay += 1
    return stay


@compiled
def _join(
    order: Int32, lo: int, hi: int, item: Int32, time: Int64, weight: Float32, adds: bool, base: int, seen: Int64
) -> int:
    """Rows of one item and time become the first of them, with the sum of their weights when `adds`.

    order[lo:hi] are a user's rows by time; those that stay move to the front. Returns where they end.
    """
    stay, moment, now = lo, lo, np.int64(0)
    for at in range(lo, hi):
        row = order[at]
        if time[row] != now:
            moment = stay
        now = time[row]
        if moment < stay or (at + 1 < hi and time[order[at + 1]] == now):
            place = seen[item[row]] - base
            if place >= moment:
                if adds:
                    weight[order[place]] += weight[row]
                continue
            seen[item[row]] = base + stay
        order[stay] = row
        stay += 1
    return stay


@compiled
def tidy(
    length: Int32,
    item: Int32,
    time: Int64,
    tie: Int32,
    weight: Float32,
    cancels: bool,
    adds: bool,
    least: float,
    dedup: int,
    popularity: Int64,
    base: int,
    seen: Int64,
    bought: Int64,
) -> tuple[Int32, Int64]:
    """Sort each history, take returns back, make one event of an item and time, drop small ones, then repeats.

    Args:
        length: rows per user; becomes how many of them stay.
        item: item codes, in order of user and, inside a user, of the file.
        time: milliseconds.
        tie: among equal times the smaller tie is first, then the smaller row.
        weight: changed where weights are added, or taken back in part.
        cancels: whether a negative weight takes earlier purchases back; else it is an event as any other.
        adds: whether the weights of events that become one are added; else the first one's counts.
        least: events of a smaller weight are dropped.
        dedup: 0 none, 1 consecutive, 2 first.
        popularity: events per item code; the events that stay are added.
        base: rows that earlier calls have taken, plus one: keeps their marks apart from this call's.
        seen: marks by item code of the place an item was last met at; zeros before the first call.
        bought: marks by item code of the user that last had it; zeros before the first call.

    Returns:
        The rows that stay, in order; how many were dropped as returns without a purchase, as other returns, as
        purchases taken back, as part of an earlier event, as small, and as repeats.
    """  # fmt: skip
    order = np.arange(len(item)).astype(np.int32)
    spare = np.empty(length.max() if len(length) else 0, np.int32)
    below = np.empty(len(item) if cancels else 0, np.int32)
    lost = np.zeros(6, np.int64)
    stay, lo = 0, 0
    for user in range(len(length)):
        hi, first = lo + length[user], stay
        sort_history(order, lo, hi, time, tie, spare)
        end = _take_back(order, lo, hi, item, time, weight, base, seen, below, lost) if cancels else hi
        joined = _join(order, lo, end, item, time, weight, adds, base, seen)
        lost[3] += end - joined
        previous = np.int32(-1)
        for at in range(lo, joined):
            row = order[at]
            x = item[row]
            if weight[row] < least:
                lost[4] += 1
                continue
            if (dedup == 1 and x == previous) or (dedup == 2 and bought[x] == base + lo):
                lost[5] += 1
                continue
            previous = x
            if dedup == 2:
                bought[x] = base + lo
            popularity[x] += 1
            order[stay] = row
            stay += 1
        length[user] = stay - first
        lo = hi
    return order[:stay], lost


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
