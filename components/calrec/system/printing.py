"""Text that others wrote, such as ids, titles, addresses and errors, made fit to be shown."""

import contextlib
import html
import re
import sys
from collections.abc import Iterator
from typing import Any, TextIO

_ADDRESS = re.compile(r"\b([a-z][a-z0-9+.-]*)://((?:(?!,[a-z][a-z0-9+.-]*://)[^\s\"<>])*)", re.IGNORECASE)
_USER = re.compile(r"^(?:[^/?#]*@|[^/?#:@]*:(?!\d+(?:[/?#]|$)).*@)")
_VALUE = re.compile(r"([?&;][^=&;#]*=)[^&;#]+|(?<=\?)[^=&;#]+(?=#|$)")
_NO_QUERY = ("gs", "s3", "file", "sqlite", "sample")  # a ? in these is part of a name, or a wildcard
# What moves the cursor, colours, turns the direction or hides; joiners of letters and of emoji are none of these.
_ACTIVE = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\u2028-\\u202e\\u2066-\\u2069\\ud800-\\udfff\\U000e0000-\\U000e007f]")
_ACTIVE_IN_LINES = re.compile(_ACTIVE.pattern.replace(r"\x00-\x1f", r"\x00-\x08\x0b-\x1f"))
_MARKDOWN = re.compile(r"([\\`*_{}\[\]|#~])")


def redact(text: str) -> str:
    """A text without the secrets of the addresses in it: user, password and the values of a query become `…`.

    It may be one address, several, or an error message around them. What follows `#` stays: it is a hash.
    """
    return _ADDRESS.sub(_open, text)


def _open(found: re.Match[str]) -> str:
    scheme, rest = found.groups()
    rest = _USER.sub("…@", rest)
    if scheme.lower() not in _NO_QUERY:
        rest = _VALUE.sub(lambda value: f"{value[1] or ''}…", rest)
    return f"{scheme}://{rest}"


def safe(text: object) -> str:
    """A text on one line of a terminal or a log: what would move the cursor, colour or turn the line is escaped."""
    return _ACTIVE.sub(_escaped, str(text))


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape", "surrogatepass").decode("ascii")


def markdown(text: object) -> str:
    """A text inside a line or a cell of Markdown, on GitHub and in MLflow: read as it stands, not as markup."""
    return _MARKDOWN.sub(r"\\\1", html.escape(safe(" ".join(str(text).split())), quote=False))


@contextlib.contextmanager
def guard_output() -> Iterator[None]:
    """What is printed meanwhile is :func:`safe` but for its line breaks and tabs, and fits the terminal's encoding."""
    old = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (_Guarded.around(stream) for stream in old)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = old


class _Guarded:
    """A text stream before another one, of which it has all else."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    @classmethod
    def around(cls, stream: TextIO) -> Any:
        if isinstance(stream, cls) or stream is None:
            return stream
        if hasattr(stream, "reconfigure"):  # a Latin-1 terminal cannot show an arrow, and that must not end a step
            stream.reconfigure(errors="backslashreplace")
        return cls(stream)

    def write(self, text: str) -> int:
        self._stream.write(_ACTIVE_IN_LINES.sub(_escaped, text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
