"""Baselines that search the catalogue by BM25 for the texts of the history."""

from typing import Any

import numpy as np

from calrec.arrays.ragged import Ragged, spans
from calrec.config import RetrieveConfig
from calrec.evaluate.baselines.candidates import Audience, Candidates, Shelf, newest
from calrec.evaluate.baselines.counting import Method
from calrec.retrieve.bm25 import Index
from calrec.retrieve.search import Search

NEWEST = 20
"""Items of a history that make its query."""


def bm25_last(shelf: Shelf, config: RetrieveConfig) -> Method:
    """The text of the last item as the query; score: BM25."""
    return _searched(shelf, config, 1)


def bm25_history(shelf: Shelf, config: RetrieveConfig) -> Method:
    """The texts of the newest 20 items, one after the other, as the query; score: BM25."""
    return _searched(shelf, config, NEWEST)


def _searched(shelf: Shelf, config: RetrieveConfig, items: int) -> Method:
    catalogue = shelf.catalogue
    search = Search(Index.build(catalogue.group_texts, config.k1, config.b), config.threads)
    group_at = np.empty(len(shelf), np.int64)
    group_at[shelf.place_of] = catalogue.group_of
    members = Ragged.of([shelf.places(np.array(codes)) for codes in catalogue.members])

    def propose(audience: Audience) -> Candidates:
        query = newest(audience.histories, np.full(len(audience), items))
        texts = [" ".join(catalogue.group_texts[group] for group in group_at[row]) for row in query.rows()]
        found = search.top(texts, audience.depth)
        return _items(found.groups, found.scores, members, audience.depth)

    return propose


def _items(groups: Any, scores: Any, members: Ragged, most: int) -> Candidates:
    """The items of groups that match at all, at most so many of each group, in the order of the retrieve step."""
    rows, at = np.nonzero(scores > 0)
    matched = groups[rows, at].astype(np.int64)
    sizes = np.minimum(members.lengths(matched), most)
    places = members.flat[spans(members.offsets[matched], sizes)].astype(np.int64)
    return Candidates(np.repeat(rows, sizes), places, np.repeat(scores[rows, at], sizes))
