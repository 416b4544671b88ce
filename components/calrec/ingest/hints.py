"""What a person should know of a log before trusting it: filters with a wrong value, ids that may be no products."""

import itertools
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from calrec.arrays.vocabulary import Vocabulary
from calrec.config.data import event_filter
from calrec.reading import strings
from calrec.reading.layouts import Layout
from calrec.reading.records import read_records
from calrec.storage.files import File

_ROWS = 10_000  # of the file, for the values of a column
_VALUES = 5
_USUAL = 0.05  # a shape with this share of the items is a usual one
_ODD = 0.05  # with a larger share of unusual ids, the ids simply have many shapes
_SHAPES = 3  # usual ones, at most
_FEWEST = 20  # items
_NOBODY = ("nan", "NaN", "null", "none", "nil", "n/a", "unknown", "(not set)", "guest", "anonymous", "undefined")
_LETTERS = r"[^\W\d_]"
_PATTERNS = (r"^\d", rf"^{_LETTERS}", r"\d", r"^\D*$", rf"^{_LETTERS}+\d", r"^\w+$")


def frequent_values(file: File, layout: Layout, column: str) -> str:
    """The most frequent values of a column in the first rows of a file, in words."""
    rows = itertools.islice(read_records(file, layout), _ROWS)
    counts = Counter(strings.loose(row.get(column)) for _, _, row in rows if isinstance(row, Mapping))
    listed = ", ".join(f"{value[:40]!r} ({count:,})" for value, count in counts.most_common(_VALUES))
    return f"the column {column} has values such as {listed}"


def with_filter(filters: Sequence[str], new: str) -> str:
    """The setting that adds a filter to the others, as it is typed; a value with a comma makes it a JSON list."""
    every = [*filters, new]
    text = json.dumps(every, ensure_ascii=False) if any("," in one for one in every) else ",".join(every)
    return f"--set 'data.filters={text}'"


def literal_star(filters: Sequence[str], text: str) -> list[str]:
    """A warning when one of the filters has a * that may be meant as a wildcard."""
    column, operator, value = event_filter(text)
    if operator not in ("=", "!=") or "*" not in value:
        return []
    pattern = "|".join("^" + re.escape(one).replace(r"\*", ".*") + "$" for one in value.split("|"))
    setting = with_filter([one for one in filters if one != text], column + operator.replace("=", "~") + pattern)
    return [f"the filter {text} takes * as it is; for anything in its place write a regular expression: {setting}"]


def alike(what: str, ids: pa.Array) -> list[str]:
    """A warning when ids differ from each other only by capitals or white space around them: each counts by itself."""
    plain = pc.ascii_lower(pc.ascii_trim_whitespace(ids))
    if len(plain.unique()) == len(plain):
        return []
    codes = plain.dictionary_encode().indices.to_numpy()
    several = np.flatnonzero(np.bincount(codes)[codes] > 1)
    pair = np.flatnonzero(codes == codes[several[0]])[:2]
    first, second = ids.take(pa.array(pair)).to_pylist()
    return [
        f"{len(several):,} of {len(ids):,} {what}s differ from another one by capitals or spaces alone, such as "
        f"{first!r} and {second!r}, and count as different; write them alike in the files if they are the same"
    ]


def nobodies(users: Vocabulary, column: str, filters: Sequence[str]) -> list[str]:
    """A warning for users that stand for nobody, such as guests: all their events would be one person's."""
    names = pa.array([spelt for name in _NOBODY for spelt in dict.fromkeys((name, name.upper(), name.capitalize()))])
    there = [name for name, code in zip(names.to_pylist(), users.lookup(names).tolist(), strict=True) if code >= 0]
    if not there:
        return []
    remedy = f"; {with_filter(filters, f'{column}!=' + '|'.join(there))} leaves them out" if column else ""
    return [f"the user{'s' * (len(there) > 1)} {', '.join(map(repr, there))} may stand for nobody{remedy}"]


def shape(text: str) -> str:
    """An id's shape: runs of digits are 9, runs of letters A, the rest stands as it is."""
    return re.sub(r"\d+", "9", re.sub(rf"{_LETTERS}+", "A", text))


def odd_ids(events: Mapping[str, int], column: str, filters: Sequence[str]) -> list[str]:
    """A hint when few ids have another shape than the rest: postage, fees and samples are often such items.

    Args:
        events: events of each item id.
        column: the items' column; empty when no filter can name it.
        filters: the setting data.filters.
    """
    shapes = Counter(map(shape, events))
    usual = {one for one, count in shapes.items() if count >= _USUAL * len(events)}
    odd = [item for item in events if shape(item) not in usual]
    if len(events) < _FEWEST or len(usual) > _SHAPES or not odd or len(odd) > _ODD * len(events):
        return []
    pattern = _telling(events, odd)
    if not pattern:  # codes such as Amazon's, where letters and digits mix at random
        return []
    odd.sort(key=lambda item: (-events[item], item))
    listed = ", ".join(f"{item} ({events[item]:,} events)" for item in odd[:_VALUES])
    listed += ", …" if len(odd) > _VALUES else ""
    remedy = f"; if they are no products, drop them: {with_filter(filters, f'{column}~{pattern}')}" if column else ""
    return [f"hint: {len(odd):,} of {len(events):,} items have ids of another shape than the rest: {listed}{remedy}"]


def _telling(events: Mapping[str, int], odd: Sequence[str]) -> str:
    """The first of a few plain patterns that every usual id fits and no odd one; empty when none does."""
    others = events.keys() - set(odd)
    for pattern in _PATTERNS:
        fits = re.compile(pattern).search
        if all(map(fits, others)) and not any(map(fits, odd)):
            return pattern
    return ""
