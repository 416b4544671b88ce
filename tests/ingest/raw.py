"""Raw files in memory for tests of the readers."""

import gzip
import hashlib
import io
import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from calrec.files import File


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
