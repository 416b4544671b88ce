"""Raw bytes of a text file as blocks of whole lines, decompressed on the way, in bounded memory."""

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from calrec.reading import bombs
from calrec.reading.encodings import as_utf8
from calrec.storage.files import File

SIZE = 1 << 22
MAX_LINE = 1 << 24
"""Longest line that is read, in bytes; a longer one becomes a reject."""
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"


@dataclass(frozen=True)
class Block:
    """Whole lines of a file."""

    data: bytes
    first: int
    """Number of the first line; the file's first line is 1."""
    whole: bool = True
    """False: the beginning of one line that is longer than MAX_LINE."""

    @cached_property
    def ends(self) -> int:
        """How many ends of lines it holds."""
        return self.data.count(b"\n")

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """(number, line without its end) of each line, blank ones included."""
        data = self.data.removesuffix(b"\n")
        for number, line in enumerate(data.split(b"\n"), self.first):
            yield number, line.removesuffix(b"\r")


def blocks(file: File, size: int = SIZE, encoding: str = "utf-8") -> Iterator[Block]:
    """The file's lines in blocks of about `size` bytes, as UTF-8 whatever the encoding of the file.

    Raises:
        ValueError: the compressed stream is damaged; says after which line. Or it is not of this encoding.
    """
    number, rest, skipping = 1, b"", False
    for data in as_utf8(file.name, chunks(file, size), encoding):
        if skipping:
            end = data.find(b"\n")
            if end < 0:
                continue
            data, skipping = data[end + 1 :], False
        cut = data.rfind(b"\n") + 1
        if cut:
            block = Block(b"".join((rest, memoryview(data)[:cut])), number)
            yield block
            number += block.ends
            rest = data[cut:]
        else:
            rest += data
        if len(rest) > MAX_LINE:
            yield Block(rest[:SIZE], number, whole=False)
            number, rest, skipping = number + 1, b"", True
    if rest:
        yield Block(rest, number)


def head(file: File, size: int) -> bytes:
    """The first bytes of a file, decompressed.

    Raises:
        ValueError: the compressed stream is damaged.
    """
    return next(chunks(file, size), b"")


def chunks(file: File, size: int) -> Iterator[bytes]:
    """Decompressed bytes without UTF-8's byte order mark.

    Raises:
        ValueError: the compressed stream is damaged; says after which line.
    """
    try:
        start = True
        for data in _stream(file, size):
            yield data.removeprefix(codecs.BOM_UTF8) if start else data
            start = False
    except _DamageError as error:
        at = f"{file.name}: damaged after line {_readable_lines(file):,}"
        raise ValueError(f"{at} ({error}); fetch the file again, or leave it out") from None


def _readable_lines(file: File) -> int:
    """Lines before the damage: read again in small pieces, as the one that fails is lost."""
    lines = 0
    with suppress(_DamageError):
        for piece in _stream(file, 1 << 12):
            lines += piece.count(b"\n")
    return lines


class _DamageError(Exception):
    """The content is at fault, and neither the disk nor the network."""


def _stream(file: File, size: int) -> Iterator[bytes]:
    from isal.igzip_lib import IsalError

    damage: Any = (EOFError, zlib.error, IsalError, OSError)
    try:
        with file.open() as stored:
            joined, given = _Joined(stored), 0
            stream = _decompressed(file.name, joined)
            while data := stream.read(size):
                given += len(data)
                bombs.expansion(file.name, max(file.size, joined.taken), given)
                yield data
    except damage as error:
        if isinstance(error, OSError) and not is_damage(error):
            raise
        raise _DamageError(error) from None


def is_damage(error: OSError) -> bool:
    """Whether the content is at fault, and neither the disk nor the network."""
    return type(error) in (OSError, gzip.BadGzipFile) and error.errno is None


def _decompressed(name: str, stream: "_Joined") -> Any:
    """A stream over the content; gzip (any number of members) and zstd are known by their first bytes."""
    head = stream.head
    if head.startswith(_GZIP):
        from isal import igzip

        return igzip.open(stream, "rb")
    if head.startswith(_ZSTD):
        return pa.CompressedInputStream(pa.PythonFile(stream, mode="r"), "zstd")
    for suffix in (".gz", ".zst"):
        if head and name.endswith(suffix):
            raise EOFError(f"it ends in {suffix} but begins with {head!r}")
    return io.BufferedReader(stream)  # whole chunks, not what one read of the stream happens to bring


class _Joined(io.RawIOBase):
    """The bytes that were looked at, and the rest of the stream."""

    def __init__(self, stream: BinaryIO):
        self.head = b""
        while len(self.head) < 4 and (more := stream.read(4 - len(self.head))):
            self.head += more
        self.taken = 0
        """Bytes that were read."""
        self._rest, self._stream = self.head, stream

    def readable(self) -> bool:
        """True: pyarrow asks."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer`, first from the head; returns the bytes read, 0 at the end."""
        data = self._rest[: len(buffer)] or self._stream.read(len(buffer))
        self._rest = self._rest[len(data) :]
        self.taken += len(data)
        buffer[: len(data)] = data
        return len(data)


@contextmanager
def open_parquet(file: File) -> Iterator["Parquet"]:
    """An open Parquet file; damage that shows while it is read is a ValueError that names it."""
    try:
        source = file.seekable()
        with pq.ParquetFile(source, pre_buffer=False) as stored:
            bombs.parquet(file, stored)
            metadata, schema = stored.metadata, stored.schema_arrow
        texts = bombs.texts(schema)
        with pq.ParquetFile(source, metadata=metadata, pre_buffer=False, read_dictionary=texts) as stored:
            yield Parquet(file, schema, stored)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and not is_damage(error):
            raise
        raise ValueError(f"{file.name}: not a readable Parquet file ({error})") from None


@dataclass(frozen=True)
class Parquet:
    """A Parquet file whose batches have a bounded size, however often a long text stands in it."""

    file: File
    schema: pa.Schema
    stored: pq.ParquetFile

    def batches(self, size: int, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Batches of at most `size` rows."""
        for batch in self.stored.iter_batches(size, columns=columns):
            yield from bombs.plain(self.file, batch)
