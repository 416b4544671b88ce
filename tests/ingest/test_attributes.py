"""What the attributes of the items become: nothing changes or vanishes without a word."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from calrec.arrays.vocabulary import Vocabulary
from calrec.artifacts import Manifest
from calrec.config import DataConfig
from calrec.ingest.step import ingest
from calrec.reading.items import Attributes
from tests.conftest import write_lines

LOOSE: dict[str, Any] = {"min_user": 0, "min_item": 0}
EVENTS = "user_id,item_id,timestamp\n" + "".join(f"u{n % 8},i{n % 6},{1_600_000_000 + n}\n" for n in range(48))


def read(folder: Path, **settings: Any) -> tuple[Manifest, list[dict[str, str]]]:
    manifest = ingest("x", str(folder / "raw"), folder / "out", DataConfig(**{**LOOSE, **settings}))
    return manifest, pq.read_table(folder / "out/items.parquet").to_pylist()


def with_items(folder: Path, items: str | bytes, **settings: Any) -> tuple[Manifest, list[dict[str, str]]]:
    (folder / "raw").mkdir()
    (folder / "raw/events.csv").write_text(EVENTS)
    (folder / "raw/items.csv").write_bytes(items if isinstance(items, bytes) else items.encode())
    return read(folder, **settings)


# --- the cases ----------------------------------------------------------------------------------------------------


def test_whole_numbers_of_any_length_are_ids_with_every_digit(tmp_path: Path):
    big = 10**24
    rows = [{"user_id": big + n % 40, "item_id": 2**64 + n % 24, "timestamp": 1_600_000_000 + n} for n in range(320)]
    write_lines(tmp_path / "raw/log.jsonl", rows)
    manifest, items = read(tmp_path)
    assert (manifest.counts["users"], manifest.counts["items"]) == (40, 24)
    assert {item["item_id"] for item in items} == {str(2**64 + n) for n in range(24)}
    users = pq.read_table(tmp_path / "out/interactions.parquet")["user_id"].to_pylist()
    assert set(users) == {str(big + n) for n in range(40)}


def test_floats_of_parquet_are_ids_only_where_they_are_exact(tmp_path: Path):
    (tmp_path / "raw").mkdir()

    def write(ids: pa.Array) -> None:
        time = pa.array(range(1_600_000_000, 1_600_000_000 + len(ids)))
        table = pa.table({"user_id": pa.array(["u"] * len(ids)), "item_id": ids, "timestamp": time})
        pq.write_table(table, tmp_path / "raw/log.parquet")

    for kind in (pa.float64(), pa.float32(), pa.uint64(), pa.decimal128(38, 0), pa.decimal128(38, 2)):
        write(pa.array([1, 2, 3, 1000], pa.int64()).cast(kind))
        assert [item["item_id"] for item in read(tmp_path)[1]] == ["1", "1000", "2", "3"], kind
    for kind, size in ((pa.float64(), 2**53), (pa.float32(), 2**24)):
        write(pa.array([1, 2, 3, size], pa.int64()).cast(kind, safe=False))
        with pytest.raises(ValueError, match=rf"item_id is a float of {size:,} or more.*store ids as text or whole"):
            read(tmp_path)
    write(pa.array([10**25 + n for n in range(4)], pa.decimal128(38, 0)))
    assert read(tmp_path)[1][0]["item_id"] == "1" + "0" * 25


def test_a_price_is_as_exact_as_its_float(tmp_path: Path):
    (tmp_path / "raw").mkdir()
    prices, ids = [1.99, 0.1, 5, 16777216.5], ["a", "b", "c", "d"]
    for kind, last in ((pa.float32(), "16777216"), (pa.float64(), "16777216.5")):
        table = pa.table(
            {"user": ["u"] * 4, "item": ids, "time": [1, 2, 3, 4], "title": ids, "price": pa.array(prices, kind)}
        )
        pq.write_table(table, tmp_path / "raw/log.parquet")
        assert [item["price"] for item in read(tmp_path)[1]] == ["1.99", "0.1", "5", last]


def test_decimal_commas_beside_events(tmp_path: Path):
    (tmp_path / "raw").mkdir()
    prices = ["2,07", "1.234", "12,99 €", "1.234,56", "ask us", ""]
    rows = [f"u{n % 8};i{n % 6};{1_600_000_000 + n};lamp {n % 6};{prices[n % 6]}\n" for n in range(48)]
    (tmp_path / "raw/orders.csv").write_text("user_id;item_id;timestamp;title;price\n" + "".join(rows))
    manifest, items = read(tmp_path)
    assert [item["price"] for item in items] == ["2.07", "1234", "12.99", "1234.56", "", ""]
    assert manifest.counts["attributes"]["price"] == {
        "read": 4, "cleaned": 0, "missing": 1, "not_readable": 1, "in_conflict": 0,
    }  # fmt: skip
    assert any("1 of 6 items have a price that cannot be read, such as 'ask us'" in said for said in manifest.warnings)
    assert "prices have a decimal comma: 1.234,50 is 1234.50" in manifest.notes


def test_lists_and_nothings_of_pandas(tmp_path: Path):
    rows = ["['Home', 'Lamps']", "[['Home', 'Cups'], ['Gifts']]", "None", "['Home' 'Pans']", "[]", "nan"]
    items = "".join(f'i{n},lamp {n},"{text}",nan,None\n' for n, text in enumerate(rows))
    manifest, found = with_items(tmp_path, "item_id,title,categories,price,brand\n" + items)
    assert [item["category"] for item in found] == ["Home", "Home", "", "Home", "", ""]
    assert {item["brand"] for item in found} == {item["price"] for item in found} == {""}
    assert manifest.counts["attributes"]["brand"]["missing"] == 6
    assert "all 3 items have the category Home; try --set data.category=last: 3 categories" in manifest.warnings
    manifest, found = read(tmp_path, category="last")
    assert [item["category"] for item in found] == ["Lamps", "Cups", "", "Pans", "", ""]


def test_lists_and_nothings_are_the_same_in_each_format(tmp_path: Path):
    rows = [
        {
            "user": f"u{n // 4}", "item": f"i{n % 4}", "time": 1_600_000_000 + n, "title": f"lamp {n % 4}",
            "category": ["['Home', 'Lamps']", "Home|Cups", "N/A", None][n % 4],
            "brand": ["nan", "null", "-", "Acme"][n % 4],
        }
        for n in range(32)
    ]  # fmt: skip
    found = []
    for name in ("log.jsonl", "log.parquet", "log.csv"):
        folder = tmp_path / name
        (folder / "raw").mkdir(parents=True)
        if name.endswith("jsonl"):
            write_lines(folder / "raw" / name, rows)
        elif name.endswith("parquet"):
            pq.write_table(pa.Table.from_pylist(rows), folder / "raw" / name)
        else:
            cells = [",".join(f'"{value or ""}"' for value in row.values()) for row in rows]
            (folder / "raw" / name).write_text("\n".join([",".join(rows[0]), *cells]) + "\n")
        found.append([(item["category"], item["brand"]) for item in read(folder, category="last")[1]])
    assert found == [[("Lamps", ""), ("Cups", ""), ("", ""), ("", "Acme")]] * 3


def test_real_lists_beside_events_obey_the_setting(tmp_path: Path):
    rows = [{"user": "u", "item": f"i{n}", "time": n, "title": "t", "category": ["Home", f"C{n}"]} for n in range(4)]
    write_lines(tmp_path / "raw/log.jsonl", rows)
    assert {item["category"] for item in read(tmp_path)[1]} == {"Home"}
    assert {item["category"] for item in read(tmp_path, category="last")[1]} == {f"C{n}" for n in range(4)}


# --- what cannot be read ------------------------------------------------------------------------------------------


def test_text_that_is_not_utf8_is_counted_and_stops_the_step(tmp_path: Path):
    items = b"item_id,title,category\n" + b"".join(
        b"i%d,%s lamp %d,Home\n" % (n, b"Caf\xe9" if n < 3 else b"Tea", n) for n in range(6)
    )
    with pytest.raises(
        ValueError,
        match=r"raw: 3 of 6 items have a title that is not UTF-8 \(50.0%, data.max_reject_share is 1.0%\), such as "
        r"'Caf\\xe9 lamp 0', 'Caf\\xe9 lamp 1'; name the encoding of the files, such as --set data.encoding=cp1252",
    ):
        with_items(tmp_path, items, encoding="utf-8")
    manifest, found = read(tmp_path, max_reject_share=0.5, encoding="utf-8")
    assert [item["title"] for item in found] == ["", "", "", "Tea lamp 3", "Tea lamp 4", "Tea lamp 5"]
    assert manifest.counts["attributes"]["title"] == {"read": 3, "cleaned": 0, "missing": 0, "not_readable": 3}
    assert any("3 of 6 items have a title that is not UTF-8" in said for said in manifest.warnings)


def test_page_fragments_are_counted_with_an_example(tmp_path: Path):
    items = "item_id,title,price\n" + "".join(f"i{n},<span class=x>junk,1\n" for n in range(6))
    manifest, _ = with_items(tmp_path, items)
    assert manifest.counts["attributes"]["title"]["cleaned"] == 6
    assert "6 titles were page fragments, such as '<span class=x>junk'; they are left empty" in manifest.warnings


def test_objects_are_no_text(tmp_path: Path):
    write_lines(tmp_path / "raw/items.jsonl", [{"item_id": f"i{n}", "title": {"en": "x"}} for n in range(6)])
    (tmp_path / "raw/events.csv").write_text(EVENTS)
    manifest, _ = read(tmp_path)
    assert manifest.counts["attributes"]["title"]["not_readable"] == 6


# --- beside events ------------------------------------------------------------------------------------------------


def beside(rows: list[tuple[Any, ...]], batches: int = 1) -> Any:
    """The catalogue of (item, time, weight, title, price)."""
    items = Vocabulary()
    attributes = Attributes(items, "first")
    for part in np.array_split(np.arange(len(rows)), batches):
        item, time, weight, title, price = zip(*(rows[at] for at in part), strict=True)
        batch = pa.record_batch(
            {
                "timestamp": pa.array(time, pa.int64()),
                "weight": pa.array(weight, pa.float32()),
                "title": pa.array(title),
                "price": pa.array(price),
            }
        )
        attributes.add_events(items.encode(pa.array(item)), batch)
    return attributes.catalogue("d", np.arange(len(items)))


@pytest.mark.parametrize("batches", [1, 3])
def test_the_most_frequent_title_counts_and_of_equals_the_newest(batches: int):
    rows = [("a", 1, 1, "damages", "1"), ("a", 2, 1, "Cake stand", "1"), ("a", 3, 1, "Cake stand", "1")]
    rows += [("b", 5, 1, "new", "1"), ("b", 4, 1, "old", "1")]
    rows += [("c", t, -1, "returned", "1") for t in range(5)] + [("c", 9, 1, "Cup", "1")]
    rows += [("d", 1, 1, "nan", "1"), ("d", 1, 1, "nan", "1"), ("d", 1, 1, "Pan", "1"), ("e", 1, -1, "refund", "1")]
    found = beside(rows, batches)
    assert found.table["title"].to_pylist() == ["Cake stand", "new", "Cup", "Pan", "refund"]
    assert found.counts["title"]["in_conflict"] == 2
    (said,) = [one for one in found.warnings if "title" in one]
    assert said.startswith("2 of 5 items have more than one title beside their events, such as ")
    assert "a: 'Cake stand' (2x), 'damages' (1x)" in said


@pytest.mark.parametrize("batches", [1, 4])
def test_the_median_of_the_newest_prices_counts(batches: int):
    rows = [("a", t, 1, "t", "1.00") for t in range(20)] + [("a", t, 1, "t", "2.50") for t in range(20, 26)]
    rows += [("a", 30, 1, "t", "999"), ("a", 31, 1, "t", "0"), ("a", 32, -1, "t", "7"), ("a", 33, 1, "t", "")]
    rows += [("b", 1, 1, "t", "0.00"), ("c", 1, -1, "t", "3"), ("d", 1, 1, "t", "5 - 6"), ("e", 1, 1, "t", "?")]
    found = beside(rows[::-1], batches)
    assert found.table["price"].to_pylist() == ["2.50", "0.00", "3", "5 - 6", ""]
    assert found.counts["price"]["in_conflict"] == 1
    assert any("such as a: '1.00' (20x), '2.50' (6x), " in said for said in found.warnings)


def test_an_item_with_more_texts_than_are_counted_keeps_the_first_ones():
    rows = [("a", t, 1, f"title {t}", "1") for t in range(500)] + [("a", 600, 1, "title 3", "1")]
    assert beside(rows, 50).table["title"].to_pylist() == ["title 3"]


@pytest.mark.parametrize("seed", range(5))
def test_counting_gives_what_plain_python_gives(seed: int):
    random = np.random.default_rng(seed)
    rows = [
        (f"i{i}", int(t), float(w), f"t{x}", f"{p}.5")
        for i, t, w, x, p in zip(
            random.integers(0, 40, 4000), random.integers(0, 50, 4000), random.choice([1, 1, -1], 4000),
            random.integers(0, 6, 4000), random.integers(1, 9, 4000), strict=True,
        )
    ]  # fmt: skip
    titles, prices = [], []
    for item in sorted({row[0] for row in rows}):
        its = [row for row in rows if row[0] == item and row[2] > 0]
        names = {row[3] for row in its}
        most = min(
            names,
            key=lambda n: (-sum(r[3] == n for r in its), -max(r[1] for r in rows if (r[0], r[3]) == (item, n)), n),
        )
        titles.append(most)
        newest = sorted(its, key=lambda row: row[1])[-9:]
        prices.append(sorted(row[4] for row in newest)[4])
    found = beside(rows, 7).table
    assert found["title"].to_pylist() == titles
    assert found["price"].to_pylist() == prices


def test_json_item_files_have_exact_ids(tmp_path: Path):
    (tmp_path / "raw").mkdir()
    rows = [f"u{n % 8},{10**24 + n % 6},{1_600_000_000 + n}\n" for n in range(48)]
    (tmp_path / "raw/events.csv").write_text("user_id,item_id,timestamp\n" + "".join(rows))
    write_lines(tmp_path / "raw/items.jsonl", [json.dumps({"item_id": 10**24 + n, "title": f"T{n}"}) for n in range(6)])
    assert [item["title"] for item in read(tmp_path)[1]] == [f"T{n}" for n in range(6)]
