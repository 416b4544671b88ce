"""Each format: its files are found, its columns are known, and an event and an item come out as they should."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from calrec.arrays.vocabulary import Vocabulary
from calrec.config import Columns, DataConfig
from calrec.ingest.log import RawLog, read
from calrec.reading.items import Attributes
from calrec.storage.files import File
from tests.reading import raw


def everything(
    files: list[File], tmp_path: Path, **settings: Any
) -> tuple[RawLog, list[tuple[Any, ...]], list[dict[str, str]]]:
    """The log, its events, and its catalogue."""
    data = DataConfig(**settings)
    log = read("here", files, data, tmp_path / "cache", tmp_path)
    items, events = Vocabulary(), []
    attributes = Attributes(items, data.category)
    for batch in log.batches():
        codes = items.encode(batch["item_id"])
        attributes.add_events(codes, batch)
        events += [tuple(row.values())[:4] for row in batch.to_pylist()]
    log.describe(attributes)
    catalogue = attributes.catalogue("d", np.arange(len(items))).table.to_pylist()
    return log, events, [{k: v for k, v in row.items() if v and k != "domain"} for row in catalogue]


REVIEW = {"reviewerID": "A1", "asin": "B1", "overall": 4.0, "unixReviewTime": 1_400_000_000, "reviewText": "ok"}
EVENT = ("A1", "B1", 1_400_000_000_000, 4.0)


def test_amazon_2014_has_python_literals_and_lists_of_lists(tmp_path: Path):
    meta = "{'asin': 'B1', 'title': \"Children's toy\", 'categories': [['Toys', 'Wood'], ['Gifts']], 'price': 9.5}"
    files = [
        raw.lines("reviews_Toys_5.json.gz", [{**REVIEW, "helpful": [0, 1]}]),
        raw.lines("meta_Toys.json.gz", [meta]),
    ]
    log, events, items = everything(files, tmp_path)
    assert (log.format, events) == ("amazon2014", [EVENT])
    assert items == [{"item_id": "B1", "title": "Children's toy", "category": "Toys", "price": "9.5"}]
    assert everything(files, tmp_path, category="last")[2][0]["category"] == "Wood"


def test_amazon_2018(tmp_path: Path):
    meta = {
        "asin": "B1",
        "title": "A &amp; B",
        "category": [],
        "main_cat": "Toys",
        "brand": "by\n    Acme",
        "price": "$2.50",
    }
    files = [raw.lines("Toys_5.json.gz", [REVIEW]), raw.lines("meta_Toys.json.gz", [meta])]
    log, events, items = everything(files, tmp_path)
    assert (log.format, events) == ("amazon2018", [EVENT])
    assert items == [{"item_id": "B1", "title": "A & B", "category": "Toys", "brand": "Acme", "price": "2.50"}]


def test_amazon_2023_has_milliseconds_parents_and_stores(tmp_path: Path):
    review = {"rating": 4.0, "asin": "X", "parent_asin": "B1", "user_id": "A1", "timestamp": 1_400_000_000_123}
    meta = {
        "main_category": "All Beauty",
        "title": "Cream",
        "price": None,
        "store": "Acme",
        "categories": [],
        "parent_asin": "B1",
    }
    files = [raw.lines("All_Beauty.jsonl.gz", [review]), raw.lines("meta_All_Beauty.jsonl.gz", [meta])]
    log, events, items = everything(files, tmp_path)
    assert (log.format, events) == ("amazon2023", [("A1", "B1", 1_400_000_000_123, 4.0)])
    assert items == [{"item_id": "B1", "title": "Cream", "category": "All Beauty", "brand": "Acme"}]


def test_movielens_latest(tmp_path: Path):
    files = [
        raw.file("ml/ratings.csv", "userId,movieId,rating,timestamp\r\n1,31,2.5,1260759144\r\n"),
        raw.file("ml/movies.csv", 'movieId,title,genres\r\n31,"Dangerous, Minds (1995)",Drama|War\r\n'),
        raw.file("ml/links.csv", "movieId,imdbId\r\n31,1\r\n"),
    ]
    log, events, items = everything(files, tmp_path)
    assert (log.format, events) == ("movielens", [("1", "31", 1_260_759_144_000, 2.5)])
    assert items == [{"item_id": "31", "title": "Dangerous, Minds (1995)", "category": "Drama"}]
    assert "not read: ml/links.csv" in log.notes


def test_movielens_100k_is_latin_1_with_flags(tmp_path: Path):
    flags = "|".join("1" if n in (8, 18) else "0" for n in range(19))
    files = [
        raw.file("u.data", "196\t1\t3\t881250949\n"),
        raw.file("u.item", f"1|Misérables, Les (1995)|01-Jan-1995||http://x|{flags}\n".encode("latin-1")),
    ]
    log, events, items = everything(files, tmp_path, category="last")
    assert (log.format, events) == ("movielens", [("196", "1", 881_250_949_000, 3.0)])
    assert items == [{"item_id": "1", "title": "Misérables, Les (1995)", "category": "Western"}]


def test_movielens_1m_has_double_colons(tmp_path: Path):
    files = [
        raw.file("ratings.dat", "1::1193::5::978300760\n"),
        raw.file("movies.dat", '1193::One Flew "Over" (1975)::Drama|War\n'.encode("latin-1")),
    ]
    _, events, items = everything(files, tmp_path)
    assert events == [("1", "1193", 978_300_760_000, 5.0)]
    assert items == [{"item_id": "1193", "title": 'One Flew "Over" (1975)', "category": "Drama"}]


def test_recbole_atomic_files(tmp_path: Path):
    files = [
        raw.file("b/b.inter", "user_id:token\titem_id:token\trating:float\ttimestamp:float\n7\t9\t3\t881250949.0\n"),
        raw.file("b/b.item", "item_id:token\tmovie_title:token_seq\tclass:token_seq\n9\tToy Story\tAnimation Comedy\n"),
    ]
    log, events, items = everything(files, tmp_path)
    assert (log.format, events) == ("recbole", [("7", "9", 881_250_949_000, 3.0)])
    assert items == [{"item_id": "9", "title": "Toy Story", "category": "Animation"}]


def test_sequences(tmp_path: Path):
    files = [
        raw.lines("items.jsonl.gz", [{"item_id": "x", "title": "X", "categories": ["A", "B"]}]),
        raw.lines("sequences.jsonl.gz", [{"user_id": "u", "items": ["x", "y", "x"]}, {"user_id": "v", "items": "x"}]),
    ]
    log, events, items = everything(files, tmp_path, max_reject_share=0.5)
    assert not log.timed
    assert events == [("u", "x", 0, 1.0), ("u", "y", 1, 1.0), ("u", "x", 2, 1.0)]
    assert (log.counts.rows, log.counts.rejects, list(log.counts.reasons)) == (
        4,
        1,
        ["items is not a list of item ids"],
    )
    assert items == [{"item_id": "x", "title": "X", "category": "A"}, {"item_id": "y"}]


# --- tables -----------------------------------------------------------------------------------------------------

RETAIL = (
    "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n"
    "536365,85123A,WHITE HANGING HEART,6,12/1/2010 8:26,2.55,17850,United Kingdom\n"
    '536366,22633,"HAND WARMER, UNION",-6,12/1/2010 8:28,1.85,17850,United Kingdom\n'
    "536367,84879,,32,12/1/2010 8:34,1.69,13047,France\n"
    "536368,84879,BIRD,2,12/1/2010 8:34,1.69,,France\n"
)


def test_a_csv_with_a_column_map_filters_and_a_time_pattern(tmp_path: Path):
    log, events, items = everything(
        [raw.file("retail.csv", RETAIL)],
        tmp_path,
        columns=Columns(user="CustomerID"),
        filters=("Quantity>0", "CustomerID!="),
        time_format="%m/%d/%Y %H:%M",
    )
    assert log.format == "table"
    assert events == [("17850", "85123A", 1_291_191_960_000, 6.0), ("13047", "84879", 1_291_192_440_000, 32.0)]
    assert items == [
        {"item_id": "84879", "price": "1.69"},
        {"item_id": "85123A", "title": "WHITE HANGING HEART", "price": "2.55"},
    ]
    assert [(rule["rule"], rule["rows_before"], rule["rows_after"]) for rule in log.rules] == [
        ("rows that can be read", 4, 4),
        ("filter Quantity>0", 4, 3),
        ("filter CustomerID!=", 3, 2),
    ]
    assert "user = CustomerID, item = StockCode, time = InvoiceDate, weight = Quantity" in log.notes[1]


SHOP = [
    {"event_time": "2019-10-01 00:00:00 UTC", "event_type": "view", "product_id": 44600062, "user_id": 541312140},
    {"event_time": "2019-10-01 00:00:01 UTC", "event_type": "cart", "product_id": 44600062, "user_id": 541312140},
    {"event_time": "2019-10-01 00:00:02 UTC", "event_type": "purchase", "product_id": 3900821, "user_id": 554748717},
]
BOUGHT = [("541312140", "44600062", 1_569_888_001_000, 1.0), ("554748717", "3900821", 1_569_888_002_000, 1.0)]


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "jsonl.zst", "csv.gz", "parquet"])
def test_every_kind_of_table_gives_the_same_events(kind: str, tmp_path: Path):
    name, header = f"logs/2019-10.{kind}", list(SHOP[0])
    if kind == "parquet":
        source = raw.parquet(name, pa.Table.from_pylist(SHOP))
    elif kind.startswith("json"):
        source = raw.lines(name, SHOP)
    else:
        delimiter = "\t" if kind == "tsv" else ";"
        source = raw.lines(name, [delimiter.join(header), *(delimiter.join(map(str, r.values())) for r in SHOP)])
    if kind.endswith("zst"):
        source = raw.file(
            name, pa.compress(b"".join(json.dumps(r).encode() + b"\n" for r in SHOP), "zstd", asbytes=True)
        )
    _, events, _ = everything([source], tmp_path, filters=("event_type=cart|purchase",))
    assert events == BOUGHT


def test_several_files_and_globs(tmp_path: Path):
    files = [raw.lines(f"day={n}/log.jsonl", [row]) for n, row in enumerate(SHOP)]
    files.append(raw.file("day=0/products.csv", "sku,name,brand\n3900821,Lamp,Acme\n"))
    files.append(raw.lines("old/log.jsonl", SHOP))
    _, events, items = everything(files, tmp_path, events="day=*/*.jsonl")
    assert [event[1] for event in events] == ["44600062", "44600062", "3900821"]
    assert items[0] == {"item_id": "3900821", "title": "Lamp", "brand": "Acme"}


def test_files_may_have_different_columns(tmp_path: Path):
    files = [
        raw.file("log/1.csv", "user,item,time\na,x,1\n"),
        raw.file("log/2.csv", "time,title,item,user\n2,Lamp,x,a\n"),
        raw.lines("log/3.jsonl", [{"user": "a", "item": "y", "time": 3, "brand": "Acme"}]),
    ]
    _, events, items = everything(files, tmp_path)
    assert events == [("a", "x", 1000, 1.0), ("a", "x", 2000, 1.0), ("a", "y", 3000, 1.0)]
    assert items == [{"item_id": "x", "title": "Lamp"}, {"item_id": "y", "brand": "Acme"}]


def test_blank_lines_before_the_header_are_no_header(tmp_path: Path):
    _, events, _ = everything([raw.file("x.csv", "\n \r\nuser,item\na,b\n\nc,d\n")], tmp_path)
    assert [event[:2] for event in events] == [("a", "b"), ("c", "d")]


def test_a_column_that_stands_twice_matters_only_when_it_is_read(tmp_path: Path):
    _, events, _ = everything([raw.file("x.csv", "user,item,note,note\na,b,1,2\n")], tmp_path)
    assert [event[:2] for event in events] == [("a", "b")]
    with pytest.raises(ValueError, match="the header names the column 'item' twice: user, item, item; rename one"):
        everything([raw.file("x.csv", "user,item,item\na,b,c\n")], tmp_path)


def test_without_a_time_column_the_order_counts(tmp_path: Path):
    log, _, _ = everything([raw.file("x.csv", "user,item\na,b\n")], tmp_path)
    assert not log.timed
    assert log.warnings[0].startswith("no timestamps: the order of the files is taken for the order of the events")


def test_types_in_parquet(tmp_path: Path):
    table = pa.table(
        {
            "user": pa.array([1.0, 2.0, 2.5, None]),
            "item": pa.array(["a", "b", "c", "d"], pa.large_string()),
            "time": pa.array([0, 1_500, 2, 3], pa.timestamp("ms", "Europe/Paris")),
            "rating": pa.array([5, None, 1, 1], pa.int8()),
        }
    )
    log, events, _ = everything([raw.parquet("x.parquet", table)], tmp_path, max_reject_share=0.5)
    assert events == [("1", "a", 0, 5.0), ("2", "b", 1500, 0.0)]
    assert log.counts.reasons == {"user is not an id": 1, "user is missing": 1}


def test_an_empty_file_among_others_is_said_and_has_no_rows(tmp_path: Path):
    files = [raw.lines("logs/0.jsonl.gz", []), raw.lines("logs/1.jsonl.gz", SHOP), raw.file("logs/2.jsonl.gz", "")]
    log, events, _ = everything(files, tmp_path)
    assert len(events) == 3
    assert "empty: logs/0.jsonl.gz, logs/2.jsonl.gz" in log.notes


def test_odd_types_cost_no_row_that_can_be_read(tmp_path: Path):
    table = pa.table(
        {
            "user": pa.array(["a", "b"]).dictionary_encode(),
            "item": ["x", "y"],
            "rating": pa.array([True, None]),
            "price": pa.array([Decimal("2.50"), None], pa.decimal128(6, 2)),
            "category": [["Home", "Lamps"], []],
        }
    )
    _, events, items = everything([raw.parquet("x.parquet", table)], tmp_path, max_reject_share=0.5)
    assert [event[:2] for event in events] == [("b", "y")]  # a flag is no rating
    assert items == [{"item_id": "y"}]
    _, events, items = everything([raw.parquet("x.parquet", table.drop(["rating"]))], tmp_path)
    assert [event[:2] for event in events] == [("a", "x"), ("b", "y")]
    assert items[0] == {"item_id": "x", "category": "Home", "price": "2.50"}


# --- what is refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "settings", "error", "message"),
    [
        ([], {}, FileNotFoundError, "here holds no file of events .* found: nothing"),
        ([raw.file("README.md", "x")], {}, FileNotFoundError, "found: README.md"),
        (
            [raw.file("x.csv", RETAIL)],
            {"columns": Columns(user="CustomerId")},
            ValueError,
            "unknown column of x.csv in data.columns.user 'CustomerId'; did you mean CustomerID[?] valid: InvoiceNo",
        ),
        (
            [raw.file("x.csv", RETAIL)],
            {"filters": ("Quantiti>0",)},
            ValueError,
            "data.filters 'Quantiti'; did you mean Quantity",
        ),
        (
            [raw.file("x.csv", "a,b\n1,2\n")],
            {},
            ValueError,
            "no column that looks like the user; name it with --set data.columns.user",
        ),
        ([raw.file("x.csv", "")], {}, ValueError, "here holds only empty files: x.csv"),
        ([raw.file("x.parquet", "PAR1 no")], {}, ValueError, "x.parquet: not a readable Parquet file"),
        ([raw.file("x.csv", RETAIL)], {"items": "*.json"}, FileNotFoundError, "no file fits data.items"),
        (
            [raw.file("x.csv", RETAIL)],
            {"time_format": "s"},
            ValueError,
            r"here: 4 of 4 rows of events cannot be read \(100.0%, .*: 3x InvoiceDate is neither a number .*"
            r"the first is x.csv line 2: '536365,85123A",
        ),
        (
            [raw.lines("Toys.json", [REVIEW]), raw.lines("meta_Toys.json", [{"title": "x"}])],
            {},
            ValueError,
            "1 of 1 rows of items cannot be read .* 1x asin is missing",
        ),
        ([raw.file("x.csv", RETAIL)], {"format": "sample"}, ValueError, "data.format=sample needs a source such as"),
    ],
)
def test_what_is_refused(files: list[File], settings: Any, error: type[Exception], message: str, tmp_path: Path):
    with pytest.raises(error, match=message):
        everything(files, tmp_path, **settings)
