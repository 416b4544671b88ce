"""A table of items for the catalogue: new ones, or new attributes of known ones."""

from pathlib import Path

import pyarrow as pa

from calrec.files import local
from calrec.ingest import values
from calrec.ingest.columns import usual
from calrec.ingest.items import attribute, cleaned
from calrec.ingest.layouts import ATTRIBUTES
from calrec.ingest.look import look
from calrec.ingest.reading import read_records

SCHEMA = pa.schema([(name, pa.string()) for name in ("item_id", *ATTRIBUTES)])


def read_items(path: Path, category: str = "last") -> pa.Table:
    """The items of a file, cleaned as ingest cleans them; of rows with one id the first counts.

    Args:
        path: CSV, TSV, JSON lines or Parquet with columns for the id and for title, category, brand or price, found by
            their usual names; .gz and .zst too.
        category: first or last entry where it is a list.

    Returns:
        columns item_id and all attributes; what is missing is empty.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no column for id and title, or a row without an id or that cannot be read; names the first such row.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file of items")
    file = local(str(path))[0]
    seen = look(file, path.name.lower().removesuffix(".gz").removesuffix(".zst"))
    for warning in seen.warnings:
        print(f"warning: {warning}", flush=True)
    columns = {role: (name,) for role in ("item", *ATTRIBUTES) if (name := next(iter(usual(role, seen.header)), ""))}
    if "item" not in columns or "title" not in columns:
        raise ValueError(
            f"{path.name}: needs a column for the item's id and one for its title, such as item_id and title; it has "
            f"{', '.join(seen.header) or 'none'}"
        )
    layout = seen.layout(columns)
    rows: dict[str, tuple[str, ...]] = {}
    for line, _, record in read_records(file, layout):
        if isinstance(record, str):
            raise ValueError(f"{path.name}, row {line}: {record}; mend or remove it")
        try:
            item = values.id_of(record.get(columns["item"][0]))
        except ValueError as error:
            raise ValueError(f"{path.name}, row {line}: {columns['item'][0]} {error}; mend or remove it") from None
        rows.setdefault(item, cleaned([attribute(record, name, layout, category) for name in ATTRIBUTES]))
    if not rows:
        raise ValueError(f"{path.name}: holds no item")
    return pa.table([list(rows), *zip(*rows.values(), strict=True)], schema=SCHEMA)
