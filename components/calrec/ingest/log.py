"""A raw log as the step sees it, whichever format it came in: batches of events, then the attributes of their items."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from calrec import artifacts
from calrec.config import DataConfig
from calrec.ingest.hints import frequent_values, literal_star, with_filter
from calrec.ingest.sample import read_sample
from calrec.reading.columns import plain
from calrec.reading.items import Attributes, ItemCounts
from calrec.reading.layouts import Layout
from calrec.reading.plan import Plan, plan
from calrec.reading.records import Counts, Part, Rejects, forget, read_events
from calrec.storage.files import File

_RATING = re.compile("rating|score|overall|stars?$|grade$")  # in a column's name, as `plain` gives it


@dataclass
class RawLog:
    """A log whose events have been read."""

    format: str
    timed: bool
    """False: timestamps are positions, in the user's history or in the log."""
    batches: Callable[[], Iterator[pa.RecordBatch]]
    """Events (user_id, item_id, timestamp, weight, and attributes beside them), in the order of the files."""
    describe: Callable[[Attributes], ItemCounts]
    """Read the items' attributes; to be called when all events' items have their codes."""
    counts: Counts
    rules: list[dict[str, Any]]
    """Rows before and after the rejects and each filter."""
    rejects: list[Path]
    """Parquet files of rejected rows; those of items are there after `describe`."""
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    weight: str = ""
    """What the weight is: quantity, rating, or empty without one."""
    user_column: str = ""
    """The users' column in the files, where a filter can name it."""
    item_column: str = ""
    """The items' column likewise."""


def read(source: str, files: Sequence[File], data: DataConfig, cache: Path, scratch: Path) -> RawLog:
    """Read all events of a source; of files whose version is in the cache nothing is read again.

    Args:
        source: its name, for messages.
        files: its files; none for `sample:DEPARTMENT`.
        data: format, columns, filters, and how many rejects are allowed.
        cache: folder for what was read of each file.
        scratch: folder for what nobody needs later.

    Raises:
        FileNotFoundError: no file of events.
        ValueError: a damaged file, a column map that does not fit, too many rejects, a filter that leaves nothing.
    """
    if source.startswith("sample:"):
        if data.format not in ("auto", "sample"):
            raise ValueError(f"data.format={data.format} does not fit {source}; use auto")
        return _of_sample(source.removeprefix("sample:"), data)
    if data.format == "sample":
        raise ValueError(f"data.format=sample needs a source such as sample:DELI, got {source}")
    found = plan(source, files, data)
    for note in found.notes:
        print(f"ingest: {note}", flush=True)
    parts = _parts(found, cache, scratch / "unversioned")
    counts = Counts()
    for part in parts:
        counts.add(part.counts)
    rejects = [part.folder / "rejects.parquet" for part in parts]
    file, layout = found.events[0]
    remedy = _of_missing_ids(counts, layout, data.filters)
    refuse_many(source, "events", counts, rejects, data.max_reject_share, remedy)
    rules = _rules(counts, data.filters)
    warnings = [*found.warnings, *_idle(source, rules, data.filters, file, layout)]
    weight, said = _weight(layout, data)
    for line in said:
        print(f"ingest: {line}", flush=True)

    def describe(attributes: Attributes) -> ItemCounts:
        path, of_items = scratch / "item-rejects.parquet", ItemCounts()
        writer = Rejects(path, of_items)
        for file, layout in found.items:
            attributes.add_records(file, layout, writer, of_items)
        writer.close()
        rejects.append(path)
        refuse_many(source, "items", of_items, [path], data.max_reject_share)
        return of_items

    return RawLog(
        found.format, found.timed, lambda: _batches(parts), describe, counts, rules, rejects, [*found.notes, *said],
        warnings, weight, *("" if layout.sequences else layout.columns[role][0] for role in ("user", "item")),
    )  # fmt: skip


def _of_sample(department: str, data: DataConfig) -> RawLog:
    sample = read_sample(department)
    counts = Counts(sample.rows, filtered=[sample.rows - len(sample.events)])

    def describe(attributes: Attributes) -> ItemCounts:
        return attributes.add_items(sample.items)

    rules = _rules(counts, ("quantity>0",))
    print(f"ingest: {sample.note}", flush=True)
    weight = "" if data.weight == "auto" else data.weight  # lines of one text are one item: not added up unasked
    batches = sample.events.to_batches
    return RawLog("sample", True, lambda: iter(batches()), describe, counts, rules, [], [sample.note], weight=weight)


def _parts(found: Plan, cache: Path, uncached: Path) -> list[Part]:
    # Of a file without a version nobody says when it changes.
    parts = [read_events(file, layout, cache if file.version else uncached) for file, layout in found.events]
    if cache.is_dir():
        forget(cache)
    cached = sum(part.cached for part in parts)
    print(f"ingest: files of events: {len(parts)}, {cached} of them as read before", flush=True)
    return parts


def _batches(parts: Sequence[Part]) -> Iterator[pa.RecordBatch]:
    for part in parts:
        yield from part.batches()


def _rules(counts: Counts, filters: Sequence[str]) -> list[dict[str, Any]]:
    rows = counts.rows - counts.rejects
    rules = [{"rule": "rows that can be read", "rows_before": counts.rows, "rows_after": rows}]
    for text, dropped in zip(filters, counts.filtered, strict=True):
        rules.append({"rule": f"filter {text}", "rows_before": rows, "rows_after": rows - dropped})
        rows -= dropped
    return rules


def _idle(
    source: str, rules: Sequence[Mapping[str, Any]], filters: Sequence[str], file: File, layout: Layout
) -> list[str]:
    """Warnings of the filters that drop nothing; the first that leaves nothing is refused."""
    found = []
    for rule, text, (column, _, _) in zip(rules[1:], filters, layout.filters, strict=True):
        before, after, star = rule["rows_before"], rule["rows_after"], literal_star(filters, text)
        if before and after in (0, before):
            seen = "; ".join([frequent_values(file, layout, column), *star])
            if not after:
                raise ValueError(f"{source}: the filter {text} leaves none of {before:,} rows; {seen}")
            found.append(f"the filter {text} drops none of {before:,} rows; is it written right? {seen}")
        else:
            found += star
    return found


def _of_missing_ids(counts: Counts, layout: Layout, filters: Sequence[str]) -> str:
    """What to do when most rejected rows have no user or no item."""
    for role in ("user", "item"):
        column = layout.columns[role][0]
        if 2 * counts.reasons.get(f"{column} is missing", 0) > counts.rejects and not layout.sequences:
            return f"; rows without {column} are left out by {with_filter(filters, f'{column}!=')}"
    return ""


def _weight(layout: Layout, data: DataConfig) -> tuple[str, list[str]]:
    """What the weight is, and that in words; empty without one."""
    if "weight" not in layout.columns:
        return "", []
    column = layout.columns["weight"][0]
    found = "rating" if _RATING.search(plain(column)) else "quantity"
    kind, other = (found, "quantity" if found == "rating" else "rating") if data.weight == "auto" else (data.weight, "")
    of_one = "its sum counts" if kind == "quantity" else "the first counts"
    note = f"weight {column} is a {kind}: {of_one} where lines agree in user, item and time"
    return kind, [note + (f"; else --set data.weight={other}" if other else "")]


def refuse_many(
    source: str, what: str, counts: Counts, rejects: Sequence[Path], limit: float, remedy: str = ""
) -> None:
    """Stop when more than the allowed share of the rows was rejected, with the top reasons, the first and a remedy."""
    share = counts.rejects / max(1, counts.rows)
    if share <= limit:
        return
    top = sorted(counts.reasons.items(), key=lambda pair: (-pair[1], pair[0]))[:3]
    listed = "; ".join(f"{count:,}x {reason}" for reason, count in top)
    first = next(row for path in rejects for row in pq.read_table(path).slice(0, 1).to_pylist())
    raise ValueError(
        f"{source}: {counts.rejects:,} of {counts.rows:,} rows of {what} cannot be read ({share:.1%}, "
        f"data.max_reject_share is {limit:.1%}): {listed}; the first is {first['file']} line {first['line']}: "
        f"{first['raw'][:120]!r}{remedy}"
    )


def write_rejects(paths: Sequence[Path], out: Path) -> None:
    """All rejected rows in one Parquet file."""
    with pq.ParquetWriter(out, artifacts.REJECTS, compression="zstd") as writer:
        for path in paths:
            with pq.ParquetFile(path) as stored:
                for batch in stored.iter_batches():
                    writer.write_batch(batch)
