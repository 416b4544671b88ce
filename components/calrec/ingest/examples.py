"""The first events and the most frequent items of a cleaned log, for a person who checks what was understood."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from calrec.arrays.vocabulary import Vocabulary
from calrec.config.checks import iso
from calrec.ingest.rules import Cleaned
from calrec.reading.layouts import ATTRIBUTES
from calrec.report.document import Section, plain_table

_SHOWN, _CELL = 5, 80  # rows, and characters of a cell


def examples(timed: bool, users: Vocabulary, items: Vocabulary, catalogue: pa.Table, cleaned: Cleaned) -> list[Section]:
    """Five events and five items as they are written to the folder."""
    user, item, time, weight = next(iter(cleaned))
    when = [iso(moment)[:19].replace("T", " ") if timed else f"place {moment}" for moment in time[:_SHOWN].tolist()]
    ids, weights = items.take(item[:_SHOWN]).to_pylist(), [f"{one:g}" for one in weight[:_SHOWN]]
    title = dict(zip(catalogue["item_id"].to_pylist(), catalogue["title"].to_pylist(), strict=True))
    events = zip(users.take(user[:_SHOWN]).to_pylist(), ids, map(title.get, ids), weights, when, strict=True)
    most = np.argsort(-cleaned.item_counts, kind="stable")[: min(_SHOWN, len(catalogue))]
    row_of = {item_id: row for row, item_id in enumerate(title)}
    rows = catalogue.take([row_of[item_id] for item_id in items.take(most).to_pylist()])
    known = [name for name in ATTRIBUTES if any(rows[name].to_pylist())]
    described = zip(*(rows[name].to_pylist() for name in ("item_id", *known)), strict=True)
    return [
        _section("The first events", ("user", "item", "title", "weight", "time (UTC)"), events),
        _section("The most frequent items", ("item", *known), described),
    ]


def _section(title: str, header: Sequence[str], rows: Iterable[tuple[Any, ...]]) -> Section:
    return Section(title, [plain_table(header, [[str(cell)[:_CELL] for cell in row] for row in rows], words=True)])
