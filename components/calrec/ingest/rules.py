"""The cleaning rules for events (PAPER.md, "Data"), each counted; in memory, or in files when it is too small.

Both ways run the same code: events come in runs, each sorted by user; the events of a group of neighbouring users are
gathered from all runs and become histories in order; the k-core then sweeps over the groups' items until nothing is
dropped any more. Only where runs and histories lie differs, so the rows are the same.
"""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from calrec.arrays.compiled import Int32, Int64
from calrec.arrays.grouping import by_user
from calrec.config import DataConfig
from calrec.config.checks import iso
from calrec.ingest import kernels
from calrec.ingest.events import DEDUP, Bools, Tidying, apply_filters, row_rules
from calrec.ingest.profile import Facts
from calrec.ingest.spill import Blocks, Columns, Group, Runs, rows_of

Weights = NDArray[np.float32]

_HISTORY = {"item": "i4", "time": "i8", "weight": "f4"}
_CHUNK_ROWS = 1 << 20


class EventLog:
    """Raw events as integer codes, held in memory, or in files when `memory` is too little for them.

    Args:
        folder: for the files; made when it is needed. The caller deletes it after the last use of the result.
        memory: bytes that the events may take. Beside them cleaning takes about 40 bytes per item and 30 per user.
    """

    def __init__(self, folder: Path, memory: int) -> None:
        self._folder = folder
        self._runs = Runs(folder, memory)

    def __len__(self) -> int:
        return self._runs.rows

    def add(self, user: Int32, item: Int32, time: Int64, weight: Weights) -> None:
        """Append events in the order of the file, any number of times; `time` is in milliseconds. Arrays are copied."""
        self._runs.add(user, item, time, weight)

    def clean(
        self, data: DataConfig, items: pa.Array, has_metadata: Bools, n_users: int, weight: str = "rating"
    ) -> "Cleaned":
        """Apply every rule in the order of PAPER.md, "Data"; the log is used up.

        Args:
            data: settings of the rules.
            items: the string of each item code.
            has_metadata: by item code.
            n_users: number of user codes.
            weight: what it is: quantity, rating, or empty when the log has none. Quantities of one user, item and time
                are added up, and can be taken back.

        Raises:
            ValueError: no user is left; names the rule that leaves nothing, or says how long the histories are, and
                which setting to change.
        """
        self._runs.close()
        ties = tie_ranks(items) if data.tie_break == "hash" else np.zeros(len(items), np.int32)
        blocks = Blocks(self._folder, "history", _HISTORY, self._runs.in_files)
        tidying = Tidying.of(data, weight)
        histories = _Histories(blocks, n_users, ties, tidying)
        rules = row_rules(data, has_metadata, weight)
        dropped = dict.fromkeys([name for name, _ in rules], 0)
        for group in self._runs.groups():
            histories.add(group, apply_filters(self._runs.gather(group), rules, dropped))
        dropped |= tidying.by_rule(histories.lost)
        self._refuse_nothing(dropped)
        self._runs.clear()
        before, longest = len(self) - sum(dropped.values()), int(histories.length.max(initial=0))
        rule = f"k-core: users >= {data.min_user}, items >= {data.min_item}, until stable"
        dropped[rule] = histories.core(data.min_user, data.min_item, data.dedup == "consecutive")
        dropped[f"users with at least {data.min_length} events"] = histories.sweep(data.min_length)
        if not histories.length.any():
            if longest < data.min_length:
                raise ValueError(
                    f"no user is left after cleaning: none has {data.min_length} events (data.min_length), which a "
                    f"history, a validation and a test item need; the longest history has {longest}: does the column "
                    "of the user name a person, or an order?"
                )
            raise ValueError(
                f"no user is left after cleaning: {before} events before the k-core (users >= {data.min_user}, "
                f"items >= {data.min_item}), the longest history has {longest}; lower data.min_user or data.min_item"
            )
        return Cleaned(histories, _account(len(self), dropped))

    def _refuse_nothing(self, dropped: Mapping[str, int]) -> None:
        """Blame the rule that leaves no event, with what it looked at and the setting."""
        left = len(self)
        for rule, lost in dropped.items():
            if not (lost and lost == left):
                left -= lost
                continue
            times, weights = self._ends("time"), self._ends("weight")
            found, setting = {
                "item": ("no item of the log is described", "set data.missing_metadata=keep"),
                "timestamp": (
                    f"events are from {iso(int(times[0]))} to {iso(int(times[1]))}",
                    "change data.since or data.until",
                ),
                "weight": (f"the largest weight is {weights[1]:g}", "lower data.min_weight"),
            }.get(
                rule.split()[0],
                (f"weights are from {weights[0]:g} to {weights[1]:g}", "see data.columns.weight and data.returns"),
            )
            raise ValueError(
                f"no user is left after cleaning: the rule {rule!r} leaves none of {left:,} events; {found}; {setting}"
            )

    def _ends(self, column: str) -> tuple[Any, Any]:
        """Smallest and largest value of a column of all events."""
        values = [self._runs.gather(group)[column] for group in self._runs.groups()]
        return min(v.min() for v in values if len(v)), max(v.max() for v in values if len(v))


class _Histories:
    """The histories of all users, group by group, and what is left of them.

    A group's items are -1 where an event was dropped, until `close` takes these events out.
    """

    def __init__(self, blocks: Blocks, n_users: int, ties: Int32, tidying: Tidying) -> None:
        self.blocks = blocks
        self.groups: list[Group] = []
        self.length: Int32 = np.zeros(n_users, np.int32)
        self.popularity: Int64 = np.zeros(len(ties), np.int64)
        self.lost: Int64 = np.zeros(6, np.int64)  # by the rules of Tidying
        self._tidying = tidying
        self._size = self.length
        self._ties = ties
        self._seen, self._bought = np.zeros((2, len(ties)), np.int64)
        self._base = 1

    def add(self, group: Group, columns: Columns) -> None:
        """Put the events of the next users in order, tidied."""
        order, length = by_user(columns.pop("user") - np.int32(group[0]), group[1] - group[0])
        columns = rows_of(columns, order)
        item, weight, tidying = columns["item"], columns["weight"], self._tidying
        stay, lost = kernels.tidy(
            length, item, columns["time"], self._ties[item], weight, tidying.cancels, tidying.adds, tidying.least,
            DEDUP[tidying.dedup], self.popularity, self._base, self._seen, self._bought,
        )  # fmt: skip
        self.blocks.append(rows_of(columns, stay))
        self.groups.append(group)
        self.length[slice(*group)] = length
        self.lost += lost
        self._base += len(order)

    def core(self, min_user: int, min_item: int, collapse: bool) -> int:
        """Sweep until nothing changes; how many events were dropped.

        The order of the drops does not matter: with fewer items left, every user and item has fewer events, after
        collapsing too, so that there is one largest core.
        """
        total = 0
        while dropped := self.sweep(min_user, min_item, collapse):
            total += dropped
        return total

    def sweep(self, min_user: int, min_item: int = 0, collapse: bool = False) -> int:
        """Drop rare users and items once; how many events were dropped."""
        if self._size is self.length:
            self._size = self.length.copy()  # from here on a history takes more places than it has events
        dropped = 0
        for block, group in enumerate(self.groups):
            users = slice(*group)
            if self.length[users].any():
                item = self.blocks.read(block, "item")
                change = kernels.sweep(
                    self._size[users], self.length[users], item, self.popularity, min_user, min_item, collapse
                )
                if change:
                    self.blocks.write(block, {"item": item})
                dropped += change
        return dropped

    def close(self) -> Facts:
        """Take dropped events out and count the facts of the rest."""
        facts = Facts(len(self.popularity))
        for block, group in enumerate(self.groups):
            columns = {name: self.blocks.read(block, name) for name in _HISTORY}
            left = columns["item"] >= 0
            columns = {name: values[left] for name, values in columns.items()}
            facts.add(self.length[slice(*group)], columns["item"], columns["time"])
            self.blocks.write(block, columns)
        return facts


class Cleaned:
    """The events that are left; iterating gives them in chunks of a million rows at most.

    Attributes:
        rules: what each rule dropped: rule, rows_before, rows_after.
        item_counts: events by item code.
        facts: see :meth:`calrec.ingest.profile.Facts.summary`.
    """

    def __init__(self, histories: _Histories, rules: list[dict[str, Any]]) -> None:
        self.rules = rules
        self.item_counts = histories.popularity
        self.facts = histories.close().summary(histories.popularity)
        self._groups, self._blocks, self._length = histories.groups, histories.blocks, histories.length

    def __iter__(self) -> Iterator[tuple[Int32, Int32, Int64, Weights]]:
        """Chunks (user, item, time, weight) by user code and, inside a user, by time; a chunk may end inside a user."""
        for block, (low, high) in enumerate(self._groups):
            user = np.repeat(np.arange(low, high, dtype=np.int32), self._length[low:high])
            for start in range(0, len(user), _CHUNK_ROWS):
                stop = min(len(user), start + _CHUNK_ROWS)
                item, time, weight = (self._blocks.read(block, name, start, stop) for name in _HISTORY)
                yield user[start:stop], item, time, weight


def tie_ranks(items: pa.Array) -> Int32:
    """Rank of each item by a hash of its id: an order for events at one time that no file order leaks into."""
    digests = bytearray()
    for start in range(0, len(items), 1 << 16):
        for item in items.slice(start, 1 << 16).to_pylist():
            digests += hashlib.blake2b(item.encode(), digest_size=8).digest()
    ranks = np.empty(len(items), np.int32)
    ranks[np.argsort(np.frombuffer(digests, ">u8").astype(np.uint64), kind="stable")] = np.arange(len(items))
    return ranks


def _account(rows: int, dropped: dict[str, int]) -> list[dict[str, Any]]:
    """Rows before and after each rule, from what each dropped."""
    rules = []
    for rule, lost in dropped.items():
        rules.append({"rule": rule, "rows_before": rows, "rows_after": rows - lost})
        rows -= lost
    return rules
