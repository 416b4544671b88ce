"""Large tables whose rows are grouped by user, read in blocks of whole users."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from calrec.arrays.ragged import running
from calrec.reading import values
from calrec.reading.strings import pylist

Ints = NDArray[np.int64]
_ROWS = 1 << 18  # of a block, and the last user's


@dataclass(frozen=True, eq=False)
class Block:
    """Rows of some users, one user after the other."""

    rows: pa.Table
    """Columns without chunks."""
    user_id: pa.Array
    """Of each run of rows."""
    offsets: Ints
    """User i has the rows offsets[i] to offsets[i + 1]."""

    @property
    def run(self) -> Ints:
        """Which of the block's users each row belongs to."""
        return np.repeat(np.arange(len(self.user_id)), np.diff(self.offsets))

    @property
    def place(self) -> Ints:
        """Place of each row among those of its user, from 0."""
        return np.arange(len(self.rows)) - np.repeat(self.offsets[:-1], np.diff(self.offsets))


def blocks(batches: Iterable[pa.RecordBatch]) -> Iterator[Block]:
    """The same rows in blocks of about 260,000; the rows of a user that come together stay together."""
    waiting: list[pa.RecordBatch] = []
    for batch in batches:
        waiting.append(batch)
        if sum(map(len, waiting)) >= _ROWS:
            rows, starts = _runs(waiting)
            yield _block(rows.slice(0, int(starts[-1])), starts[:-1])
            waiting = rows.slice(int(starts[-1])).to_batches()
    if sum(map(len, waiting)):
        yield _block(*_runs(waiting))


def _runs(batches: Sequence[pa.RecordBatch]) -> tuple[pa.Table, Ints]:
    """All rows, and where another user begins."""
    rows = pa.Table.from_batches(batches).combine_chunks()
    users = rows["user_id"].chunk(0)
    changes = pc.fill_null(pc.not_equal(users.slice(1), users.slice(0, len(users) - 1)), True)
    return rows, np.concatenate([[0], np.flatnonzero(changes.to_numpy(zero_copy_only=False)) + 1])


def _block(rows: pa.Table, starts: Ints) -> Block:
    sizes = np.diff(np.append(starts, len(rows)))
    return Block(rows, rows["user_id"].take(pa.array(starts)).combine_chunks(), running(sizes))


def parquet(path: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Rows of a Parquet file that this program wrote, bounded in memory."""
    with pq.ParquetFile(path) as file:
        yield from file.iter_batches(_ROWS, columns=list(columns))


def foreign(path: Path, schema: pa.Schema, optional: Sequence[str] = ()) -> Iterator[pa.RecordBatch]:
    """Rows of a CSV or Parquet file that another program wrote, with the columns of `schema`.

    Text columns hold ids, which may be whole numbers in the file; whole numbers may be written as 1.0 or as text.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another kind of file, a column is missing that is not optional, or a value of another type; names
            the value and its row, counted from 1 without the header.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if path.suffix not in (".csv", ".parquet"):
        raise ValueError(f"{path}: rankings are read from .csv and .parquet files; write one of these")
    try:
        found = pq.read_schema(path) if path.suffix == ".parquet" else pacsv.open_csv(path).schema
        missing = [name for name in schema.names if name not in found.names and name not in optional]
        if missing:
            raise ValueError(f"no column {', '.join(missing)}; there are: {', '.join(found.names)}")
        wanted, before = pa.schema([field for field in schema if field.name in found.names]), 0
        for batch in parquet(path, wanted.names) if path.suffix == ".parquet" else _csv(path, wanted):
            columns = [_column(batch[field.name], field, before) for field in wanted]
            yield pa.RecordBatch.from_arrays(columns, schema=wanted)
            before += len(batch)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None


def _csv(path: Path, wanted: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Ids and whole numbers as they are written."""
    kinds = {field.name: field.type if pa.types.is_floating(field.type) else pa.string() for field in wanted}
    yield from pacsv.open_csv(
        path, convert_options=pacsv.ConvertOptions(column_types=kinds, include_columns=wanted.names)
    )


def _column(column: pa.Array, field: pa.Field, before: int) -> pa.Array:
    """The column in the type of the field; `before` rows precede it."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_floating(field.type):
        return column.cast(field.type)
    fast, slow = (values.ids, values.id_of) if pa.types.is_string(field.type) else (_whole_numbers, _whole_number)
    if (found := fast(column)) is not None:
        return found.cast(field.type)
    exact = []
    for row, value in enumerate(pylist(column), before + 1):
        try:
            exact.append(slow(value))
        except ValueError as error:
            raise ValueError(f"{field.name} {value!r} in row {row:,} {error}") from None
    return pa.array(exact, field.type)


def _whole_numbers(column: pa.Array) -> pa.Array | None:
    """Whole numbers as int32, or None when any value needs a closer look."""
    if column.null_count:
        return None
    for kind in (pa.int32(), pa.float64()):  # "2" is cast at once, "2.0" by way of a float
        with suppress(pa.ArrowInvalid, pa.ArrowNotImplementedError):
            return column.cast(kind).cast(pa.int32())
    return None


def _whole_number(value: Any) -> int:
    number = values.number_of(value)
    if not number.is_integer() or abs(number) >= 2**31:
        raise ValueError("is not a whole number; ranks are 1, 2, … in order")
    return int(number)
