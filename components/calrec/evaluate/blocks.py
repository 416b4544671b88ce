"""Large tables whose rows are grouped by user, read in blocks of whole users."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from calrec.ingest import values
from calrec.ingest.texts import is_text, pylist
from calrec.textify.tokens import running

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


def _as(field: pa.Field, column: pa.Array) -> pa.Array:
    """A column in the type of its field; numbers become ids only with every digit."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    try:
        if not pa.types.is_string(field.type) or is_text(column.type):
            return column.cast(field.type)
        found = values.ids(column)
        if found is None:
            found = pa.array([None if v is None else values.id_of(v) for v in pylist(column)], field.type)
    except pa.ArrowInvalid:
        raise ValueError(f"{field.name} must be whole numbers such as 1, 2, 3") from None
    except ValueError as error:
        raise ValueError(f"{field.name} {error}") from None
    return found


def foreign(path: Path, schema: pa.Schema, optional: Sequence[str] = ()) -> Iterator[pa.RecordBatch]:
    """Rows of a CSV or Parquet file that another program wrote, with the columns of `schema`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another kind of file, a column is missing that is not optional, or a value of another type.
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
        wanted = pa.schema([field for field in schema if field.name in found.names])
        if path.suffix == ".parquet":
            batches: Iterable[pa.RecordBatch] = parquet(path, wanted.names)
        else:  # whole numbers as floats first: pandas writes 1.0 for them where one is missing
            types = {f.name: pa.float64() if pa.types.is_integer(f.type) else f.type for f in wanted}
            convert = pacsv.ConvertOptions(column_types=types, include_columns=wanted.names)
            batches = pacsv.open_csv(path, convert_options=convert)
        for batch in batches:
            yield pa.RecordBatch.from_arrays([_as(field, batch[field.name]) for field in wanted], schema=wanted)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None
