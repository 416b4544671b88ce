"""Columns of events that lie in memory, or in files when there are too many: blocks, and runs sorted by user."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calrec.arrays.compiled import Int32
from calrec.arrays.grouping import by_user
from calrec.ingest import kernels

Column = NDArray[Any]
Columns = dict[str, Column]
Group = tuple[int, int]

_RUN = {"user": "i4", "item": "i4", "time": "i8", "weight": "f4"}
_EVENT_BYTES = 36  # memory of an event: 20 in its run and 16 in its history
_WORK_BYTES = 100  # memory of an event while its run or group is put in order
_MOST_ROWS = 1 << 22  # of a run and of a group: larger ones are no faster


class Blocks:
    """A list of blocks; a block is a set of columns of one length.

    In memory, what is read is a view of what is stored. In files it is a copy, so that a change has to be written.
    """

    def __init__(self, folder: Path, name: str, types: dict[str, str], in_files: bool = False) -> None:
        self._paths = {column: folder / f"{name}.{column}" for column in types}
        self._types = {column: np.dtype(type_) for column, type_ in types.items()}
        self._kept: list[Columns] = []
        self._spans: list[tuple[int, int]] = []  # first row in the files, rows
        self.total = 0
        self.in_files = False
        if in_files:
            self.spill()

    def __len__(self) -> int:
        return len(self._spans)

    def append(self, columns: Columns) -> None:
        """Add a block; in memory the arrays themselves are kept."""
        rows = len(next(iter(columns.values())))
        self._spans.append((self.total, rows))
        self.total += rows
        if self.in_files:
            for name, values in columns.items():
                with self._paths[name].open("ab") as file:
                    values.astype(self._types[name], copy=False).tofile(file)
        else:
            self._kept.append(columns)

    def read(self, block: int, column: str, start: int = 0, stop: int | None = None) -> Column:
        """Rows start:stop of a column."""
        first, rows = self._spans[block]
        stop = rows if stop is None else min(stop, rows)
        if not self.in_files:
            return self._kept[block][column][start:stop]
        path, dtype = self._paths[column], self._types[column]
        return np.fromfile(path, dtype, count=stop - start, offset=(first + start) * dtype.itemsize)

    def span(self, block: int, column: str, low: int, high: int) -> tuple[int, int]:
        """Where the values low <= x < high begin and end in a column that is sorted."""
        first, rows = self._spans[block]
        path, dtype = self._paths[column], self._types[column]
        values = (
            np.memmap(path, dtype, "r", offset=first * dtype.itemsize, shape=rows)
            if self.in_files
            else self._kept[block][column]
        )
        start, stop = np.searchsorted(values, np.array([low, high], dtype))
        return int(start), int(stop)

    def write(self, block: int, columns: Columns) -> None:
        """Replace columns; all of them when the block becomes shorter."""
        first, _ = self._spans[block]
        self._spans[block] = (first, len(next(iter(columns.values()))))
        for name, values in columns.items():
            if self.in_files:
                with self._paths[name].open("r+b") as file:
                    file.seek(first * values.itemsize)
                    values.tofile(file)
            else:
                self._kept[block][name] = values

    def spill(self) -> None:
        """Move everything into the files; later blocks follow there."""
        kept = self._kept
        self._kept, self._spans, self.total, self.in_files = [], [], 0, True
        for path in self._paths.values():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")
        for at, columns in enumerate(kept):
            self.append(columns)
            kept[at] = {}

    def clear(self) -> None:
        """Forget all blocks and delete the files."""
        self._kept, self._spans, self.total, self.in_files = [], [], 0, False
        for path in self._paths.values():
            path.unlink(missing_ok=True)


def rows_of(columns: Columns, rows: Int32) -> Columns:
    """These rows of all columns."""
    return {name: kernels.gather(values, rows) for name, values in columns.items()}


class Runs:
    """Events as they come, in runs that are each sorted by user.

    They stay in memory until their number times what cleaning needs for an event is more than `memory` bytes.
    """

    def __init__(self, folder: Path, memory: int) -> None:
        self.rows = 0
        self._memory = memory
        self._most = min(max(memory // _WORK_BYTES, 1), _MOST_ROWS)
        self._blocks = Blocks(folder, "run", _RUN)
        self._buffer: Columns = {name: np.empty(self._most, type_) for name, type_ in _RUN.items()}
        self._filled = 0
        self._events: Int32 = np.zeros(0, np.int32)  # per user

    @property
    def in_files(self) -> bool:
        """Whether there are too many for the memory."""
        return self._blocks.in_files

    def add(self, *columns: Column) -> None:
        """Append user, item, time and weight of some events."""
        rows, start = len(columns[0]), 0
        while start < rows:
            stop = min(rows, start + self._most - self._filled)
            end = self._filled + stop - start
            for name, values in zip(_RUN, columns, strict=True):
                self._buffer[name][self._filled : end] = values[start:stop]
            self._filled, start = end, stop
            if end == self._most:
                self._flush()
        self.rows += rows

    def close(self) -> None:
        """No more events come; lets go of the buffer."""
        self._flush()
        self._buffer = {}

    def groups(self) -> Iterator[Group]:
        """Ranges of user codes with as many events as can be put in order at once; a single user may have more."""
        ends = np.cumsum(self._events, dtype=np.int64)
        low = 0
        while low < len(ends):
            done = ends[low - 1] if low else 0
            high = max(low + 1, int(np.searchsorted(ends, done + self._most, side="right")))
            yield low, high
            low = high

    def gather(self, group: Group) -> Columns:
        """The events of some users from all runs, in the order in which they came."""
        spans = [self._blocks.span(run, "user", *group) for run in range(len(self._blocks))]
        return {
            name: np.concatenate([self._blocks.read(run, name, *span) for run, span in enumerate(spans)])
            for name in _RUN
        }

    def clear(self) -> None:
        """Forget the events and delete their files."""
        self._blocks.clear()

    def _flush(self) -> None:
        """Sort what the buffer holds by user, and keep it as a run."""
        if not self._filled:
            return
        columns = {name: values[: self._filled] for name, values in self._buffer.items()}
        user, item = columns["user"], columns["item"]
        assert user.min() >= 0 and item.min() >= 0, "codes count from 0"
        order, events = by_user(user, int(user.max()) + 1)
        if len(events) > len(self._events):
            self._events = np.pad(self._events, (0, len(events) - len(self._events)))
        self._events[: len(events)] += events
        self._blocks.append(rows_of(columns, order))
        self._filled = 0
        if not self.in_files and self._blocks.total * _EVENT_BYTES > self._memory:
            self._blocks.spill()
