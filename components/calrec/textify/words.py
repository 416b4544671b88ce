"""The words of a text in any script: what BM25 counts, and by what two titles are the same.

Characters are told apart by Unicode's properties alone. Scripts whose lines may break between any two letters (the
classes of Line_Break below) write no space between words, so their words are parts of a run of letters. How long these
parts are was measured on real logs whose spaces were taken out (DECISIONS.md): Recall is then that of the spaced text.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import groupby, pairwise
from typing import NamedTuple

import regex

from calrec.textify.texts import LABELS

VERSION = 2
"""Raised when a text gives other words than before. 1 was `\\w+`, which gives the same for ASCII."""

_LABELS = re.compile("|".join(LABELS))
_ASCII_WORDS = re.compile(r"\w+")
_MARKS, _POINTS = r"[\p{Mn}\p{Mc}]", r"[\p{M}&&[\p{scx=Arab}\p{scx=Hebr}\p{scx=Syrc}]]"
# What stands between words: a pictograph (of Lego™ there would be legotm) and a zero-width space.
_APART = r"[\p{Extended_Pictographic}\p{Line_Break=ZW}[\p{S}&&\p{Decomposition_Type=Super}]]"
_FRACTION = r"\p{Decomposition_Type=Fraction}"  # 5½ is not 51/2
# What one writes and another leaves out: joiners, soft hyphens and the like; the vowel points of Arabic, Hebrew and
# Syriac; the stroke that lengthens an Arabic word.
_SILENT = rf"\p{{Default_Ignorable_Code_Point}}|{_POINTS}|\N{{ARABIC TATWEEL}}"
_HAN = r"[\p{Script=Han}&&[\p{L}\p{Nl}]]"
_SYLLABLES = r"[[\p{LB=ID}\p{LB=CJ}\p{LB=NS}]&&\p{L}]"  # kana, Yi and others
_LETTERS = r"[[\p{LB=SA}\p{LB=AK}\p{LB=AS}\p{LB=AP}]&&\p{L}]"  # Thai, Lao, Khmer, Burmese, Javanese and others
_SIZE = {"h": 2, "y": 3, "l": 4}  # letters of a part, each with its marks
_RUN = re.compile(r"s[sm]*|(?:hm*)+|(?:ym*)+|(?:lm*)+")
_UNIT = re.compile(".m*")
_NON_JOINER = regex.compile(r"(?<=\p{Script=Arabic})\N{ZERO WIDTH NON-JOINER}")  # for it others write a space


class _Table(dict[int, str]):
    """For str.translate: what becomes of each character, asked once of the first pattern that fits it."""

    def __init__(self, rows: Mapping[str, str]):
        """`rows`: pattern → what becomes of a character, by a template of the match."""
        super().__init__()
        self._rows = {regex.compile(f"(?V1){pattern}"): becomes for pattern, becomes in rows.items()}

    def __missing__(self, code: int) -> str:
        rows = ((pattern.fullmatch(chr(code)), becomes) for pattern, becomes in self._rows.items())
        self[code] = next(found.expand(becomes) for found, becomes in rows if found)
        return self[code]


_EVERY = r"(?s:.)"
_BEFORE = _Table({_APART: " ", _FRACTION: r" \g<0>", _EVERY: r"\g<0>"})
_AFTER = _Table({_SILENT: "", "ı": "i", _EVERY: r"\g<0>"})
_KIND = _Table({_MARKS: "m", _HAN: "h", _SYLLABLES: "y", _LETTERS: "l", r"[\p{L}\p{N}_]": "s", _EVERY: " "})

Joined = frozenset[str]
"""Pairs of Han characters that are of one word."""


def words(text: str, joined: Joined = frozenset()) -> list[str]:
    """Terms of an item text: words without the field labels, by NFKC and case folding, marks kept in the word.

    With the labels every item would share a term, and the lowest score would no longer be 0. No word reaches beyond
    a line.

    Args:
        text: one text, or several, a line each.
        joined: Han characters are cut where two of them are not among these; empty: they come as overlapping pairs.
    """
    text = _LABELS.sub(" ", text)
    if text.isascii():
        return _ASCII_WORDS.findall(text.lower())
    found: list[str] = []
    for plain_lines, lines in groupby(text.split("\n"), str.isascii):
        if plain_lines:
            found += _ASCII_WORDS.findall("\n".join(lines).lower())
            continue
        for is_ascii, parts in groupby("\n".join(lines).split(), str.isascii):
            if is_ascii:
                found += _ASCII_WORDS.findall(" ".join(parts).lower())
            else:
                found.extend(word for part in parts for word in _words_of(part, joined))
    return found


@lru_cache(1 << 15)
def _words_of(part: str, joined: Joined) -> tuple[str, ...]:
    """The words of what has no white space in it."""
    return tuple(word for run in _runs(part) for word in run.words(joined))


def normal(text: str) -> str:
    """A text as it is compared: what differs only in width, case, composition or in silent characters is equal."""
    if text.isascii():
        return text.lower()
    folded = unicodedata.normalize("NFKC", _NON_JOINER.sub(" ", text).translate(_BEFORE)).casefold()
    # The dot is what lower case leaves of İ, which Turkish writes without one elsewhere.
    return unicodedata.normalize("NFKC", folded).translate(_AFTER).replace("i\N{COMBINING DOT ABOVE}", "i")


def find_pairs(texts: Sequence[str]) -> Joined:
    """Pairs of Han characters that a catalogue holds together: more than once, and mostly where one of them stands.

    Without them most pairs of a long title lie across two words, are rare, and outweigh its words.
    """
    pairs, single = Counter[tuple[str, str]](), Counter[str]()
    parts = Counter(part for text in texts if not text.isascii() for part in text.split() if not part.isascii())
    for part, times in parts.items():
        for run in _runs(part):
            units = run.units() if run.kind == "h" else []
            for unit in units:
                single[unit] += times
            for pair in pairwise(units):
                pairs[pair] += times
    return intern_pairs(a + b for (a, b), n in pairs.items() if n > 1 and 2 * n > min(single[a], single[b]))


def intern_pairs(pairs: Iterable[str]) -> Joined:
    """Pairs as :func:`words` takes them; equal ones are one object, which its cache tells at once from another."""
    return _one(frozenset(pairs))


@lru_cache(8)
def _one(joined: Joined) -> Joined:
    return joined


class _Run(NamedTuple):
    """Letters of one kind, one after the other."""

    letters: str
    kinds: str
    """Of each, see _KIND."""

    @property
    def kind(self) -> str:
        """Of all but the marks."""
        return self.kinds[0]

    def units(self) -> list[str]:
        """Each letter with its marks."""
        if "m" not in self.kinds:
            return list(self.letters)
        return [self.letters[found.start() : found.end()] for found in _UNIT.finditer(self.kinds)]

    def words(self, joined: Joined) -> Iterable[str]:
        """Its words, or what stands for them."""
        if self.kind == "s":
            return (self.letters,)
        units = self.units()
        if self.kind == "h" and joined:
            return _segments(units, joined)
        size = _SIZE[self.kind]
        return ("".join(units[at : at + size]) for at in range(max(1, len(units) - size + 1)))


def _runs(text: str) -> Iterator[_Run]:
    plain = normal(text)
    kinds = plain.translate(_KIND)
    return (_Run(plain[found.start() : found.end()], found[0]) for found in _RUN.finditer(kinds))


def _segments(units: Sequence[str], joined: Joined) -> Iterator[str]:
    word = units[0]
    for one, following in pairwise(units):
        if one + following in joined:
            word += following
        else:
            yield word
            word = following
    yield word
