"""How a file is laid out: its kind, and which of its columns are the user, the item, the time and the attributes."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from calrec.artifacts import short_hash

ATTRIBUTES = ("title", "category", "brand", "price")


@dataclass(frozen=True)
class Layout:
    """One kind of file of a log."""

    kind: str
    """json (one object a line), literal (the same as Python literals), csv or parquet."""
    columns: Mapping[str, tuple[str, ...]]
    """user, item, time, weight, title, category, brand, price → columns of the file, the first non-empty one counts."""
    header: tuple[str, ...] = ()
    """csv: names of the columns."""
    body: int = 1
    """csv: the line of the first record, behind the header and what stands above it."""
    delimiter: str = ","
    quoted: bool = True
    """csv: a value may stand in double quotes."""
    escaped: bool = False
    """csv: a quote inside such a value has a backslash before it, instead of another quote."""
    encoding: str = "utf-8"
    types: Mapping[str, str] = field(default_factory=dict)
    """json: column → type of its values in the first lines, for the fast path."""
    separator: str = ""
    """Between the entries of a category; empty: a list, or a single text."""
    flags: tuple[str, ...] = ()
    """Columns that are named after a category and hold 1 when the item is in it."""
    time_format: str = "auto"
    filters: tuple[tuple[str, str, str], ...] = ()
    """(column, operator, value): events that count."""
    sequences: bool = False
    """The item column is a list, oldest first: one row is a user's whole history."""

    @property
    def fingerprint(self) -> str:
        """Hash of everything that decides how a file is read."""
        return short_hash(dataclasses.asdict(self))

    @property
    def attributes(self) -> list[str]:
        """Item attributes among the columns."""
        return [name for name in ATTRIBUTES if name in self.columns]

    @property
    def schema(self) -> pa.Schema:
        """Schema of the events that are read: ids, time and weight, and the attributes that stand beside them."""
        fields: list[tuple[str, Any]] = [("user_id", pa.string()), ("item_id", pa.string()), ("timestamp", pa.int64())]
        return pa.schema([*fields, ("weight", pa.float32()), *((name, pa.string()) for name in self.attributes)])

    def columns_to_read(self) -> list[str]:
        """Columns of the file that are read, each once."""
        names = [name for candidates in self.columns.values() for name in candidates]
        return list(dict.fromkeys([*names, *(column for column, _, _ in self.filters)]))
