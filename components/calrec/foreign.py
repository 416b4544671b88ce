"""Text that others wrote, such as ids, titles, addresses and errors, made fit to be shown."""

import html
import re
import unicodedata

_ADDRESS = re.compile(r"\b([a-z][a-z0-9+.-]*)://((?:(?!,[a-z][a-z0-9+.-]*://)[^\s\"<>])*)", re.IGNORECASE)
_USER = re.compile(r"^(?:[^/?#]*@|[^/?#:@]*:(?!\d+(?:[/?#]|$)).*@)")
_VALUE = re.compile(r"([?&;][^=&;#]*=)[^&;#]+|(?<=\?)[^=&;#]+(?=#|$)")
_NO_QUERY = ("gs", "s3", "file", "sqlite", "sample")  # a ? in these is part of a name, or a wildcard
_JOINERS = "\u200c\u200d"  # of Persian and Hindi letters, and of emoji: invisible, harmless
_MARKDOWN = re.compile(r"([\\`*_{}\[\]|#~])")


def shown(text: str) -> str:
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
    return "".join(sign if _is_plain(sign) else _escaped(sign) for sign in str(text))


def markdown(text: object) -> str:
    """A text inside a line or a cell of Markdown, on GitHub and in MLflow: read as it stands, not as markup."""
    return _MARKDOWN.sub(r"\\\1", html.escape(safe(" ".join(str(text).split())), quote=False))


def _is_plain(sign: str) -> bool:
    return sign.isprintable() or sign in _JOINERS or unicodedata.category(sign) == "Zs"


def _escaped(sign: str) -> str:
    return sign.encode("unicode_escape", "surrogatepass").decode("ascii")
