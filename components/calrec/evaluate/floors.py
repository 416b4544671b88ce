"""What a model must beat: simple rankings that need no training, under the same users, split and filter."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence

import numpy as np

from calrec.config import RetrieveConfig
from calrec.retrieve.bm25 import Index
from calrec.retrieve.catalogue import Catalogue
from calrec.retrieve.following import Following
from calrec.retrieve.fusion import fuse, top_items
from calrec.retrieve.search import Search

Rank = Callable[[Sequence[int], Collection[int]], list[int]]
"""(history, excluded items) → the top k item codes."""


def floors(
    names: Sequence[str], histories: Sequence[Sequence[int]], catalogue: Catalogue, config: RetrieveConfig
) -> dict[str, Rank]:
    """The floors by name.

    Args:
        names: which ones.
        histories: what they may count, see :func:`calrec.retrieve.following.countable`.
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
    following = Following.of(histories)
    place = {item: at for at, item in enumerate(popular)}

    def ranking(history: Sequence[int], excluded: Collection[int]) -> list[int]:
        after, counts = following.next(history[-1]) if history else (np.empty(0, np.int64), np.empty(0, np.int64))
        order = np.lexsort((np.array([place[item] for item in after.tolist()]), -counts))
        return _top(k, (*after[order].tolist(), *popular), excluded)

    return ranking


def _repeat_last(popular: list[int], k: int) -> Rank:
    """The history itself, newest first, filled with popularity."""
    return lambda history, excluded: _top(k, (*reversed(history), *popular), excluded)


def _bm25_last(catalogue: Catalogue, config: RetrieveConfig) -> Rank:
    """BM25 with the last item's text as the query."""
    search = Search(Index.build(catalogue.group_texts, config.k1, config.b), threads=1)

    def ranking(history: Sequence[int], excluded: Collection[int]) -> list[int]:
        text = catalogue.text(history[-1]) if history else ""
        fused = fuse(search.top([text], config.k + len(excluded)), np.ones(1))
        places = top_items(fused.groups.tolist(), catalogue.members, config.k, lambda item: item not in excluded)
        return [item for item, _ in places]

    return ranking
