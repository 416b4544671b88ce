"""Cells: what they mean, what is refused and why, and that a column gives what its single values give."""

import datetime
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calrec.reading import values
from calrec.reading.strings import pylist

DAY = 86_400_000


@pytest.mark.parametrize(
    ("value", "time_format", "ms"),
    [
        (1_400_000_000, "auto", 1_400_000_000_000),
        (1_400_000_000_123, "auto", 1_400_000_000_123),
        (1.52309e12, "auto", 1_523_090_000_000),
        ("1400000000", "auto", 1_400_000_000_000),
        ("1400000000.5", "auto", 1_400_000_000_500),
        (1_400_000_000_123, "ms", 1_400_000_000_123),
        (90_000, "ms", 90_000),
        (1_400_000_000_123_999, "auto", 1_400_000_000_123),
        (-1_400_000_000_123_001, "auto", -1_400_000_000_124),
        ("1400000000123999", "auto", 1_400_000_000_123),
        (1_400_000_000_123_999_999, "auto", 1_400_000_000_123),
        ("1400000000123999999", "auto", 1_400_000_000_123),
        (1.400000000123999e15, "auto", 1_400_000_000_123),
        (5_000, "us", 5),
        ("5999999", "ns", 5),
        (-5, "s", -5000),
        ("1970-01-02", "auto", DAY),
        ("1970-01-02 00:00:01", "auto", DAY + 1000),
        ("1970-01-02T00:00:01Z", "auto", DAY + 1000),
        ("1970-01-02 00:00:01 UTC", "auto", DAY + 1000),
        ("1970-01-02T02:00:01+02:00", "auto", DAY + 1000),
        ("1969-12-31 23:59:59.9995", "auto", -1),
        ("12/1/2010 8:26", "%m/%d/%Y %H:%M", 1_291_191_960_000),
        (datetime.datetime(1970, 1, 2, 0, 0, 0, 1999), "auto", DAY + 1),
        (datetime.date(1970, 1, 2), "auto", DAY),
    ],
)
def test_timestamps(value: Any, time_format: str, ms: int):
    assert values.millis_of(value, time_format) == ms
    column = values.millis(pa.array([value, value]), time_format)
    assert column is None or column.to_pylist() == [ms, ms]


@pytest.mark.parametrize(
    ("value", "time_format", "reason"),
    [
        (None, "auto", "is missing"),
        ("", "auto", "is missing"),
        ("noon", "auto", "is neither a number nor an ISO 8601 time; set data.time_format"),
        ([1], "auto", "is neither a number"),
        (float("nan"), "auto", "is neither a number"),
        (True, "auto", "is neither a number"),
        ("0x10", "auto", "is neither a number"),
        (10**14, "s", "is outside of the years 1 to 9999"),
        (10**30, "auto", "is outside of the years 1 to 9999"),
        ("2010-13-01", "%Y-%m-%d", "does not fit data.time_format=%Y-%m-%d"),
    ],
)
def test_no_timestamps(value: Any, time_format: str, reason: str):
    with pytest.raises(ValueError, match=reason):
        values.millis_of(value, time_format)


@pytest.mark.parametrize(
    ("value", "text"),
    [("a b", "a b"), (7, "7"), (7.0, "7"), (b"x", "x"), (2**63, str(2**63)), ("\x00", "\x00"), ("1000.0", "1000.0")],
)
def test_ids(value: Any, text: str):
    assert values.id_of(value) == text


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "is missing"),
        ("", "is missing"),
        (" \t", "is missing"),
        (7.5, "is not an id"),
        (2.0**53, "is a float of 9,007,199,254,740,992 or more, which has lost digits; store ids as text"),
        (1e20, "is a float of"),
        (np.float32(2**24), "is a float of 16,777,216 or more"),
        (Decimal("7.50"), "is not an id"),
        (True, "is not an id"),
        (["a"], "is a list, not a single value"),
        ({}, "is a dict"),
        (b"\xff", "is not UTF-8"),
        ("\udcff", "is not UTF-8"),
    ],
)
def test_no_ids(value: Any, reason: str):
    with pytest.raises(ValueError, match=reason):
        values.id_of(value)


def test_numbers():
    assert [values.number_of(value) for value in ("5", " 2.5", 3, -0.5, "1e3")] == [5, 2.5, 3, -0.5, 1000]
    assert [values.number_of(value) for value in ("1,5", "-0,25", "1234,5678")] == [1.5, -0.25, 1234.5678]
    for unsure in ("1,500", "-12,000.5"):
        with pytest.raises(ValueError, match="is not a number: its comma may part thousands or decimals"):
            values.number_of(unsure)
    for bad in ("five", "1_000", 10**400, "nan", "inf", float("inf"), True, [1]):
        with pytest.raises(ValueError, match="is not a number"):
            values.number_of(bad)


# --- the fast path gives what the reference gives ----------------------------------------------------------------

WHOLE = st.integers(-(2**63), 2**63 - 1) | st.integers(-(10**13), 10**13)
NARROW = st.floats(allow_nan=True, allow_infinity=True, width=32)
NUMBERS = st.floats(allow_nan=True, allow_infinity=True) | st.floats(-1e13, 1e13) | WHOLE.map(float)
NUMERALS = st.builds("{}{}".format, st.sampled_from(["", "-", "+", " ", "0x", "00"]), WHOLE | NUMBERS)
MOMENTS = st.datetimes(datetime.datetime(1600, 1, 1), datetime.datetime(2200, 1, 1))
WRITTEN = st.builds(
    lambda moment, form, end: moment.strftime(form) + end,
    MOMENTS,
    st.sampled_from(["%Y-%m-%d", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S.%f", "%m/%d/%Y %H:%M"]),
    st.sampled_from(["", "", "Z", " UTC", "+01:00", " ", "\n"]),
)
TEXTS = (
    NUMERALS | WRITTEN | st.text(max_size=5) | st.sampled_from(["", " ", "\u2003", "12/1/2010 8:26", "1/32/2010 1:00"])
)
COLUMNS = st.one_of(
    st.tuples(st.just(pa.int64()), st.lists(WHOLE | st.none(), max_size=4)),
    st.tuples(st.just(pa.float64()), st.lists(NUMBERS | st.none(), max_size=4)),
    st.tuples(st.just(pa.float32()), st.lists(NARROW | st.integers(-(2**25), 2**25).map(float), max_size=4)),
    st.tuples(st.just(pa.float16()), st.lists(st.floats(width=16) | st.none(), max_size=4)),
    st.tuples(st.just(pa.decimal128(38, 0)), st.lists(WHOLE.map(Decimal) | st.none(), max_size=4)),
    st.tuples(st.just(pa.string()), st.lists(TEXTS | st.none(), max_size=4)),
    st.tuples(st.just(pa.string()), st.lists(st.from_regex(r"-?[0-9]{1,20}([.,][0-9]{1,4})?", fullmatch=True))),
    st.tuples(st.just(pa.large_string()), st.lists(TEXTS, max_size=4)),
    st.tuples(st.just(pa.bool_()), st.lists(st.booleans() | st.none(), max_size=4)),
    st.tuples(st.just(pa.timestamp("us")), st.lists(MOMENTS | st.none(), max_size=4)),
    st.tuples(st.just(pa.date32()), st.lists(MOMENTS.map(datetime.datetime.date), max_size=4)),
    st.tuples(st.just(pa.time32("s")), st.lists(st.integers(0, 86_399), max_size=3)),
    st.tuples(st.just(pa.decimal128(9, 2)), st.lists(st.decimals(-1000, 1000, places=2), max_size=3)),
    st.tuples(st.just(pa.list_(pa.string())), st.lists(st.lists(TEXTS, max_size=2), max_size=3)),
)
PATTERN = "%m/%d/%Y %H:%M"
KINDS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "ids": (values.ids, values.id_of),
    "texts": (values.texts, values.text_of),
    "numbers": (values.numbers, values.number_of),
    **{
        f"millis {form}": (lambda c, f=form: values.millis(c, f), lambda v, f=form: values.millis_of(v, f))
        for form in ("auto", "s", "ms", "us", "ns", PATTERN)
    },
}


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=400, deadline=None)
@given(COLUMNS)
def test_a_column_is_what_its_values_are(kind: str, column: tuple[pa.DataType, list[Any]]):
    of_column, of_value = KINDS[kind]
    array = pa.array(column[1], column[0])
    found = of_column(array)
    if found is not None:
        assert found.to_pylist() == [of_value(value) for value in pylist(array)]
