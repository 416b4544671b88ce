"""The shared files that users really have: each gives the table that its owner would expect.

The same faults are pinned on files that the tests make themselves in test_columns.py, test_containers.py,
test_values.py, test_prices.py and test_attributes.py.
"""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from calrec.config import DataConfig
from calrec.ingest.step import ingest
from tests.conftest import shared

# case → what stands in its table: the attributes of its second item, and words of its notes and warnings
CASES: dict[str, tuple[dict[str, str], tuple[str, ...]]] = {
    "bigint-json-ids": ({"item_id": "1"}, ()),
    "decimal-comma": ({"item_id": "p1", "title": "blue chair 0", "price": "2.07"}, ()),
    "parquet-float32-price": ({"item_id": "1", "price": "1.99"}, ()),
    "cp1252-some-titles": ({"title": "Café blue chair 0", "category": "Déco"}, ("items.csv is not UTF-8", "cp1252")),
    "utf16": ({"title": "Été blue chair 0"}, ()),
    "json-array": ({"item_id": "1"}, ()),
    "ratings-csv-name": ({"item_id": "i1"}, ("format table",)),
    "ordered_at-unknown-time": ({"item_id": "00001", "title": "blue chair 0"}, ("time = ordered_at",)),
    "customer-name-column": ({"title": "blue chair 0", "price": "1.50"}, ("title = product_name",)),
    "review-headline-as-title": ({"title": ""}, ("format amazon2023", "item = parent_asin")),
    "amazon2023-csv-events": ({"category": "Tools & Home Improvement"}, ("format amazon2023",)),
    "pandas-list-strings": ({"category": "Home", "brand": "", "price": ""}, ()),
}


@pytest.mark.parametrize("case", CASES)
def test_a_case_gives_what_it_must(case: str, tmp_path: Path):
    attributes, said = CASES[case]
    settings: dict[str, Any] = {"min_user": 0, "min_item": 0}
    manifest = ingest("x", str(shared("cases/ingest", case)), tmp_path / "out", DataConfig(**settings))
    assert (manifest.counts["users"], manifest.counts["items"], manifest.counts["rejects"]) == (40, 24, 0)
    assert manifest.config["time"] == "ms"
    item = pq.read_table(tmp_path / "out/items.parquet").to_pylist()[1]
    assert {name: item[name] for name in attributes} == attributes
    spoken = " ".join((*manifest.notes, *manifest.warnings))
    assert all(words in spoken for words in said)


def test_no_case_is_left_out():
    folders = {path.name for path in shared("cases/ingest").iterdir()}
    assert folders - {"lang"} == set(CASES)  # of the languages: tests/evaluate
