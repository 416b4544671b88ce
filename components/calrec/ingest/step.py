"""The ingest step: a source in, a folder of interactions, items, rejects and a report out."""

import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from calrec import artifacts
from calrec.arrays.vocabulary import Vocabulary
from calrec.artifacts import Manifest
from calrec.config import DataConfig, checks
from calrec.config.checks import iso
from calrec.config.overrides import to_dict
from calrec.ingest.events import RETURNS, TAKEN_BACK, UNMATCHED
from calrec.ingest.examples import examples
from calrec.ingest.hints import alike, nobodies, odd_ids
from calrec.ingest.log import RawLog, read, write_rejects
from calrec.ingest.rules import Cleaned, EventLog
from calrec.reading.catalogue import refuse_not_utf8
from calrec.reading.items import Attributes, ItemCounts, identical_texts, missing
from calrec.report import manifests
from calrec.storage import files
from calrec.storage.files import File
from calrec.system.printing import redact, safe

_MEMORY_SHARE = 0.3
_ROW_GROUP = 1 << 18
_STRANGERS = 0.2  # share of the items without metadata that is worth a look at the ids
_REASONS = 20  # in the manifest; rejects.parquet has them all


def ingest(
    domain: str,
    source: str,
    out: Path,
    data: DataConfig,
    raw: Sequence[File] | None = None,
    cache: Path | None = None,
) -> Manifest:
    """Read one category's raw log, clean it, and write `interactions`, `items` and `rejects` with their manifest.

    Args:
        domain: the category's name.
        source: `sample:DEPARTMENT`, or where the files are: a local folder, file or glob when `raw` is not given.
        out: the folder to make; an old one is replaced only when the step succeeds.
        data: formats and rules.
        raw: the source's files, when they are not local.
        cache: folder that keeps what was read of each file; only new and changed files are read again.

    Raises:
        FileNotFoundError, ValueError: see :func:`calrec.ingest.log.read`; metadata of other items; no user is left.
    """
    checks.name("the category (--domain)", domain)
    given, source = source, redact(source)
    print(f"ingest {domain}: reading {source}", flush=True)
    if raw is None:
        raw = [] if given.startswith("sample:") else files.local(given)
    with artifacts.writing(Path(out), "interactions", files.roots(given)) as folder:
        scratch = folder / "scratch"
        scratch.mkdir()
        log = read(source, raw, data, cache or scratch / "parts", scratch)
        _refuse_window(log, data)
        users, items = Vocabulary(), Vocabulary()
        attributes = Attributes(items, data.category)
        events = EventLog(scratch / "events", _memory(data))
        _encode(log, users, items, attributes, events)
        of_items = log.describe(attributes)
        known = attributes.described(len(items))
        strangers = _other_metadata(of_items, known, items)
        if strangers and not known.any():
            raise ValueError(f"{source}: {strangers[0]}")
        try:
            cleaned = events.clean(data, items.strings(), known, len(users), log.weight)
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from None
        rules = (*log.rules, *cleaned.rules)
        _assert_all_counted(log, rules, cleaned)
        _write_interactions(folder, domain, users, items, cleaned)
        kept = np.flatnonzero(cleaned.item_counts)
        described = attributes.catalogue(domain, kept)
        refuse_not_utf8(source, described.accounts, data.max_reject_share)
        catalogue = described.table
        ids = zip(items.take(kept).to_pylist(), cleaned.item_counts[kept].tolist(), strict=True)
        doubtful = [
            *strangers,
            *alike("user", users.strings()),
            *alike("item", items.strings()),
            *nobodies(users, log.user_column, data.filters),
        ]
        hints = odd_ids(dict(ids), log.item_column, data.filters)
        of_log = examples(log.timed, users, items, catalogue, cleaned)
        artifacts.write_table(folder, "items.parquet", catalogue)
        write_rejects(log.rejects, folder / "rejects.parquet")
        shutil.rmtree(scratch)
        counts = {
            **_row_counts(log, of_items),
            **_facts(cleaned, log.timed),
            **identical_texts(catalogue),
            "items_without_metadata": int((~known[kept]).sum()),
            **missing(catalogue),
            "attributes": described.counts,
        }
        for hint in hints:
            print(f"ingest: {hint}", flush=True)
        manifest = Manifest(
            "interactions",
            config={
                "domain": domain,
                "source": source,
                "format": log.format,
                "time": "ms" if log.timed else "order",
                "data": to_dict(data),
            },
            counts=counts,
            rules=rules,
            notes=(*log.notes, *described.notes, *hints),
            warnings=(
                *log.warnings,
                *_of_returns(cleaned, log.weight, data),
                *doubtful,
                *described.warnings,
            ),
        )
        manifests.write_report(folder, f"Log of {domain}", manifest, of_log)
        manifest = artifacts.finish(folder, manifest)
    for warning in manifests.warnings(manifest):
        print(safe(f"ingest {domain}: warning: {warning}"), flush=True)
    print(
        f"ingest {domain}: {counts['users']:,} users, {counts['items']:,} items, "
        f"{counts['interactions']:,} interactions, {counts['rejects']:,} rejects",
        flush=True,
    )
    return manifest


def _of_returns(cleaned: Cleaned, weight: str, data: DataConfig) -> list[str]:
    """What became of events of negative weight, when there are any."""
    lost = {rule["rule"]: rule["rows_before"] - rule["rows_after"] for rule in cleaned.rules}
    returns, alone, taken = (lost.get(rule, 0) for rule in (RETURNS, UNMATCHED, TAKEN_BACK))
    found = []
    if data.returns == "cancel" and weight != "quantity":
        found.append("data.returns=cancel takes quantities back, and this log has none (see data.weight)")
    if alone or taken:
        found.append(
            f"{returns + alone:,} events of negative weight are returns: they take {taken:,} purchases back; "
            f"{alone:,} of them find no earlier purchase"
        )
    elif returns:
        found.append(
            f"{returns:,} events of negative weight are dropped as returns; --set data.returns=cancel takes back what "
            "they return, too, --set data.returns=keep keeps them as events"
        )
    return found


def _memory(data: DataConfig) -> int:
    """Bytes that the events may take: the setting, or a share of what the machine or the container has."""
    if data.memory_gb:
        return int(data.memory_gb * 1e9)
    limit = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    group = Path("/sys/fs/cgroup/memory.max")
    if group.is_file() and (text := group.read_text().strip()).isdigit():
        limit = min(limit, int(text))
    return int(_MEMORY_SHARE * limit)


def _refuse_window(log: RawLog, data: DataConfig) -> None:
    if not log.timed and (data.since or data.until):
        raise ValueError("data.since and data.until need timestamps, and this log has none; leave them empty")


def _encode(log: RawLog, users: Vocabulary, items: Vocabulary, attributes: Attributes, events: EventLog) -> None:
    """Strings become codes once; whatever stands beside the events describes their items."""
    at = 0
    for batch in log.batches():
        codes = items.encode(batch["item_id"])
        time = batch["timestamp"].to_numpy()
        if not log.timed and log.format != "sequences":
            time = np.arange(at, at + len(batch))
        events.add(users.encode(batch["user_id"]), codes, time, batch["weight"].to_numpy())
        attributes.add_events(codes, batch)
        at += len(batch)


def _other_metadata(of_items: ItemCounts, known: np.ndarray[Any, Any], items: Vocabulary) -> list[str]:
    """A warning when many of the log's items, and items of the metadata, are strangers to each other: one of each."""
    unknown = np.flatnonzero(~known)
    if not of_items.rows or not of_items.stranger or len(unknown) <= _STRANGERS * len(known):
        return []
    of_log = items.take(unknown[:1])[0].as_py()
    some = f"{len(unknown):,} of {len(known):,} items of the log are not"
    how = some if known.any() else f"none of the {len(known):,} items of the log is"
    return [
        f"{how} in the metadata, and {of_items.absent:,} of the metadata not in the log, such as {of_log!r} and "
        f"{of_items.stranger!r}: are the ids written alike?"
    ]


def _assert_all_counted(log: RawLog, rules: Sequence[Any], cleaned: Cleaned) -> None:
    """Rows in = rows out + rows counted as dropped or rejected."""
    rows = [log.counts.rows, *(rule["rows_after"] for rule in rules)]
    assert [rule["rows_before"] for rule in rules] == rows[:-1], f"a rule lost rows: {rules}"
    assert rows[-1] == cleaned.facts["interactions"], f"{rows[-1]} rows after the rules, {cleaned.facts} written"


def _facts(cleaned: Cleaned, timed: bool) -> dict[str, Any]:
    """Facts of the cleaned events; times as a person reads them, and none when there are none."""
    facts = dict(cleaned.facts)
    first, last = facts.pop("first_timestamp"), facts.pop("last_timestamp")
    return {**facts, "first_event": iso(first), "last_event": iso(last)} if timed else facts


def _row_counts(log: RawLog, of_items: ItemCounts) -> dict[str, Any]:
    reasons = Counter(log.counts.reasons) + Counter(of_items.reasons)
    return {
        "event_rows": log.counts.rows,
        "event_rejects": log.counts.rejects,
        "item_rows": of_items.rows,
        "item_rejects": of_items.rejects,
        "item_rows_repeated": of_items.repeated,
        "item_rows_not_in_log": of_items.absent,
        "rejects": log.counts.rejects + of_items.rejects,
        **({"rejects_by_reason": reasons.most_common(_REASONS)} if reasons else {}),
    }


def _write_interactions(folder: Path, domain: str, users: Vocabulary, items: Vocabulary, cleaned: Cleaned) -> None:
    with pq.ParquetWriter(folder / "interactions.parquet", artifacts.INTERACTIONS, compression="zstd") as writer:
        for user, item, time, weight in _row_groups(cleaned):
            columns = [
                users.take(user),
                items.take(item),
                pa.array(time),
                pa.repeat(domain, len(user)),
                pa.array(weight),
            ]
            writer.write_table(pa.table(columns, schema=artifacts.INTERACTIONS))


def _row_groups(cleaned: Cleaned) -> Iterator[tuple[np.ndarray[Any, Any], ...]]:
    """Chunks of one size, so that the file's bytes do not depend on the memory that was there."""
    held: list[tuple[np.ndarray[Any, Any], ...]] = []
    for chunk in cleaned:
        held.append(chunk)
        if sum(len(one[0]) for one in held) >= _ROW_GROUP:
            columns = [np.concatenate(column) for column in zip(*held, strict=True)]
            full = len(columns[0]) // _ROW_GROUP * _ROW_GROUP
            for start in range(0, full, _ROW_GROUP):
                yield tuple(column[start : start + _ROW_GROUP] for column in columns)
            held = [tuple(column[full:] for column in columns)]
    if held and len(held[0][0]):
        yield tuple(np.concatenate(column) for column in zip(*held, strict=True))
