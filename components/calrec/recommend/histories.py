"""The users to recommend for and what each of them bought, read one batch after the other in bounded memory.

A row that cannot be read becomes a `Reject` and the rest of the file counts. Users are numbered by the rows that could
be read, so that `start` means the same users, and the same rejects, in every session over one file.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from calrec import artifacts
from calrec.config.checks import check
from calrec.reading import parsing, records
from calrec.reading.blocks import blocks, open_parquet
from calrec.reading.detect import look
from calrec.reading.layouts import Layout
from calrec.recommend.rows import EVENTS, LISTS, Found, History, Reject, of_events, of_rows, parquet_rows
from calrec.storage.files import File, local

__all__ = ["ACCEPTED", "History", "Reject", "count", "digest", "read"]

ACCEPTED = (
    "accepted are JSON lines (.jsonl, .ndjson, .json: an object per user with user_id and items or titles, a list, "
    "oldest first), Parquet (.parquet: these columns), CSV and TSV (.csv, .tsv: an event per row with user_id, item_id "
    "or title, and timestamp if there is one; a user's rows stand together), the text files also as .gz or .zst, and a "
    "folder of `calrec textify` or `calrec ingest`"
)
_JSON, _CSV = (".jsonl", ".ndjson", ".json"), (".csv", ".tsv")
_ROWS = 1024  # of the sequences that are read at once
_MANY = 1000  # rejects in a row: before the first user the file counts as unreadable, later they end a batch


def count(path: Path, domain: str = "") -> int:
    """Number of users, rows that `read` will reject included; for a texts folder those of the category.

    Reads the metadata of Parquet, but every line of a text file, without looking into JSON.

    Raises:
        FileNotFoundError, ValueError: as `read`.
    """
    path = Path(path).expanduser()
    if _is_log(path):
        return int(artifacts.read_manifest(path, "interactions").counts["users"])
    if path.is_dir():
        return sum(pc.sum(of_domain).as_py() or 0 for _, of_domain in _sequences(path, domain, ["domain"]))
    file, name = _opened(path)
    if name.endswith(".parquet"):
        with open_parquet(file) as stored:
            return int(stored.stored.metadata.num_rows)
    if name.endswith(_CSV):
        return _count_runs(file, _csv_layout(file, name))
    return sum(bool(line.strip()) for block in blocks(file) for line in block.data.split(b"\n"))


def read(
    path: Path,
    domain: str = "",
    start: int = 0,
    batch: int = 512,
    on_reject: Callable[[Reject], None] = lambda _: None,
) -> Iterator[list[History]]:
    """Batches of users in the order of the file; path, ending and columns are checked at the call.

    Args:
        path: a file, or the folder of a texts step: then each user of the category with the whole history.
        domain: category of a texts folder; without effect for a file.
        start: users to pass over, those of whole batches of an earlier session; their rejects are passed over too.
        batch: most users of a batch.
        on_reject: gets the rejects between the last user of a batch and that of the next one before the next one
            comes, and those after the last user of all as the iterator ends.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: an unknown ending or category, missing columns, a damaged file, not one row that can be read, or a
            user of an event file who comes back after others.
    """
    path = Path(path).expanduser()
    check(start >= 0, f"start must be at least 0, got {start}")
    check(batch >= 1, f"batch must be at least 1, got {batch}")
    return _batches(path.name, _found(path, domain), start, batch, on_reject)


def digest(path: Path) -> str:
    """Content hash of a file of histories or of a step's folder."""
    path = Path(path).expanduser()
    return artifacts.read_manifest(path).digest if path.is_dir() else artifacts.file_hash(path)


def _batches(
    name: str, found: Found, start: int, size: int, on_reject: Callable[[Reject], None]
) -> Iterator[list[History]]:
    users, bad, batch = 0, 0, list[History]()
    held: list[Reject] = []  # since the last user of the batch: they belong to the next one
    first: Reject | None = None

    def release() -> None:
        for reject in held:
            on_reject(reject)
        held.clear()

    for one in found:
        if isinstance(one, Reject):
            first, bad = first or one, bad + 1
            if users >= start:
                held.append(one)
            if not users and bad >= _MANY:
                break
            if batch and len(held) < _MANY:
                continue
        else:
            release()
            users += 1
            if users > start:
                batch.append(one)
        if len(batch) == size or (batch and held):
            yield batch
            batch = []
        if not batch:
            release()
    if batch:
        yield batch
    release()
    if first and not users:
        raise ValueError(
            f"{name}: none of its first {bad:,} rows can be read; {first.where}: {first.reason}; {ACCEPTED}"
        )


def _found(path: Path, domain: str) -> Found:
    """Users and rejects in the order of the file; what can be checked at once is."""
    if _is_log(path):
        return _of_log(path)
    if path.is_dir():
        return _of_texts(path, _sequences(path, domain, ["user_id", "domain", "items"]))
    file, name = _opened(path)
    if name.endswith(".parquet"):
        return of_rows("row", parquet_rows(file, _list_columns(file)))
    if name.endswith(_CSV):
        layout = _csv_layout(file, name)
        return of_events(file.name, records.read_records(file, layout), layout)
    _check_lines(file)
    return of_rows("line", records.read_records(file, Layout("json", {})))


# --- what is there ----------------------------------------------------------------------------------------------


def _opened(path: Path) -> tuple[File, str]:
    """The file, and its name without the ending of a compression."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file of histories; {ACCEPTED}")
    name = path.name.lower()
    plain = name.removesuffix(".gz").removesuffix(".zst")
    if not name.endswith(".parquet") and not plain.endswith((*_JSON, *_CSV)):
        raise ValueError(f"{path.name}: a file of histories with an unknown ending; {ACCEPTED}")
    return local(str(path))[0], plain


def _check_lines(file: File) -> None:
    lines = (line.strip() for block in blocks(file) for _, line in block.lines())
    if next(filter(None, lines), b"").startswith(b"["):
        raise ValueError(f"{file.name} begins with '[', a JSON array; write one object per line; {ACCEPTED}")


def _list_columns(file: File) -> list[str]:
    with open_parquet(file) as stored:
        names = list(stored.schema.names)
    if "user_id" not in names or not any(name in names for name in LISTS):
        raise ValueError(f"{file.name}: no columns user_id and items or titles, but {', '.join(names)}; {ACCEPTED}")
    return [name for name in ("user_id", *LISTS) if name in names]


def _csv_layout(file: File, name: str) -> Layout:
    found = look(file, name, (), "\t" if name.endswith(".tsv") else "", "utf-8")
    event = [column for column in EVENTS if column in found.header]
    if "user_id" not in found.header or not event:
        has = ", ".join(found.header) or "an empty file"
        raise ValueError(f"{file.name}: no header with user_id and item_id or title, but {has}; {ACCEPTED}")
    if len(event) == 2:
        raise ValueError(f"{file.name} has both item_id and title; remove one of these columns, or rename it")
    columns = {"user": ("user_id",), "item": (event[0],)}
    return found.layout(columns | ({"time": ("timestamp",)} if "timestamp" in found.header else {}))


def _count_runs(file: File, layout: Layout) -> int:
    """Runs of rows of one user."""
    layout, runs, last = replace(layout, columns={"user": ("user_id",)}), 0, ""
    for block in parsing.whole_records(blocks(file)):
        table = parsing.fast(block, layout)
        users = table["user_id"].to_pylist() if table is not None else _users(block, layout)
        for user, _ in itertools.groupby(user for user in users if user):
            runs += user != last
            last = user
    return runs


def _users(block: Any, layout: Layout) -> list[Any]:
    return [record["user_id"] for _, _, record in parsing.slow(block, layout) if not isinstance(record, str)]


# --- folders of steps ----------------------------------------------------------------------------------------------


def _is_log(path: Path) -> bool:
    return (path / artifacts.MANIFEST).is_file() and artifacts.read_manifest(path).kind == "interactions"


def _of_log(folder: Path) -> Found:
    """Whole histories of a cleaned log, whose rows stand by user and time."""
    stored = pq.ParquetFile(folder / "interactions.parquet")
    batches = stored.iter_batches(_ROWS, columns=["user_id", "item_id"])
    rows = (row for one in batches for row in zip(*(column.to_pylist() for column in one.columns), strict=True))
    for user, its in itertools.groupby(rows, key=lambda row: row[0]):
        yield History(user, tuple(item for _, item in its))


def _sequences(folder: Path, domain: str, columns: list[str]) -> Iterator[tuple[pa.RecordBatch, pa.Array]]:
    """Batches of the sequences, and which of their rows are of the category."""
    if not (folder / artifacts.MANIFEST).is_file():
        raise ValueError(f"{folder} is a folder without {artifacts.MANIFEST}; name one file in it; {ACCEPTED}")
    known = artifacts.read_manifest(folder, "texts").config["domains"]
    if domain not in known:
        raise ValueError(f"unknown category {domain!r}; {folder} holds: {', '.join(known)}")
    stored = pq.ParquetFile(folder / "sequences.parquet")
    return ((batch, pc.equal(batch["domain"], domain)) for batch in stored.iter_batches(_ROWS, columns=columns))


def _of_texts(folder: Path, sequences: Iterator[tuple[pa.RecordBatch, pa.Array]]) -> Found:
    item_id = pq.read_table(folder / "items.parquet", columns=["item_id"])["item_id"].combine_chunks()
    for batch, of_domain in sequences:
        users = batch.filter(of_domain)
        lists = users["items"]
        ids, at = item_id.take(lists.flatten()).to_pylist(), 0
        for user, length in zip(users["user_id"].to_pylist(), lists.value_lengths().to_pylist(), strict=True):
            yield History(user, tuple(ids[at : at + length]))
            at += length
