"""What a model must beat: simple rankings that need no training, under the same users, split and filter."""

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence

from calrec.config import RetrieveConfig
from calrec.model.loading import Users
from calrec.retrieve.catalogue import Bm25, Catalogue
from calrec.retrieve.fusion import fuse, match, rank

Rank = Callable[[Sequence[int], Collection[int]], list[int]]
"""(history, excluded items) → the top k item codes."""


def floors(names: Sequence[str], users: Users, catalogue: Catalogue, config: RetrieveConfig) -> dict[str, Rank]:
    """The floors by name. They count the training part of the histories, as the model does."""
    makers = {
        "popularity": _popularity, "markov": _markov, "repeat_last": _repeat_last, "bm25_last": _bm25_last,
    }  # fmt: skip
    return {name: makers[name](users, catalogue, config) for name in names}


def _popular(catalogue: Catalogue) -> list[int]:
    """All items, most frequent in training first, then by id."""
    rows = range(len(catalogue.items))
    order = sorted(rows, key=lambda row: (-int(catalogue.train_count[row]), catalogue.item_id[row]))
    return [int(catalogue.items[row]) for row in order]


def _top(k: int, candidates: Iterable[int], excluded: Collection[int]) -> list[int]:
    """The first k distinct candidates that are not excluded."""
    chosen: dict[int, None] = {}
    for item in candidates:
        if item not in excluded:
            chosen[item] = None
            if len(chosen) == k:
                break
    return list(chosen)


def _popularity(users: Users, catalogue: Catalogue, config: RetrieveConfig) -> Rank:
    popular = _popular(catalogue)
    return lambda history, excluded: _top(config.k, popular, excluded)


def _markov(users: Users, catalogue: Catalogue, config: RetrieveConfig) -> Rank:
    """What most often followed the last item in training, filled with popularity."""
    popular = _popular(catalogue)
    place = {item: at for at, item in enumerate(popular)}
    following: dict[int, Counter[int]] = defaultdict(Counter)
    for items, end in zip(users.items, users.train_end.tolist(), strict=True):
        codes = items[:end].tolist()
        for before, after in itertools.pairwise(codes):
            following[before][after] += 1
    ranked = {
        item: sorted(counts, key=lambda after: (-counts[after], place[after])) for item, counts in following.items()
    }
    return lambda history, excluded: _top(
        config.k, (*ranked.get(history[-1], ()), *popular) if history else popular, excluded
    )


def _repeat_last(users: Users, catalogue: Catalogue, config: RetrieveConfig) -> Rank:
    """The history itself, newest first, filled with popularity."""
    popular = _popular(catalogue)
    return lambda history, excluded: _top(config.k, (*reversed(history), *popular), excluded)


def _bm25_last(users: Users, catalogue: Catalogue, config: RetrieveConfig) -> Rank:
    """BM25 with the last item's text as the query."""
    index = Bm25(catalogue.group_texts, config)

    def ranking(history: Sequence[int], excluded: Collection[int]) -> list[int]:
        text = catalogue.group_texts[catalogue.group_of[catalogue.at(history[-1])]] if history else ""
        fused = fuse([match(index.scores(text), config.k + len(excluded))], [0.0], config.epsilon)
        return [one.item for one in rank(fused, catalogue.members, config.k, excluded)]

    return ranking
