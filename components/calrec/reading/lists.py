"""Values that are written as text and are none: words for nothing, and lists."""

import ast
import json
import re
import warnings
from collections.abc import Iterable
from typing import Any

from calrec.reading.strings import entry

# What programs write where there is nothing. A title is taken for nothing only in the spelling of a program: a product
# may be called "NA" or "none".
_TITLES = frozenset(
    {"None", "nan", "NaN", "null", "NULL", "N/A", "n/a", "#N/A", "<NA>", "(null)", "\\N", "-", "--", "[]", "{}"}
)
_OTHERS = frozenset(word.casefold() for word in _TITLES) | frozenset(
    ("na", "nat", "n.a.", "---", "–", "—", "()", "[[]]", "undefined")
)
_SEPARATORS = {"|": 0.1, ">": 0.5, ";": 0.5}  # of the entries of a category → share of the items that must have it
_TOKEN = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""")
_ARRAY = re.compile(r"^array\((.*?)(?:,\s*dtype=[\w.<>']+)?\)$", re.DOTALL)
_BARE = re.compile(r"\[([^\[\]{}()'\":]*)\]|\{([^\[\]{}()'\":]*)\}")
_LONGEST = 10_000


def nothing(text: str, title: bool = False) -> bool:
    """Whether a value stands for a missing one, such as `None`, `nan`, `N/A` or `-`."""
    text = text.strip()
    return not text or (text in _TITLES if title else text.casefold() in _OTHERS)


def separator(categories: Iterable[str]) -> str:
    """What stands between the entries of a category, found in the column as a whole; empty when each is one entry."""
    texts = [text for text in categories if not nothing(text) and text[0] not in "[{("]
    for mark, share in _SEPARATORS.items():
        if texts and sum(len(_split(text, mark)) > 1 for text in texts) >= share * len(texts):
            return mark
    return ""


def entries(text: str, mark: str = "") -> list[str]:
    """The entries of a list that is written as text, else what `mark` parts, else the text itself; nothings left out.

    Read are JSON and Python lists, of a list of lists the first one, numpy's `['a' 'b']`, `[a, b]` and `{a,b}`.
    """
    found = _listed(text.strip()) if text.strip()[:1] in ("[", "{", "(", "a") else None
    if found is None:
        return _split(text, mark) if mark else [text]
    if found and isinstance(found[0], list | tuple):
        found = list(found[0])
    words = [one if isinstance(one, str) else str(entry(one)) for one in found]
    return [word for word in words if not nothing(word)]


def _split(text: str, mark: str) -> list[str]:
    return [part.strip() for part in text.split(mark) if not nothing(part)]


def _listed(text: str) -> list[Any] | None:
    """The list of a text; None when it is none."""
    text = _ARRAY.sub(r"\1", text)
    if len(text) > _LONGEST or (text[0], text[-1]) not in (("[", "]"), ("{", "}"), ("(", ")")):
        return None
    shape = _TOKEN.sub("\0", text)
    if re.search(r"\0\s+\0", shape):  # numpy: Python would join the two
        plain = not re.sub(r"[\0\s,\[\]]", "", shape)
        return [_literal(token) for token in _TOKEN.findall(text)] if plain else None
    for parse in (json.loads, _literal):
        try:
            found = parse(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
        if isinstance(found, set):
            return sorted(found, key=str)
        return list(found) if isinstance(found, list | tuple) else None
    bare = _BARE.fullmatch(text)
    return [part.strip() for part in (bare[1] or bare[2] or "").split(",")] if bare else None


def _literal(text: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        return ast.literal_eval(text)
