"""The ingest step: a source in, a folder of interactions, items and rejects out."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from calrec import artifacts
from calrec.artifacts import Manifest
from calrec.config import DataConfig
from calrec.ingest.cleaning import Events, clean_brand, clean_events, clean_price, clean_text
from calrec.ingest.readers import RawLog, read
from calrec.settings import to_dict


def ingest(domain: str, source: str, out: Path, data: DataConfig) -> Manifest:
    """Read one category's raw log, clean it, and write `interactions`, `items` and `rejects` with their manifest.

    Args:
        domain: the category's name.
        source: `sample:DEPARTMENT` or a local folder.
        out: the folder to make; an old one is replaced only when the step succeeds.
        data: formats and rules.

    Raises:
        FileNotFoundError, ValueError: see :func:`calrec.ingest.readers.read` and
            :func:`calrec.ingest.cleaning.clean_events`; too many rejected rows.
    """
    print(f"ingest {domain}: reading {source}", flush=True)
    log = read(source, data)
    _refuse_many_rejects(log, source, data.max_reject_share)

    users = pc.dictionary_encode(log.events["user_id"]).combine_chunks()
    items = pc.dictionary_encode(log.events["item_id"]).combine_chunks()
    item_ids: list[str] = items.dictionary.to_pylist()
    has_metadata = np.asarray(pc.is_in(items.dictionary, value_set=log.items["item_id"].combine_chunks()))
    if item_ids and not has_metadata.any():
        raise ValueError(f"{source}: none of the {len(item_ids)} items of the log is in the metadata")
    events = Events(
        user=users.indices.to_numpy().astype(np.int64),
        item=items.indices.to_numpy().astype(np.int64),
        time=log.events["timestamp"].to_numpy(),
        weight=log.events["weight"].to_numpy(),
        rules=list(log.rules),
    )
    try:
        clean_events(events, item_ids, data, has_metadata)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None

    interactions = pa.table(
        [
            users.dictionary.take(pa.array(events.user)),
            items.dictionary.take(pa.array(events.item)),
            pa.array(events.time),
            pa.array([domain] * len(events), pa.string()),
            pa.array(events.weight),
        ],
        schema=artifacts.INTERACTIONS,
    )
    kept = np.unique(events.item)
    catalogue = _catalogue(domain, [item_ids[i] for i in kept], log.items)
    counts = _counts(events, catalogue, log, int((~has_metadata[kept]).sum()))
    with artifacts.writing(Path(out)) as folder:
        artifacts.write_table(folder, "interactions.parquet", interactions)
        artifacts.write_table(folder, "items.parquet", catalogue)
        artifacts.write_table(folder, "rejects.parquet", pa.Table.from_pylist(log.rejects, schema=artifacts.REJECTS))
        manifest = artifacts.finish(
            folder,
            Manifest(
                "interactions",
                config={
                    "domain": domain,
                    "source": source,
                    "format": log.format,
                    "time": log.time,
                    "data": to_dict(data),
                },
                counts=counts,
                rules=tuple(events.rules),
                notes=tuple(log.notes),
            ),
        )
    print(
        f"ingest {domain}: {counts['users']:,} users, {counts['items']:,} items, "
        f"{counts['interactions']:,} interactions, {counts['rejects']:,} rejects",
        flush=True,
    )
    return manifest


def _refuse_many_rejects(log: RawLog, source: str, limit: float) -> None:
    share = len(log.rejects) / max(1, log.rows_read)
    if share <= limit:
        return
    reasons = Counter((reject["file"], reject["reason"]) for reject in log.rejects).most_common(3)
    first = log.rejects[0]
    listed = "; ".join(f"{count}x {reason} in {name}" for (name, reason), count in reasons)
    raise ValueError(
        f"{source}: {len(log.rejects)} of {log.rows_read} rows cannot be read ({share:.1%}, data.max_reject_share is "
        f"{limit:.1%}): {listed}; the first is {first['file']} line {first['line']}: {first['raw'][:120]!r}"
    )


def _catalogue(domain: str, item_ids: list[str], metadata: pa.Table) -> pa.Table:
    """Clean attributes of the kept items, sorted by id; what is missing is an empty string."""
    row_of = {item_id: row for row, item_id in enumerate(metadata["item_id"].to_pylist())}
    columns = {name: metadata[name].to_pylist() for name in metadata.schema.names}
    cleaners = {"title": clean_text, "category": clean_text, "brand": clean_brand, "price": clean_price}
    rows = []
    for item_id in sorted(item_ids):
        at = row_of.get(item_id)
        attributes = {name: "" if at is None else clean(columns[name][at]) for name, clean in cleaners.items()}
        rows.append({"item_id": item_id, "domain": domain, **attributes})
    return pa.Table.from_pylist(rows, schema=artifacts.ITEMS)


def _counts(events: Events, catalogue: pa.Table, log: RawLog, without_metadata: int) -> dict[str, Any]:
    """Sizes and the facts that tell two versions of one category apart."""
    users, starts, lengths = np.unique(events.user, return_index=True, return_counts=True)
    last = starts + lengths - 1
    same_user = events.user[1:] == events.user[:-1]
    seen = sum(
        int(events.item[at] in events.item[start:at]) for start, at in zip(starts.tolist(), last.tolist(), strict=True)
    )
    return {
        "rows_read": log.rows_read,
        "rejects": len(log.rejects),
        "users": len(users),
        "items": len(catalogue),
        "interactions": len(events),
        "mean_length": round(len(events) / len(users), 2),
        "target_in_history_share": round(seen / len(users), 4),
        "tied_share": round(float((same_user & (events.time[1:] == events.time[:-1])).mean()), 4),
        "items_without_metadata": without_metadata,
        **{
            f"items_without_{name}": int(pc.sum(pc.equal(catalogue[name], "")).as_py() or 0)
            for name in ("title", "category", "brand", "price")
        },
    }
