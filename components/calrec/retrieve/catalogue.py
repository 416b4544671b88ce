"""The items of one category as BM25 documents: one document per text group."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from calrec import artifacts
from calrec.config import RetrieveConfig
from calrec.textify.texts import words

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Catalogue:
    """Items and text groups of one category; groups are numbered from 0 in the order that settles ties."""

    items: NDArray[np.int64]
    """Codes of the category's items, ascending; a code is a row of the items table."""
    item_id: list[str]
    title: list[str]
    group_of: NDArray[np.int64]
    """Group of each item, parallel to `items`."""
    group_texts: list[str]
    members: list[list[int]]
    """Item codes of each group, most frequent in training first, then by id."""
    train_count: NDArray[np.int64]

    def at(self, item: int) -> int:
        """Position of an item code in `items`."""
        return int(np.searchsorted(self.items, item))


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
    table = table.take(pa.array(codes))
    counts = table["train_count"].to_numpy().astype(np.int64)
    group = table["group"].to_numpy().astype(np.int64)
    group -= group.min()  # groups of a category are numbered without gaps
    item_id, text = table["item_id"].to_pylist(), table["text"].to_pylist()
    members: list[list[int]] = [[] for _ in range(int(group.max()) + 1)]
    texts_of = [""] * len(members)
    for row in sorted(range(len(codes)), key=lambda row: (-int(counts[row]), item_id[row])):
        members[group[row]].append(int(codes[row]))
        texts_of[group[row]] = text[row]
    return Catalogue(codes.astype(np.int64), item_id, table["title"].to_pylist(), group, texts_of, members, counts)


class Bm25:
    """BM25 (Lucene variant) over the group texts.

    score(d, q) = Σ over the words of q of ln(1 + (N − df + 0.5)/(df + 0.5)) · tf / (tf + k1·(1 − b + b·|d|/mean|d|)).
    """

    def __init__(self, texts: list[str], config: RetrieveConfig):
        import bm25s

        documents = [words(text) for text in texts]
        if not any(documents):
            raise ValueError("no text of the catalogue has a single word; BM25 has nothing to search")
        self.size = len(texts)
        self._index: Any = bm25s.BM25(method="lucene", k1=config.k1, b=config.b, dtype="float64", backend="numpy")
        self._index.index(documents, show_progress=False)

    def scores(self, text: str) -> Floats:
        """Score of every group for a text; all 0 when no word of it is known."""
        known = [word for word in words(text) if word in self._index.vocab_dict]
        if not known:
            return np.zeros(self.size)
        return np.asarray(self._index.get_scores(known), dtype=np.float64)
