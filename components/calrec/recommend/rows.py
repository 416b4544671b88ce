"""From the rows of a file to users: one row each, or runs of events; what cannot be read becomes a reject."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from calrec.reading import parsing, strings, values
from calrec.reading.blocks import open_parquet
from calrec.reading.layouts import Layout
from calrec.storage.files import File

LISTS = ("items", "titles")
EVENTS = {"item_id": "items", "title": "titles"}
"""Column of an event → field of the history."""
_ROWS = 1024  # of Parquet that are Python objects at once: 100 items each are about 10 MB
_RAW = 500  # characters of a bad row that are kept


@dataclass(frozen=True)
class Described:
    """An item by what is known of it; what is not known is empty."""

    title: str
    category: str = ""
    brand: str = ""
    price: str = ""


@dataclass(frozen=True)
class History:
    """What one user bought, oldest first: ids, titles or attributes, one of them; with none the user is new."""

    user_id: str
    items: tuple[str, ...] = ()
    titles: tuple[str, ...] = ()
    attributes: tuple[Described, ...] = ()


@dataclass(frozen=True)
class Reject:
    """A row, or a part of it, that was left out."""

    where: str
    """Such as `line 12`; rows of Parquet are numbered from 1."""
    reason: str
    raw: str
    """The beginning of the row."""


Found = Iterator[History | Reject]


def parquet_rows(file: File, columns: list[str]) -> Iterator[parsing.Line]:
    """(number from 1, nothing, record) of each row."""
    number = 1
    with open_parquet(file) as stored:
        for batch in stored.batches(_ROWS, columns):
            yield from ((at, b"", record) for at, record in enumerate(_python(batch), number))
            number += len(batch)


def _python(batch: pa.RecordBatch) -> Iterator[Mapping[str, Any] | str]:
    try:
        yield from list(strings.pyrows(batch))
    except UnicodeDecodeError:  # before the first row: a list is whole or not there
        for at in range(len(batch)):
            try:
                yield next(strings.pyrows(batch.slice(at, 1)))
            except UnicodeDecodeError:
                yield "holds text that is not UTF-8"


def of_rows(kind: str, rows: Iterator[parsing.Line]) -> Found:
    """One row, one user; a second row of a user is a reject."""
    seen = _Seen()
    for number, raw, record in rows:
        where = f"{kind} {number}"
        try:
            history, lacking = _history(record)
            if not seen.add(history.user_id):
                raise ValueError(f"user {history.user_id!r:.100} is here again; the first row counts")
        except ValueError as error:
            yield _reject(where, str(error), raw or record)
            continue
        if lacking:
            yield _reject(where, lacking, raw or record)
        yield history


def _history(record: Mapping[str, Any] | str) -> tuple[History, str]:
    """The history of a row, and what was left out of it."""
    user = _user(record)
    assert not isinstance(record, str), "refused with its reason"
    given = [name for name in LISTS if record.get(name) is not None]
    if len(given) != 1:
        has = "both items and titles" if given else f"neither items nor titles, but {list(record)[:10]}"
        raise ValueError(f"has {has}; give one of them, an empty list for a new user")
    name, entries = given[0], record[given[0]]
    if not isinstance(entries, list):
        raise ValueError(f"{name} is a {type(entries).__name__}, not a list")
    kept: Any = tuple(_id(f"{name}[{at}]", entry) for at, entry in enumerate(entries) if not _missing(entry))
    lacking = len(entries) - len(kept)
    return History(user, **{name: kept}), f"{lacking} of {len(entries)} {name} missing; left out" if lacking else ""


def _id(name: str, value: Any) -> str:
    try:
        return values.id_of(value)
    except ValueError as error:
        raise ValueError(f"{name} {error}, got {value!r:.100}") from None


def _missing(value: Any) -> bool:
    return (
        value is None
        or (isinstance(value, str) and not value.strip())
        or (isinstance(value, float | np.floating) and math.isnan(value))
    )


def _reject(where: str, reason: str, raw: object) -> Reject:
    text = raw[: 4 * _RAW].decode("utf-8", "replace") if isinstance(raw, bytes) else str(raw)
    return Reject(where, reason, text[:_RAW])


# --- events -----------------------------------------------------------------------------------------------------


def of_events(name: str, rows: Iterator[parsing.Line], layout: Layout) -> Found:
    """Runs of rows, one user each; an event that cannot be read is left out, and its user stays.

    Raises:
        ValueError: a user's rows do not stand together.
    """
    seen, user, events = _Seen(), "", list[tuple[int, str]]()
    field = EVENTS[layout.columns["item"][0]]
    for number, raw, record in rows:
        try:
            its_user = _user(record)
        except ValueError as error:
            yield _reject(f"line {number}", str(error), raw)
            continue
        if its_user != user:
            if user:
                yield _sorted(user, field, events)
            if not seen.add(its_user):
                raise ValueError(
                    f"{name} line {number}: user {its_user!r:.100} comes back after other users, but a user's rows "
                    "must stand together; sort the file by user_id"
                )
            user, events = its_user, []
        try:
            events.append(_event(record, layout))
        except ValueError as error:
            yield _reject(f"line {number}", str(error), raw)
    if user:
        yield _sorted(user, field, events)


def _user(record: Mapping[str, Any] | str) -> str:
    if isinstance(record, str):
        raise ValueError(record)
    return _id("user_id", record.get("user_id"))


def _event(record: Any, layout: Layout) -> tuple[int, str]:
    """(milliseconds, or 0 without a time; item)."""
    item = _id(layout.columns["item"][0], record[layout.columns["item"][0]])
    if "time" not in layout.columns:
        return 0, item
    try:
        return values.millis_of(record["timestamp"], "auto"), item
    except ValueError as error:
        raise ValueError(f"timestamp {error}, got {record['timestamp']!r:.100}") from None


def _sorted(user: str, field: str, events: list[tuple[int, str]]) -> History:
    events.sort(key=lambda event: event[0])
    items: Any = tuple(item for _, item in events)
    return History(user, **{field: items})


class _Seen:
    """Users met so far, as 64-bit hashes: two of 10 million share one with a probability of 3e-6.

    9 to 17 bytes a user; a set of the ids would take about 130.
    """

    def __init__(self) -> None:
        self._recent: set[int] = set()
        self._sorted = np.empty(0, np.int64)

    def add(self, user: str) -> bool:
        """Whether the user is met for the first time."""
        key = hash(user)
        at = int(np.searchsorted(self._sorted, key))
        if key in self._recent or (at < len(self._sorted) and self._sorted[at] == key):
            return False
        self._recent.add(key)
        if len(self._recent) > max(1 << 16, len(self._sorted) // 8):
            self._sorted = np.sort(np.concatenate([self._sorted, np.fromiter(self._recent, np.int64)]))
            self._recent.clear()
        return True
