"""Rankings from files, each list checked: a list with a fault is refused and never scored."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from calrec import artifacts
from calrec.config import RetrieveConfig
from calrec.evaluate.lists import Lists
from calrec.evaluate.results import CHAMPION
from calrec.evaluate.user_batches import Block, blocks, foreign, parquet
from calrec.evaluate.users import Judged
from calrec.recommend.drift import FILE, Drift
from calrec.retrieve.candidates import FILL
from calrec.retrieve.catalogue import Catalogue

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
RANKING = pa.schema([("user_id", pa.string()), ("rank", pa.int32()), ("item_id", pa.string()), ("score", pa.float64())])
"""Columns of a ranking that another program wrote; it may come without scores."""
_NAMED = 3  # of each kind of fault


@dataclass(frozen=True, eq=False)
class Part:
    """Checked lists of some users."""

    users: Ints
    """Their numbers in the evaluation."""
    lists: Lists
    first: pa.Table
    """The row of rank 1 of each user, as it stands in the file."""


class Faults:
    """What is wrong with a ranking: how often, by kind, and the first of each."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[int, list[str]]] = {}

    def add(self, kind: str, which: Flags, name: Callable[[int], str]) -> None:
        """Count the flagged entries; `name` says what an entry is."""
        count, names = self._found.get(kind, (0, []))
        if new := int(which.sum()):
            first = np.flatnonzero(which)[: _NAMED - len(names)]
            self._found[kind] = (count + new, names + [name(int(at)) for at in first])

    def refuse(self, source: Path) -> None:
        """Raise a ValueError that says all of it; nothing if there is no fault."""
        if self._found:
            total = sum(count for count, _ in self._found.values())
            said = [
                f"{count:,} {kind} ({'; '.join(names)}{', …' if count > len(names) else ''})"
                for kind, (count, names) in self._found.items()
            ]
            raise ValueError(f"{source}: {total:,} faults in the rankings: {', '.join(said)}")


def of_champion(folder: Path) -> dict[str, Path]:
    """The champion's lists by its name as a method, or nothing when there are none."""
    made = artifacts.read_manifest(folder, "rankings")
    return {CHAMPION: Path(folder) / "rankings.parquet"} if made.counts["users"] else {}


def name_of_champion(folder: Path) -> dict[str, str]:
    """URI of the champion that was asked for, under the name by which an evaluation says it; nothing without one."""
    named = artifacts.read_manifest(folder, "rankings").config.get("champion", "")
    return {CHAMPION: str(named)} if named else {}


def drift_of(folder: Path) -> Drift | None:
    """How far the data moved from the champion's, as its step found; None when there is no champion to tell."""
    artifacts.read_manifest(folder, "rankings")
    path = Path(folder) / FILE
    return Drift(**json.loads(path.read_text())) if path.is_file() else None


class Reader:
    """Reads rankings of the judged users over a catalogue."""

    def __init__(self, judged: Judged, catalogue: Catalogue, config: RetrieveConfig):
        """Prepare to read.

        Args:
            judged: whose lists there must be.
            catalogue: what may be listed.
            config: items of a list, and whether those of the history are excluded.
        """
        self._judged, self._catalogue, self._config = judged, catalogue, config
        self._item_id = pa.array(catalogue.item_id, pa.string())
        self._number = {user: number for number, user in enumerate(judged.user_id.to_pylist())}
        self._width = int(catalogue.items[-1]) + 1

    def recommendations(self, folder: Path) -> Iterator[Part]:
        """The lists of a retrieve step.

        Where the model ranks them, what fills a list up has no score: such items count as a tie at its end.

        Raises:
            ValueError: see :meth:`ranking`.
        """
        columns = ["user_id", "rank", "item_id", "score", "source", "match"]
        path = Path(folder) / "recommendations.parquet"
        return self._parts(path, parquet(path, columns), filled=self._config.rerank > 0)

    def ranking(self, path: Path) -> Iterator[Part]:
        """The lists of another program, a CSV or Parquet file of user_id, rank, item_id and perhaps score.

        Raises:
            ValueError: when all was read, one that counts each kind of fault and names the first ones: unknown users,
                judged users without a list and others with one, rows of a user that are not together, ranks other
                than 1, 2, … in order, a list that is not as long as it can be up to k, unknown, repeated or excluded
                items, scores that are no finite numbers or that rise.
        """
        return self._parts(path, foreign(path, RANKING, optional=["score"]))

    def _parts(self, path: Path, batches: Iterable[pa.RecordBatch], filled: bool = False) -> Iterator[Part]:
        faults, seen = Faults(), np.zeros(len(self._judged), np.bool_)
        for block in blocks(batches):
            users = self._users(block, seen, faults)
            place, run = block.place, block.run
            codes, scores = self._codes(block, faults), self._scores(block, filled, faults)
            self._check(block, users, codes, faults)
            lists = Lists.empty(len(users), self._config.k)
            inside = place < self._config.k
            lists.items[run[inside], place[inside]] = codes[inside]
            lists.scores[run[inside], place[inside]] = scores[inside]
            fit = users >= 0
            first = block.rows.take(pa.array(block.offsets[:-1][fit]))
            yield Part(users[fit], Lists(lists.items[fit], lists.scores[fit]), first)
        faults.add("judged users without a list", ~seen, lambda at: str(self._judged.user_id[at]))
        faults.refuse(path)

    def _users(self, block: Block, seen: Flags, faults: Faults) -> Ints:
        """Numbers of the block's users, -1 for those that are not judged."""
        users = np.array([self._number.get(user, -1) for user in block.user_id.to_pylist()], dtype=np.int64)

        def name(at: int) -> str:
            return str(block.user_id[at])

        if (users < 0).any():
            known = pc.is_in(block.user_id, self._judged.known).to_numpy(zero_copy_only=False)
            faults.add("unknown users", ~known, name)
            faults.add("users for whom nothing was generated", known & (users < 0), name)
        again = (users >= 0) & seen[users]
        inside, first = np.unique(users, return_index=True)
        again[np.setdiff1d(np.flatnonzero(users >= 0), first)] = True
        faults.add("users whose rows are not together", again, name)
        seen[inside[inside >= 0]] = True
        return users

    def _codes(self, block: Block, faults: Faults) -> Ints:
        """Item codes of the rows, -1 for unknown items."""
        found = pc.index_in(block.rows["item_id"].chunk(0), value_set=self._item_id)
        at = pc.fill_null(found, -1).to_numpy().astype(np.int64)
        faults.add("unknown items", at < 0, _row(block))
        known = np.flatnonzero(at >= 0)
        codes = np.full(len(at), -1, np.int64)
        codes[known] = self._catalogue.items[at[known]]
        key = block.run[known] * self._width + codes[known]
        ordered = np.sort(key)
        if (ordered[1:] == ordered[:-1]).any():
            again = np.ones(len(at), np.bool_)
            again[known[np.unique(key, return_index=True)[1]]] = False
            faults.add("repeated items", again & (codes >= 0), _row(block))
        return codes

    def _scores(self, block: Block, filled: bool, faults: Faults) -> Floats:
        """Scores of the rows: nan without scores, -inf for what only fills a list."""
        if "score" not in block.rows.column_names:
            return np.full(len(block.rows), np.nan)
        column = block.rows["score"].chunk(0)
        scores: Floats = column.to_numpy(zero_copy_only=False).astype(np.float64, copy=True)
        empty = column.is_null().to_numpy(zero_copy_only=False)
        wrong = ~np.isfinite(scores)
        if filled:
            wrong &= ~(empty & pc.equal(block.rows["source"].chunk(0), FILL).to_numpy(zero_copy_only=False))
        faults.add("scores that are no finite numbers", wrong, _row(block))
        scores[empty] = -np.inf
        rises = np.zeros(len(scores), np.bool_)
        rises[1:] = (scores[1:] > scores[:-1]) & (block.place[1:] > 0)
        faults.add("scores that rise", rises, _row(block))
        return scores

    def _check(self, block: Block, users: Ints, codes: Ints, faults: Faults) -> None:
        """Order of the ranks, lengths, and excluded items."""
        ranks = pc.fill_null(block.rows["rank"].chunk(0), 0).to_numpy()
        wrong = np.bincount(block.run, ranks != block.place + 1, len(users)) > 0
        faults.add("users whose ranks are not 1, 2, … in order", wrong, lambda at: str(block.user_id[at]))
        lengths, expected = np.diff(block.offsets), np.full(len(users), len(self._catalogue.items))
        if self._config.exclude_seen:
            fit = np.flatnonzero(users >= 0)
            histories = self._judged.history(users[fit])
            seen = np.unique(np.repeat(fit, histories.lengths()) * self._width + histories.flat)
            expected -= np.bincount(seen // self._width, minlength=len(users))
            listed = block.run * self._width + codes
            faults.add("excluded items", np.isin(listed, seen) & (codes >= 0), _row(block))
        expected = np.minimum(expected, self._config.k)
        faults.add(
            "lists of another length",
            (lengths != expected) & (users >= 0),
            lambda at: f"user {block.user_id[at]} has {lengths[at]} items, expected {expected[at]}",
        )


def _row(block: Block) -> Callable[[int], str]:
    """What names a row of the block."""
    return lambda at: f"item {block.rows['item_id'][at]} of user {block.rows['user_id'][at]}"
