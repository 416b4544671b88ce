"""Strings as integer codes: exact, incremental, in little more memory than the strings themselves.

A code is the rank of a string's first appearance. The bytes of all strings lie in one arena; an open-addressing table
of 64-bit slots finds them: the upper half of a slot is the upper half of the string's hash, the lower half its code
plus one, and 0 is empty. Equal halves are confirmed byte by byte, so no collision can join two strings.
"""

from collections.abc import Iterator
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from calrec.arrays.compiled import compiled

Codes = NDArray[np.int32]
Bytes = NDArray[np.uint8]
Offsets = NDArray[np.int64]
Slots = NDArray[np.uint64]
Array = TypeVar("Array", bound=NDArray[Any])

_ROWS = 1 << 16  # looked up in one call; the arena and the table are grown for the worst case of so many before it
_AHEAD = 1 << 10  # rows whose slots are touched before any is needed, so that the waits for memory overlap
_LOAD = 0.6  # the table doubles beyond this share of full slots


class Vocabulary:
    """A growing one-to-one map of strings to 0, 1, 2, …, in order of first appearance."""

    def __init__(self) -> None:
        self._size = 0
        self._arena: Bytes = np.empty(1 << 16, np.uint8)
        self._ends: Offsets = np.zeros(1 << 12, np.int64)  # string c is arena[ends[c]:ends[c + 1]]
        self._slots: Slots = np.zeros(1 << 12, np.uint64)

    def __len__(self) -> int:
        return self._size

    def encode(self, column: pa.Array | pa.ChunkedArray) -> Codes:
        """Code of each row (int32); strings not met before get the next codes."""
        return self._codes(column, add=True)

    def lookup(self, column: pa.Array | pa.ChunkedArray) -> Codes:
        """Code of each row (int32), -1 where the string was never encoded; adds nothing."""
        return self._codes(column, add=False)

    def strings(self) -> pa.Array:
        """All strings by code (large_string); shares the arena's memory."""
        ends = self._ends[: self._size + 1]
        return pa.LargeStringArray.from_buffers(
            self._size, pa.py_buffer(ends), pa.py_buffer(self._arena[: int(ends[-1])])
        )

    def take(self, codes: NDArray[np.integer[Any]]) -> pa.Array:
        """The strings of these codes (string): at most 2 GiB of text in one call."""
        return pc.cast(self.strings().take(pa.array(codes)), pa.string())

    def _codes(self, column: pa.Array | pa.ChunkedArray, add: bool) -> Codes:
        assert column.null_count == 0, "a vocabulary takes no nulls"
        if isinstance(column, pa.ChunkedArray):
            return np.concatenate([np.empty(0, np.int32), *(self._codes(chunk, add) for chunk in column.chunks)])
        if pa.types.is_dictionary(column.type):
            # Only entries that a row points to, in the order of the rows: an unused one never gets a code.
            indices = column.indices.to_numpy(zero_copy_only=False).astype(np.int64)
            rank, used = _by_appearance(indices, len(column.dictionary))
            entries: Codes = self._codes(column.dictionary.take(pa.array(used)), add)[rank[indices]]
            return entries
        codes = np.empty(len(column), np.int32)
        for start, offsets, text in _slices(column):
            if add:
                self._reserve(len(offsets) - 1, int(offsets[-1] - offsets[0]))
            found = codes[start : start + _ROWS]
            self._size = _find(text, offsets, self._arena, self._ends, self._slots, self._size, add, found)
        return codes

    def _reserve(self, strings: int, size: int) -> None:
        """Room for so many new strings of so many bytes in total."""
        self._arena = _grown(self._arena, int(self._ends[self._size]) + size)
        self._ends = _grown(self._ends, self._size + strings + 1)
        slots = len(self._slots)
        while self._size + strings > slots * _LOAD:
            slots *= 2
        if slots > len(self._slots):
            self._slots = np.zeros(0, np.uint64)  # let go of the old table first: the new one is filled without it
            self._slots = np.zeros(slots, np.uint64)
            _fill(self._arena, self._ends, self._slots, self._size)


def _slices(column: pa.Array) -> Iterator[tuple[int, Offsets, Bytes]]:
    """A first row, the byte offsets of `_ROWS` rows from there on (one more than rows), and what they point into."""
    column = column.cast(pa.large_string())
    _, offsets, text = column.buffers()
    for start in range(0, len(column), _ROWS):
        stop = min(start + _ROWS, len(column))
        ends = np.frombuffer(offsets, np.int64)[column.offset + start : column.offset + stop + 1]
        yield start, ends, np.frombuffer(text or b"", np.uint8)


def _grown(array: Array, needed: int) -> Array:
    """The array with room for `needed` entries, at least doubled when it has to grow."""
    if needed <= len(array):
        return array
    larger = np.empty(max(needed, 2 * len(array)), array.dtype)
    larger[: len(array)] = array
    return larger  # type: ignore[return-value]


@compiled
def _by_appearance(indices: Offsets, size: int) -> tuple[Offsets, Offsets]:
    """For each of `size` dictionary entries its rank by first use (-1: unused), and the used entries by rank."""
    rank, used, n = np.full(size, -1, np.int64), np.empty(min(size, len(indices)), np.int64), 0
    for index in indices:
        if rank[index] < 0:
            rank[index], used[n] = n, index
            n += 1
    return rank, used[:n]


@compiled
def _hash(text: Bytes, start: int, stop: int) -> Any:
    """64 bits of text[start:stop]: eight bytes at a time, then a finaliser that spreads every bit to all."""
    h = np.uint64(stop - start) * np.uint64(0x9E3779B97F4A7C15)
    at, end = np.uint64(start), np.uint64(stop)
    while at + np.uint64(8) <= end:
        word = np.uint64(0)
        for k in range(8):  # the compiler makes a single load of it
            word |= np.uint64(text[at + np.uint64(k)]) << np.uint64(8 * k)
        h = (h ^ word) * np.uint64(0xFF51AFD7ED558CCD)
        h ^= h >> np.uint64(32)
        at += np.uint64(8)
    word = np.uint64(0)
    while at < end:
        word = (word << np.uint64(8)) | np.uint64(text[at])
        at += np.uint64(1)
    h = (h ^ word) * np.uint64(0xFF51AFD7ED558CCD)
    h = (h ^ (h >> np.uint64(29))) * np.uint64(0xC4CEB9FE1A85EC53)
    return h ^ (h >> np.uint64(32))


@compiled
def _equal(a: Bytes, start: int, stop: int, b: Bytes, begin: int, end: int) -> bool:
    """Whether a[start:stop] and b[begin:end] are the same bytes."""
    if stop - start != end - begin:
        return False
    x, y, different = np.uint64(start), np.uint64(begin), np.uint8(0)
    for k in range(stop - start):  # no early end: the hashes agree, so nearly always all bytes do
        different |= a[x + np.uint64(k)] ^ b[y + np.uint64(k)]
    return different == 0  # type: ignore[no-any-return]


@compiled
def _fill(arena: Bytes, ends: Offsets, slots: Slots, size: int) -> None:
    """Enter the first `size` strings into an empty table."""
    mask = np.uint64(len(slots) - 1)
    for code in range(size):
        h = np.uint64(_hash(arena, ends[code], ends[code + 1]))
        at = h & mask
        while slots[at] != 0:
            at = (at + np.uint64(1)) & mask
        slots[at] = _entry(h, code)


@compiled
def _entry(h: Any, code: int) -> Any:
    """The slot of a string with this hash and code."""
    return (h & np.uint64(0xFFFFFFFF00000000)) | np.uint64(code + 1)


@compiled
def _probe(slots: Slots, h: Any, at: Any) -> Any:
    """The first slot from `at` on that is empty or carries the upper half of this hash."""
    mask = np.uint64(len(slots) - 1)
    while slots[at] != 0 and (slots[at] ^ h) >> np.uint64(32) != 0:
        at = (at + np.uint64(1)) & mask
    return at


@compiled
def _code(slot: Any) -> Any:
    """The code in a slot, -1 in an empty one."""
    return np.int64(slot & np.uint64(0xFFFFFFFF)) - 1


@compiled
def _find_or_add(
    text: Bytes, start: int, stop: int, arena: Bytes, ends: Offsets, slots: Slots, h: Any, size: int, add: bool
) -> int:
    """Code of text[start:stop], found by comparing bytes; `size`, the next code, when it was added, -1 when unknown."""
    mask = np.uint64(len(slots) - 1)
    at = _probe(slots, h, h & mask)
    while slots[at] != 0:
        code = _code(slots[at])
        if _equal(text, start, stop, arena, ends[code], ends[code + 1]):
            return code  # type: ignore[no-any-return]
        at = _probe(slots, h, (at + np.uint64(1)) & mask)
    if not add:
        return -1
    ends[size + 1] = ends[size] + stop - start
    for k in range(stop - start):
        arena[ends[size] + k] = text[start + k]
    slots[at] = _entry(h, size)
    return size


@compiled
def _find(
    text: Bytes, offsets: Offsets, arena: Bytes, ends: Offsets, slots: Slots, size: int, add: bool, codes: Codes
) -> int:
    """Write the code of each string text[offsets[i]:offsets[i + 1]] to `codes`; returns how many strings there are now.

    An unknown string is added (the caller has made room) or gets -1. What a row waits for is memory, so that a group of
    rows waits together: for their slots, for their candidates' offsets, for the candidates' bytes. The rows for which
    the first candidate is not the answer, nearly all of them new strings, are settled one by one.
    """
    mask = np.uint64(len(slots) - 1)
    hashes, slot = np.empty(_AHEAD, np.uint64), np.empty(_AHEAD, np.uint64)
    begin, end = np.empty(_AHEAD, np.int64), np.empty(_AHEAD, np.int64)
    for first in range(0, len(codes), _AHEAD):
        rows = min(_AHEAD, len(codes) - first)
        for k in range(rows):
            hashes[k] = _hash(text, offsets[first + k], offsets[first + k + 1])
        for k in range(rows):
            slot[k] = slots[hashes[k] & mask]
        for k in range(rows):
            if slot[k] != 0 and (slot[k] ^ hashes[k]) >> np.uint64(32) != 0:
                slot[k] = slots[_probe(slots, hashes[k], hashes[k] & mask)]
        for k in range(rows):
            code = max(_code(slot[k]), 0)
            begin[k], end[k] = ends[code], ends[code + 1]
        for k in range(rows):
            start, stop, code = offsets[first + k], offsets[first + k + 1], _code(slot[k])
            if code < 0 or not _equal(text, start, stop, arena, begin[k], end[k]):
                code = _find_or_add(text, start, stop, arena, ends, slots, hashes[k], size, add)
                size = max(size, code + 1)
            codes[first + k] = code
    return size
