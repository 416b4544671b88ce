"""Token ids of units, and prompts assembled from them without tokenising again."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calrec.textify.texts import NEXT, OPENING, prompt

Ids = NDArray[np.int32]

_PROBES = 200  # prompts that are tokenised as a whole to see whether assembling them gives the same ids


@dataclass(frozen=True)
class TokenCache:
    """Ids of the opening, the next-item phrase and every item text, and the limits they obey."""

    opening: Ids
    next: Ids
    items: Sequence[Ids]
    """By item code; the end token is not among them."""
    end: int
    """The end-of-text token that closes every target."""
    max_tokens: int

    def target(self, item: int) -> Ids:
        """Ids of an item as a target: its text and the end token."""
        return np.append(self.items[item], np.int32(self.end))

    def history(self, items: Sequence[int]) -> tuple[Ids, NDArray[np.int64], int]:
        """The prompt after a history, oldest item first; whole oldest items are dropped until it fits.

        Returns:
            ids of the prompt; the position of each kept item's last token in it; the number of kept items.
        """
        room = self.max_tokens - len(self.opening)
        kept: list[Ids] = []
        for item in reversed(items):
            room -= len(self.items[item]) + len(self.next)
            if room < 0:
                break
            kept.append(self.items[item])
        kept.reverse()
        parts = [self.opening]
        ends, at = [], len(self.opening)
        for ids in kept:
            parts += [ids, self.next]
            ends.append(at + len(ids) - 1)
            at += len(ids) + len(self.next)
        return np.concatenate(parts), np.array(ends, dtype=np.int64), len(kept)


def encode_items(texts: Sequence[str], tokenizer: Any, max_item_tokens: int) -> tuple[list[Ids], int, float, str]:
    """Tokenise every item text once.

    Units are joined by a space that belongs to the following unit; some tokenizers put that space in by themselves, so
    the form (with or without it) is the one that gives the ids of whole prompts more often.

    Returns:
        ids per item, cut at `max_item_tokens`; how many were cut; the share of probed prompts whose assembled ids
        equal the ids of the whole text; the prefix that was chosen.
    """
    best: tuple[float, str] = (-1.0, " ")
    for prefix in (" ", ""):
        exact = _exact_share(texts, tokenizer, prefix)
        if exact > best[0]:
            best = (exact, prefix)
    exact, prefix = best
    encoded = tokenizer([prefix + text for text in texts], add_special_tokens=False)["input_ids"]
    cut = sum(len(ids) > max_item_tokens for ids in encoded)
    return [np.array(ids[:max_item_tokens], dtype=np.int32) for ids in encoded], cut, exact, prefix


def encode_phrases(tokenizer: Any, prefix: str) -> tuple[Ids, Ids]:
    """Ids of the opening (with the tokenizer's start token, if it has one) and of the next-item phrase."""
    start = [] if tokenizer.bos_token_id is None or not _adds_bos(tokenizer) else [tokenizer.bos_token_id]
    opening = start + _ids(tokenizer, OPENING)
    return np.array(opening, dtype=np.int32), np.array(_ids(tokenizer, prefix + NEXT), dtype=np.int32)


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _adds_bos(tokenizer: Any) -> bool:
    ids = tokenizer("a")["input_ids"]
    return bool(ids) and ids[0] == tokenizer.bos_token_id


def _exact_share(texts: Sequence[str], tokenizer: Any, prefix: str) -> float:
    """Share of short prompts whose assembled ids equal the ids of the whole text."""
    step = max(1, len(texts) // (3 * _PROBES))
    chosen = texts[::step]
    probes = [chosen[i : i + 3] for i in range(0, len(chosen), 3)][:_PROBES]
    same = 0
    for history in probes:
        parts = [OPENING, *(prefix + part for text in history for part in (text, NEXT))]
        same += [i for part in parts for i in _ids(tokenizer, part)] == _ids(tokenizer, prompt(history))
    return same / max(1, len(probes))
