"""From texts to ids: units that a token cache can put together, or whole prompts where units would not be exact.

The ids of a prompt are the ids of its units only if no token of the tokenizer crosses the border of two units. That
depends on where the space between two units goes, so three forms are tried on assembled prompts.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from calrec.arrays.ragged import Ids, Ints, Ragged, running
from calrec.textify.texts import NEXT, OPENING, prompt
from calrec.textify.tokens import Prompts, TokenCache

_CHUNK = 10_000  # texts that are tokenised at once; as Python lists their ids take tens of megabytes
_PROBES = 300  # prompts that are assembled and tokenised as a whole text at start-up


@dataclass(frozen=True)
class Form:
    """What a unit has around its text."""

    before: str
    after: str

    def unit(self, text: str) -> str:
        """The text of a unit."""
        return f"{self.before}{text}{self.after}"

    def prompt(self, texts: Sequence[str], phrases: bool = True) -> str:
        """The text of a whole prompt, which ends as its last unit does."""
        return prompt(texts, phrases) + self.after


# The space between two units belongs to the second (GPT-2, Llama 3, Qwen), is put before it by the tokenizer itself
# (SentencePiece), or belongs to the first (tokenizers that split behind spaces).
FORMS = {"space before": Form(" ", ""), "bare": Form("", ""), "space after": Form("", " ")}


@dataclass(frozen=True)
class Encoded:
    """Item texts after tokenising them."""

    ids: list[Ids]
    texts: list[str]
    """The texts that `ids` stand for: those that were too long are shorter here."""
    cut: int
    """How many were too long."""


def encode_items(texts: Sequence[str], tokenizer: Any, form: Form, limit: int) -> Encoded:
    """Tokenise every item text once, as a unit; a text of more than `limit` tokens is cut.

    It is cut behind a token, and further while the rest is too long on its own, as it is when that token ends inside a
    character. The ids of a cut item are thus those of a text, too.
    """
    kept, ids = list(texts), list[Ids]()
    token_ends: dict[int, list[int]] = {}  # item that is too long → where its first tokens end in the unit
    for start in range(0, len(texts), _CHUNK):
        for one in _encodings(tokenizer, [form.unit(text) for text in texts[start : start + _CHUNK]]):
            if len(one.ids) > limit:
                token_ends[len(ids)] = [end for _, end in one.offsets[:limit]]
            ids.append(np.array(one.ids, dtype=np.int32))
    todo = list(token_ends)
    for size in reversed(range(limit)):
        for item in todo:
            kept[item] = texts[item][: max(0, token_ends[item][size] - len(form.before))].rstrip()
        for item, one in zip(todo, _encodings(tokenizer, [form.unit(kept[item]) for item in todo]), strict=True):
            ids[item] = np.array(one.ids[: limit if size == 0 else None], dtype=np.int32)
        todo = [item for item in todo if len(ids[item]) > limit]
    return Encoded(ids, kept, len(token_ends))


def encode_phrases(tokenizer: Any, form: Form, phrases: bool = True) -> tuple[Ids, Ids]:
    """Ids of the opening (with the tokenizer's start token, if it has one) and of the next-item phrase, if wanted."""
    opening, following = _encodings(tokenizer, [OPENING + form.after, form.unit(NEXT)])
    behind = following.ids if phrases else []
    return np.array(start_tokens(tokenizer) + opening.ids, dtype=np.int32), np.array(behind, dtype=np.int32)


def start_tokens(tokenizer: Any) -> list[int]:
    """The start token, if the tokenizer puts one before a text."""
    start = tokenizer.bos_token_id
    return [start] if start is not None and tokenizer("a")["input_ids"][:1] == [start] else []


def choose_form(texts: Sequence[str], tokenizer: Any, limit: int, phrases: bool = True) -> tuple[str, float]:
    """The name of the form of units that is exact most often, and the share of probed prompts for which it is.

    Raises:
        ValueError: the tokenizer is not a fast one, which alone says where its tokens are in a text; or there are no
            phrases, and no form is always exact.
    """
    if not tokenizer.is_fast:
        raise ValueError(
            f"{type(tokenizer).__name__} is not a fast tokenizer; save the model with one that has a tokenizer.json"
        )
    shares = {name: _exact_share(texts, tokenizer, form, limit, phrases) for name, form in FORMS.items()}
    best = max(shares, key=lambda name: shares[name])
    if not phrases and shares[best] < 1:
        raise ValueError("text.phrases=false needs a tokenizer none of whose tokens crosses the border of two items")
    return best, shares[best]


def _exact_share(texts: Sequence[str], tokenizer: Any, form: Form, limit: int, phrases: bool) -> float:
    """Share of prompts of 0 to 8 items, long ones among them, whose assembled ids equal those of the whole text."""
    rng = np.random.default_rng(0)
    longest = np.argsort([-len(text) for text in texts], kind="stable")[:_PROBES]
    pool = np.concatenate([longest, rng.integers(len(texts), size=4 * _PROBES)])
    histories = Ragged.of([rng.integers(len(pool), size=size) for size in rng.integers(0, 9, size=_PROBES)])
    items = encode_items([texts[i] for i in pool], tokenizer, form, limit)
    opening, following = encode_phrases(tokenizer, form, phrases)
    cache = TokenCache(TokenCache.units_of(opening, following, items.ids), end=0, max_tokens=2**31)
    start = start_tokens(tokenizer)
    whole = _encodings(tokenizer, [form.prompt([items.texts[i] for i in row], phrases) for row in histories.rows()])
    pairs = zip(cache.assemble(histories).rows(), whole, strict=True)
    return sum(bool(ours.tolist() == start + one.ids) for ours, one in pairs) / _PROBES


_Row = tuple[list[int], Ints, Ints]  # ids of a prompt, first and last token of each of its items


@dataclass(frozen=True)
class TextPrompts(TokenCache):
    """The cache of a tokenizer for which no form of units is exact: prompts are tokenised as one text when needed.

    Targets are units as ever, since a prompt is tokenised before its continuation is known.
    """

    texts: Sequence[str]
    """Item texts by code, cut as their units are."""
    form: Form
    tokenizer: Any

    def assemble(self, histories: Ragged | Sequence[Any]) -> Prompts:
        """The prompts after many histories; each keeps the items whose units fit, or fewer if the text is too long."""
        histories = Ragged.of(histories)
        kept, _ = self.fit(histories)
        rows: list[_Row] = [([], kept[:0], kept[:0])] * len(histories)
        todo = list(range(len(histories)))
        while todo:
            newest = [histories[i][len(histories[i]) - kept[i] :] for i in todo]
            for i, row in zip(todo, self._tokenise(newest), strict=True):
                rows[i] = row
            todo = [i for i in todo if len(rows[i][0]) > self.max_tokens and kept[i]]
            kept[todo] -= 1
        ids = Ragged.of([row[0] for row in rows])
        shift = np.repeat(ids.offsets[:-1], kept)
        starts, ends = (np.concatenate([kept[:0], *(row[side] for row in rows)]) + shift for side in (1, 2))
        return Prompts(ids.flat, ids.offsets, kept, starts, ends)

    def _tokenise(self, histories: Sequence[Ids]) -> Iterator[_Row]:
        texts = [[self.texts[item] for item in history] for history in histories]
        start = start_tokens(self.tokenizer)
        for items, one in zip(texts, _encodings(self.tokenizer, [self.form.prompt(t) for t in texts]), strict=True):
            first, last = _item_spans(items, one.offsets)
            yield start + one.ids, first + len(start), last + len(start)


def _item_spans(texts: Sequence[str], offsets: Sequence[tuple[int, int]]) -> tuple[Ints, Ints]:
    """First and last token of each item of a prompt; a token that crosses an item's border counts as the item's."""
    token_begins, token_ends = np.array(offsets, dtype=np.int64).T
    sizes = np.array([len(text) for text in texts], dtype=np.int64)
    begins = len(OPENING) + 1 + running(sizes + len(NEXT) + 2)[:-1]
    first = np.searchsorted(token_ends, begins, side="right")
    return first, np.searchsorted(token_begins, begins + sizes, side="left") - 1


def _encodings(tokenizer: Any, texts: list[str]) -> Sequence[Any]:
    """The `tokenizers.Encoding` of each text, without special tokens: the name of one in a title is plain text."""
    if not texts:
        return []
    return list(tokenizer(texts, add_special_tokens=False, split_special_tokens=True).encodings)
