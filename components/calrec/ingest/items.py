"""Attributes of the log's items, from item files or from the events themselves, and the clean catalogue."""

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from calrec import artifacts
from calrec.files import File
from calrec.ingest import values
from calrec.ingest.cleaning import clean_brand, clean_category, clean_price, clean_title
from calrec.ingest.layouts import ATTRIBUTES, Layout
from calrec.ingest.reading import Counts, Rejects, read_records
from calrec.ingest.vocabulary import Vocabulary

_BATCH = 4096  # records looked up together


@dataclass
class ItemCounts(Counts):
    """What became of the rows of the item files."""

    absent: int = 0
    """Rows of items that the log never names."""
    repeated: int = 0
    """Rows of items that an earlier row has described; the first one counts."""


class Attributes:
    """Raw attributes by item code."""

    def __init__(self, vocabulary: Vocabulary, category: str):
        """`category` is the setting data.category: first or last entry of a list."""
        self._vocabulary, self._which = vocabulary, category
        self._texts: dict[str, dict[int, str]] = {name: {} for name in ATTRIBUTES}
        self._described: set[int] = set()

    def add_events(self, codes: NDArray[np.int32], batch: pa.RecordBatch) -> None:
        """Take each attribute that stands beside the events from the first event of the item that has it."""
        for name in ATTRIBUTES:
            if name not in batch.schema.names:
                continue
            texts = self._texts[name]
            filled = np.flatnonzero(pc.not_equal(batch[name], "").to_numpy(zero_copy_only=False))
            found, first = np.unique(codes[filled], return_index=True)
            new = [at for at, code in enumerate(found.tolist()) if code not in texts]
            values_ = batch[name].take(pa.array(filled[first[new]])).to_pylist()
            texts.update(zip(found[new].tolist(), values_, strict=True))

    def add_records(self, file: File, layout: Layout, rejects: Rejects, counts: ItemCounts) -> None:
        """Read an item file; the first record of an item counts, and only items of the log are kept."""
        for chunk in _chunks(self._identified(file, layout, rejects, counts)):
            codes = self._vocabulary.lookup(pa.array([item for item, _ in chunk], pa.string()))
            for code, (_, record) in zip(codes.tolist(), chunk, strict=True):
                if code < 0:
                    counts.absent += 1
                elif code in self._described:
                    counts.repeated += 1
                else:
                    self._described.add(code)
                    for name in ATTRIBUTES:
                        self._texts[name][code] = attribute(record, name, layout, self._which)

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

    def known(self, n_items: int) -> NDArray[np.bool_]:
        """For each item of the log, whether anything is known of it."""
        found = np.zeros(n_items, dtype=bool)
        for codes in (self._described, *self._texts.values()):
            found[list(codes)] = True
        return found

    def catalogue(self, domain: str, codes: NDArray[np.int64]) -> pa.Table:
        """Clean attributes of some items, sorted by id; what is missing is an empty string."""
        by_id = sorted(zip(self._vocabulary.take(codes).to_pylist(), codes.tolist(), strict=True))
        raw = ([self._texts[name].get(code, "") for name in ATTRIBUTES] for _, code in by_id)
        columns = list(zip(*map(cleaned, raw), strict=True)) or [()] * len(ATTRIBUTES)
        return pa.table([[item for item, _ in by_id], [domain] * len(by_id), *columns], schema=artifacts.ITEMS)


def _chunks(rows: Iterator[Any]) -> Iterator[list[Any]]:
    while chunk := list(itertools.islice(rows, _BATCH)):
        yield chunk


def attribute(record: Mapping[str, Any], name: str, layout: Layout, which: str) -> str:
    """The raw text of one attribute: of its first column that is not empty."""
    if name == "category" and layout.flags:
        return _category([flag for flag in layout.flags if record.get(flag) in ("1", 1)], "", which)
    for column in layout.columns.get(name, ()):
        value = record.get(column)
        text = _category(value, layout.separator, which) if name == "category" else values.loose(value)
        if text:
            return text
    return ""


def _category(value: Any, separator: str, which: str) -> str:
    """The single category out of a text, a list, or a list of lists (Amazon 2014: the first one counts)."""
    if isinstance(value, list) and value and isinstance(value[0], list):
        value = value[0]
    if isinstance(value, str) and separator:
        value = value.split(separator)
    if isinstance(value, list):
        entries = [entry for entry in value if isinstance(entry, str) and entry]
        value = (entries[-1] if which == "last" else entries[0]) if entries else ""
    return values.loose(value)


# Categories, brands and prices repeat.
_category_text = functools.lru_cache(maxsize=1 << 16)(clean_category)
_brand_text = functools.lru_cache(maxsize=1 << 16)(clean_brand)
_price_text = functools.lru_cache(maxsize=1 << 16)(clean_price)


def cleaned(row: Sequence[str]) -> tuple[str, ...]:
    """Title, category, brand and price as they stand in a catalogue."""
    title, category, brand, price = row
    named = _category_text(category)
    return clean_title(title, named), named, _brand_text(brand), _price_text(price)


def missing(catalogue: pa.Table) -> dict[str, int]:
    """Items without each attribute."""
    return {f"items_without_{name}": catalogue[name].to_pylist().count("") for name in ATTRIBUTES}


def identical_texts(catalogue: pa.Table) -> dict[str, int]:
    """Distinct texts, and items that share theirs with another item: retrieval cannot tell these apart."""
    sizes = catalogue.group_by(list(ATTRIBUTES)).aggregate([([], "count_all")])["count_all"].to_numpy()
    return {"distinct_texts": len(sizes), "items_with_shared_text": int(sizes[sizes > 1].sum())}
