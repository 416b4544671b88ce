"""Baselines that count: what was bought most, lately most, by the user before, and after the user's last item."""

from collections.abc import Callable

import numpy as np

from calrec.arrays.ragged import spans
from calrec.evaluate.baselines.candidates import Audience, Candidates, Ints, Shelf, newest, rows_of
from calrec.retrieve.following import Following

Method = Callable[[Audience], Candidates]
"""What it proposes to some users."""

RECENT = 5
"""recent_popularity counts the newest 1/RECENT of every user's events, rounded up."""


def popularity(shelf: Shelf) -> Method:
    """What was bought most; score: events."""
    return _by_count(shelf.counts)


def recent_popularity(shelf: Shelf) -> Method:
    """What was bought most among the newest fifth of every user's events, at least one; score: these events.

    The order of a user's events is all that the texts keep of time, so that "recent" is meant user by user.
    """
    recent = newest(shelf.histories, -(-shelf.histories.lengths() // RECENT))
    return _by_count(np.bincount(recent.flat, minlength=len(shelf)))


def _by_count(counts: Ints) -> Method:
    bought = np.flatnonzero(counts)
    order = bought[np.argsort(-counts[bought], kind="stable")]

    def propose(audience: Audience) -> Candidates:
        top = order[: audience.depth]
        rows = np.repeat(np.arange(len(audience)), len(top))
        return Candidates(rows, np.tile(top, len(audience)), np.tile(counts[top], len(audience)))

    return propose


def repeat_last(shelf: Shelf) -> Method:
    """The user's own items, newest first; score: the number of the event, the first is 1."""

    def propose(audience: Audience) -> Candidates:
        histories = audience.histories
        rows, places = rows_of(histories), histories.flat.astype(np.int64)
        _, newest_first = np.unique((rows * len(shelf) + places)[::-1], return_index=True)
        at = len(rows) - 1 - newest_first
        at = at[np.lexsort((-at, rows[at]))]
        return Candidates(rows[at], places[at], at - histories.offsets[rows[at]] + 1)

    return propose


def markov(shelf: Shelf) -> Method:
    """What most often came next after the user's last item; score: how often."""
    following = Following.of(shelf.histories)
    sizes = np.zeros(len(shelf), np.int64)
    starts = np.zeros(len(shelf), np.int64)
    sizes[following.before], starts[following.before] = following.after.lengths(), following.after.offsets[:-1]

    def propose(audience: Audience) -> Candidates:
        last = newest(audience.histories, np.ones(len(audience), np.int64))
        counts = np.minimum(sizes[last.flat], audience.depth)
        at = spans(starts[last.flat], counts)
        rows = np.repeat(rows_of(last), counts)
        return Candidates(rows, following.after.flat[at].astype(np.int64), following.count[at])

    return propose
