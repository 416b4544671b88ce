"""Histories in integer item codes, and the text groups.

Shapes: U users of all categories, N events of all users, C categories.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

Ints = NDArray[np.int64]
_BATCH = 1 << 20  # rows that are read at once


@dataclass(frozen=True)
class Histories:
    """Every user's events, oldest first, category by category."""

    domains: list[str]
    """Names of the C categories."""
    category: Ints
    """Of each user, a number below C; ascending."""
    user_id: pa.ChunkedArray
    """U strings."""
    offsets: Ints
    """U + 1: events of user u are those from offsets[u] to offsets[u + 1]."""
    codes: NDArray[np.int32]
    """N item codes."""
    times: Ints
    """N: milliseconds since 1970, or positions in the history."""

    @property
    def lengths(self) -> Ints:
        """Events per user."""
        return np.diff(self.offsets)

    @property
    def domain(self) -> pa.Array:
        """U names of categories."""
        return pa.array(self.domains, pa.string()).take(pa.array(self.category))

    @property
    def items(self) -> pa.ListArray:
        """U lists of item codes."""
        return pa.ListArray.from_arrays(pa.array(self.offsets, pa.int32()), pa.array(self.codes))

    def per_event(self, of_users: NDArray[Any]) -> NDArray[Any]:
        """A value per user as one per event."""
        return np.repeat(of_users, self.lengths)

    def per_category(self, of_users: NDArray[Any]) -> Ints:
        """Sums of whole numbers per user, or how many users a condition holds for; C numbers."""
        sums = np.zeros(len(self.domains), dtype=np.int64)
        np.add.at(sums, self.category, of_users)
        return sums

    @property
    def positions(self) -> Ints:
        """Place of each event in its user's history, from 0."""
        starts: Ints = self.per_event(self.offsets[:-1])
        return np.subtract(np.arange(len(self.codes)), starts, dtype=np.int64)

    def only(self, users: NDArray[np.bool_]) -> "Histories":
        """The histories of some users."""
        events = self.per_event(users)
        return replace(
            self,
            category=self.category[users],
            user_id=self.user_id.filter(pa.array(users)),
            offsets=_offsets(self.lengths[users]),
            codes=self.codes[events],
            times=self.times[events],
        )


def read_histories(folders: Mapping[str, Path], items: Mapping[str, pa.Array]) -> Histories:
    """Read the interactions of all categories in bounded batches.

    Args:
        folders: category → folder of the ingest step, whose rows are sorted by user and then by time.
        items: category → its item ids; a code is the place of an item among those of all categories, one after another.
    """
    parts, first = [], 0
    for domain, folder in folders.items():
        parts.append(_read(folder / "interactions.parquet", items[domain], first))
        first += len(items[domain])
    users, lengths, codes, times = zip(*parts, strict=True)
    return Histories(
        domains=list(folders),
        category=np.repeat(np.arange(len(parts)), [len(part) for part in lengths]),
        user_id=pa.chunked_array([chunk for part in users for chunk in part.chunks], pa.string()),
        offsets=_offsets(np.concatenate(lengths)),
        codes=np.concatenate(codes),
        times=np.concatenate(times),
    )


def _read(path: Path, item_ids: pa.Array, first: int) -> tuple[pa.ChunkedArray, Ints, NDArray[np.int32], Ints]:
    """(users, events per user, item codes from `first` on, times) of a category."""
    users, lengths, codes, times = [], [], [], []
    for batch in pq.ParquetFile(path).iter_batches(_BATCH, columns=["user_id", "item_id", "timestamp"]):
        runs = pc.run_end_encode(batch["user_id"])
        users.append(runs.values)
        lengths.append(np.diff(runs.run_ends.to_numpy(), prepend=0).astype(np.int64))
        found = pc.index_in(batch["item_id"], value_set=item_ids)
        assert not found.null_count, f"{path}: an item that is not in the items table"
        codes.append(found.to_numpy() + np.int32(first))
        times.append(batch["timestamp"].to_numpy())
    assert users, f"{path} has no rows"
    names, sizes = _joined(pa.chunked_array(users, pa.string()), np.concatenate(lengths))
    assert pc.count_distinct(names).as_py() == len(names), f"{path}: interactions are sorted by user"
    return names, sizes, np.concatenate(codes), np.concatenate(times)


def _joined(users: pa.ChunkedArray, lengths: Ints) -> tuple[pa.ChunkedArray, Ints]:
    """Runs of one user that a batch border cut apart, as one."""
    starts = np.ones(len(users), dtype=bool)
    starts[1:] = pc.not_equal(users.slice(1), users.slice(0, len(users) - 1)).to_numpy()
    return users.filter(pa.array(starts)), np.add.reduceat(lengths, np.flatnonzero(starts))


def _offsets(lengths: Ints) -> Ints:
    return np.concatenate([[0], np.cumsum(lengths)])


def train_counts(histories: Histories, train_end: Ints, n_items: int) -> Ints:
    """How often each item occurs in the training part."""
    training = histories.positions < histories.per_event(train_end)
    return np.bincount(histories.codes[training], minlength=n_items)


def text_groups(texts: pa.ChunkedArray, domains: pa.ChunkedArray, counts: Ints) -> Ints:
    """Group number of each item: items of a domain with one text share it.

    Groups are numbered domain by domain, by falling training frequency of the whole group, then by text, so that a
    smaller number wins a tie.
    """
    text, domain = _ranks(texts), _ranks(domains)
    keys, group = np.unique(domain * len(text) + text, return_inverse=True)
    bought = np.zeros(len(keys), dtype=np.int64)
    np.add.at(bought, group, counts)
    order = np.lexsort((keys % len(text), -bought, keys // len(text)))
    number = np.empty(len(keys), dtype=np.int64)
    number[order] = np.arange(len(keys))
    return number[group]


def _ranks(column: pa.ChunkedArray) -> Ints:
    """Place of each string among the distinct ones in alphabetical order."""
    encoded = pc.dictionary_encode(column).combine_chunks()
    rank = np.empty(len(encoded.dictionary), dtype=np.int64)
    rank[pc.array_sort_indices(encoded.dictionary).to_numpy()] = np.arange(len(rank))
    place: Ints = rank[encoded.indices.to_numpy()]
    return place
