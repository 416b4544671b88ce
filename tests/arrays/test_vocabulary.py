"""Codes of strings against a dictionary."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calrec.arrays import vocabulary
from calrec.arrays.vocabulary import Vocabulary

words = st.one_of(st.text(max_size=20), st.sampled_from(["", "a", "aa", "日本", "x" * 300, "\x00", "\x00\x00"]))


def column(rows: list[str], kind: str) -> pa.Array | pa.ChunkedArray:
    if kind == "dictionary":
        return pa.array(rows, pa.string()).dictionary_encode()
    if kind == "unused entries":
        entries = ["never", *sorted(set(rows), reverse=True), "used"]
        return pa.DictionaryArray.from_arrays(pa.array([entries.index(row) for row in rows], pa.int16()), entries)
    if kind == "sliced":
        return pa.array(["before", *rows, "after"], pa.string()).slice(1, len(rows))
    if kind == "chunked":
        half = len(rows) // 2
        return pa.chunked_array([rows[:half], [], rows[half:]], pa.string())
    return pa.array(rows, {"large": pa.large_string(), "view": pa.string_view()}.get(kind, pa.string()))


KINDS = ["string", "large", "view", "dictionary", "unused entries", "sliced", "chunked"]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.lists(words, max_size=30), st.sampled_from(KINDS)), max_size=6), st.lists(words))
def test_codes_are_those_of_a_dictionary(batches, asked):
    codes: dict[str, int] = {}
    vocabulary = Vocabulary()
    for rows, kind in batches:
        expected = [codes.setdefault(row, len(codes)) for row in rows]
        got = vocabulary.encode(column(rows, kind))
        assert got.dtype == np.int32 and got.tolist() == expected
        assert len(vocabulary) == len(codes)
    strings = vocabulary.strings()
    strings.validate(full=True)
    assert strings.to_pylist() == list(codes)
    assert vocabulary.lookup(pa.array(asked, pa.string())).tolist() == [codes.get(word, -1) for word in asked]
    assert len(vocabulary) == len(codes)
    backwards = np.arange(len(codes))[::-1]
    assert vocabulary.take(backwards).to_pylist() == list(codes)[::-1]


def test_many_strings_grow_the_arena_and_the_table():
    rng = np.random.default_rng(0)
    numbers = rng.integers(0, 300_000, 400_000)
    words = np.char.add("user-", numbers.astype(str)).astype(object)
    vocabulary = Vocabulary()
    early = vocabulary.encode(pa.array(words[:100_000]))
    before = vocabulary.strings()
    codes = np.concatenate([early, vocabulary.encode(pa.array(words[100_000:]))])
    first: dict[str, int] = {}
    assert codes.tolist() == [first.setdefault(word, len(first)) for word in words.tolist()]
    assert before.to_pylist() == list(first)[: len(before)], "strings given out earlier stay what they were"
    assert vocabulary.take(codes).to_pylist() == words.tolist()


def test_strings_with_one_hash_keep_apart(monkeypatch):
    """Every string in one chain of the table, told apart by its bytes alone."""
    v = Vocabulary()
    same = lambda text, start, stop: np.uint64(7)  # noqa: E731
    for name in ("_fill", "_find", "_find_or_add", "_probe", "_entry", "_code", "_equal"):
        monkeypatch.setattr(vocabulary, name, getattr(vocabulary, name).py_func)
    monkeypatch.setattr(vocabulary, "_hash", same)
    rows = [f"word{n % 40}" for n in range(200)]
    assert v.encode(pa.array(rows)).tolist() == [n % 40 for n in range(200)]
    assert v.lookup(pa.array(["word3", "word", "word33"])).tolist() == [3, -1, 33]


def test_nulls_are_refused():
    for nulls in (pa.array(["a", None]), pa.array(["a", None]).dictionary_encode()):
        with pytest.raises(AssertionError, match="no nulls"):
            Vocabulary().encode(nulls)


def test_an_empty_vocabulary():
    v = Vocabulary()
    assert len(v) == 0 and v.strings().to_pylist() == [] and v.encode(pa.array([], pa.string())).tolist() == []
    assert v.lookup(pa.array(["a"])).tolist() == [-1]
