"""What a model must beat: rankings that need no network, under the same users, split and filter.

Items without a score fill a list by popularity. Ties are settled by popularity, then by item id; those of BM25 as the
retrieve step does it, where items with one text stand together.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from calrec.arrays.ragged import Ragged
from calrec.config import RetrieveConfig
from calrec.evaluate.baselines import counting, factors, matching
from calrec.evaluate.baselines.candidates import Shelf
from calrec.evaluate.baselines.counting import Method
from calrec.evaluate.lists import Lists
from calrec.retrieve.catalogue import Catalogue

Ints = NDArray[np.int64]
Baseline = Callable[[Sequence[Ints], Sequence[frozenset[int]]], Lists]
"""(histories, excluded items of each user) -> the best k items of the catalogue that are not excluded."""

REPEATS = 0.05
"""item_knn, matrix_factorisation and bm25_history find the history itself before all else. Where fewer of the counted
events than this share repeat an item of the same user, they list it last. Seen on validation items: with 43 % repeats
(groceries) Recall@10 of item_knn is .36 with the history and .13 without; with 0 % (games) .06 and .11."""

_CELLS = 1 << 24  # users x items that are ranked together: 128 MB of float64


def baselines(
    names: Sequence[str], histories: Sequence[Ints], catalogue: Catalogue, config: RetrieveConfig, seed: int
) -> dict[str, Baseline]:
    """The baselines by name, ready to rank.

    Args:
        names: which ones, of calrec.config.BASELINES.
        histories: what they may count, see :func:`calrec.retrieve.following.countable`.
        catalogue: the items to rank.
        config: list length, and BM25.
        seed: of the first factors of matrix_factorisation.
    """
    shelf = Shelf.of(histories, catalogue)
    k = min(config.k, len(shelf))
    makers: dict[str, Callable[[], Method]] = {
        "popularity": lambda: counting.popularity(shelf),
        "recent_popularity": lambda: counting.recent_popularity(shelf),
        "repeat_last": lambda: counting.repeat_last(shelf),
        "markov": lambda: counting.markov(shelf),
        "item_knn": lambda: factors.item_knn(shelf, k),
        "matrix_factorisation": lambda: factors.matrix_factorisation(shelf, k, seed),
        "bm25_last": lambda: matching.bm25_last(shelf, config),
        "bm25_history": lambda: matching.bm25_history(shelf, config),
    }
    unseen = repeats(shelf.histories, len(shelf)) < REPEATS
    finds_itself = ("item_knn", "matrix_factorisation", "bm25_history")
    return {name: _ranking(shelf, makers[name](), config.k, unseen and name in finds_itself) for name in names}


def repeats(histories: Ragged, items: int) -> float:
    """Share of the events with an item that the same user had before."""
    rows = np.repeat(np.arange(len(histories)), histories.lengths())
    distinct = len(np.unique(rows * items + histories.flat))
    return 1 - distinct / max(1, len(histories.flat))


def _ranking(shelf: Shelf, method: Method, k: int, unseen: bool) -> Baseline:
    def rank(histories: Sequence[Ints], excluded: Sequence[frozenset[int]]) -> Lists:
        lists = Lists.empty(len(histories), k)
        step = max(1, _CELLS // len(shelf))
        for start in range(0, len(histories), step):
            some = slice(start, start + step)
            part = _part(shelf, method, k, unseen, histories[some], excluded[some])
            lists.items[some], lists.scores[some] = part.items, part.scores
        return lists

    return rank


def _part(
    shelf: Shelf, method: Method, k: int, unseen: bool, histories: Sequence[Ints], excluded: Sequence[frozenset[int]]
) -> Lists:
    """The lists of some users: what the method proposes, then the popular, and only then what it leaves to the last."""
    audience = shelf.audience(histories, excluded, k, unseen)
    lists = shelf.lists(method(audience), audience, k)
    shelf.fill(lists, audience)
    if unseen and (lists.items < 0).any():
        shelf.fill(lists, shelf.audience(histories, excluded, k, unseen=False))
    return lists
