"""The best groups of many texts, each distinct one searched once; by compiled code, or by numpy, the oracle."""

import importlib.util
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calrec.arrays.ragged import running, spans
from calrec.retrieve.bm25 import Bags, Floats, Index, Ints
from calrec.system import machine

Bools = NDArray[np.bool_]
ENGINES = ("auto", "numba", "numpy")

_CHUNKS = 4  # per thread, so that none waits long for the last


@dataclass(frozen=True, eq=False)
class Matches:
    """What the fusion needs of each text: its best groups, and the highest and lowest score of all groups."""

    groups: Ints
    """Best allowed groups, falling score, then rising group; -1 where there are fewer than depth. [texts, depth]"""
    scores: Floats
    """Their scores; 0 where there is no group. [texts, depth]"""
    highest: Floats
    """Of all groups, allowed or not. [texts]"""
    lowest: Floats
    """Of all groups, allowed or not. [texts]"""
    known: Floats
    """Share of the text's words that some text of the catalogue has; 0 without words. [texts]"""

    def __len__(self) -> int:
        return len(self.groups)

    def take(self, rows: Any) -> "Matches":
        """The matches of some texts, by row."""
        return Matches(*(column[rows] for column in vars(self).values()))

    def best(self, depth: int) -> "Matches":
        """No more than so many groups of each text."""
        return replace(self, groups=self.groups[:, :depth], scores=self.scores[:, :depth])

    def append(self, other: "Matches") -> "Matches":
        """These matches, then the others, of the same depth, as one."""
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Matches(*(np.concatenate(pair) for pair in pairs))

    @staticmethod
    def empty(texts: int, depth: int) -> "Matches":
        """No groups yet."""
        groups, scores = np.full((texts, depth), -1, np.int32), np.zeros((texts, depth), np.float32)
        return Matches(groups, scores, *(np.zeros(texts, np.float32) for _ in range(3)))


class Search:
    """Searches an index; safe to call from several threads."""

    def __init__(self, index: Index, threads: int = 0, engine: str = "auto"):
        """Open an index.

        Args:
            index: what to search.
            threads: at most so many at once; 0: the cores that this process may use.
            engine: "numba" (compiled at the first use, then kept on disk), "numpy" (the same results, several times
                slower), or "auto": numba where it is installed.

        Raises:
            ValueError: unknown engine, or threads below 0.
        """
        if engine not in ENGINES:
            raise ValueError(f"unknown BM25 engine {engine!r}; one of: {', '.join(ENGINES)}")
        if threads < 0:
            raise ValueError(f"threads must be >= 0, got {threads}; 0 takes all cores")
        self.index = index
        self.threads = threads or machine.cores()
        self.engine = _installed() if engine == "auto" else engine
        self._part: _Part = _compiled(index) if self.engine == "numba" else _plain(index)

    def top(self, texts: Sequence[str], depth: int, allowed: Bools | None = None) -> Matches:
        """The best groups of each text, row i those of text i; equal texts are searched once.

        Args:
            texts: what to look for. A text without a known word matches nothing: all scores are 0.
            depth: groups per text; more than the catalogue has become as many as it has.
            allowed: which groups may be listed, one per group; scores, highest and lowest do not depend on it.

        Raises:
            ValueError: depth below 1, or `allowed` of another length than the catalogue.
        """
        if depth < 1:
            raise ValueError(f"depth must be >= 1, got {depth}")
        if allowed is not None and allowed.shape != (self.index.size,):
            raise ValueError(f"allowed has shape {allowed.shape}, but the catalogue has {self.index.size} groups")
        row_of_text = {text: row for row, text in enumerate(dict.fromkeys(texts))}
        all_bags, words = self.index.count_words(list(row_of_text))
        bags, row_of_bag = _distinct(all_bags)
        found = Matches.empty(len(bags.offsets) - 1, min(depth, self.index.size))
        mask = np.array([] if allowed is None else allowed, np.uint8)
        self._run(bags, mask, found)
        known = np.diff(np.concatenate([[0], np.cumsum(all_bags.counts)])[all_bags.offsets]) / np.maximum(1, words)
        rows = [row_of_text[text] for text in texts]
        return replace(found.take(row_of_bag[rows]), known=known[rows].astype(np.float32))

    def _run(self, bags: Bags, mask: NDArray[np.uint8], found: Matches) -> None:
        """Fill `found`, the bags shared out among the threads."""
        threads = min(self.threads, len(found))
        if threads <= 1:
            return self._part(0, len(found), bags, mask, found)
        cuts = np.linspace(0, len(found), min(_CHUNKS * threads, len(found)) + 1).astype(int).tolist()
        with ThreadPoolExecutor(threads) as pool:
            done = [pool.submit(self._part, first, last, bags, mask, found) for first, last in pairwise(cuts)]
            for one in done:
                one.result()
        return None


_Part = Callable[[int, int, Bags, NDArray[np.uint8], Matches], None]
"""Fills the rows first … last − 1 of the matches; the mask has length 0 when all groups are allowed."""


def _installed() -> str:
    if importlib.util.find_spec("numba"):
        return "numba"
    print("BM25: numba is not installed, so numpy searches: the same results, several times slower", flush=True)
    return "numpy"


def _compiled(index: Index) -> _Part:
    from calrec.retrieve.kernels import BLOCK, Postings, search

    postings = Postings(index.offsets, index.groups, index.weights, *index.dense)

    def part(first: int, last: int, bags: Bags, mask: NDArray[np.uint8], found: Matches) -> None:
        results = found.groups, found.scores, found.highest, found.lowest
        search(first, last, bags, postings, index.size, mask, BLOCK, *results)

    return part


def _plain(index: Index) -> _Part:
    def part(first: int, last: int, bags: Bags, mask: NDArray[np.uint8], found: Matches) -> None:
        for row in range(first, last):
            its = slice(bags.offsets[row], bags.offsets[row + 1])
            scores = index.sum_of(bags.terms[its], bags.counts[its])
            found.highest[row], found.lowest[row] = scores.max(), scores.min()
            best = _best(scores, np.flatnonzero(mask) if len(mask) else np.arange(len(scores)), found.groups.shape[1])
            found.groups[row, : len(best)], found.scores[row, : len(best)] = best, scores[best]

    return part


def _best(scores: Floats, among: NDArray[np.int64], depth: int) -> NDArray[np.int64]:
    """The best `depth` of some groups in rising order, falling score, then rising group; without sorting all."""
    if depth < len(among):
        least = np.partition(scores[among], len(among) - depth)[len(among) - depth]
        equal = among[scores[among] == least]
        above = among[scores[among] > least]
        among = np.concatenate([above, equal[: depth - len(above)]])
    return among[np.argsort(-scores[among], kind="stable")]


def _distinct(bags: Bags) -> tuple[Bags, NDArray[np.int64]]:
    """Each different bag once, in order of first appearance; and the place of every given bag among them.

    Texts that differ in the order of words, in unknown words or in signs have one bag, and so the same results.
    """
    place: dict[bytes, int] = {}
    row_of = np.empty(len(bags.offsets) - 1, np.int64)
    kept: list[int] = []
    for bag, (start, stop) in enumerate(pairwise(bags.offsets.tolist())):
        key = bags.terms[start:stop].tobytes() + bags.counts[start:stop].tobytes()
        row_of[bag] = place.setdefault(key, len(place))
        if len(place) > len(kept):
            kept.append(bag)
    lengths = np.diff(bags.offsets)[kept]
    entries = spans(bags.offsets[kept], lengths)
    return Bags(running(lengths), bags.terms[entries], bags.counts[entries]), row_of
