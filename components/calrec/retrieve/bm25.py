"""BM25 (Lucene variant) over the texts of a catalogue: how often each word weighs in each text, word by word.

score(d, q) = Σ over the words of q of ln(1 + (N − df + 0.5)/(df + 0.5)) · tf / (tf + k1·(1 − b + b·|d|/mean|d|)).

Terms are numbered by the alphabetical order of their words. A score is the float32 sum of count · weight over the terms
of the query in that order, so it is the same bits whatever engine, batch or number of threads computes it.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from calrec.textify.words import VERSION, Joined, find_pairs, intern_pairs, words

Ints = NDArray[np.int32]
Longs = NDArray[np.int64]
Floats = NDArray[np.float32]
Tokenise = Callable[[str], list[str]]
"""Words of a text. Must not see across a line break: the words of "a\\nb" are those of "a", then those of "b"."""

FILES = ("offsets.npy", "groups.npy", "weights.npy", "words.parquet", "bm25.json")
"""What :meth:`Index.save` writes."""

_CHUNK = 1 << 14  # texts tokenised in one call: some 20 MB of words at a time
_END = "calrecendoftext"  # a word between the texts of a chunk
_DENSE_SHARE = 8  # a term of more than 1/8 of the texts gets a dense row; measured best of 4, 8, 16, 24, 32
_DENSE_SIZE = 1 << 12  # below so many texts everything is in the processor's cache anyway


class Bags(NamedTuple):
    """Queries as bags of known terms: bag q has terms[offsets[q]:offsets[q + 1]], ascending, and their counts."""

    offsets: Longs
    terms: Ints
    counts: Floats


@dataclass(frozen=True, eq=False)
class Index:
    """The weights of all terms: those of term t are weights[offsets[t]:offsets[t + 1]], parallel to `groups`.

    The arrays are read-only, in memory or mapped from files.
    """

    size: int
    """Texts of the catalogue; groups are numbered 0 … size − 1."""
    vocabulary: pa.Array
    """The word of each term, ascending by code points."""
    offsets: Longs
    groups: Ints
    """Groups that hold the term, ascending."""
    weights: Floats
    tokenise: Tokenise = field(default=words, repr=False)

    @classmethod
    def build(cls, texts: Sequence[str], k1: float = 1.5, b: float = 0.75, tokenise: Tokenise | None = None) -> "Index":
        """The index of a catalogue, whose text i is group i; without `tokenise` by the words of this catalogue.

        Raises:
            ValueError: no text has a word.
        """
        tokenise = tokenise or _words_with(find_pairs(texts))
        codes, lengths, vocabulary = _coded(texts, tokenise)
        if not len(codes):
            raise ValueError("no text of the catalogue has a single word; BM25 has nothing to search")
        size, terms = len(texts), len(vocabulary)
        pairs = codes * np.int64(size)
        del codes
        pairs += np.repeat(np.arange(size), lengths)
        pairs, counts = _counted(pairs)
        df = np.diff(np.searchsorted(pairs, np.arange(terms + 1) * size))
        groups = (pairs - np.repeat(np.arange(terms) * size, df)).astype(np.int32)
        del pairs
        # The formula in float64; per term and per group first, so that few arrays have a row per pair.
        weights = counts / (counts + (k1 * (1 - b + b * lengths / lengths.mean()))[groups])
        weights *= np.repeat(np.log(1 + (size - df + 0.5) / (df + 0.5)), df)
        offsets = np.concatenate([[0], np.cumsum(df)])
        return cls(size, vocabulary, _fixed(offsets), _fixed(groups), _fixed(weights.astype(np.float32)), tokenise)

    def save(self, folder: Path) -> None:
        """Write the index as :data:`FILES` into an existing folder; the same texts give the same bytes."""
        np.save(Path(folder) / "offsets.npy", self.offsets)
        np.save(Path(folder) / "groups.npy", self.groups)
        np.save(Path(folder) / "weights.npy", self.weights)
        pq.write_table(pa.table({"word": self.vocabulary}), Path(folder) / "words.parquet", compression="zstd")
        facts = {"size": self.size, "words": VERSION, "joined": sorted(_joined(self.tokenise))}
        (Path(folder) / "bm25.json").write_text(json.dumps(facts, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, tokenise: Tokenise | None = None) -> "Index":
        """An index that :meth:`save` wrote; the arrays stay in their files and are read as they are needed.

        Without `tokenise` texts come to the words that it was built with, if :func:`same_words` says so.

        Raises:
            ValueError: the files are not of one index.
        """
        offsets, groups, weights = (np.asarray(np.load(Path(folder) / name, mmap_mode="r")) for name in FILES[:3])
        vocabulary = pq.read_table(Path(folder) / "words.parquet")["word"].combine_chunks()
        facts = json.loads((Path(folder) / "bm25.json").read_text(encoding="utf-8"))
        size = int(facts["size"])
        if len(offsets) != len(vocabulary) + 1 or not offsets[-1] == len(groups) == len(weights):
            raise ValueError(f"{folder}: the files of the BM25 index do not belong together; build it again")
        tokenise = tokenise or _words_with(intern_pairs(facts.get("joined", ())))
        return cls(size, vocabulary, offsets, groups, weights, tokenise)

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays and the words; dense rows not counted."""
        return sum(a.nbytes for a in (self.offsets, self.groups, self.weights)) + int(self.vocabulary.nbytes)

    @cached_property
    def term_of(self) -> dict[str, int]:
        """Term of each word."""
        return {word: term for term, word in enumerate(self.vocabulary.to_pylist())}

    @cached_property
    def dense(self) -> tuple[Ints, Floats]:
        """For each term its dense row, -1 for none; and these rows, float32 [rows, size], 0 where a group lacks it."""
        df = np.diff(self.offsets)
        frequent = np.flatnonzero((df > self.size // _DENSE_SHARE) & (self.size >= _DENSE_SIZE))
        row_of, rows = np.full(len(df), -1, np.int32), np.zeros((len(frequent), self.size), np.float32)
        for row, term in enumerate(frequent.tolist()):
            row_of[term] = row
            rows[row, self.groups[self.offsets[term] : self.offsets[term + 1]]] = self._weights_of(term)
        return row_of, rows

    def bags(self, texts: Sequence[str]) -> Bags:
        """The known words of each text."""
        return self.count_words(texts)[0]

    def count_words(self, texts: Sequence[str]) -> tuple[Bags, Longs]:
        """The known words of each text, and how many words it has, [texts]."""
        codes, lengths, found = _coded(texts, self.tokenise)
        term = np.array([self.term_of.get(word, -1) for word in found.to_pylist()], np.int64)[codes]
        text = np.repeat(np.arange(len(texts)), lengths)
        terms = len(self.vocabulary)
        pairs, counts = _counted((text * terms + term)[term >= 0])
        offsets = np.searchsorted(pairs, np.arange(len(texts) + 1) * terms)
        return Bags(offsets, (pairs % terms).astype(np.int32), counts.astype(np.float32)), lengths

    def scores(self, text: str) -> Floats:
        """Score of every group, float32 [size]; all 0 when no word of the text is known."""
        bag = self.bags([text])
        return self.sum_of(bag.terms, bag.counts)

    def sum_of(self, terms: Ints, counts: Floats) -> Floats:
        """Score of every group for one bag of ascending terms: what every engine must give, bit by bit."""
        scores = np.zeros(self.size, np.float32)
        for term, count in zip(terms.tolist(), counts, strict=True):
            scores[self.groups[self.offsets[term] : self.offsets[term + 1]]] += count * self._weights_of(term)
        return scores

    def _weights_of(self, term: int) -> Floats:
        return self.weights[self.offsets[term] : self.offsets[term + 1]]


def same_words(folder: Path, texts: Sequence[str]) -> bool:
    """Whether the index of these texts in a folder has the words that they come to today; of ASCII all versions do."""
    version = json.loads((Path(folder) / "bm25.json").read_text(encoding="utf-8")).get("words", 1)
    return version == VERSION or all(map(str.isascii, texts))


def _words_with(joined: Joined) -> Tokenise:
    return partial(words, joined=joined) if joined else words


def _joined(tokenise: Tokenise) -> Joined:
    return tokenise.keywords["joined"] if isinstance(tokenise, partial) else frozenset()


def _coded(texts: Sequence[str], tokenise: Tokenise) -> tuple[Ints, Longs, pa.Array]:
    """The words of all texts as codes, one text after the other; words per text; the word of each code, ascending."""
    starts = range(0, len(texts), _CHUNK)
    found = [_encoded(texts[start : start + _CHUNK], tokenise) for start in starts]
    column = pa.chunked_array([chunk for chunk, _ in found], pa.dictionary(pa.int32(), pa.string()))
    chunks = column.unify_dictionaries().chunks
    codes = np.concatenate([np.empty(0, np.int32), *(chunk.indices.to_numpy() for chunk in chunks)])
    lengths = np.concatenate([np.empty(0, np.int64), *(lengths for _, lengths in found)])
    distinct = chunks[0].dictionary if chunks else pa.array([], pa.string())
    order = pc.array_sort_indices(distinct).to_numpy()
    order = order[np.bincount(codes, minlength=len(distinct))[order] > 0]  # without the word between the texts
    rank = np.empty(len(distinct), np.int32)
    rank[order] = np.arange(len(order))
    return rank[codes], lengths, distinct.take(pa.array(order))


def _encoded(texts: Sequence[str], tokenise: Tokenise) -> tuple[pa.DictionaryArray, Longs]:
    """The words of some texts, one text after the other, from one call of `tokenise`; and words per text."""
    found = pa.array(tokenise(f"\n{_END}\n".join([*texts, ""])), pa.string()).dictionary_encode()
    codes = found.indices.to_numpy()
    is_end = codes == pc.index(found.dictionary, _END).as_py()
    if np.count_nonzero(is_end) == len(texts):
        lengths = np.diff(np.flatnonzero(is_end), prepend=-1) - 1
        return pa.DictionaryArray.from_arrays(pa.array(codes[~is_end]), found.dictionary), lengths
    apart = [tokenise(text) for text in texts]  # a text has that word itself, or it is no word to `tokenise`
    return pa.array(chain.from_iterable(apart), pa.string()).dictionary_encode(), np.array([len(a) for a in apart])


def _counted(values: Longs) -> tuple[Longs, Longs]:
    """The distinct values, ascending, and how often each occurs; sorts `values` in place."""
    values.sort()
    new = np.ones(len(values), np.bool_)
    np.not_equal(values[1:], values[:-1], out=new[1:])
    first = np.flatnonzero(new)
    return values[first], np.diff(first, append=len(values))


def _fixed(array: NDArray[Any]) -> Any:
    """The array, read-only like one mapped from a file, so that compiled code has one form for both."""
    array.setflags(write=False)
    return array
