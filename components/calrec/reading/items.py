"""Attributes of the log's items, from item files or from the events themselves, and the clean catalogue."""

import itertools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from calrec import artifacts
from calrec.arrays.vocabulary import Vocabulary
from calrec.reading import lists, strings, values
from calrec.reading.catalogue import Account, clean
from calrec.reading.cleaning import clean_text
from calrec.reading.event_attributes import Chosen, Prices, Texts
from calrec.reading.layouts import ATTRIBUTES, Layout
from calrec.reading.prices import clean_price, decimal_comma
from calrec.reading.records import Counts, Rejects, read_records
from calrec.storage.files import File

_BATCH = 4096  # records looked up together
_MANY = 0.05  # share of the items in conflict that is worth a warning


@dataclass
class ItemCounts(Counts):
    """What became of the rows of the item files."""

    absent: int = 0
    """Rows of items that the log never names."""
    repeated: int = 0
    """Rows of items that an earlier row has described; the first one counts."""
    stranger: str = ""
    """Id of the first item that the log never names."""


@dataclass(frozen=True)
class Catalogue:
    """The items of a log, and what became of their attributes."""

    table: pa.Table
    """Schema artifacts.ITEMS, sorted by id; what is missing is an empty string."""
    accounts: Mapping[str, Account]
    counts: Mapping[str, Mapping[str, int]]
    """Attribute → items whose value is read, cleaned, missing or not_readable, together all; and in_conflict, where
    events say different things."""
    warnings: Sequence[str] = field(default_factory=list)
    notes: Sequence[str] = field(default_factory=list)


class Attributes:
    """Raw attributes by item code."""

    def __init__(self, vocabulary: Vocabulary, category: str):
        """`category` is the setting data.category: first or last entry of a list."""
        self._vocabulary, self._which = vocabulary, category
        self._texts: dict[str, dict[int, str]] = {name: {} for name in ATTRIBUTES}
        self._beside: dict[str, Texts] = {}
        self._described: set[int] = set()

    def add_events(self, codes: NDArray[np.int32], batch: pa.RecordBatch) -> None:
        """Count each attribute that stands beside the events; see :mod:`calrec.reading.event_attributes`."""
        for name in ATTRIBUTES:
            if name not in batch.schema.names:
                continue
            if name not in self._beside:
                self._beside[name] = Prices() if name == "price" else Texts()
            bought = batch["weight"].to_numpy(zero_copy_only=False) > 0
            self._beside[name].add(codes, batch[name], batch["timestamp"].to_numpy(), bought)

    def add_records(self, file: File, layout: Layout, rejects: Rejects, counts: ItemCounts) -> None:
        """Read an item file; the first record of an item counts, and only items of the log are kept."""
        for chunk in _chunks(self._identified(file, layout, rejects, counts)):
            codes = self._vocabulary.lookup(pa.array([item for item, _ in chunk], pa.string()))
            for code, (item, record) in zip(codes.tolist(), chunk, strict=True):
                if code < 0:
                    counts.absent += 1
                    counts.stranger = counts.stranger or item
                elif code in self._described:
                    counts.repeated += 1
                else:
                    self._described.add(code)
                    for name in ATTRIBUTES:
                        text = attribute(record, name, layout)
                        self._texts[name][code] = text if name == "title" else sys.intern(text)  # the others repeat

    def add_items(self, items: Sequence[Mapping[str, str]]) -> ItemCounts:
        """Items of the embedded sample, all of them in the log."""
        for item, code in zip(
            items, self._vocabulary.lookup(pa.array([i["item_id"] for i in items])).tolist(), strict=True
        ):
            self._described.add(code)
            for name in ATTRIBUTES:
                self._texts[name][code] = item[name]
        return ItemCounts(rows=len(items))

    def _identified(
        self, file: File, layout: Layout, rejects: Rejects, counts: ItemCounts
    ) -> Iterator[tuple[str, Mapping[str, Any]]]:
        column = layout.columns["item"][0]
        for line, raw, record in read_records(file, layout):
            counts.rows += 1
            try:
                if isinstance(record, str):
                    raise ValueError(record)
                item = values.id_of(record.get(column))
            except ValueError as error:
                reason = str(error) if isinstance(record, str) else f"{column} {error}"
                rejects.add(file.name, line, reason, raw)
            else:
                yield item, record

    def described(self, n_items: int) -> NDArray[np.bool_]:
        """For each item of the log, whether anything is known of it."""
        found = np.zeros(n_items, dtype=bool)
        found[list(self._described)] = True
        for beside in self._beside.values():
            beside.mark_described(found)
        return found

    def catalogue(self, domain: str, codes: NDArray[np.int64]) -> Catalogue:
        """Clean attributes of some items."""
        ids = self._vocabulary.take(codes).to_pylist()
        order = sorted(range(len(ids)), key=ids.__getitem__)
        ids, codes = [ids[at] for at in order], codes[order]
        chosen = {name: self._chosen(name, codes, ids) for name in ATTRIBUTES}
        comma = decimal_comma(
            [*chosen["price"].raw, *(self._beside["price"].words() if "price" in self._beside else ())]
        )
        found = clean({name: one.raw for name, one in chosen.items()}, self._which, comma)
        columns = [ids, [domain] * len(ids), *(found.columns[name] for name in ATTRIBUTES)]
        counts = {name: account.counts() for name, account in found.accounts.items()}
        for name in self._beside:
            counts[name]["in_conflict"] = chosen[name].disagree
        conflicts = [_conflict(name, one, len(ids)) for name, one in chosen.items() if one.disagree]
        many = any(one.disagree > _MANY * len(ids) for one in chosen.values())
        return Catalogue(
            pa.table(columns, schema=artifacts.ITEMS),
            found.accounts,
            counts,
            found.warnings + (conflicts if many else []),
            found.notes + ([] if many else conflicts),
        )

    def _chosen(self, name: str, codes: NDArray[np.int64], ids: Sequence[str]) -> Chosen:
        """The raw text of each item: of the item files, else beside the events."""
        its = self._texts[name]
        if name not in self._beside:
            return Chosen([its.get(code, "") for code in codes.tolist()])
        chosen = self._beside[name].choose(codes, _worth(name, self._beside[name].words()), ids)
        chosen.raw = [its.get(code, "") or beside for code, beside in zip(codes.tolist(), chosen.raw, strict=True)]
        return chosen


def _worth(name: str, words: Sequence[str]) -> Callable[[str], str]:
    """What tells texts beside the events apart: their clean form; empty when they say nothing."""
    if name == "price":
        comma = decimal_comma(words)
        return lambda text: clean_price(text, comma)

    def worth(text: str) -> str:
        odd = text.startswith((strings.NOT_UTF8, strings.NOT_TEXT)) or lists.nothing(text, title=name == "title")
        return "" if odd else clean_text(text)

    return worth


def _conflict(name: str, chosen: Chosen, items: int) -> str:
    what = (
        "prices beside their events that differ by 2x or more" if name == "price" else f"more than one {name} beside "
    )
    what += "" if name == "price" else "their events"
    taken = "the median of the newest prices" if name == "price" else "the most frequent one"
    examples = "; ".join(chosen.examples)
    return f"{chosen.disagree:,} of {items:,} items have {what}, such as {examples}: {taken} is taken"


def _chunks(rows: Iterator[Any]) -> Iterator[list[Any]]:
    while chunk := list(itertools.islice(rows, _BATCH)):
        yield chunk


def attribute(record: Mapping[str, Any], name: str, layout: Layout) -> str:
    """The raw text of one attribute: of its first column that holds more than a word for nothing."""
    if name == "category" and layout.flags:
        return strings.loose([flag for flag in layout.flags if record.get(flag) in ("1", 1)], True)
    found = ""
    for column in layout.columns.get(name, ()):
        value = record.get(column)
        if name == "category" and layout.separator and isinstance(value, str):
            value = value.split(layout.separator)
        text = strings.loose(value, name == "category")
        if not lists.nothing(text, title=name == "title") and (name != "category" or lists.entries(text)):
            return text
        found = found or text
    return found


def missing(catalogue: pa.Table) -> dict[str, int]:
    """Items without each attribute."""
    return {f"items_without_{name}": catalogue[name].to_pylist().count("") for name in ATTRIBUTES}


def identical_texts(catalogue: pa.Table) -> dict[str, int]:
    """Distinct texts, and items that share theirs with another item: retrieval cannot tell these apart."""
    sizes = catalogue.group_by(list(ATTRIBUTES)).aggregate([([], "count_all")])["count_all"].to_numpy()
    return {"distinct_texts": len(sizes), "items_with_shared_text": int(sizes[sizes > 1].sum())}
