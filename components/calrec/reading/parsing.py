"""From a block of lines to records: JSON, Python literals and CSV.

Each has a fast path that gives a whole Arrow table, or None when any line of the block needs a closer look, and the
reference that goes line by line and knows the number and the reason of each bad one.
"""

import ast
import contextlib
import csv
import json
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.csv
import pyarrow.json

from calrec.reading.blocks import MAX_LINE, Block
from calrec.reading.layouts import Layout

Line = tuple[int, bytes, Mapping[str, Any] | str]
"""Number, raw bytes, and the record, or the reason why there is none."""
TYPES = {"text": pa.string(), "whole": pa.int64(), "number": pa.float64(), "flag": pa.bool_()}
_LONG = re.compile(rb"\d{19}")  # orjson makes floats of whole numbers beyond 64 bits
_DIGITS = 4000  # of a whole number: Python refuses a few more
# Outside of an object pyarrow's JSON reader must not meet a null: it crashes the process (pyarrow 25.0.1).
_NULL_OUTSIDE = re.compile(rb"\}\s*null")
_ESCAPED_QUOTE = re.compile(rb"(?<!\\)(?:\\\\)*\\\"")  # a quote behind an odd number of backslashes
_SEPARATOR = "\x1f"  # stands for the delimiter `::`, as Arrow and csv take a single character


def fast(block: Block, layout: Layout) -> pa.Table | None:
    """The wanted columns of all lines, or None when the block must be read line by line."""
    if not block.whole or layout.kind == "literal" or layout.sequences:
        return None
    try:
        table = _fast_json(block, layout) if layout.kind == "json" else _fast_csv(block, layout)
        if table is None:
            return None
        table.validate(full=True)
    except (pa.ArrowInvalid, UnicodeDecodeError):
        return None
    return table


def slow(block: Block, layout: Layout) -> Iterator[Line]:
    """Every line that is not blank: the reference."""
    if not block.whole:
        yield block.first, block.data, f"the line is longer than {MAX_LINE:,} bytes"
        return
    parse = {"json": json_object, "literal": literal}.get(layout.kind)
    if parse is None:
        yield from _csv_lines(block, layout)
        return
    for number, line in block.lines():
        if line.strip():
            yield number, line, parse(line)


# --- JSON -------------------------------------------------------------------------------------------------------


def _fast_json(block: Block, layout: Layout) -> pa.Table | None:
    data = block.data
    if not data.startswith(b"{") or _NULL_OUTSIDE.search(data):
        return None
    schema = pa.schema([(name, TYPES[layout.types.get(name, "text")]) for name in layout.columns_to_read()])
    table = pyarrow.json.read_json(
        pa.BufferReader(data),
        read_options=pyarrow.json.ReadOptions(use_threads=False, block_size=len(data) + 1),
        parse_options=pyarrow.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
    )
    return table if len(table) == block.ends + (not data.endswith(b"\n")) else None


def json_object(line: bytes) -> Mapping[str, Any] | str:
    """The object of a line, or why there is none."""
    if not _LONG.search(line):
        with contextlib.suppress(orjson.JSONDecodeError):
            record = orjson.loads(line)
            return record if isinstance(record, dict) else "not a JSON object"
    # Only what is wanted must be well formed: another field may hold NaN or bytes that are no UTF-8.
    try:
        record = json.loads(line.decode("utf-8", "surrogateescape"), parse_int=_whole)
    except (ValueError, RecursionError):
        return "not JSON"
    return record if isinstance(record, dict) else "not a JSON object"


def _whole(digits: str) -> int | str:
    return int(digits) if len(digits) < _DIGITS else digits


def literal(line: bytes) -> Mapping[str, Any] | str:
    """The object of a line of JSON or of Python literals (Amazon 2014), or why there is none."""
    record = json_object(line)
    if record != "not JSON":
        return record
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            record = ast.literal_eval(line.decode())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return "neither JSON nor a Python literal"
    return record if isinstance(record, dict) else "not an object"


def kinds(records: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, str]:
    """Type of each column's values for the fast path; what has no single type is text."""
    found = {}
    for name in names:
        seen = {type(record[name]) for record in records if record.get(name) is not None}
        of_type = {frozenset({int}): "whole", frozenset({float}): "number", frozenset({bool}): "flag"}
        found[name] = "number" if seen == {int, float} else of_type.get(frozenset(seen), "text")
    return found


# --- CSV --------------------------------------------------------------------------------------------------------


def _body(block: Block, layout: Layout) -> tuple[int, bytes]:
    """Number of the first line, and the lines without what stands above the records, parted by a single character."""
    first, data = block.first, block.data
    if first < layout.body:
        above = data.split(b"\n", layout.body - first)
        first, data = layout.body, above[-1] if len(above) > layout.body - first else b""
    return first, data.replace(layout.delimiter.encode(), _SEPARATOR.encode()) if len(layout.delimiter) > 1 else data


def _delimiter(layout: Layout) -> str:
    return layout.delimiter if len(layout.delimiter) == 1 else _SEPARATOR


def _fast_csv(block: Block, layout: Layout) -> pa.Table | None:
    _, data = _body(block, layout)
    if not data or (layout.quoted and b'"' in data):
        return None
    table = pyarrow.csv.read_csv(
        pa.BufferReader(data),
        read_options=pyarrow.csv.ReadOptions(
            use_threads=False, column_names=list(layout.header), block_size=len(data) + 1
        ),
        parse_options=pyarrow.csv.ParseOptions(delimiter=_delimiter(layout), quote_char=False),
        convert_options=pyarrow.csv.ConvertOptions(
            include_columns=layout.columns_to_read(),
            column_types={name: pa.string() for name in layout.columns_to_read()},
        ),
    )
    return table if len(table) == data.count(b"\n") + (not data.endswith(b"\n")) else None


def whole_records(blocks: Iterable[Block], escaped: bool = False) -> Iterator[Block]:
    """Blocks of a CSV file joined until each holds whole records: until its quotes are even, or it is too long."""
    held: Block | None = None
    for block in blocks:
        if held and not block.whole:
            yield held
            held = None
        joined = block if held is None else Block(held.data + block.data, held.first)
        held = None
        if not block.whole or len(joined.data) > MAX_LINE or _quotes(joined.data, escaped) % 2 == 0:
            yield joined
        else:
            held = joined
    if held:
        yield held


def _quotes(data: bytes, escaped: bool) -> int:
    return data.count(b'"') - (len(_ESCAPED_QUOTE.findall(data)) if escaped else 0)


def _csv_lines(block: Block, layout: Layout) -> Iterator[Line]:
    """Records of a block that holds whole ones; a quote that is never closed costs only the line it stands in."""
    first, data = _body(block, layout)
    lines = [line for _, line in Block(data, first).lines()] if data else []
    at = 0
    while at < len(lines):
        reader = _reader(lines, at, layout)
        start = at
        try:
            for fields in reader:
                start, begun = at + reader.line_num, start
                raw = b"\n".join(lines[begun:start])
                if raw.strip():
                    yield first + begun, raw, _record(fields, layout)
            return
        except csv.Error as error:
            yield first + start, lines[start], f"not CSV: {error}"
            at = start + 1


def _reader(lines: list[bytes], at: int, layout: Layout) -> Any:
    texts = (lines[i].decode("utf-8", "surrogateescape") + "\n" for i in range(at, len(lines)))
    return csv_reader(texts, _delimiter(layout), layout.quoted, layout.escaped)


def csv_reader(lines: Iterable[str], delimiter: str, quoted: bool, escaped: bool) -> Any:
    """Python's reader of CSV; a record that is none is a `csv.Error`."""
    options: dict[str, Any] = {"quoting": csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE, "strict": True}
    return csv.reader(lines, delimiter=delimiter, escapechar="\\" if escaped else None, **options)


def _record(fields: list[str], layout: Layout) -> Mapping[str, Any] | str:
    if len(fields) != len(layout.header):
        return f"{len(fields)} fields, {len(layout.header)} expected"
    return dict(zip(layout.header, fields, strict=True))
