"""Cells of any type as text: the values of a log's attributes, and what they are as Python objects."""

import contextlib
import datetime
import json
import math
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

NOT_UTF8, NOT_TEXT = "\ufdd0", "\ufdd1"
"""Begin an attribute that could not be read, its example behind it: noncharacters, which no text holds."""
_EXAMPLE = 100  # characters
_NARROW: Mapping[str, Any] = {"float": np.float32, "halffloat": np.float16}

# --- one value --------------------------------------------------------------------------------------------------


def text_of(value: Any) -> str:
    """A cell as text; nothing, and what is not a number (NaN), is the empty string.

    Numbers are written in full and in their own width: a float32 of 1.99 is 1.99, and 1e20 has 21 digits.

    Raises:
        ValueError: bytes that are no UTF-8, a list or an object.
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float | np.floating):
        return _float_text(value)
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, bytes):
        value = value.decode("utf-8", "surrogateescape")
    if isinstance(value, str):
        if not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
            raise ValueError("is not UTF-8")
        return value
    if isinstance(value, int | datetime.date):
        return str(value)
    raise ValueError(f"is a {type(value).__name__}, not a single value")


def _float_text(value: Any) -> str:
    if value != value:
        return ""
    if value.is_integer() and abs(value) < exact(value):
        return str(int(value))
    return str(value) if math.isinf(value) else format(Decimal(str(value)), "f").removesuffix(".0")


def exact(value: Any) -> int:
    """From there on a float of this width stands for several whole numbers: 2^53 for a double."""
    return 2**53 if isinstance(value, float) else 1 << (int(np.finfo(type(value)).nmant) + 1)


def loose(value: Any, listed: bool = False) -> str:
    """An attribute of any type as raw text; the cleaning decides what it is worth.

    Of a list its first entry, or with `listed` the text of a JSON list.

    What cannot be text begins with NOT_UTF8 or NOT_TEXT, and is counted when the items are described.
    """
    if isinstance(value, list | tuple):
        if listed and value:
            return json.dumps([entry(one) for one in value], ensure_ascii=False)
        value = value[0] if value else ""
    try:
        return text_of(value)
    except ValueError:
        if isinstance(value, str | bytes):
            return NOT_UTF8 + escape_bytes(value)
        return NOT_TEXT + str(value)[:_EXAMPLE].encode("utf-8", "backslashreplace").decode()


def entry(value: Any) -> Any:
    """An entry of a list as text, of an object its name; a list stays one."""
    if isinstance(value, dict) and isinstance(value.get("name"), str):
        value = value["name"]  # [{"id": 16, "name": "Animation"}]
    return [loose(one) for one in value] if isinstance(value, list | tuple) else loose(value)


def escape_bytes(value: str | bytes) -> str:
    """The beginning of a text that is no UTF-8, its other bytes in hexadecimal."""
    raw = value if isinstance(value, bytes) else value.encode("utf-8", "surrogatepass")
    if isinstance(value, str):
        with contextlib.suppress(UnicodeEncodeError):  # half a surrogate pair, which stood in JSON as \ud83d
            raw = value.encode("utf-8", "surrogateescape")
    return raw[:_EXAMPLE].decode("utf-8", "backslashreplace")


# --- a column ---------------------------------------------------------------------------------------------------


def texts(column: pa.Array) -> pa.Array | None:
    """Cells as text, nothing as the empty string."""
    kind = column.type
    if pa.types.is_float16(kind) or not len(column):
        return pa.array([text_of(value) for value in pylist(column)], pa.string())
    if pa.types.is_floating(kind) or pa.types.is_date(kind) or pa.types.is_decimal(kind):
        encoded = column.dictionary_encode()  # prices repeat
        words = pa.array([text_of(value) for value in pylist(encoded.dictionary)], pa.string())
        return pc.fill_null(words.take(encoded.indices), "")
    if not is_plain(kind):
        return None
    return pc.fill_null(pc.cast(column, pa.string()), "")


def pylist(column: pa.Array | pa.ChunkedArray) -> list[Any]:
    """The values of a column as Python objects; floats of less than 64 bits, also in lists, keep their width."""
    width = _NARROW.get(str(column.type))
    if width:
        return [None if value is None else width(value) for value in column.to_pylist()]
    inner = _NARROW.get(str(column.type.value_type)) if _is_list(column.type) else None
    if inner:
        lists = column.to_pylist()
        return [its and [None if value is None else inner(value) for value in its] for its in lists]
    if not pa.types.is_temporal(column.type):
        return column.to_pylist()  # type: ignore[no-any-return]
    try:
        return column.to_pylist()  # type: ignore[no-any-return]
    except (OverflowError, ValueError):
        return [_python(value) for value in column]


def _python(value: pa.Scalar) -> Any:
    """A value of Parquet as a Python object; a time beyond Python's years as text that is no time."""
    try:
        return value.as_py()
    except (OverflowError, ValueError):
        return f"{value.value} as {value.type}"


def pyrows(table: pa.Table | pa.RecordBatch) -> Iterator[dict[str, Any]]:
    """The rows of a table as records of Python objects, see :func:`pylist`."""
    names = table.schema.names
    return (dict(zip(names, row, strict=True)) for row in zip(*map(pylist, table.columns), strict=True))


def is_text(kind: pa.DataType) -> bool:
    """Whether a column of this type holds text."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def is_plain(kind: pa.DataType) -> bool:
    """Whether Arrow writes the values of this type as :func:`text_of` does."""
    return is_text(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind)


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))
