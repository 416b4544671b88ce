"""How the times of a log are written, found by its first values."""

import datetime
import re
from collections.abc import Sequence
from itertools import product
from typing import Any

from calrec.reading import values

_DAYS = (
    "%Y/%m/%d", "%m/%d/%Y", "%d/%m/%Y", "%d.%m.%Y", "%d-%m-%Y", "%m-%d-%Y", "%Y.%m.%d", "%m/%d/%y", "%d/%m/%y",
    "%d.%m.%y", "%d %b %Y", "%d-%b-%Y", "%b %d, %Y", "%m %d, %Y", "%d %B %Y", "%B %d, %Y", "%Y年%m月%d日",
)  # fmt: skip
_HOURS = ("", " %H:%M", " %H:%M:%S", " %H:%M:%S.%f", " %I:%M %p", " %I:%M:%S %p")
_PATTERNS = (
    *("".join(pair) for pair in product(_DAYS, _HOURS)),
    "%a %b %d %H:%M:%S %Z %Y",
    "%a %b %d %H:%M:%S %z %Y",
    "%Y%m%d%H%M%S",
)
_DAY_NUMBER = re.compile(r"(19|20)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])")
_ISO_DAY = re.compile(r"\d{4}-\d\d-\d\d")
_EARLIEST, _LATEST = 631_152_000, 2_524_608_000  # seconds of the years 1990 and 2050
_SHARE = 0.95


def time_format(name: str, found: Sequence[Any]) -> str:
    """The setting `data.time_format` for the values of a column: auto where that reads them, else a pattern.

    Raises:
        ValueError: several patterns fit, such as day and month in either order; names them.
    """
    texts = [str(value).strip() for value in found]
    if texts and all(map(_DAY_NUMBER.fullmatch, texts)):
        return "%Y%m%d"
    texts = [text for value, text in zip(found, texts, strict=True) if isinstance(value, str)]
    if not texts or sum(map(_is_auto, texts)) > (1 - _SHARE) * len(texts):
        return "auto"
    fitting = [pattern for pattern in _PATTERNS if _fits(pattern, texts)]
    if len(fitting) > 1:
        raise ValueError(
            f"the times in {name} may be {' or '.join(fitting)}, as in {texts[0]!r}; say which with "
            f'--set "data.time_format={fitting[0]}"'
        )
    return fitting[0] if fitting else "auto"


def is_number(value: Any) -> bool:
    """Whether a value is a number, also when it is written as text."""
    try:
        values.number_of(value)
    except ValueError:
        return False
    return True


def is_written(text: str) -> bool:
    """Whether a text is a time, and no number."""
    return _is_iso(text)


def are_days(texts: Sequence[str]) -> bool:
    """Whether these are days without an hour."""
    written = all(map(_ISO_DAY.fullmatch, texts)) or any(_fits(pattern, texts) for pattern in _DAYS)
    return bool(texts) and written


def are_times(found: Sequence[Any]) -> bool:
    """Whether nearly all look like times: dates, ISO 8601, a usual pattern, or numbers of the years 1990 to 2050."""
    if len(found) < 3:
        return False
    if are_numbers(found):
        return all(map(_is_recent, found))
    texts = [str(value) for value in found]
    likely = sum(isinstance(value, datetime.date) or _is_iso(text) for value, text in zip(found, texts, strict=True))
    return likely >= _SHARE * len(found) or any(_fits(pattern, texts) for pattern in _PATTERNS)


def are_numbers(found: Sequence[Any]) -> bool:
    """Whether all values are numbers, also when they are written as text."""
    return all(map(is_number, found))


def _is_recent(value: Any) -> bool:
    number = values.number_of(value)
    return any(_EARLIEST <= number / unit < _LATEST for unit in (1, 10**3, 10**6, 10**9))


def _is_auto(text: str) -> bool:
    try:
        values.millis_of(text, "auto")
    except ValueError:
        return False
    return True


def _is_iso(text: str) -> bool:
    return not is_number(text) and _is_auto(text)


def _fits(pattern: str, texts: Sequence[str]) -> bool:
    try:
        return all(datetime.datetime.strptime(text, pattern) for text in texts)
    except ValueError:
        return False
