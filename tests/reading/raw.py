"""Raw files in memory for tests of the readers."""

import gzip
import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from calrec.arrays.vocabulary import Vocabulary
from calrec.config import DataConfig
from calrec.ingest.log import RawLog
from calrec.ingest.log import read as log_of
from calrec.reading.items import Attributes
from calrec.storage.files import File


def file(name: str, data: bytes | str) -> File:
    """A file of any content."""
    content = data.encode() if isinstance(data, str) else data
    version = hashlib.sha256(content).hexdigest()
    return File(name, len(content), version, lambda: io.BytesIO(content), lambda: pa.BufferReader(content))


def lines(name: str, rows: Sequence[Any]) -> File:
    """JSON lines, compressed when the name says so; strings and bytes are written as they are."""
    encoded = (r if isinstance(r, bytes) else (r if isinstance(r, str) else json.dumps(r)).encode() for r in rows)
    data = b"".join(line + b"\n" for line in encoded)
    return file(name, gzip.compress(data) if name.endswith(".gz") else data)


def parquet(name: str, table: pa.Table) -> File:
    """A Parquet file."""
    stream = io.BytesIO()
    pq.write_table(table, stream)
    return file(name, stream.getvalue())


def read(files: Sequence[File], folder: Path, items: bool = False, **settings: Any) -> tuple[RawLog, list[Any]]:
    """The log, and its events (user, item, milliseconds, weight); or its items, what is missing left out."""
    data = DataConfig(**settings)
    log = log_of("here", files, data, folder / "cache", folder)
    codes, events = Vocabulary(), []
    attributes = Attributes(codes, data.category)
    for batch in log.batches():
        attributes.add_events(codes.encode(batch["item_id"]), batch)
        events += [tuple(row.values())[:4] for row in batch.to_pylist()]
    log.describe(attributes)
    catalogue = attributes.catalogue("d", np.arange(len(codes))).table.to_pylist()
    described = [{name: text for name, text in row.items() if text and name != "domain"} for row in catalogue]
    return log, described if items else events


def rejects(log: RawLog) -> list[tuple[str, int, str]]:
    """File, line and reason of each rejected row."""
    rows = [row for path in log.rejects for row in pq.read_table(path).to_pylist()]
    return [(row["file"], row["line"], row["reason"]) for row in rows]
