"""Files that hold files: a zip archive is a folder, a workbook a folder of sheets, a JSON document one of lines.

What comes out are files whose bytes are made as they are read, so that nothing is unpacked to the disk.
"""

import datetime
import io
import itertools
import json
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any, BinaryIO

import pyarrow as pa

from calrec.reading import bombs
from calrec.reading.blocks import chunks, head
from calrec.reading.detect import header_at
from calrec.reading.formats import WORKBOOKS
from calrec.storage.files import File, is_data

SHEET = ".sheet"
"""Ends the name of one sheet of several."""
_JSON = (".json", ".jsonl", ".ndjson")
_HEAD = 1 << 16
_PIECE = 1 << 16
_TOP = 40  # rows of a sheet among which its header is


def unpack(files: Sequence[File]) -> list[File]:
    """The files, with what archives, workbooks and JSON documents hold in their place.

    Raises:
        ValueError: an archive or a workbook that is damaged or encrypted; a member outside of its archive.
    """
    return [inner for file in files for inner in _inside(file)]


def _inside(file: File, depth: int = 0) -> Iterator[File]:
    name = file.name.lower()
    if name.endswith(".zip"):
        yield from (inner for member in _members(file, depth) for inner in _inside(member, depth + 1))
    elif name.endswith(WORKBOOKS):
        yield from _sheets(file)
    elif name.removesuffix(".gz").removesuffix(".zst").endswith(_JSON) and (path := _path_of_records(file)) is not None:
        yield replace(file, open=lambda: _stream(_lines(_records(file, path))))
    else:
        yield file


def _stream(chunks: Iterable[bytes]) -> BinaryIO:
    """The chunks as a stream."""
    return io.BufferedReader(_Chunks(iter(chunks)), _PIECE)


class _Chunks(io.RawIOBase):
    def __init__(self, chunks: Iterator[bytes]):
        self._chunks, self._rest = chunks, b""

    def readable(self) -> bool:
        """True: a buffered reader asks."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer`; returns the bytes read, 0 at the end."""
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._rest = chunk
        data, self._rest = self._rest[: len(buffer)], self._rest[len(buffer) :]
        buffer[: len(data)] = data
        return len(data)


# --- zip --------------------------------------------------------------------------------------------------------


def _members(file: File, depth: int) -> list[File]:
    with _archive(file) as archive:
        bombs.members(file, archive.infolist(), depth)
        infos = [info for info in archive.infolist() if not info.is_dir()]
    found = []
    for info in infos:
        parts = PurePosixPath(info.filename.replace("\\", "/")).parts
        if not parts or ".." in parts or parts[0] == "/" or ":" in parts[0]:
            raise ValueError(f"{file.name}: its member {info.filename!r} lies outside of the archive; make it anew")
        if info.flag_bits & 1:
            raise ValueError(f"{file.name}: its member {info.filename!r} is encrypted; unpack the archive first")
        if parts[0] != "__MACOSX" and all(is_data(part) for part in parts):
            found.append(_member(file, info, "/".join(parts)))
    return sorted(found, key=lambda member: member.name)


def _member(file: File, info: zipfile.ZipInfo, name: str) -> File:
    def stream() -> BinaryIO:
        return _stream(_of_member(file, info))

    def seekable() -> Any:
        copy = tempfile.TemporaryFile()  # noqa: SIM115 (pyarrow closes it)
        for chunk in _of_member(file, info):
            copy.write(chunk)
        return pa.PythonFile(copy, mode="r")

    version = f"{file.version}-{info.CRC:08x}" if file.version else ""
    return File(f"{file.name}/{name}", info.file_size, version, stream, seekable)


def _of_member(file: File, info: zipfile.ZipInfo) -> Iterator[bytes]:
    try:
        with _archive(file) as archive, archive.open(info) as stream:
            while chunk := stream.read(_PIECE):
                yield chunk
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise ValueError(f"{file.name}: its member {info.filename!r} cannot be read ({error}); make it anew") from None


def _archive(file: File) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(file.seekable())
    except zipfile.BadZipFile as error:
        raise ValueError(f"{file.name}: not a zip archive ({error}); fetch the file again") from None


# --- workbooks --------------------------------------------------------------------------------------------------


def _sheets(file: File) -> list[File]:
    with suppress(zipfile.BadZipFile), zipfile.ZipFile(file.seekable()) as archive:  # an .xls is none
        bombs.workbook(file, archive)
    names = _workbook(file).sheet_names
    return [_sheet(file, name, f"{file.name}/{name}{SHEET}" if len(names) > 1 else file.name) for name in names]


def _sheet(file: File, sheet: str, name: str) -> File:
    def stream() -> BinaryIO:
        return _stream(_lines(_named(_workbook(file).get_sheet_by_name(sheet).iter_rows())))

    return File(name, -1, file.version and f"{file.version}-{sheet}", stream, file.seekable)


def _workbook(file: File) -> Any:
    import python_calamine

    try:
        with file.open() as stream:
            return python_calamine.CalamineWorkbook.from_object(io.BytesIO(stream.read()))
    except python_calamine.CalamineError as error:
        raise ValueError(f"{file.name}: not a readable workbook ({error}); save it as CSV") from None


def _named(rows: Iterator[Sequence[Any]]) -> Iterator[dict[str, Any] | None]:
    """Records by the header; None for each row that is none, so that rows keep their numbers."""
    top = list(itertools.islice(rows, _TOP))
    filled = [at for at, row in enumerate(top) if any(cell != "" for cell in row)]
    if not filled:
        return
    at = filled[header_at([top[at] for at in filled])]
    yield from [None] * (at + 1)
    header = [str(cell) for cell in top[at]]
    for row in itertools.chain(top[at + 1 :], rows):
        yield {name: _plain(cell) for name, cell in zip(header, row, strict=False) if name and cell != ""} or None


def _plain(cell: Any) -> Any:
    """A cell as JSON has it: Excel's numbers are all floats, its times ISO 8601."""
    if isinstance(cell, float) and cell.is_integer():
        return int(cell)
    return cell.isoformat() if isinstance(cell, datetime.date | datetime.time) else cell


# --- JSON documents ---------------------------------------------------------------------------------------------


def _path_of_records(file: File) -> str | None:
    """Where in one JSON document its records are, as ijson names it; None when the file is lines, or no JSON."""
    try:
        begin = head(file, _HEAD).lstrip()
    except ValueError:  # damage is said by who reads it
        return None
    first = begin.partition(b"\n")[0].strip()
    if begin.startswith(b"[") or first == b"{":
        return _first_records(file.name, begin)
    if begin.startswith(b"{") and b"\n" not in begin.strip():
        return _first_records(file.name, begin) or None  # a line of its own is a line of JSON
    return None


def _first_records(name: str, begin: bytes) -> str:
    """The path of the first list of objects; empty when the document is itself a record, or several of them."""
    import ijson

    bombs.nesting(name, begin)
    lists, found, columns = set(), "", 0
    with suppress(ijson.JSONError):
        for path, event, key in ijson.parse(begin, multiple_values=True):
            if event == "start_array":
                lists.add(f"{path}.item".lstrip("."))
            elif event == "start_map" and path in lists:
                found = found or str(path)
            elif event == "start_map" and not path and found:
                return ""  # a second object: each is a record, whatever it holds
            elif event == "map_key" and key == "0" and path and "." not in path:
                columns += 1
            if columns > 1:
                raise ValueError(
                    f'{name} is one JSON object of columns; write its rows: to_json(orient="records", lines=True)'
                )
    return found


def _records(file: File, path: str) -> Iterator[Any]:
    import ijson

    since = opened = 0  # since the record before: bytes that were read, and lists and objects that are open

    def counted() -> Iterator[bytes]:
        nonlocal since, opened
        for piece in chunks(file, _PIECE):
            since, opened = since + len(piece), bombs.nesting(file.name, piece, opened)
            if since > bombs.RECORD:
                raise ValueError(f"{file.name}: a record of more than {bombs.RECORD:,} bytes; write its rows as lines")
            yield piece

    try:
        for record in ijson.items(_stream(counted()), path, multiple_values=True):
            since = opened = 0
            yield record
    except ijson.JSONError as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"{file.name}: damaged JSON ({reason}); write it anew") from None


def _lines(records: Iterable[Any]) -> Iterator[bytes]:
    """A line of JSON for each record, blank for None."""
    for record in records:
        try:
            line = b"" if record is None else json.dumps(record, ensure_ascii=False, default=_other).encode()
        except RecursionError:  # a line that says why it is no record
            line = b'"nested too deeply"'
        yield line + b"\n"


def _other(value: Any) -> float | str:
    """What JSON has no name for: ijson's decimals as the numbers that they are, Excel's durations as text."""
    return float(value) if isinstance(value, Decimal) else str(value)
