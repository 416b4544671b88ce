"""A catalogue in the order of popularity, and how a method's candidates become the lists of users.

Everything here is numbered by place: 0 is the item that was bought most, and of two alike the one with the smaller id
comes first. So the smaller place settles every tie, and fills a list that a method leaves short.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from calrec.arrays.ragged import Ragged
from calrec.evaluate.lists import Lists
from calrec.retrieve.catalogue import Catalogue

Ints = NDArray[np.int64]


class Candidates(NamedTuple):
    """What a method proposes: parallel arrays, row by row, and in each row best first without repeats."""

    rows: Ints
    """Users of the audience, from 0, ascending."""
    places: Ints
    scores: NDArray[Any]


@dataclass(frozen=True, eq=False)
class Audience:
    """Some users to be recommended something."""

    histories: Ragged
    """Places, oldest first."""
    rows: Ints
    """With `places`: who may not be recommended what."""
    places: Ints
    depth: int
    """So many distinct candidates of a user surely hold all that the list needs."""

    def __len__(self) -> int:
        return len(self.histories)


@dataclass(frozen=True, eq=False)
class Shelf:
    """The items of a catalogue by falling popularity."""

    catalogue: Catalogue
    codes: Ints
    """Item code of each place."""
    counts: Ints
    """Events of each place, never rising."""
    place_of: Ints
    """Place of each position in `catalogue.items`."""
    histories: Ragged
    """What may be counted, as places."""

    @staticmethod
    def of(histories: Sequence[Ints], catalogue: Catalogue) -> "Shelf":
        """Put a catalogue in order.

        Args:
            histories: item codes that may be counted, oldest first.
            catalogue: the items.
        """
        size = len(catalogue.items)
        counted = Ragged.of(histories)
        at = np.searchsorted(catalogue.items, counted.flat)
        counts = np.bincount(at, minlength=size)
        by_id = np.empty(size, np.int64)
        by_id[pc.sort_indices(pa.array(catalogue.item_id)).to_numpy()] = np.arange(size)
        order = np.lexsort((by_id, -counts))
        place_of = np.empty(size, np.int64)
        place_of[order] = np.arange(size)
        places = Ragged(place_of[at].astype(np.int32), counted.offsets)
        return Shelf(catalogue, catalogue.items[order], counts[order], place_of, places)

    def __len__(self) -> int:
        return len(self.codes)

    def places(self, codes: NDArray[Any]) -> Ints:
        """Places of item codes."""
        return self.place_of[np.searchsorted(self.catalogue.items, codes)]

    def audience(self, histories: Sequence[Ints], excluded: Sequence[frozenset[int]], k: int, unseen: bool) -> Audience:
        """Users with item codes as places.

        Args:
            histories: of each user, oldest first.
            excluded: what each may not be recommended.
            k: places of a list.
            unseen: the history may not be recommended either.
        """
        given = Ragged.of(histories)
        known = Ragged(self.places(given.flat).astype(np.int32), given.offsets)
        sizes = np.array([len(items) for items in excluded], np.int64)
        codes = np.fromiter(chain.from_iterable(excluded), np.int64, sizes.sum())
        rows, places = np.repeat(np.arange(len(sizes)), sizes), self.places(codes)
        if unseen:
            rows = np.append(rows, np.repeat(np.arange(len(known)), known.lengths()))
            places = np.append(places, known.flat)
        pairs = np.unique(rows * len(self) + places)
        rows, places = np.divmod(pairs, len(self))
        most = int(np.bincount(rows).max(initial=0))
        return Audience(known, rows, places, min(len(self), k + most))

    def lists(self, candidates: Candidates, audience: Audience, k: int) -> Lists:
        """The first k candidates of each user that may be recommended; shorter where there are no more."""
        keys = candidates.rows * len(self) + candidates.places
        may = np.isin(keys, audience.rows * len(self) + audience.places, invert=True)
        rows, places, scores = candidates.rows[may], candidates.places[may], candidates.scores[may]
        at = np.arange(len(rows)) - np.searchsorted(rows, rows)
        kept = at < k
        lists = Lists.empty(len(audience), k)
        lists.items[rows[kept], at[kept]] = self.codes[places[kept]]
        lists.scores[rows[kept], at[kept]] = scores[kept]
        return lists

    def fill(self, lists: Lists, audience: Audience) -> None:
        """Complete lists with the most popular items that may be recommended; they get no score."""
        k, lengths = lists.items.shape[1], lists.lengths
        short = np.flatnonzero(lengths < k)
        width = min(len(self), audience.depth + k)
        free = np.ones((len(lists), width), np.bool_)
        listed = lists.items[short]
        row, column = np.nonzero(listed >= 0)
        for rows, places in ((audience.rows, audience.places), (short[row], self.places(listed[row, column]))):
            free[rows[places < width], places[places < width]] = False
        free = free[short]
        nth = np.cumsum(free, axis=1) - 1
        row, place = np.nonzero(free & (nth < (k - lengths[short])[:, None]))
        lists.items[short[row], lengths[short[row]] + nth[row, place]] = self.codes[place]


def best(scores: NDArray[Any], audience: Audience, k: int) -> Candidates:
    """The k best of a full row of scores per user, ties by place.

    Args:
        scores: (users, places); what may not be recommended is overwritten, and -inf is no candidate.
        audience: the users.
        k: at most as many as there are places.
    """
    scores[audience.rows, audience.places] = -np.inf
    size = scores.shape[1]
    least = np.partition(scores, size - k, axis=1)[:, size - k]
    rows, places = np.nonzero((scores >= least[:, None]) & (scores > -np.inf))
    return _sorted(rows, places, scores[rows, places])


def best_of(scores: Any, audience: Audience, k: int) -> Candidates:
    """The same of a sparse matrix, whose zeros are no candidates."""
    banned = np.zeros(scores.shape, np.bool_)
    banned[audience.rows, audience.places] = True
    rows = np.repeat(np.arange(len(audience)), np.diff(scores.indptr))
    values = np.where(banned[rows, scores.indices] | (scores.data == 0), -np.inf, scores.data)
    least = np.full(len(audience), -np.inf)
    for row in np.flatnonzero(np.diff(scores.indptr) > k).tolist():
        least[row] = np.partition(values[scores.indptr[row] : scores.indptr[row + 1]], -k)[-k]
    kept = np.flatnonzero((values >= least[rows]) & (values > -np.inf))
    return _sorted(rows[kept], scores.indices[kept], values[kept])


def _sorted(rows: Ints, places: Ints, scores: NDArray[Any]) -> Candidates:
    order = np.lexsort((places, -scores, rows))
    return Candidates(rows[order], places[order].astype(np.int64), scores[order])


def rows_of(ragged: Ragged) -> Ints:
    """The row of each entry of `ragged.flat`."""
    return np.repeat(np.arange(len(ragged)), ragged.lengths())


def newest(histories: Ragged, most: Ints) -> Ragged:
    """The last entries of each row, at most `most[row]` of them."""
    return histories.tails(np.minimum(most, histories.lengths()))
