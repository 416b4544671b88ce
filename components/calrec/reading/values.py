"""Values of a log's cells: ids, timestamps, numbers and texts.

Each kind has two forms. The one for a single value is the reference and gives the reason when it refuses. The one for
an Arrow column is the fast path: it gives the same values for the whole column, or None when any needs a closer look.
"""

import datetime
import math
import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from calrec.reading.strings import exact, is_plain, is_text, pylist
from calrec.reading.strings import text_of as text_of
from calrec.reading.strings import texts as texts

_EARLIEST, _LATEST = -62_135_596_800_000, 253_402_300_799_999  # years 1 to 9999
_NUMBER = r"^-?\d{1,15}(\.\d{1,15})?$"
_ISO = r"^\d{4}-\d\d-\d\d([ T]\d\d:\d\d:\d\d(\.\d{1,6})?( UTC|Z)?)?$"
_WHOLE = re.compile(r"-?[0-9]{1,19}")
_COMMA = r"^(-?[0-9]{1,15}),([0-9]{1,2}|[0-9]{4,15})$"  # the comma of a decimal: it cannot part thousands
_ASCII_BLANK = r"^[\x09-\x0d\x1c-\x20]*$"
_SIMPLE_PATTERN = re.compile(r"(?:%[YmdHMS]|[-/:.T ])+")
_SIZES = {"ns": 10**17, "us": 10**14, "ms": 10**11}  # least size of a time in this unit
_PARTS = {"us": 1000, "ns": 1_000_000}  # of a millisecond
_THOUSANDS = re.compile(r"^\s*-?\d{1,3}(?:,\d{3})+(?:\.\d*)?\s*$")
_AMBIGUOUS = ": its comma may part thousands or decimals; write it with a decimal point"

# --- one value --------------------------------------------------------------------------------------------------


def id_of(value: Any) -> str:
    """A user's or an item's id; whole numbers are ids too, with every digit.

    Raises:
        ValueError: nothing, white space, a fraction, a float too large to be exact, or no single value.
    """
    if isinstance(value, float | np.floating):
        if not value.is_integer():
            raise ValueError("is not an id")
        if abs(float(value)) >= exact(value):
            raise ValueError(
                f"is a float of {exact(value):,} or more, which has lost digits; store ids as text or whole numbers"
            )
    if isinstance(value, bool) or (isinstance(value, Decimal) and value != value.to_integral_value()):
        raise ValueError("is not an id")
    text = str(int(value)) if isinstance(value, Decimal) else text_of(value)
    if not text or text.isspace():
        raise ValueError("is missing")
    return text


def number_of(value: Any) -> float:
    """A finite number, also when it is written as text, with a decimal point or an unmistakable decimal comma.

    Raises:
        ValueError: anything else; `1,500` is refused, as it may be 1.5 or 1500.
    """
    if isinstance(value, str) and "_" not in value:
        try:
            value = float(re.sub(_COMMA, r"\1.\2", value.strip()) if "," in value else value)
        except ValueError:
            raise ValueError("is not a number" + (_AMBIGUOUS if _THOUSANDS.search(value) else "")) from None
    if isinstance(value, Decimal | np.floating):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not _finite(value):
        raise ValueError("is not a number" if value not in (None, "") else "is missing")
    return float(value)


def join_cells(cells: Sequence[Any]) -> Any:
    """A single cell as it is; a day and an hour as one text, nothing when one of them is missing."""
    if len(cells) == 1:
        return cells[0]
    return None if None in cells or "" in cells else " ".join(str(cell).strip() for cell in cells)


def _finite(value: int | float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond the floats
        return False


def millis_of(value: Any, time_format: str) -> int:
    """A timestamp in milliseconds since 1970, UTC unless it says otherwise.

    With time_format "auto" the size of a number tells its unit: below 1e11 it is in seconds (until the year 5138), from
    there on in milliseconds, from 1e14 on in microseconds, from 1e17 on in nanoseconds. A text is ISO 8601.

    Raises:
        ValueError: no timestamp, or one outside of the years 1 to 9999.
    """
    if value is None or value == "":
        raise ValueError("is missing")
    if isinstance(value, datetime.date):
        ms = _moment(value)
    elif "%" in time_format:
        try:
            ms = _moment(datetime.datetime.strptime(text_of(value), time_format))
        except ValueError:
            raise ValueError(f"does not fit data.time_format={time_format}") from None
    else:
        try:
            number = int(value) if isinstance(value, str) and _WHOLE.fullmatch(value) else value
            number = number if type(number) is int else number_of(number)
        except ValueError:
            ms = _iso(value)
        else:
            ms = _in_millis(number, unit_of(number) if time_format == "auto" else time_format)
    if not _EARLIEST <= ms <= _LATEST:
        raise ValueError("is outside of the years 1 to 9999")
    return ms


def unit_of(number: int | float) -> str:
    """s, ms, us or ns: the unit of a time whose size is so many of it since 1970."""
    return next((unit for unit, size in _SIZES.items() if abs(number) >= size), "s")


def _in_millis(number: int | float, unit: str) -> int:
    """Parts of a millisecond are dropped where they were counted, and rounded where a float has them."""
    if unit in _PARTS:
        return math.floor(number / _PARTS[unit]) if isinstance(number, float) else number // _PARTS[unit]
    number *= 1000 if unit == "s" else 1
    return number if isinstance(number, int) else _whole(number)


def _iso(value: Any) -> int:
    try:
        return _moment(datetime.datetime.fromisoformat(value.strip().removesuffix(" UTC")))
    except (ValueError, AttributeError, TypeError):
        raise ValueError("is neither a number nor an ISO 8601 time; set data.time_format") from None


def _moment(value: datetime.date) -> int:
    if not isinstance(value, datetime.datetime):
        value = datetime.datetime(value.year, value.month, value.day)
    if value.tzinfo is None:
        value = value.replace(tzinfo=datetime.UTC)
    since = value - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    return since // datetime.timedelta(milliseconds=1)


def _whole(number: float) -> int:
    return math.floor(number + 0.5) if math.isfinite(number) else _LATEST + 1


# --- a column ---------------------------------------------------------------------------------------------------


def ids(column: pa.Array) -> pa.Array | None:
    """Ids."""
    kind = column.type
    if column.null_count or pa.types.is_boolean(kind):
        return None
    if pa.types.is_integer(kind) or (pa.types.is_decimal(kind) and kind.scale == 0):
        return pc.cast(column, pa.string())
    if pa.types.is_floating(kind) and not pa.types.is_float16(kind):
        limit = exact(pylist(column[:1])[0]) if len(column) else 0
        if not pc.all(pc.less(pc.abs(column), limit), min_count=0).as_py():
            return None
        try:
            return pc.cast(pc.cast(column, pa.int64()), pa.string())
        except pa.ArrowInvalid:  # a fraction
            return None
    if not is_plain(kind):
        return None
    column = pc.cast(column, pa.string())
    return None if pc.any(_blank(column)).as_py() else column


def _blank(column: pa.Array) -> pa.Array:
    """Which texts hold nothing but white space; Arrow makes tables of Unicode at the first use, which takes .4 s."""
    if pc.all(pc.string_is_ascii(column), min_count=0).as_py():
        return pc.match_substring_regex(column, _ASCII_BLANK)
    return pc.or_(pc.equal(column, ""), pc.utf8_is_space(column))


def numbers(column: pa.Array) -> pa.Array | None:
    """Finite numbers as float64."""
    if column.null_count:
        return None
    if is_text(column.type):
        column = pc.replace_substring_regex(column, pattern=_COMMA, replacement=r"\1.\2")
        if not pc.all(pc.match_substring_regex(column, _NUMBER), min_count=0).as_py():
            return None
    elif not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        return None
    column = pc.cast(column, pa.float64(), safe=False)
    return column if pc.all(pc.is_finite(column), min_count=0).as_py() else None


def join_columns(columns: Sequence[pa.Array]) -> pa.Array:
    """A single column as it is; a day and an hour as one text."""
    if len(columns) == 1 or not all(is_text(column.type) for column in columns):
        return columns[0] if len(columns) == 1 else pa.nulls(len(columns[0]))
    trimmed = [pc.utf8_trim_whitespace(pc.if_else(pc.equal(column, ""), None, column)) for column in columns]
    return pc.binary_join_element_wise(*trimmed, " ")


def millis(column: pa.Array, time_format: str) -> pa.Array | None:
    """Timestamps in milliseconds as int64."""
    if column.null_count:
        return None
    if pa.types.is_timestamp(column.type):
        found = _floored(column)
    elif "%" in time_format:
        found = _patterned(column, time_format)
    elif is_text(column.type) and pc.all(pc.match_substring_regex(column, _ISO), min_count=0).as_py():
        found = _iso_column(column)
    else:
        found = _scaled_whole(column, time_format) or _scaled(numbers(column), time_format)
    if found is None:
        return None
    inside = pc.and_(pc.greater_equal(found, _EARLIEST), pc.less_equal(found, _LATEST))
    return found if pc.all(inside, min_count=0).as_py() else None


def _scaled_whole(column: pa.Array, time_format: str) -> pa.Array | None:
    """Whole numbers, also when they are written as text."""
    if is_text(column.type):
        if not pc.all(pc.match_substring_regex(column, f"^(?:{_WHOLE.pattern})$"), min_count=0).as_py():
            return None
    elif not pa.types.is_signed_integer(column.type):
        return None
    try:
        column = pc.cast(column, pa.int64())
    except pa.ArrowInvalid:  # more than 64 bits
        return None
    sizes = [abs(number or 0) for number in pc.min_max(pc.abs(column)).as_py().values()]
    if time_format == "auto" and max(sizes) < _SIZES["us"]:
        return _mixed(column)
    units = {unit_of(size) for size in sizes} if time_format == "auto" else {time_format}
    unit = units.pop()
    if units or (unit not in _PARTS and max(sizes) >= 10**15):
        return None  # several units, outside of the years, or close to what int64 holds
    if unit in _PARTS:
        parts = pc.divide(column, _PARTS[unit])  # towards zero, where the reference goes down
        return pc.subtract(parts, pc.cast(pc.less(column, pc.multiply(parts, _PARTS[unit])), pa.int64()))
    return pc.multiply(column, 1000) if unit == "s" else column


def _scaled(number: pa.Array | None, time_format: str) -> pa.Array | None:
    limit = 1e14 if time_format == "auto" else 1e15
    if number is None or time_format in _PARTS or not pc.all(pc.less(pc.abs(number), limit), min_count=0).as_py():
        return None
    ms = _mixed(number) if time_format == "auto" else pc.multiply(number, 1000) if time_format == "s" else number
    return pc.cast(pc.floor(pc.add(ms, 0.5)), pa.int64())


def _mixed(column: pa.Array) -> pa.Array:
    """Seconds below 1e11, else milliseconds."""
    return pc.if_else(pc.greater_equal(pc.abs(column), _SIZES["ms"]), column, pc.multiply(column, 1000))


def _iso_column(column: pa.Array) -> pa.Array | None:
    column = pc.replace_substring_regex(pc.cast(column, pa.string()), pattern=r"( UTC|Z)$", replacement="")
    try:
        return _floored(pc.cast(column, pa.timestamp("us")))
    except pa.ArrowInvalid:
        return None


def _floored(moments: pa.Array) -> pa.Array:
    """Timestamps of any unit as whole milliseconds."""
    return pc.cast(
        pc.cast(pc.floor_temporal(moments, unit="millisecond"), pa.timestamp("ms", moments.type.tz)), pa.int64()
    )


def _patterned(column: pa.Array, time_format: str) -> pa.Array | None:
    if pa.types.is_integer(column.type):
        column = pc.cast(column, pa.string())
    if not is_text(column.type) or not _SIMPLE_PATTERN.fullmatch(time_format):
        return None
    found = pc.strptime(column, format=time_format, unit="s", error_is_null=True)
    return None if found.null_count else pc.multiply(pc.cast(found, pa.int64()), 1000)
