"""Answers to many clients at once: one thread reads the model, and what waits meanwhile is answered together."""

from collections import defaultdict, deque
from collections.abc import Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count

from pydantic import BaseModel

from calrec.recommend.recommender import Filters, Recommender
from calrec.recommend.step import reasons
from calrec.retrieve.candidates import Asked, Ranked
from calrec.serve.query import Query

_TOGETHER = 64  # queries that are answered together


class QueryError(ValueError):
    """What is asked for is not there."""


class Place(BaseModel):
    """An item of a list, and why it is there."""

    rank: int
    item_id: str
    title: str
    score: float | None = None
    reason: str
    source: str


class Answer(BaseModel):
    """What a user may like, best first."""

    user_id: str
    items: list[Place]
    unknown: list[str]
    """Ids of the history that the version does not know; they were left out."""


@dataclass(eq=False)
class _Waiting:
    query: Query
    answer: Answer | None = None
    error: Exception | None = None

    @property
    def wish(self) -> Hashable:
        """Queries with the same one share their ranker."""
        lists = (self.query.categories, self.query.in_stock, self.query.exclude)
        return self.query.k, *(None if one is None else tuple(one) for one in lists)


class Answers:
    """Answers queries; may be called by many threads."""

    def __init__(self, recommender: Recommender):
        """`recommender`: nobody else may use it meanwhile."""
        self._recommender = recommender
        self._waiting: deque[_Waiting] = deque()
        self._thread = ThreadPoolExecutor(1, "model")

    def __call__(self, queries: Sequence[Query]) -> list[Answer]:
        """The answer to each query, the same whatever else is asked meanwhile.

        Raises:
            QueryError: an unknown category, or filters that leave nothing; names the query.
        """
        if not queries:
            return []
        mine = [_Waiting(query) for query in queries]
        self._waiting.extend(mine)
        self._thread.submit(self._work_until, mine[-1]).result()
        for place, one in enumerate(mine):
            if isinstance(one.error, QueryError):
                raise QueryError(f"inputs[{place}]: {one.error}")
            if one.error:
                raise one.error
        return [one.answer for one in mine if one.answer is not None]

    def _work_until(self, last: _Waiting) -> None:
        """Answer what waits, first come, first served; perhaps `last` was answered with others."""
        while last.answer is None and last.error is None:
            self._try_batch([self._waiting.popleft() for _ in range(min(_TOGETHER, len(self._waiting)))])

    def _try_batch(self, batch: Sequence[_Waiting]) -> None:
        """Answer a batch; when that fails each query alone, since one client's failure is not another's."""
        try:
            self._answer_batch(batch)
        except Exception as error:
            if len(batch) == 1:
                batch[0].error = error
                return
            for one in batch:
                self._try_batch([one])

    def _answer_batch(self, batch: Sequence[_Waiting]) -> None:
        asked, _ = self._recommender.queries([one.query.history() for one in batch])
        alike = defaultdict[Hashable, list[tuple[_Waiting, Asked]]](list)
        for one, its in zip(batch, asked, strict=True):
            alike[one.wish].append((one, its))
        for group in alike.values():
            query = group[0][0].query
            try:
                ranker = self._recommender.ranker(self._filters(query), query.k)
            except ValueError as error:
                for one, _ in group:
                    one.error = QueryError(str(error))
                continue
            lists = ranker([its for _, its in group])
            for (one, _), ranked in zip(group, lists, strict=True):
                one.answer = self._said(one.query, ranked)

    def _filters(self, query: Query) -> Filters:
        stock = query.in_stock
        if query.exclude:
            gone = frozenset(query.exclude)
            among = self._recommender.catalogue.item_id if stock is None else stock
            stock = [item for item in among if item not in gone]
        return Filters(None if stock is None else tuple(stock), tuple(query.categories or ()))

    def _said(self, query: Query, ranked: Sequence[Ranked]) -> Answer:
        return Answer(
            user_id=query.history().user_id,
            items=[self._place(*each) for each in zip(count(1), ranked, reasons(ranked), strict=False)],
            unknown=self._recommender.unknown(query.items or ()),
        )

    def _place(self, rank: int, one: Ranked, reason: str) -> Place:
        catalogue = self._recommender.catalogue
        at = catalogue.at(one.item)
        return Place(
            rank=rank,
            item_id=catalogue.item_id[at],
            title=catalogue.title[at],
            score=one.score,
            reason=reason,
            source=one.reason.source,
        )
