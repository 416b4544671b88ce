"""From what a model wrote for a user to ranked items, each with the reason why it is there."""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calrec.config import RetrieveConfig
from calrec.generate.samples import Prompt
from calrec.retrieve.candidates import (
    COOCCURRENCE,
    DENSE,
    FILL,
    GENERATION,
    HISTORY,
    LAST_TITLE,
    RECENT_TITLES,
    Asked,
    Candidate,
    Pool,
    Ranked,
    Reason,
)
from calrec.retrieve.catalogue import Catalogue
from calrec.retrieve.evidence import Evidence, Fusion
from calrec.retrieve.fusion import Fused, fuse, reciprocal, top_items
from calrec.retrieve.reader import Reader
from calrec.retrieve.search import Matches, Search

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_REMEMBERED = 6 << 20  # matches of texts that are kept for later users: 50 MB, of 157,000 texts at 40 groups each
_DEEPER = 4  # from one depth of search to the next


class _Found:
    """Texts that were searched to one depth."""

    def __init__(self, depth: int):
        self.rows: dict[str, int] = {}
        """Of each text among the matches."""
        self.matches = Matches.empty(0, depth)

    def of(self, texts: Sequence[str]) -> Matches:
        """Their matches, in their order."""
        return self.matches.take([self.rows[text] for text in texts])


class Ranker:
    """Ranks a catalogue's items for users."""

    def __init__(
        self,
        catalogue: Catalogue,
        search: Search,
        config: RetrieveConfig,
        reader: Reader | None = None,
        evidence: Evidence | None = None,
        fusion: Fusion | None = None,
        listed: NDArray[np.bool_] | None = None,
    ):
        """Prepare to rank.

        Args:
            catalogue: the items.
            search: over the texts of its groups.
            config: what is ranked by what.
            reader: the model, when `config.reads_model`.
            evidence: counts for candidates to re-rank.
            fusion: what they are re-ranked by; None: the model's probability alone.
            listed: which items may be recommended, parallel to `catalogue.items`; None: all.
        """
        if config.reads_model and reader is None:
            raise ValueError("retrieve.dense and retrieve.rerank read the model; give the model and its token cache")
        self.catalogue, self.config = catalogue, config
        self._search, self._reader, self._evidence, self._fusion = search, reader, evidence, fusion
        self._closed = frozenset[int]() if listed is None else frozenset(catalogue.items[~listed].tolist())
        self._allowed: NDArray[np.bool_] | None = None
        if listed is not None:
            self._allowed = np.bincount(catalogue.group_of[listed], minlength=len(catalogue.members)) > 0
        self._known: dict[int, _Found] = {}  # by depth
        self._searched, self._unknown, self._unknown_words, self._margins = 0, 0, 0.0, 0.0

    def __call__(self, users: Sequence[Asked]) -> Iterator[list[Ranked]]:
        """The list of each user, in their order; `config.k` items, fewer only when there are no more."""
        found = self._found(users, max(self.config.k, self.config.rerank))
        orders = [self._fused(*each) for each in zip(users, found, strict=True)]
        if self.config.dense:
            orders = self._with_dense(users, orders)
        if self.config.rerank:
            orders = [self._reranked(pool) for pool in self._pools(users, orders, found)]
        return (self._list(one, order) for one, order in zip(users, orders, strict=True))

    def candidates(self, users: Sequence[Asked]) -> Iterator[tuple[Ints, Floats]]:
        """Of each user the groups that would be re-ranked, and their features, [groups, FEATURES]."""
        found = self._found(users, self.config.rerank)
        orders = [self._fused(*each) for each in zip(users, found, strict=True)]
        return ((pool.groups, pool.features) for pool in self._pools(users, orders, found))

    # --- candidates -------------------------------------------------------------------------------------------------

    def _found(self, users: Sequence[Asked], least: int) -> list[_Found]:
        """What was found for each user's texts, `least` groups of each and as many more as are banned.

        One search to one of a few depths serves all users who need no more, and while it is remembered, a text is
        searched once to each depth in a whole run.
        """
        if sum(found.matches.groups.size for found in self._known.values()) > _REMEMBERED:
            self._known.clear()
        depths = [self._depth(least, len(one.banned)) for one in users]
        for depth in sorted(set(depths)):
            some = [one for one, its in zip(users, depths, strict=True) if its == depth]
            self._search_texts(some, self._known.setdefault(depth, _Found(depth)))
        return [self._known[depth] for depth in depths]

    def _depth(self, least: int, banned: int) -> int:
        depth = least
        while depth < least + banned:
            depth *= _DEEPER
        return min(depth, self._search.index.size)

    def _search_texts(self, users: Sequence[Asked], found: _Found) -> None:
        """Add what is not known of all texts of these users."""
        wants_last = self.config.last_title or self.config.rerank
        texts = dict.fromkeys(generation.text for one in users for generation in one.generations)
        texts |= dict.fromkeys(one.last for one in users if one.last and wants_last)
        texts |= dict.fromkeys(one.recent for one in users if one.recent and self.config.fusion_users)
        if new := [text for text in texts if text not in found.rows]:
            matches = self._search.top(new, found.matches.groups.shape[1], self._allowed)
            others = [other.rows for other in self._known.values()]
            self._tally(matches.take([at for at, text in enumerate(new) if not any(text in rows for rows in others)]))
            found.rows |= {text: len(found.rows) + at for at, text in enumerate(new)}
            found.matches = found.matches.append(matches)

    def _tally(self, matches: Matches) -> None:
        self._searched += len(matches)
        self._unknown += int((matches.highest <= 0).sum())
        self._unknown_words += float((1 - matches.known).sum())
        if matches.scores.shape[1] > 1:
            gap = matches.scores[:, 0] - matches.scores[:, 1]
            gaps = np.divide(gap, matches.highest, where=matches.highest > 0, out=np.zeros_like(gap))
            self._margins += float(gaps.sum())

    def counts(self) -> dict[str, float]:
        """What the search found so far; the margin is by what share the best group beats the second, on average.

        A text counts again when it was forgotten meanwhile.
        """
        margin = self._margins / max(1, self._searched)
        return {
            "distinct_texts": self._searched,
            "texts_without_known_word": self._unknown,
            "unknown_words_share": round(self._unknown_words / max(1, self._searched), 4),
            "bm25_margin": round(margin, 4),
        }

    def _fused(self, one: Asked, found: _Found) -> list[Candidate]:
        """By the paper: by the fused score of the generated texts; the last title is one more of them, if wanted."""
        texts = [(GENERATION, generation.text, generation.logprob) for generation in one.generations]
        weights = [math.exp(self.config.epsilon * logprob) for _, _, logprob in texts]
        reasons: list[tuple[str, str, float | None]] = list(texts)
        if self.config.last_title and one.last:
            reasons.append((LAST_TITLE, one.last, None))
            weights.append(self.config.last_title)
        # Every group can be listed unless all its items are banned, so more than these are only wanted to be joined;
        # and of each text no more, however deep was searched.
        depth = max(self.config.k, self.config.rerank) + len(one.banned)
        matches = found.of([text for _, text, _ in reasons]).best(depth)
        fused = _columns(fuse(matches, np.array(weights)))
        most = None if self.config.dense else depth
        return [
            Candidate(group, score, Reason(*reasons[at], match))
            for group, score, at, match in itertools.islice(fused, most)
        ]

    def _with_dense(self, users: Sequence[Asked], orders: Sequence[list[Candidate]]) -> list[list[Candidate]]:
        """The nearest groups join by reciprocal ranks."""
        assert self._reader is not None
        depths = [self.config.dense + len(one.banned) for one in users]
        nearest = self._reader.nearest(_prompts(users), max(depths, default=0), self._allowed)
        joined = []
        for order, all_near, depth in zip(orders, nearest, depths, strict=True):
            near = all_near[:depth]
            reasons = {one.group: one.reason for one in order}
            groups, sums = reciprocal([np.array([one.group for one in order], dtype=np.int64), near])
            pairs = zip(groups.tolist(), sums.tolist(), strict=True)
            joined.append([Candidate(group, score, reasons.get(group, Reason(DENSE))) for group, score in pairs])
        return joined

    def _reranked(self, pool: Pool) -> list[Candidate]:
        """Candidates by the model's exact log-probability, or by what is fused with it."""
        scores = pool.logprobs if self._fusion is None else self._fusion.scores(pool.features)
        order = np.lexsort((pool.groups, -scores))
        columns = (column[order].tolist() for column in (pool.groups, scores, pool.logprobs))
        return [
            Candidate(group, score, replace(pool.reasons[group], logprob=logprob))
            for group, score, logprob in zip(*columns, strict=True)
        ]

    def _able(self, one: Asked, group: int) -> bool:
        """Whether an item of the group may be listed; places that a search could not fill are group -1."""
        return group >= 0 and any(self._may(one, item) for item in self.catalogue.members[group])

    def _pools(
        self, users: Sequence[Asked], orders: Sequence[list[Candidate]], found: Sequence[_Found]
    ) -> Iterator[Pool]:
        """What is re-ranked for each user, and what speaks for it."""
        assert self._reader is not None
        assert self._evidence is not None
        histories = [self.catalogue.groups(one.history) for one in users]
        near = self._evidence.near(histories) if self.config.fusion_users else None
        rows = [None if near is None else near[[row]] for row in range(len(users))]
        pools = [self._reasons(*each) for each in zip(users, orders, histories, rows, found, strict=True)]
        groups = [np.array(list(pool), dtype=np.int64) for pool in pools]
        read = self._reader.logprobs(_prompts(users), groups)
        size = len(self.catalogue.members)
        of_users = zip(users, pools, groups, read, histories, rows, found, strict=True)
        for one, reasons, its, logprobs, history, row, its_found in of_users:
            features = np.empty((len(its), 0))
            if row is not None:
                titles = (self._matched(one, text, its_found) for text in (one.last, one.recent))
                bm25 = (np.bincount(matched, scores, size)[its] for matched, scores in titles)
                likes = np.bincount(row.indices, row.data, size)[its]
                features = self._evidence.features(its, logprobs, history, likes, *bm25)
            yield Pool(reasons, its, logprobs, features)

    def _matched(self, one: Asked, text: str, found: _Found) -> tuple[Ints, Floats]:
        """(groups, BM25 scores) of the best `config.rerank` that match a text, best first; nothing for an empty one.

        No more than these, however deep was searched: else a feature would depend on how much is banned.
        """
        best: list[tuple[int, float]] = []
        if text:
            matches = found.of([text])
            pairs = zip(matches.groups[0].tolist(), matches.scores[0].tolist(), strict=True)
            able = (pair for pair in pairs if pair[1] > 0 and self._able(one, pair[0]))
            best = list(itertools.islice(able, self.config.rerank))
        groups, scores = zip(*best, strict=True) if best else ((), ())
        return np.array(groups, np.int64), np.array(scores, np.float64)

    def _reasons(
        self, one: Asked, order: Sequence[Candidate], history: Ints, near: Any, found: _Found
    ) -> dict[int, Reason]:
        """Groups to re-rank: the best of the list so far, of the last title, and of what followed the last item; with
        learned fusion also of the newest titles, of what is similar to the history, and the history itself.
        """
        sources = [[(candidate.group, candidate.reason) for candidate in order]]
        if one.last:
            by_last = _columns(fuse(found.of([one.last]), np.ones(1)))
            sources.append([(group, Reason(LAST_TITLE, one.last, None, match)) for group, _, _, match in by_last])
        if len(history) and self._evidence is not None:
            after = self._evidence.following.next(int(history[-1]))[0].tolist()
            sources.append([(group, Reason(COOCCURRENCE)) for group in after])
        if near is not None:
            recent, _ = self._matched(one, one.recent, found)
            sources.append([(group, Reason(RECENT_TITLES, one.recent)) for group in recent.tolist()])
            order_of = np.lexsort((near.indices, -near.data))
            sources.append([(group, Reason(COOCCURRENCE)) for group in near.indices[order_of].tolist()])
            sources.append([(group, Reason(HISTORY)) for group in dict.fromkeys(history[::-1].tolist())])
        pool: dict[int, Reason] = {}
        for source in sources:
            able = (pair for pair in source if self._able(one, pair[0]))
            for group, reason in itertools.islice(able, self.config.rerank):
                pool.setdefault(group, reason)
        return pool

    # --- lists ------------------------------------------------------------------------------------------------------

    def _may(self, one: Asked, item: int) -> bool:
        return item not in one.banned and item not in self._closed

    def _list(self, one: Asked, order: Sequence[Candidate]) -> list[Ranked]:
        groups = [candidate.group for candidate in order]
        places = top_items(groups, self.catalogue.members, self.config.k, lambda item: self._may(one, item))
        nothing = Ranked(-1, None if self.config.rerank else 0.0, Reason(FILL))
        return [
            replace(nothing, item=item) if place is None else Ranked(item, order[place].score, order[place].reason)
            for item, place in places
        ]


def _columns(fused: Fused) -> Iterator[tuple[int, float, int, float]]:
    return zip(fused.groups.tolist(), fused.scores.tolist(), fused.text.tolist(), fused.match.tolist(), strict=True)


def _prompts(users: Sequence[Asked]) -> list[Prompt]:
    assert all(one.prompt is not None for one in users), "the model reads prompts"
    return [one.prompt for one in users if one.prompt is not None]
