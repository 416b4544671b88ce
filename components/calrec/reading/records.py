"""From files to typed rows: events into a Parquet file each, item records one by one; bad rows kept with their place.

What was read of a file is kept in a cache under the file's version: a new snapshot reads what is new or changed.
"""

import json
import os
import re
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from calrec import artifacts
from calrec.reading import parsing, strings
from calrec.reading.blocks import Block, blocks, open_parquet
from calrec.reading.layouts import Layout
from calrec.reading.rows import DroppedError, Events
from calrec.storage.files import File

RAW_CUT = 500
"""Characters of a rejected row that are kept."""
_READER = 2  # raised when the same bytes give other rows, so that cached parts are read again
_PART = re.compile(r"[0-9a-f]{16}(?:[a-z0-9_]{8}\.partial)?")  # names of parts, and of those that a kill left
_FILES = {"events.parquet", "rejects.parquet", "counts.json"}
_THREADS = 2
_QUEUED = 4  # blocks in flight: memory is bounded by them
_ROW_GROUP = 1 << 18
_WAITING = 1 << 27  # bytes of parsed events that are not written yet


@dataclass
class Counts:
    """What became of the rows of one file, or of several."""

    rows: int = 0
    """Rows read, rejected ones included; of a file of sequences its events, and its rejected lines."""
    rejects: int = 0
    filtered: list[int] = field(default_factory=list)
    """Rows that each filter dropped."""
    reasons: dict[str, int] = field(default_factory=dict)
    """reason → rejected rows."""

    def add(self, other: "Counts") -> None:
        """Sum up."""
        self.rows, self.rejects = self.rows + other.rows, self.rejects + other.rejects
        mine = self.filtered or [0] * len(other.filtered)
        self.filtered = [a + b for a, b in zip(mine, other.filtered or [0] * len(mine), strict=True)]
        for reason, count in other.reasons.items():
            self.reasons[reason] = self.reasons.get(reason, 0) + count


@dataclass(frozen=True)
class Part:
    """What was read of one file of events."""

    folder: Path
    counts: Counts
    cached: bool

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The events, in the order of the file."""
        with pq.ParquetFile(self.folder / "events.parquet", pre_buffer=False) as stored:
            for group in range(stored.num_row_groups):  # none is larger than _WAITING; a batch of several may be
                yield from stored.iter_batches(_ROW_GROUP, row_groups=[group])


class Rejects:
    """Rejected rows on their way into a Parquet file, in bounded memory."""

    def __init__(self, path: Path, counts: Counts):
        self._writer = pq.ParquetWriter(path, artifacts.REJECTS, compression="zstd")
        self._counts = counts
        self._rows: list[dict[str, Any]] = []

    def add(self, file: str, line: int, reason: str, raw: bytes) -> None:
        """Keep one row, and count its reason."""
        text = raw[: 4 * RAW_CUT].decode("utf-8", "replace")
        self._rows.append({"file": file, "line": line, "reason": reason, "raw": text[:RAW_CUT]})
        self._counts.rejects += 1
        self._counts.reasons[reason] = self._counts.reasons.get(reason, 0) + 1
        if len(self._rows) >= 10_000:
            self._flush()

    def _flush(self) -> None:
        self._writer.write_table(pa.Table.from_pylist(self._rows, schema=artifacts.REJECTS))
        self._rows = []

    def close(self) -> None:
        """Write what is left."""
        self._flush()
        self._writer.close()


# --- events -----------------------------------------------------------------------------------------------------


def read_events(file: File, layout: Layout, cache: Path) -> Part:
    """Events of one file as a Parquet file in the cache, read now or by an earlier call.

    Raises:
        ValueError: the file is damaged.
    """
    key = artifacts.short_hash([_READER, file.name, file.size, file.version, layout.fingerprint])
    folder = cache / key
    if (folder / "counts.json").is_file():
        os.utime(folder)
        return Part(folder, Counts(**json.loads((folder / "counts.json").read_text())), cached=True)
    cache.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=key, suffix=".partial", dir=cache))
    try:
        counts = _write_events(file, layout, part)
        (part / "counts.json").write_text(json.dumps(asdict(counts)))
        try:
            part.rename(folder)
        except OSError:
            if not (folder / "counts.json").is_file():  # else another run was quicker
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return Part(folder, counts, cached=False)


def forget(cache: Path, days: float = 30) -> None:
    """Delete what no run has used for so many days: files that are gone, and old versions of files that grew.

    What is no part of ours stays: the folder may be one that a person named.
    """
    for folder in cache.iterdir():
        with suppress(FileNotFoundError):  # another run was quicker
            old = _PART.fullmatch(folder.name) and time.time() - folder.stat().st_mtime > days * 86_400
            if old and {path.name for path in folder.iterdir()} <= _FILES:
                shutil.rmtree(folder, ignore_errors=True)


def _write_events(file: File, layout: Layout, folder: Path) -> Counts:
    counts = Counts(filtered=[0] * len(layout.filters))
    rejects = Rejects(folder / "rejects.parquet", counts)
    waiting: list[pa.Table] = []
    with pq.ParquetWriter(folder / "events.parquet", layout.schema, compression="zstd") as writer:
        for parsed in _parsed(file, layout):
            counts.rows += len(parsed.events) + len(parsed.rejects) + sum(parsed.filtered)
            counts.filtered = [a + b for a, b in zip(counts.filtered, parsed.filtered, strict=True)]
            for line, reason, raw in parsed.rejects:
                rejects.add(file.name, line, reason, raw)
            waiting.append(parsed.events)
            if sum(map(len, waiting)) >= _ROW_GROUP or sum(one.nbytes for one in waiting) >= _WAITING:
                writer.write_table(pa.concat_tables(waiting))
                waiting = []
        if waiting:
            writer.write_table(pa.concat_tables(waiting))
    rejects.close()
    return counts


@dataclass
class _Parsed:
    """What one block gave."""

    events: pa.Table
    filtered: list[int]
    rejects: list[tuple[int, str, bytes]] = field(default_factory=list)


def records_in_blocks(file: File, layout: Layout) -> Iterator[Block]:
    """Blocks of a text file that each hold whole records."""
    source = blocks(file, encoding=layout.encoding)
    return parsing.whole_records(source, layout.escaped) if layout.kind == "csv" and layout.quoted else source


def _parsed(file: File, layout: Layout) -> Iterator[_Parsed]:
    """Blocks parsed in threads, in the order of the file."""
    events = Events(layout)
    if layout.kind == "parquet":
        yield from (_of_batch(at, batch, events, layout) for at, batch in _parquet(file, layout.columns_to_read()))
        return
    source = records_in_blocks(file, layout)

    def parse(block: Any) -> _Parsed:
        table = parsing.fast(block, layout)
        found = None if table is None else events.table(table)
        return _line_by_line(parsing.slow(block, layout), events, layout) if found is None else _Parsed(*found)

    with ThreadPoolExecutor(_THREADS) as pool:
        yield from _in_order(pool, parse, source)


def _in_order(pool: ThreadPoolExecutor, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
    queue: deque[Future[Any]] = deque()
    for item in items:
        queue.append(pool.submit(function, item))
        if len(queue) >= _QUEUED:
            yield queue.popleft().result()
    while queue:
        yield queue.popleft().result()


def _line_by_line(lines: Iterable[parsing.Line], events: Events, layout: Layout) -> _Parsed:
    rows: list[tuple[Any, ...]] = []
    parsed = _Parsed(layout.schema.empty_table(), [0] * len(layout.filters))
    for number, raw, record in lines:
        try:
            if isinstance(record, str):
                raise ValueError(record)
            rows += events.row(record)
        except DroppedError as dropped:
            parsed.filtered[dropped.args[0]] += 1
        except ValueError as error:
            parsed.rejects.append((number, str(error), raw))
    columns = list(zip(*rows, strict=True)) or [()] * len(layout.schema)
    arrays = [pa.array(column, kind) for column, kind in zip(columns, layout.schema.types, strict=True)]
    parsed.events = pa.table(arrays, schema=layout.schema)
    return parsed


def _of_batch(at: int, batch: pa.Table, events: Events, layout: Layout) -> _Parsed:
    found = events.table(batch)
    return _line_by_line(_rows(at, batch), events, layout) if found is None else _Parsed(*found)


def _parquet(file: File, wanted: list[str]) -> Iterator[tuple[int, pa.Table]]:
    """(number of the first row, from 1; table) of each batch; text that is no UTF-8 comes as bytes."""
    at = 1
    with open_parquet(file) as stored:
        for batch in stored.batches(1 << 16, wanted):
            table = pa.Table.from_batches([batch])
            yield at, table if _is_valid(table) else table.cast(_as_bytes(table.schema))
            at += len(batch)


def _is_valid(table: pa.Table) -> bool:
    try:
        table.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _as_bytes(schema: pa.Schema) -> pa.Schema:
    text = (pa.types.is_string, pa.types.is_large_string)
    return pa.schema([(f.name, pa.binary() if any(kind(f.type) for kind in text) else f.type) for f in schema])


def _rows(at: int, table: pa.Table) -> Iterator[parsing.Line]:
    return ((at + i, str(row).encode(), row) for i, row in enumerate(strings.pyrows(table)))


# --- item records -----------------------------------------------------------------------------------------------


def read_records(file: File, layout: Layout) -> Iterator[parsing.Line]:
    """(line, raw, record or the reason why there is none) of each row of an item file."""
    if layout.kind == "parquet":
        for at, batch in _parquet(file, layout.columns_to_read()):
            yield from _rows(at, batch)
        return
    for block in records_in_blocks(file, layout):
        yield from parsing.slow(block, layout)
