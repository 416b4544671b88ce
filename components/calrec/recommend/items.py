"""A table of items for the catalogue: new ones, or new attributes of known ones."""

from pathlib import Path

import pyarrow as pa

from calrec.reading import values
from calrec.reading.catalogue import clean
from calrec.reading.columns import usual
from calrec.reading.detect import look
from calrec.reading.items import attribute
from calrec.reading.layouts import ATTRIBUTES
from calrec.reading.prices import decimal_comma
from calrec.reading.records import read_records
from calrec.storage.files import local

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
        rows.setdefault(item, tuple(attribute(record, name, layout) for name in ATTRIBUTES))
    if not rows:
        raise ValueError(f"{path.name}: holds no item")
    raw = dict(zip(ATTRIBUTES, zip(*rows.values(), strict=True), strict=True))
    found = clean(raw, category, decimal_comma(raw["price"]))
    for name, account in found.accounts.items():
        if account.not_utf8:
            raise ValueError(
                f"{path.name}: {account.not_utf8:,} items have a {name} that is not UTF-8, such as "
                f"{account.quote('not_utf8')}; save the file as UTF-8"
            )
    for sentence in (*found.notes, *found.warnings):
        print(f"{path.name}: {sentence}", flush=True)
    return pa.table([list(rows), *(found.columns[name] for name in ATTRIBUTES)], schema=SCHEMA)


def read_ids(path: Path) -> tuple[str, ...]:
    """Ids of a text file, one a line; each counts as it stands there, and without white space around it.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is not UTF-8.
    """
    try:
        lines = path.read_bytes().decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error}); save it as UTF-8") from None
    ids = (one for line in lines for one in (line.removesuffix("\r"), line.strip()))
    return tuple(dict.fromkeys(filter(str.strip, ids)))
