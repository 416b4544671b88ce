"""Our split of one category, read from a textify folder, and lists on it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Scorer = Callable[[Sequence[Ints]], NDArray[np.float32]]
"""Histories -> (users, items), -inf where the model does not know the item, or no item of the history."""

K = 20
_USERS = 512  # ranked together


@dataclass(frozen=True)
class Split:
    """Users and items of a category; items are numbered from 0."""

    user_id: list[str]
    items: list[Ints]
    train_end: Ints
    valid_at: Ints
    test_at: Ints
    item_id: list[str]

    @staticmethod
    def read(texts: Path, target: str) -> "Split":
        """The category `target` of a textify folder.

        Raises:
            ValueError: there is no such category.
        """
        table = pq.read_table(texts / "items.parquet", columns=["item_id", "domain"])
        domains = np.array(table["domain"].to_pylist(), dtype=object)
        codes = np.flatnonzero(domains == target)
        if not len(codes):
            raise ValueError(f"unknown category {target!r}; {texts} holds: {', '.join(sorted(set(domains)))}")
        number = np.full(len(domains), -1, np.int64)
        number[codes] = np.arange(len(codes))
        users = pq.read_table(texts / "sequences.parquet", filters=[("domain", "==", target)])
        return Split(
            user_id=users["user_id"].to_pylist(),
            items=[number[items] for items in users["items"].to_numpy()],
            **{name: users[name].to_numpy().astype(np.int64) for name in ("train_end", "valid_at", "test_at")},
            item_id=np.array(table["item_id"].to_pylist(), dtype=object)[codes].tolist(),
        )

    def at(self, split: str) -> Ints:
        """Place of each user's held-out item, -1 without one."""
        return self.test_at if split == "test" else self.valid_at

    def training(self, every: bool) -> list[Ints]:
        """What may be learned from: up to the validation item, or, if `every`, all that precedes the test item."""
        ends = self.train_end
        if every:
            ends = np.where(self.test_at >= 0, self.test_at, [len(items) for items in self.items])
        return [items[:end] for items, end in zip(self.items, ends.tolist(), strict=True)]

    def judged(self, split: str, only: set[str] | None = None, most: int = 0) -> Ints:
        """Rows of the users with a held-out item: all, those named, or a fixed random sample of `most`."""
        rows = np.flatnonzero(self.at(split) >= 0)
        if only is not None:
            rows = np.array([row for row in rows.tolist() if self.user_id[row] in only], np.int64)
        if most and len(rows) > most:
            rows = np.sort(np.random.default_rng(0).permutation(rows)[:most])
        return rows

    def histories(self, split: str, rows: Ints) -> list[Ints]:
        """What precedes the held-out item."""
        at = self.at(split)
        return [self.items[row][: at[row]] for row in rows.tolist()]

    def targets(self, split: str, rows: Ints) -> Ints:
        """The held-out items."""
        at = self.at(split)
        return np.array([self.items[row][at[row]] for row in rows.tolist()], np.int64)


@dataclass(frozen=True)
class Judge:
    """Ranks by a model's scores; what it cannot score stands behind, by popularity, in a list of our length."""

    split: Split
    exclude_seen: bool

    def lists(self, scorer: Scorer, histories: Sequence[Ints]) -> tuple[Ints, NDArray[np.float32]]:
        """(items, scores) of the best K per user, (users, K); -1 where the list is shorter."""
        counts = np.bincount(np.concatenate(self.split.training(every=False)), minlength=len(self.split.item_id))
        behind = np.empty(len(counts), np.float32)
        behind[np.argsort(-counts, kind="stable")] = -1 - np.arange(len(counts)) / len(counts)
        order = np.argsort([len(history) for history in histories], kind="stable")  # so that little is padded
        k = min(K, len(counts))
        items, scores = np.empty((len(histories), k), np.int64), np.empty((len(histories), k), np.float32)
        for at in range(0, len(order), _USERS):
            some = order[at : at + _USERS]
            items[some], scores[some] = self._lists(scorer, [histories[user] for user in some.tolist()], behind)
        return items, scores

    def _lists(
        self, scorer: Scorer, histories: Sequence[Ints], behind: NDArray[np.float32]
    ) -> tuple[Ints, NDArray[np.float32]]:
        scores = scorer(histories)
        known = np.isfinite(scores)
        lowest = np.where(known, scores, np.inf).min(axis=1, keepdims=True)
        scores = np.where(known, scores, np.where(np.isfinite(lowest), lowest, 0) + behind)
        if self.exclude_seen:
            for row, history in enumerate(histories):
                scores[row, history] = -np.inf
        k = min(K, scores.shape[1])
        items = np.argpartition(-scores, k - 1, axis=1)[:, :k]
        values = np.take_along_axis(scores, items, axis=1)
        order = np.argsort(-values, axis=1, kind="stable")
        items, values = np.take_along_axis(items, order, axis=1), np.take_along_axis(values, order, axis=1)
        return np.where(np.isfinite(values), items, -1), values

    def figures(self, scorer: Scorer, split: str, rows: Ints) -> dict[str, float]:
        """Recall and NDCG at 10, and Recall at 1, of these users."""
        items, _ = self.lists(scorer, self.split.histories(split, rows))
        hit = items == self.split.targets(split, rows)[:, None]
        ranks = np.where(hit.any(axis=1), hit.argmax(axis=1) + 1, 0)
        inside = (ranks >= 1) & (ranks <= 10)
        gain = np.where(inside, 1 / np.log2(np.maximum(ranks, 1) + 1), 0.0)
        return {"recall_at_1": float((ranks == 1).mean()), "recall_at_10": float(inside.mean()),
                "ndcg_at_10": float(gain.mean())}  # fmt: skip

    def write(self, scorer: Scorer, split: str, rows: Ints, path: Path) -> None:
        """Lists of these users as `calrec evaluate --rankings NAME=FILE` takes them."""
        items, scores = self.lists(scorer, self.split.histories(split, rows))
        user, place = np.nonzero(items >= 0)
        ids = np.array(self.split.item_id, dtype=object)
        users = np.array([self.split.user_id[row] for row in rows.tolist()], dtype=object)
        columns = {
            "user_id": pa.array(users[user], pa.string()),
            "rank": pa.array(place + 1, pa.int32()),
            "item_id": pa.array(ids[items[user, place]], pa.string()),
            "score": pa.array(scores[user, place], pa.float64()),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), path)
