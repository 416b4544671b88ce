"""Files of a batch: written aside, brought to the disk and renamed, so that each is whole or not there."""

import itertools
from collections.abc import Callable
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from calrec.storage.files import sync

_ROWS = 4096  # of a table that are Python objects at once


def replace(path: Path, write: Callable[[Path], None]) -> None:
    """Write the file in one step, by `write`, over what was there."""
    aside = path.with_name(f".{path.name}.tmp")
    write(aside)
    sync(aside)
    aside.replace(path)
    sync(path.parent)


def write_parquet(path: Path, table: pa.Table) -> None:
    """The table as zstd Parquet."""
    pq.write_table(table, path, compression="zstd")


def write_jsonl(path: Path, table: pa.Table) -> None:
    """An object per user: user_id, and the other columns of each row under items; a user's rows stand together."""
    rows = (row for batch in table.to_batches(max_chunksize=_ROWS) for row in batch.to_pylist())
    with path.open("wb") as stream:
        for user, its_rows in itertools.groupby(rows, key=lambda row: row.pop("user_id")):
            stream.write(orjson.dumps({"user_id": user, "items": list(its_rows)}) + b"\n")
