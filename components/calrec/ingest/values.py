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

import pyarrow as pa
import pyarrow.compute as pc

_EARLIEST, _LATEST = -62_135_596_800_000, 253_402_300_799_999  # years 1 to 9999
_NUMBER = r"^-?\d{1,15}(\.\d{1,15})?$"
_ISO = r"^\d{4}-\d\d-\d\d([ T]\d\d:\d\d:\d\d(\.\d{1,6})?( UTC|Z)?)?$"
_SIMPLE_PATTERN = re.compile(r"(?:%[YmdHMS]|[-/:.T ])+")
_EXACT = 2**53  # above it a double is not a whole number's only name

# --- one value --------------------------------------------------------------------------------------------------


def text_of(value: Any) -> str:
    """A cell as text; nothing is the empty string.

    Raises:
        ValueError: bytes that are no UTF-8, a list or an object.
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT:
        return str(int(value))
    if isinstance(value, bytes):
        value = value.decode("utf-8", "surrogateescape")
    if isinstance(value, str):
        if not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
            raise ValueError("is not UTF-8")
        return value
    if isinstance(value, int | float | datetime.date | Decimal):
        return str(value)
    raise ValueError(f"is a {type(value).__name__}, not a single value")


def loose(value: Any) -> str:
    """An attribute of any type as raw text, of a list its first entry; the cleaning decides what it is worth."""
    if isinstance(value, list):
        value = value[0] if value else ""
    try:
        return text_of(value)
    except ValueError:
        return ""


def id_of(value: Any) -> str:
    """A user's or an item's id; whole numbers are ids too.

    Raises:
        ValueError: nothing, white space, a fraction, or no single value.
    """
    if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
        raise ValueError("is not an id")
    text = text_of(value)
    if not text or text.isspace():
        raise ValueError("is missing")
    return text


def number_of(value: Any) -> float:
    """A finite number, also when it is written as text.

    Raises:
        ValueError: anything else.
    """
    if isinstance(value, str) and "_" not in value:
        try:
            value = float(value)
        except ValueError:
            raise ValueError("is not a number") from None
    if isinstance(value, Decimal):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError("is not a number" if value not in (None, "") else "is missing")
    return float(value)


def joined_of(cells: Sequence[Any]) -> Any:
    """A single cell as it is; a day and an hour as one text, nothing when one of them is missing."""
    if len(cells) == 1:
        return cells[0]
    return None if None in cells or "" in cells else " ".join(str(cell).strip() for cell in cells)


def millis_of(value: Any, time_format: str) -> int:
    """A timestamp in milliseconds since 1970, UTC unless it says otherwise.

    With time_format "auto" a number of 1e11 or more (seconds would be after the year 5000) is in milliseconds, a
    smaller one in seconds, and a text is ISO 8601.

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
            number = number_of(value)
        except ValueError:
            ms = _iso(value)
        else:
            scale = {"s": 1000, "ms": 1}.get(time_format) or (1 if abs(number) >= 1e11 else 1000)
            ms = value * scale if isinstance(value, int) else _whole(number * scale)
    if not _EARLIEST <= ms <= _LATEST:
        raise ValueError("is outside of the years 1 to 9999")
    return ms


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


def texts(column: pa.Array) -> pa.Array | None:
    """Cells as text, nothing as the empty string."""
    if pa.types.is_floating(column.type) or pa.types.is_date(column.type):
        return pa.array([text_of(value) for value in column.to_pylist()], pa.string())
    if not _plain(column.type):
        return None
    return pc.fill_null(pc.cast(column, pa.string()), "")


def ids(column: pa.Array) -> pa.Array | None:
    """Ids."""
    if column.null_count or not _plain(column.type) or pa.types.is_boolean(column.type):
        return None
    if pa.types.is_integer(column.type):
        return pc.cast(column, pa.string())
    column = pc.cast(column, pa.string())
    blank = pc.or_(pc.equal(column, ""), pc.utf8_is_space(column))
    return None if pc.any(blank).as_py() else column


def numbers(column: pa.Array) -> pa.Array | None:
    """Finite numbers as float64."""
    if column.null_count:
        return None
    if _is_text(column.type):
        if not pc.all(pc.match_substring_regex(column, _NUMBER), min_count=0).as_py():
            return None
    elif not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        return None
    column = pc.cast(column, pa.float64(), safe=False)
    return column if pc.all(pc.is_finite(column), min_count=0).as_py() else None


def joined(columns: Sequence[pa.Array]) -> pa.Array:
    """A single column as it is; a day and an hour as one text."""
    if len(columns) == 1 or not all(_is_text(column.type) for column in columns):
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
    elif _is_text(column.type) and pc.all(pc.match_substring_regex(column, _ISO), min_count=0).as_py():
        found = _iso_column(column)
    elif pa.types.is_integer(column.type):
        found = _scaled_whole(column, time_format)
    else:
        found = _scaled(numbers(column), time_format)
    if found is None:
        return None
    inside = pc.and_(pc.greater_equal(found, _EARLIEST), pc.less_equal(found, _LATEST))
    return found if pc.all(inside, min_count=0).as_py() else None


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _plain(kind: pa.DataType) -> bool:
    return _is_text(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind)


def _scaled_whole(column: pa.Array, time_format: str) -> pa.Array | None:
    if not pa.types.is_signed_integer(column.type):
        return None
    column = pc.cast(column, pa.int64())
    if not pc.all(pc.and_(pc.greater(column, -(10**15)), pc.less(column, 10**15)), min_count=0).as_py():
        return None  # outside of the years, or close to what int64 holds
    return _by_unit(column, time_format, column)


def _scaled(number: pa.Array | None, time_format: str) -> pa.Array | None:
    if number is None or not pc.all(pc.less(pc.abs(number), 1e15), min_count=0).as_py():
        return None
    ms = _by_unit(number, time_format, number)
    return pc.cast(pc.floor(pc.add(ms, 0.5)), pa.int64())


def _by_unit(column: pa.Array, time_format: str, size: pa.Array) -> pa.Array:
    if time_format == "ms":
        return column
    in_s = pc.multiply(column, 1000)
    return in_s if time_format == "s" else pc.if_else(pc.greater_equal(pc.abs(size), 10**11), column, in_s)


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
    if not _is_text(column.type) or not _SIMPLE_PATTERN.fullmatch(time_format):
        return None
    found = pc.strptime(column, format=time_format, unit="s", error_is_null=True)
    return None if found.null_count else pc.multiply(pc.cast(found, pa.int64()), 1000)
