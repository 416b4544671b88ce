"""The output of a batch: a folder of parts that is whole after a kill at any moment, and goes on where it stopped.

A part is written aside, brought to the disk and renamed; then `progress.json`, replaced in one step, counts it as
finished. What it does not count is written again. The manifest comes last, so later steps refuse an unfinished folder.
`progress.json` stays: it says which users are in which part.
"""

import itertools
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from calrec import artifacts
from calrec.artifacts import Manifest, output, sealed
from calrec.artifacts.places import LOCK
from calrec.config.checks import check, one_of
from calrec.recommend.rows import Reject
from calrec.recommend.second_place import PROGRESS, Copies
from calrec.storage.files import Remote, is_data

FORMATS = ("parquet", "jsonl")
REJECTS = pa.schema([("where", pa.string()), ("reason", pa.string()), ("raw", pa.string())])
_OURS = re.compile(r"(part|rejects)-\d{5,}\.(parquet|jsonl)|\.(part|rejects|progress|manifest)[-.][-.\w]*\.tmp")
_ROWS = 4096  # of a table that are Python objects at once


class Parts:
    """Writes a batch part by part; one process at a time, and only this one changes the folder.

    Args:
        out: the folder; made, continued, or found finished.
        format: parquet (the rows of artifacts.LISTS), or jsonl (an object per user).
        fingerprint: plain values that decide the output: settings, digests of model, index and histories.
        users_per_part: a part is written once it has that many users, at the end of an `append`.
        remote: a second place for what is finished, from which another machine goes on; None: none.

    Raises:
        ValueError: the folder holds something else, is of another fingerprint, or another process writes to it.
    """

    def __init__(
        self,
        out: Path,
        format: str,  # noqa: A002
        fingerprint: Mapping[str, Any],
        users_per_part: int,
        remote: Remote | None = None,
    ):
        one_of("format", format, FORMATS)
        check(users_per_part >= 1, f"users_per_part must be at least 1, got {users_per_part}")
        self.out, self.format, self._size = Path(out), format, users_per_part
        columns = {field.name: str(field.type) for field in artifacts.LISTS}
        self._fingerprint = _plain({**fingerprint, "format": format, "columns": columns})
        self._copies = Copies(remote, self._fingerprint)
        self._parts, self._ended = list[dict[str, Any]](), False
        self.manifest: Manifest | None = None
        """Of a finished folder; then there is nothing to do."""
        self._waiting: list[tuple[pa.Table, int, Sequence[Reject], Mapping[str, int]]] = []
        check(not self.out.exists() or self.out.is_dir(), f"{out} is no folder; give another --out")
        self.out.mkdir(parents=True, exist_ok=True)
        self._lock = ExitStack()
        self._lock.enter_context(output.lock(self.out / LOCK, self.out))
        try:
            self._copies.fetch(self.out)
            self._open()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let another process have the folder; what no finished part holds is dropped."""
        self._lock.close()

    @property
    def done_users(self) -> int:
        """Users in finished parts: the `start` from which to read on."""
        return sum(part["users"] for part in self._parts)

    @property
    def counts(self) -> dict[str, int]:
        """Sums over all finished parts, also those of earlier sessions: users, rows, rejects, and `append`'s counts."""
        sums = Counter[str]({"users": 0, "rows": 0, "rejects": 0})
        for part in self._parts:
            sums.update({name: part[name] for name in sums.keys() & part.keys()} | part["counts"])
        return dict(sums)

    def append(
        self, rows: pa.Table, users: int, rejects: Sequence[Reject] = (), counts: Mapping[str, int] | None = None
    ) -> None:
        """Add what a batch of the reader gave; written when a part is full.

        Args:
            rows: with the schema of artifacts.LISTS; all rows of a user stand together, in one batch.
            users: users of the batch, those without a row included.
            rejects: what was left out before the end of this batch.
            counts: whole numbers to sum over all batches of the output, across interruptions.
        """
        assert not self._ended, "an earlier session has written the last user"
        assert rows.schema.equals(artifacts.LISTS), f"rows have the schema {rows.schema}"
        self._waiting.append((rows, users, tuple(rejects), dict(counts or {})))
        if sum(users for _, users, _, _ in self._waiting) >= self._size:
            self._write_part()

    def finish(
        self, counts: Mapping[str, Any] | None = None, rejects: Sequence[Reject] = (), **manifest: Any
    ) -> Manifest:
        """Write the last part, the rejects of all parts as one table, and the manifest.

        Args:
            counts: further facts beside those of `self.counts`, which they replace where names are equal.
            rejects: what was left out after the last user; without effect when an earlier session got as far as here.
            manifest: further fields of the manifest: inputs, notes; its config is the fingerprint.
        """
        if self.manifest is not None:
            return self.manifest
        if not self._ended:
            if self._waiting or not self._parts:
                self._write_part()
            self._write_rejects(rejects)
        for path in self.out.glob("rejects-*.parquet"):
            path.unlink()
        stored = pq.read_metadata(self.out / "rejects.parquet").num_rows
        facts = {**self.counts, "rejects": stored, "parts": len(self._parts), **(counts or {})}
        self.manifest = artifacts.finish(self.out, Manifest("batch", self._fingerprint, facts, **manifest))
        self.close()
        return self.manifest

    def part(self, number: int) -> Path:
        """The file of a part, from 0."""
        return self.out / f"part-{number:05}.{self.format}"

    def _rejects(self, number: int) -> Path:
        return self.out / f"rejects-{number:05}.parquet"

    def _write_part(self) -> None:
        waiting, number = self._waiting or [(artifacts.LISTS.empty_table(), 0, (), {})], len(self._parts)
        table = pa.concat_tables([rows for rows, _, _, _ in waiting])
        rejects = [one for _, _, some, _ in waiting for one in some]
        if rejects:
            sealed.replace(self._rejects(number), lambda path: _write_parquet(path, _table(rejects)))
        write = _write_parquet if self.format == "parquet" else _write_jsonl
        sealed.replace(self.part(number), lambda path: write(path, table))
        sums = Counter[str]()
        for _, _, _, counts in waiting:
            sums.update(counts)
        self._parts.append(
            {
                "users": sum(users for _, users, _, _ in waiting), "rows": len(table), "rejects": len(rejects),
                "bytes": self.part(number).stat().st_size, "counts": dict(sums),
            }
        )  # fmt: skip
        self._waiting = []
        self._write_progress(self.part(number), *([self._rejects(number)] if rejects else []))

    def _write_rejects(self, last: Sequence[Reject]) -> None:
        """All rejects as one table; from then on the parts' own are no longer needed, and nothing may be added."""
        numbers = [number for number, part in enumerate(self._parts) if part["rejects"]]

        def write(path: Path) -> None:
            with pq.ParquetWriter(path, REJECTS, compression="zstd") as writer:
                for number in numbers:
                    writer.write_table(pq.read_table(self._rejects(number)))
                writer.write_table(_table(last))

        sealed.replace(self.out / "rejects.parquet", write)
        self._ended = True
        self._write_progress(self.out / "rejects.parquet")

    def _write_progress(self, *finished: Path) -> None:
        state = {"fingerprint": self._fingerprint, "parts": self._parts, "ended": self._ended}
        text = json.dumps(state, sort_keys=True) + "\n"
        sealed.replace(self.out / PROGRESS, lambda path: path.write_text(text))
        self._copies.put(*finished, self.out / PROGRESS)

    # --- going on -----------------------------------------------------------------------------------------------

    def _open(self) -> None:
        """Take over what an earlier session left, or begin."""
        progress = self.out / PROGRESS
        if (self.out / artifacts.MANIFEST).is_file():
            found = artifacts.read_manifest(self.out, "batch")
            self._refuse_other(found.config)
            self.manifest = found
            print(f"{self.out} is finished, with the same settings and inputs; nothing to do", flush=True)
        if progress.is_file():
            state = json.loads(progress.read_bytes())
            self._refuse_other(state["fingerprint"])
            self._take_over(state["parts"], state["ended"])
        if self.manifest is not None:
            self.close()
            return
        foreign = [path.name for path in self.out.iterdir() if is_data(path.name)]
        if foreign and not progress.is_file():
            raise ValueError(
                f"{self.out} holds {', '.join(sorted(foreign)[:5])} and no {PROGRESS}, so it is no interrupted batch; "
                "empty it or give another --out"
            )
        self._remove_unfinished()
        self._write_progress()

    def _take_over(self, parts: list[dict[str, Any]], ended: bool) -> None:
        """The finished parts up to the first that is not as it was written: the reader goes on at one place."""
        whole = list(itertools.takewhile(self._is_whole, enumerate(parts)))
        self._ended = ended and len(whole) == len(parts) and (self.out / "rejects.parquet").is_file()
        if not self._ended:  # a part's own rejects go only after they stand in the table of all
            whole = list(itertools.takewhile(self._has_rejects, whole))
        if len(whole) < len(parts):
            print(
                f"{self.part(len(whole))} or its rejects are missing or changed; written again from there", flush=True
            )
        self._parts = [part for _, part in whole]

    def _is_whole(self, numbered: tuple[int, Mapping[str, Any]]) -> bool:
        return not sealed.damage(self.part(numbered[0]), numbered[1]["bytes"])

    def _has_rejects(self, numbered: tuple[int, Mapping[str, Any]]) -> bool:
        return not numbered[1]["rejects"] or self._rejects(numbered[0]).is_file()

    def _refuse_other(self, found: Mapping[str, Any]) -> None:
        sealed.refuse_other(self.out, found, self._fingerprint, "remove the folder or give another --out")

    def _remove_unfinished(self) -> None:
        kept = {self.part(number).name for number in range(len(self._parts))}
        kept |= {self._rejects(number).name for number, part in enumerate(self._parts) if part["rejects"]}
        for path in self.out.iterdir():
            if _OURS.fullmatch(path.name) and path.name not in kept:
                path.unlink()


def _table(rejects: Sequence[Reject]) -> pa.Table:
    return pa.Table.from_pylist([asdict(one) for one in rejects], schema=REJECTS)


def _write_parquet(path: Path, table: pa.Table) -> None:
    pq.write_table(table, path, compression="zstd")


def _write_jsonl(path: Path, table: pa.Table) -> None:
    """An object per user: user_id, and the other columns of each row under items; a user's rows stand together."""
    rows = (row for batch in table.to_batches(max_chunksize=_ROWS) for row in batch.to_pylist())
    with path.open("wb") as stream:
        for user, its_rows in itertools.groupby(rows, key=lambda row: row.pop("user_id")):
            stream.write(orjson.dumps({"user_id": user, "items": list(its_rows)}) + b"\n")


def _plain(value: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON gives it back: tuples are lists, keys are text."""
    return dict(json.loads(json.dumps(value)))
