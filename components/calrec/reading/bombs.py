"""What a file may become when it is read, so that a small one cannot fill the memory or take for ever."""

import re
import zipfile
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from calrec.storage.files import File

COLUMNS = 10_000
VALUE = 1 << 24
"""Longest text of one cell of a Parquet file, in bytes, as the longest line of a text file."""
RECORD = 1 << 26
"""Longest record of a JSON document, in bytes."""
_NESTED = 1000  # lists and objects in one another
DEPTH = 3
"""Archives in archives."""
_MEMBERS = 100_000
_CELLS = 1 << 25  # of a workbook, empty ones between others included: the library holds them all
_FREE = 1 << 28  # bytes that any file may become
_RATIO = 200  # bytes for each stored one; logs have 5 to 30
_ROWS = 1000  # of a Parquet file for each stored byte
_VALUES = 1 << 25  # in the lists of one column
_BATCH = 1 << 26  # bytes of text that are in the memory at once
_REMEDY = "it looks like a bomb; if it is what it should be, give it unpacked, or as several files"
_CELL = re.compile(rb'<(?:\w+:)?c [^>]*?\br="([A-Z]{1,3})(\d{1,7})"[^>]*(?<!/)>')  # empty ones end in />
_PLACELESS = re.compile(rb"<(?:\w+:)?c(?:>| (?![^>]*\br=))")
_ROW = re.compile(rb'<(?:\w+:)?row [^>]*?\br="(\d{1,7})"')
_REPEATED = re.compile(rb'number-(columns|rows)-repeated="(\d+)"')


def columns(name: str, count: int) -> None:
    """Refuse a table that is too wide."""
    if count > COLUMNS:
        raise ValueError(
            f"{name} has {count:,} columns, at most {COLUMNS:,} are read; is it split at the right sign "
            "(data.delimiter), and are its rows events?"
        )


def expansion(name: str, stored: int, size: int) -> None:
    """Refuse what has become `size` bytes, or says it will, out of `stored` ones."""
    if size > max(_FREE, _RATIO * stored):
        raise ValueError(f"{name}: its {stored:,} bytes unpack to {size:,} and more; {_REMEDY}")


def members(file: File, infos: Sequence[zipfile.ZipInfo], depth: int) -> None:
    """Refuse an archive of too many, too large or too deep members."""
    if depth >= DEPTH:
        raise ValueError(f"{file.name}: more than {DEPTH} archives in one another; unpack them first")
    if len(infos) > _MEMBERS:
        raise ValueError(f"{file.name} holds {len(infos):,} files, at most {_MEMBERS:,} are read; unpack it first")
    stored = file.size if file.size >= 0 else sum(info.compress_size for info in infos)
    expansion(file.name, stored, sum(info.file_size for info in infos))


def nesting(name: str, text: bytes, opened: int = 0) -> int:
    """How many lists and objects are open behind a piece of a JSON document, or a little more; too many are refused.

    ijson names each level by the path to it, so that the memory grows by the square of the depth.
    """
    for start in range(0, len(text), 1 << 11):
        piece = text[start : start + (1 << 11)]
        opened = max(0, opened + sum(map(piece.count, (b"[", b"{"))) - sum(map(piece.count, (b"]", b"}"))))
        if opened > _NESTED:
            raise ValueError(
                f"{name}: lists and objects stand in one another more than {_NESTED:,} deep; write it flat"
            )
    return opened


# --- workbooks ----------------------------------------------------------------------------------------------------


def workbook(file: File, archive: zipfile.ZipFile) -> None:
    """Refuse a workbook whose sheets span too many cells."""
    members(file, archive.infolist(), 0)
    for info in archive.infolist():
        if info.filename.endswith("content.xml") or "/worksheets/" in info.filename:
            cells = _cells(archive, info)
            if cells > _CELLS:
                raise ValueError(
                    f"{file.name}: a sheet spans {cells:,} cells, at most {_CELLS:,} are read; delete what stands far "
                    "from the table, or save it as CSV"
                )


def _cells(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> int:
    """Width times height of what is filled in a sheet, or more."""
    width = height = repeated = 0
    tail = b""
    with archive.open(info) as stream:
        while piece := stream.read(1 << 20):
            text = tail + piece
            for column, row in _CELL.findall(text):
                width, height = max(width, _number(column)), max(height, int(row))
            if _PLACELESS.search(text):
                height = max([height, *map(int, _ROW.findall(text))])
                width = max(width, *(row.count(b"<c") for row in text.split(b"</row>")))
            if info.filename.endswith("content.xml"):
                repeated = max(repeated, _repeated(text))
            tail = text[-200:]
    return max(width * height, repeated)


def _number(letters: bytes) -> int:
    number = 0
    for letter in letters:
        number = 26 * number + letter - ord("A") + 1
    return number


def _repeated(text: bytes) -> int:
    """Cells that OpenDocument repeats; an empty rest of a sheet is none of them."""
    most = 0
    for row in re.split(rb"</table:table-row>", text):
        if b"office:value" in row or b"<text:p" in row:
            counts = {b"rows": 1, b"columns": 1}
            for what, count in _REPEATED.findall(row):
                counts[what] = max(counts[what], int(count))
            most = max(most, counts[b"rows"] * counts[b"columns"])
    return most


# --- Parquet ------------------------------------------------------------------------------------------------------


def parquet(file: File, stored: pq.ParquetFile) -> None:
    """Refuse a Parquet file by what it says of itself."""
    about = stored.metadata
    columns(file.name, about.num_columns)
    size = file.size if file.size >= 0 else 1 << 62
    if about.num_rows > max(_FREE, _ROWS * size):
        raise ValueError(f"{file.name}: {about.num_rows:,} rows in {size:,} bytes; {_REMEDY}")
    expansion(file.name, size, sum(about.row_group(n).total_byte_size for n in range(about.num_row_groups)))
    nested = [n for n in range(about.num_columns) if about.schema.column(n).max_repetition_level]
    for group in range(about.num_row_groups) if nested else ():
        for column in nested:
            its = about.row_group(group).column(column)
            if its.num_values > max(_VALUES, _RATIO * its.total_compressed_size):
                raise ValueError(
                    f"{file.name}: {its.num_values:,} values of {its.path_in_schema} in "
                    f"{its.total_compressed_size:,} bytes; {_REMEDY}"
                )


def texts(schema: pa.Schema) -> list[str]:
    """Columns whose values a Parquet file may write once for many rows."""
    return [field.name for field in schema if _is_text(field.type)]


def plain(file: File, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """A batch whose texts stand in dictionaries, as one or more batches without, of bounded size.

    Raises:
        ValueError: a text is too long.
    """
    longest, total = 0, 0
    for column in batch.columns:
        if pa.types.is_dictionary(column.type) and _is_text(column.type.value_type):
            its = pc.max(pc.binary_length(column.dictionary)).as_py() or 0
            longest, total = max(longest, its), total + its * len(batch)
    if longest > VALUE:
        raise ValueError(f"{file.name}: a value of {longest:,} bytes, at most {VALUE:,} are read; leave it out")
    step = len(batch) if total <= _BATCH else max(1, _BATCH * len(batch) // total)
    for start in range(0, len(batch), step):
        part = batch.slice(start, step)
        arrays = [_decoded(column) for column in part.columns]
        yield pa.RecordBatch.from_arrays(arrays, names=part.schema.names)


def _is_text(kind: pa.DataType) -> bool:
    return kind in (pa.string(), pa.binary(), pa.large_string(), pa.large_binary())


def _decoded(column: Any) -> Any:
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
