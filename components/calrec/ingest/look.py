"""A look at the beginning of a file: its kind, its columns, and what its first values are."""

import csv
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from calrec.files import File
from calrec.ingest import layouts, parsing
from calrec.ingest.blocks import blocks, opened_parquet
from calrec.ingest.layouts import Layout
from calrec.settings import unknown

_LINES = 200
_BYTES = 1 << 20
_JSON = (".json", ".jsonl", ".ndjson")


@dataclass(frozen=True)
class Look:
    """What the first lines of a file say."""

    kind: str
    header: tuple[str, ...]
    headed: bool = False
    delimiter: str = ","
    quoted: bool = True
    encoding: str = "utf-8"
    types: Mapping[str, str] = field(default_factory=dict)
    empty: bool = False
    """Not one line that is not blank."""

    def usual(self, role: str) -> str:
        """The column that usually has this role; empty when there is none."""
        return layouts.usual(role, self.header)

    def column(self, name: str, file: str, setting: str) -> str:
        """`name`, when the file has this column, also without a type suffix such as `:token`.

        Raises:
            ValueError: it does not; says which ones it has.
        """
        by_name = {column.partition(":")[0]: column for column in self.header} | {c: c for c in self.header}
        if name not in by_name:
            raise unknown(f"column of {file} in {setting}", name, self.header)
        return by_name[name]

    def layout(self, columns: Mapping[str, tuple[str, ...]], **options: Any) -> Layout:
        """The layout with these columns.

        Raises:
            ValueError: one of them stands twice in the header.
        """
        layout = Layout(
            self.kind, columns, self.header if self.kind == "csv" else (), self.headed, self.delimiter, self.quoted,
            self.encoding, self.types, **options,
        )  # fmt: skip
        for name in layout.wanted():
            if self.header.count(name) > 1:
                raise ValueError(f"the header names the column {name!r} twice: {', '.join(self.header)}; rename one")
        return layout


def look(file: File, name: str, header: Sequence[str], delimiter: str, encoding: str) -> Look:
    """Look at a file.

    Args:
        file: the file.
        name: its name without folders and without the ending of a compression.
        header: names of its columns when it has no header line.
        delimiter: of CSV; empty: the one that occurs most in the first line.
        encoding: of CSV.

    Raises:
        ValueError: it is damaged.
    """
    if name.endswith(".parquet"):
        return Look("parquet", _parquet_columns(file))
    block = next(iter(blocks(file, _BYTES)), None)
    lines = [] if block is None else [line for _, line in itertools.islice(block.lines(), _LINES) if line.strip()]
    if not lines:
        return Look("csv", (), empty=True)
    if name.endswith(_JSON) or (not name.endswith((".csv", ".tsv")) and lines[0].startswith(b"{")):
        return _json(lines)
    if name.endswith((".inter", ".item", ".tsv")) and not header:
        delimiter = delimiter or "\t"
    quoted = not header and not name.endswith((".inter", ".item"))
    if header and block and not _is_utf8(block.data):
        encoding = "latin-1"  # the MovieLens files without a header line
    if not header:
        first = lines[0].decode(encoding, "replace")
        delimiter = delimiter or max(",;\t|", key=first.count)
        header = _split(first, delimiter, file.name) if quoted else first.split(delimiter)
        return Look("csv", tuple(header), True, delimiter, quoted, encoding)
    return Look("csv", tuple(header), False, delimiter, quoted, encoding)


def _split(line: str, delimiter: str, name: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except (csv.Error, TypeError) as error:
        raise ValueError(f"{name}: the header cannot be split at {delimiter!r} ({error})") from None


def _parquet_columns(file: File) -> tuple[str, ...]:
    with opened_parquet(file) as stored:
        return tuple(stored.schema_arrow.names)


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _is_name(key: object) -> bool:
    """Whether a key can name a column: Python literals have others, and damaged JSON has text that is no UTF-8."""
    return isinstance(key, str) and not any("\ud800" <= c <= "\udfff" for c in key)


def _json(lines: Sequence[bytes]) -> Look:
    parsed = [parsing.literal(line) for line in lines]
    records = [record for record in parsed if isinstance(record, dict)]
    literal = bool(records) and all(isinstance(parsing.json_object(line), str) for line in lines[:1])
    names = tuple(dict.fromkeys(name for record in records for name in record if _is_name(name)))
    return Look("literal" if literal else "json", names, types=parsing.kinds(records, list(names)))
