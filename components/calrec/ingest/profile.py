"""Facts that tell two versions of one log apart, counted over the cleaned events one group of users at a time."""

from typing import Any

import numpy as np

from calrec.arrays.compiled import Int32, Int64, compiled

LENGTHS = (3, 4, 5, 6, 8, 11, 16, 26, 51, 101)
"""Least events of a user in each class of history lengths; the last class is open."""
FREQUENCIES = (1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000, 10_000)
"""Least events of an item in each class of item frequencies; the last class is open."""


class Facts:
    """Counters over users; `add` takes some users at a time, `summary` gives the shares."""

    def __init__(self, n_items: int) -> None:
        self._seen: Int64 = np.zeros(n_items, np.int64)
        self._counts: Int64 = np.zeros(5, np.int64)
        self._lengths: Int64 = np.zeros(len(LENGTHS), np.int64)
        self._events = self._users = 0
        self._first, self._last = np.iinfo(np.int64).max, np.iinfo(np.int64).min

    def add(self, length: Int32, item: Int32, time: Int64) -> None:
        """Count some users: `length` per user, `item` and `time` per event, in order of user and time."""
        if not len(item):
            return
        _count(length, item, time, self._events + 1, self._seen, self._counts)
        length = length[length > 0]
        self._lengths += histogram(length, LENGTHS)
        self._events += len(item)
        self._users += len(length)
        self._first = min(self._first, int(time.min()))
        self._last = max(self._last, int(time.max()))

    def summary(self, popularity: Int64) -> dict[str, Any]:
        """The facts, for the manifest; `popularity` holds the events of each item.

        `repeat_share` is of events whose item the user had before; `target_…` are of users and speak of the last event:
        its item is the one before it, or anywhere in the history; `tied_share` is of neighbouring rows that have one
        user and one time; `tied_users_share` is of users whose events all have one time.
        """
        repeats, ties, all_tied, as_before, in_history = (int(n) for n in self._counts)
        items = popularity[popularity > 0]
        return {
            "interactions": self._events,
            "users": self._users,
            "items": len(items),
            "mean_length": round(self._events / self._users, 2),
            "repeat_share": round(repeats / self._events, 4),
            "target_is_previous_share": round(as_before / self._users, 4),
            "target_in_history_share": round(in_history / self._users, 4),
            "tied_share": round(ties / max(1, self._events - 1), 4),
            "tied_users_share": round(all_tied / self._users, 4),
            "first_timestamp": self._first,
            "last_timestamp": self._last,
            "users_by_history_length": _labelled(self._lengths, LENGTHS),
            "items_by_events": _labelled(histogram(items, FREQUENCIES), FREQUENCIES),
        }


def histogram(values: Int32 | Int64, least: tuple[int, ...]) -> Int64:
    """How many values lie in each class; those below the first class count in it."""
    classes = np.searchsorted(np.array(least[1:]), values, side="right")
    return np.bincount(classes, minlength=len(least)).astype(np.int64)


def _labelled(counts: Int64, least: tuple[int, ...]) -> list[tuple[str, int]]:
    ends = [below - 1 for below in least[1:]]
    labels = [str(low) if low == high else f"{low}-{high}" for low, high in zip(least, ends, strict=False)]
    return list(zip([*labels, f"{least[-1]}+"], counts.tolist(), strict=True))


@compiled
def _count(length: Int32, item: Int32, time: Int64, base: int, seen: Int64, counts: Int64) -> None:
    """Add to counts[0:5]: repeats, ties, users with ties only, last item as before it, last item in the history."""
    lo = 0
    for user in range(len(length)):
        hi, ties = lo + length[user], 0
        for at in range(lo, hi):
            known = seen[item[at]] == base + lo
            seen[item[at]] = base + lo
            counts[0] += known
            ties += at > lo and time[at] == time[at - 1]
            if at == hi - 1:
                counts[3] += at > lo and item[at] == item[at - 1]
                counts[4] += known
        counts[1] += ties
        counts[2] += hi - lo > 1 and ties == hi - lo - 1
        lo = hi
