"""Cleaning rules of method.md, each counted: attributes of items, and the events.

Events are held as integer codes in numpy arrays, sorted by (user, time, tie-break).
"""

import hashlib
import html
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calrec.config import DataConfig

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

# --- attributes -------------------------------------------------------------------------------------------------

_TAG = re.compile(r"<[^<>]*>")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2060\ufeff]")
_SPACE = re.compile(r"\s+")
_PRICE = re.compile(r"^[$€£]?\s*(\d[\d,]*(?:\.\d+)?)(?:\s*-\s*[$€£]?\s*(\d[\d,]*(?:\.\d+)?))?$")
_BY = re.compile(r"^by\s+", re.IGNORECASE)


def clean_text(raw: str) -> str:
    """Entities unescaped, tags and control characters removed, white space collapsed; empty when nothing is left."""
    text = html.unescape(html.unescape(raw)) if "&" in raw else raw
    if text.lstrip().startswith("<span") or text.lstrip().startswith("<img"):
        return ""  # a fragment of the shop's page, not an attribute
    text = _TAG.sub(" ", text) if "<" in text else text
    return _SPACE.sub(" ", _CONTROL.sub(" ", text)).strip()


def clean_price(raw: str) -> str:
    """`$25.00` → `25.00`, a range keeps both ends, anything else (style sheets, `from 3`) is missing."""
    match = _PRICE.match(clean_text(raw))
    if not match:
        return ""
    low, high = (part.replace(",", "") if part else "" for part in match.groups())
    return f"{low} - {high}" if high else low


def clean_brand(raw: str) -> str:
    """Without the `by` of a shop page."""
    return _BY.sub("", clean_text(raw))


# --- events -----------------------------------------------------------------------------------------------------


@dataclass
class Events:
    """Parallel arrays of one log, and the record of what each rule dropped."""

    user: Ints
    item: Ints
    time: Ints
    weight: NDArray[np.float32]
    rules: list[dict[str, Any]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.user)

    def keep(self, rule: str, mask: Bools) -> None:
        """Drop what the mask does not keep, and count it."""
        before = len(self)
        self.take(np.flatnonzero(mask))
        self.rules.append({"rule": rule, "rows_before": before, "rows_after": len(self)})

    def take(self, index: Ints) -> None:
        """Reorder or select rows."""
        self.user, self.item, self.time = self.user[index], self.item[index], self.time[index]
        self.weight = self.weight[index]


def tie_keys(item_ids: list[str]) -> NDArray[np.uint64]:
    """A stable 64-bit hash of each item id: an order for events at one time that no file order leaks into."""
    digests = (hashlib.blake2b(item.encode(), digest_size=8).digest() for item in item_ids)
    return np.frombuffer(b"".join(digests), dtype=">u8").astype(np.uint64)


def clean_events(events: Events, item_ids: list[str], data: DataConfig, has_metadata: Bools) -> None:
    """Apply every rule in place, in the order of method.md; `item_ids` and `has_metadata` are indexed by item code.

    Raises:
        ValueError: no user is left; says how long the histories are and which setting to lower.
    """
    if data.missing_metadata == "drop":
        events.keep("item has metadata", has_metadata[events.item])
    if data.min_weight > 0:
        events.keep(f"weight >= {data.min_weight:g}", events.weight >= data.min_weight)
    _sort(events, item_ids, data.tie_break)
    events.keep("exact duplicates (user, item, timestamp)", ~_repeats(events.user, events.time, events.item))
    dedup = {"consecutive": _collapse_adjacent, "first": _first_purchases, "none": None}[data.dedup]
    if dedup:
        events.keep(f"dedup = {data.dedup}", dedup(events))
    longest = int(np.bincount(events.user).max()) if len(events) else 0
    before = len(events)
    _k_core(events, data.min_user, data.min_item, dedup)
    rule = f"k-core: users >= {data.min_user}, items >= {data.min_item}, until stable"
    events.rules.append({"rule": rule, "rows_before": before, "rows_after": len(events)})
    events.keep("users with at least 3 events", _counts(events.user) >= 3)
    if not len(events):
        raise ValueError(
            f"no user is left after cleaning: {before} events before the k-core (users >= {data.min_user}, items >= "
            f"{data.min_item}), the longest history has {longest}; lower data.min_user or data.min_item"
        )


def _sort(events: Events, item_ids: list[str], tie_break: str) -> None:
    if tie_break == "file":
        events.take(np.lexsort((np.arange(len(events)), events.time, events.user)))
    else:
        events.take(np.lexsort((tie_keys(item_ids)[events.item], events.time, events.user)))


def _repeats(*columns: Ints) -> Bools:
    """True for each row that equals an earlier one in all columns."""
    if not len(columns[0]):
        return np.zeros(0, dtype=bool)
    order = np.lexsort((np.arange(len(columns[0])), *reversed(columns)))
    same = np.ones(len(order) - 1, dtype=bool)
    for column in columns:
        same &= column[order][1:] == column[order][:-1]
    repeated = np.zeros(len(order), dtype=bool)
    repeated[order[1:]] = same
    return repeated


def _collapse_adjacent(events: Events) -> Bools:
    keep = np.ones(len(events), dtype=bool)
    keep[1:] = (events.user[1:] != events.user[:-1]) | (events.item[1:] != events.item[:-1])
    return keep


def _first_purchases(events: Events) -> Bools:
    return ~_repeats(events.user, events.item)


def _counts(codes: Ints) -> Ints:
    """For each row, how many rows share its code."""
    return np.bincount(codes)[codes] if len(codes) else np.zeros(0, dtype=np.int64)


def _k_core(events: Events, min_user: int, min_item: int, dedup: Callable[[Events], Bools] | None) -> None:
    """Drop rare users and items until none is rare; what becomes adjacent on the way collapses too."""
    while True:
        before = len(events)
        events.take(np.flatnonzero((_counts(events.user) >= min_user) & (_counts(events.item) >= min_item)))
        if dedup:
            events.take(np.flatnonzero(dedup(events)))
        if len(events) == before:
            return
