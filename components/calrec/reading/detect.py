"""A look at the beginning of a file: its kind, its encoding, its columns, and its first records."""

import codecs
import csv
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from calrec.config.overrides import unknown
from calrec.reading import bombs, encodings, parsing, times
from calrec.reading.blocks import head, open_parquet
from calrec.reading.layouts import Layout
from calrec.storage.files import File

RECORDS = 1000
"""Records of a file that are looked at, at most."""
_BYTES = 1 << 20
_ABOVE = 20  # rows among which the header is
_JSON = (".json", ".jsonl", ".ndjson")
_ATOMIC = (".inter", ".item")  # RecBole's files: tabs, and no quotes
_SEPARATOR = re.compile(r"\s*sep=(.)\s*", re.IGNORECASE)  # Excel's line above the header
_BROKEN = re.compile("[\ud800-\udfff]")  # bytes that the encoding does not know
_NUMBER = re.compile(r"-?\d+(?:[.,]\d+)*")


@dataclass(frozen=True)
class Look:
    """What the beginning of a file says."""

    kind: str
    header: tuple[str, ...]
    body: int = 1
    delimiter: str = ","
    quoted: bool = True
    escaped: bool = False
    encoding: str = "utf-8"
    types: Mapping[str, str] = field(default_factory=dict)
    records: Callable[[], Sequence[Mapping[str, Any]]] = field(default=lambda: (), compare=False)
    """The first records; those that cannot be read are left out."""
    warnings: tuple[str, ...] = ()
    empty: bool = False
    """Not one line that is not blank."""

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
        header = self.header if self.kind == "csv" else ()
        layout = Layout(
            self.kind, columns, header, self.body, self.delimiter, self.quoted, self.escaped, self.encoding, self.types,
            **options,
        )  # fmt: skip
        for name in layout.columns_to_read():
            if self.header.count(name) > 1:
                raise ValueError(f"the header names the column {name!r} twice: {', '.join(self.header)}; rename one")
        return layout

    @property
    def looks_headless(self) -> bool:
        """Whether what was taken for the header is a record: a cell is a number, a time, empty, or there twice."""
        cells = [cell.strip() for cell in self.header]
        data = any(_NUMBER.fullmatch(cell) or times.is_written(cell) for cell in cells)
        return self.kind == "csv" and (data or len(set(cells)) < len(cells))


def look(
    file: File, name: str, header: Sequence[str] = (), delimiter: str = "", encoding: str = "auto", atomic: bool = False
) -> Look:
    """Look at a file.

    Args:
        file: the file.
        name: its name without folders and without the ending of a compression.
        header: of CSV, names of its columns when it has no header line.
        delimiter: of CSV; empty: the one that occurs most in the first line.
        encoding: of text; auto: recognised.
        atomic: of CSV, whether quotes are letters like any other.

    Raises:
        ValueError: it is damaged, or its header does not fit it.
    """
    if name.endswith(".parquet"):
        return _parquet(file)
    begin = head(file, _BYTES)
    _refuse_disguised(file.name, begin)
    used = encodings.detect_encoding(begin) if encoding == "auto" else codecs.lookup(encoding).name
    lines = _lines(file.name, begin, used)
    if not any(map(str.strip, lines)):
        return Look("csv", (), empty=True)
    first = next(line for line in lines if line.strip())
    if name.endswith(_JSON) or (not name.endswith((".csv", ".tsv")) and first.startswith("{")):
        found = _json(file.name, [line.encode("utf-8", "surrogateescape") for line in lines if line.strip()][:RECORDS])
    else:
        tabbed = name.endswith((*_ATOMIC, ".tsv")) and not header
        plain = atomic or name.endswith(_ATOMIC)
        found = _csv(file.name, lines, tuple(header), delimiter or ("\t" if tabbed else ""), not plain)
    said = _guessed(file.name, lines, used) if encoding == "auto" and not used.startswith("utf") else ()
    return Look(**{**vars(found), "encoding": used, "warnings": (*said, *found.warnings)})


def _refuse_disguised(name: str, begin: bytes) -> None:
    """Pages and archives under another name."""
    if begin.startswith(b"PK\x03\x04"):
        raise ValueError(f"{name} is a workbook or an archive; rename it to .xlsx or .zip")
    if begin[:200].lstrip().lower().startswith((b"<!doctype html", b"<html")):
        raise ValueError(f"{name} is a web page and no table; was a login or an error page saved instead?")


def _lines(name: str, begin: bytes, encoding: str) -> list[str]:
    """The lines; without the last one where the file goes on behind it."""
    whole = len(begin) < _BYTES
    text = b"".join(encodings.as_utf8(name, [begin], encoding, whole)).decode("utf-8", "surrogateescape")
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    return lines if whole or len(lines) == 1 else lines[:-1]


def _guessed(name: str, lines: Sequence[str], encoding: str) -> tuple[str, ...]:
    shown = [line.strip()[:60] for line in lines if not line.isascii()][:2]
    return (
        f"{name} is not UTF-8; it is read as {encoding}, as its letters look like that: {'; '.join(map(repr, shown))}; "
        "if they are wrong, name the right one with --set data.encoding=NAME",
    )


# --- kinds ------------------------------------------------------------------------------------------------------


def _parquet(file: File) -> Look:
    def records() -> Sequence[Mapping[str, Any]]:
        with open_parquet(file) as stored:
            for batch in stored.batches(RECORDS):
                return _as_rows(batch)
        return ()

    with open_parquet(file) as stored:
        return Look("parquet", tuple(stored.schema.names), records=records)


def _as_rows(batch: Any) -> list[dict[str, Any]]:
    """Rows of a batch; a column with text that is no UTF-8 is left out."""
    columns = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            columns[name] = column.to_pylist()
        except (UnicodeDecodeError, ValueError, OverflowError):
            continue
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _json(file: str, lines: Sequence[bytes]) -> Look:
    records = [record for record in map(parsing.literal, lines) if isinstance(record, dict)]
    literal = bool(records) and isinstance(parsing.json_object(lines[0]), str)
    names = tuple(dict.fromkeys(name for record in records for name in record if _is_name(name)))
    bombs.columns(file, len(names))
    return Look(
        "literal" if literal else "json", names, types=parsing.kinds(records, list(names)), records=lambda: records
    )


def _is_name(key: object) -> bool:
    """Whether a key can name a column: Python literals have others, and damaged JSON has text that is no UTF-8."""
    return isinstance(key, str) and not _BROKEN.search(key)


def _csv(file: str, lines: Sequence[str], header: tuple[str, ...], delimiter: str, quoted: bool) -> Look:
    at = next(number for number, line in enumerate(lines) if line.strip())
    if marked := _SEPARATOR.fullmatch(lines[at]):
        delimiter, at = delimiter or marked[1], at + 1
        at = next((number for number in range(at, len(lines)) if lines[number].strip()), at - 1)
    delimiter = delimiter or max(",;\t|", key=lines[at].count)
    bombs.columns(file, lines[at].count(delimiter) + 1)
    split = delimiter if len(delimiter) == 1 else "\x1f"
    rest = [line.replace(delimiter, split) + "\n" for line in lines[at:]]
    escaped = quoted and _is_escaped(rest, split)
    rows = list(_rows(rest, split, quoted, escaped))
    if not rows:
        raise ValueError(f"{file}: the header cannot be split at {delimiter!r}: {lines[at][:80]!r}")
    above = 0 if header else header_at([row for row, _ in rows])
    (first, used), records = rows[above], [row for row, _ in rows[above + 1 :]]
    said = (f"{file}: the {used - 1:,} lines above its header are left out",) if above else ()
    if not header or [cell.strip().lower() for cell in first] == [name.lower() for name in header]:
        header, at = tuple(_BROKEN.sub("\ufffd", cell) for cell in first), at + used
    elif len(first) != len(header):
        raise ValueError(
            f"{file}: data.header names {len(header)} columns, the file has {len(first)}; its first line: {lines[at]!r}"
        )
    else:
        records = [first, *records]
    found = [dict(zip(header, row, strict=True)) for row in records if len(row) == len(header)]
    return Look("csv", header, at + 1, delimiter, quoted, escaped, records=lambda: found, warnings=said)


def header_at(rows: Sequence[Sequence[Any]]) -> int:
    """Which of the first rows is the header: a report's name and date above it stand alone in their rows."""
    filled = [sum(cell not in (None, "") for cell in row) for row in rows[:_ABOVE]]
    if not filled or filled[0] > 1 or max(filled) < 3:
        return 0
    return next(at for at, cells in enumerate(filled) if 2 * cells > max(filled))


def _rows(lines: Sequence[str], delimiter: str, quoted: bool, escaped: bool) -> Any:
    """(cells, lines read so far) of each row, until one is no CSV; blank ones are left out."""
    try:
        reader = parsing.csv_reader(lines, delimiter, quoted, escaped)
        for row in reader:
            if row:
                yield row, reader.line_num
            if reader.line_num > RECORDS:
                return
    except (csv.Error, TypeError):
        return


def _is_escaped(lines: Sequence[str], delimiter: str) -> bool:
    """Whether rows are whole only when a backslash is taken for what keeps a quote from ending a value."""
    if not any('\\"' in line for line in lines[:RECORDS]):
        return False
    fit = {}
    for escaped in (False, True):
        sizes = [len(row) for row, _ in _rows(lines, delimiter, True, escaped)]
        fit[escaped] = sizes.count(sizes[0]) if sizes else 0
    return fit[True] > fit[False]
