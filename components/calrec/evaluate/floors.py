"""What a model must beat: simple rankings that need no training, under the same users, split and filter."""

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence

import numpy as np

from calrec.config import RetrieveConfig
from calrec.model.loading import Users
from calrec.retrieve.catalogue import Bm25, Catalogue
from calrec.retrieve.fusion import fuse, match, rank

Rank = Callable[[Sequence[int], Collection[int]], list[int]]
"""(history, excluded items) → the top k item codes."""


def countable(users: Users, split: str) -> list[list[int]]:
    """Of every user all items before the held-out one; of a user without one, all before the window it would lie in.

    Counting needs no training, so before a test the validation items, which the model was only validated on, count too.
    """
    ends = users.train_end
    if split == "test":
        ends = np.where(users.test_at >= 0, users.test_at, [len(items) for items in users.items])
    return [items[:end].tolist() for items, end in zip(users.items, ends.tolist(), strict=True)]


def floors(
    names: Sequence[str], histories: Sequence[Sequence[int]], catalogue: Catalogue, config: RetrieveConfig
) -> dict[str, Rank]:
    """The floors by name.

    Args:
        names: which ones.
        histories: what they may count, see :func:`countable`.
        catalogue: the items to rank.
        config: list length, and BM25.
    """
    popular = _popular(histories, catalogue)
    makers: dict[str, Callable[[], Rank]] = {
        "popularity": lambda: lambda history, excluded: _top(config.k, popular, excluded),
        "markov": lambda: _markov(histories, popular, config.k),
        "repeat_last": lambda: _repeat_last(popular, config.k),
        "bm25_last": lambda: _bm25_last(catalogue, config),
    }
    return {name: makers[name]() for name in names}


def _popular(histories: Sequence[Sequence[int]], catalogue: Catalogue) -> list[int]:
    """All items, most frequent first, then by id."""
    counts = Counter(item for history in histories for item in history)
    items = zip(catalogue.items.tolist(), catalogue.item_id, strict=True)
    return [item for item, _ in sorted(items, key=lambda pair: (-counts[pair[0]], pair[1]))]


def _top(k: int, candidates: Iterable[int], excluded: Collection[int]) -> list[int]:
    """The first k distinct candidates that are not excluded."""
    chosen: dict[int, None] = {}
    for item in candidates:
        if item not in excluded:
            chosen[item] = None
            if len(chosen) == k:
                break
    return list(chosen)


def _markov(histories: Sequence[Sequence[int]], popular: list[int], k: int) -> Rank:
    """What most often followed the last item, filled with popularity."""
    following: dict[int, Counter[int]] = defaultdict(Counter)
    for history in histories:
        for before, after in itertools.pairwise(history):
            following[before][after] += 1
    place = {item: at for at, item in enumerate(popular)}

    def ranking(history: Sequence[int], excluded: Collection[int]) -> list[int]:
        counts = following.get(history[-1], Counter()) if history else Counter[int]()
        after = sorted(counts, key=lambda item: (-counts[item], place[item]))
        return _top(k, (*after, *popular), excluded)

    return ranking


def _repeat_last(popular: list[int], k: int) -> Rank:
    """The history itself, newest first, filled with popularity."""
    return lambda history, excluded: _top(k, (*reversed(history), *popular), excluded)


def _bm25_last(catalogue: Catalogue, config: RetrieveConfig) -> Rank:
    """BM25 with the last item's text as the query."""
    index = Bm25(catalogue.group_texts, config)

    def ranking(history: Sequence[int], excluded: Collection[int]) -> list[int]:
        text = catalogue.group_texts[catalogue.group_of[catalogue.at(history[-1])]] if history else ""
        fused = fuse([match(index.scores(text), config.k + len(excluded))], [0.0], config.epsilon)
        return [one.item for one in rank(fused, catalogue.members, config.k, excluded)]

    return ranking
