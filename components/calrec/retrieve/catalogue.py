"""The items of one category, and the text groups that are searched for."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from calrec import artifacts
from calrec.arrays.ragged import running

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Catalogue:
    """Items and text groups of one category; groups are numbered from 0 in the order that settles ties."""

    items: Ints
    """Codes of the category's items, ascending; a code is a row of the items table."""
    item_id: list[str]
    title: list[str]
    category: list[str]
    price: list[str]
    group_of: Ints
    """Group of each item, parallel to `items`."""
    group_texts: list[str]
    members: list[list[int]]
    """Item codes of each group, most frequent in training first, then by id."""
    train_count: Ints

    def at(self, item: int) -> int:
        """Position of an item code in `items`."""
        return int(np.searchsorted(self.items, item))

    def group(self, item: int) -> int:
        """Text group of an item code."""
        return int(self.group_of[self.at(item)])

    def groups(self, items: Sequence[int] | NDArray[Any]) -> Ints:
        """Text groups of item codes."""
        found: Ints = self.group_of[np.searchsorted(self.items, np.asarray(items, dtype=np.int64))]
        return found

    def text(self, item: int) -> str:
        """Text of an item code."""
        return self.group_texts[self.group(item)]

    @property
    def first(self) -> Ints:
        """The first member of each group: an item code for its text."""
        return np.array([members[0] for members in self.members], dtype=np.int64)


def load_catalogue(texts: Path, domain: str) -> Catalogue:
    """The catalogue of one category.

    Raises:
        ValueError: the texts hold no such category.
    """
    table = artifacts.read_table(texts, "items.parquet", "texts")
    codes = np.flatnonzero(pc.equal(table["domain"], domain).to_numpy())
    if not len(codes):
        known = artifacts.read_manifest(texts).config["domains"]
        raise ValueError(f"unknown category {domain!r}; {texts} holds: {', '.join(known)}")
    return of_table(table.take(pa.array(codes)), codes.astype(np.int64))


def of_table(table: pa.Table, codes: Ints) -> Catalogue:
    """A catalogue of the rows of an items table, whose groups are numbered without gaps.

    Args:
        table: with item_id, title, category, price, text, group and train_count.
        codes: of each row, ascending.
    """
    counts, group = (table[name].to_numpy().astype(np.int64) for name in ("train_count", "group"))
    group = group - group.min()
    by_id = np.empty(len(codes), dtype=np.int64)
    by_id[pc.sort_indices(table["item_id"]).to_numpy()] = np.arange(len(codes))
    order = np.lexsort((by_id, -counts, group))
    sizes = np.bincount(group)
    firsts = order[running(sizes)[:-1]]
    return Catalogue(
        items=codes,
        item_id=table["item_id"].to_pylist(),
        title=table["title"].to_pylist(),
        category=table["category"].to_pylist(),
        price=table["price"].to_pylist(),
        group_of=group,
        group_texts=table["text"].take(pa.array(firsts)).to_pylist(),
        members=[row.tolist() for row in np.split(codes[order], running(sizes)[1:-1])],
        train_count=counts,
    )


def allowed_items(
    catalogue: Catalogue, items: Sequence[str] | None, categories: Sequence[str]
) -> NDArray[np.bool_] | None:
    """Which items of the catalogue may be recommended, parallel to `catalogue.items`; None: all.

    Args:
        catalogue: all items.
        items: ids of those that are in stock; None: no such filter.
        categories: names; empty: no such filter.

    Raises:
        ValueError: a category that no item has, or filters that leave no item.
    """
    if items is None and not categories:
        return None
    chosen = np.ones(len(catalogue.items), dtype=np.bool_)
    if items is not None:
        chosen &= pc.is_in(pa.array(catalogue.item_id), pa.array(list(items), pa.string())).to_numpy(False)
    if categories:
        known = sorted(set(catalogue.category))
        for name in categories:
            if name not in known:
                raise ValueError(f"no item has the category {name!r}; there are {len(known):,}, such as {known[:5]}")
        chosen &= pc.is_in(pa.array(catalogue.category), pa.array(list(categories))).to_numpy(False)
    if not chosen.any():
        raise ValueError("the filters leave no item of the catalogue to recommend")
    return chosen
