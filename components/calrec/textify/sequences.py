"""Histories in integer item codes, their split, and the text groups."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


def leave_last_out(lengths: Ints) -> tuple[Ints, Ints, Ints]:
    """The last item is the test target, the one before the validation target, the rest is training.

    Args:
        lengths: events per user, each >= 3.

    Returns:
        (train_end, valid_at, test_at) per user: positions in the user's sequence.
    """
    assert (lengths >= 3).all(), "ingest keeps users with at least 3 events"
    return lengths - 2, lengths - 2, lengths - 1


def train_counts(sequences: Sequence[NDArray[np.int32]], train_end: Ints, n_items: int) -> Ints:
    """How often each item occurs in the training part."""
    parts = [items[:end] for items, end in zip(sequences, train_end.tolist(), strict=True)]
    return np.bincount(np.concatenate(parts) if parts else np.zeros(0, np.int32), minlength=n_items)


def text_groups(texts: Sequence[str], domains: Sequence[str], counts: Ints) -> NDArray[np.int32]:
    """Group number of each item: items of a domain with one text share it.

    Groups are numbered domain by domain, by falling training frequency of the whole group, then by text, so that a
    smaller number wins a tie.
    """
    keys: dict[tuple[str, str], int] = {}
    for domain, text, count in zip(domains, texts, counts.tolist(), strict=True):
        keys[domain, text] = keys.get((domain, text), 0) + count
    order = sorted(keys, key=lambda key: (key[0], -keys[key], key[1]))
    number = {key: i for i, key in enumerate(order)}
    return np.array([number[domain, text] for domain, text in zip(domains, texts, strict=True)], dtype=np.int32)
