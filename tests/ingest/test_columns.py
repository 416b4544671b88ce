"""Which column is what: names, contents and headers together; what is doubtful is a warning with the setting."""

from pathlib import Path
from typing import Any

import pytest

from calrec import artifacts
from calrec.config import Columns, DataConfig
from calrec.ingest.step import ingest
from calrec.reading.plan import Plan, plan
from calrec.report import manifests
from calrec.storage.files import File
from tests.reading import raw

KINDS = ("lamp", "chair", "table", "cup", "sock", "fan")


def orders(*columns: str, users: int = 8, days: int = 6, **made: Any) -> str:
    """A CSV file of orders: each column by its function of (row, user, item), or its usual content."""
    usual = {
        "user_id": lambda n, u, i: f"u{u}",
        "product_id": lambda n, u, i: f"p{i}",
        "time": lambda n, u, i: f"2020-09-{1 + n % 28:02d}T10:00:00",
        **made,
    }
    rows = [(u * days + d, u, (u * 5 + d * 3) % 7) for d in range(days) for u in range(users)]
    lines = [",".join(columns), *(",".join(str(usual[name](*row)) for name in columns) for row in rows)]
    return "\n".join(lines) + "\n"


def of(*files: File, **settings: Any) -> tuple[Plan, dict[str, str]]:
    """The plan, and the column of each role of the events."""
    found = plan("here", files, DataConfig(**settings))
    return found, {role: "+".join(names) for role, names in found.events[0][1].columns.items()}


def log(text: str, name: str = "orders.csv") -> File:
    return raw.file(name, text)


def test_an_id_beats_a_name_and_the_other_candidate_is_named():
    text = orders("user", "user_id", "product_id", "time", user=lambda n, u, i: f"Ann {u}")
    found, columns = of(log(text))
    assert (columns["user"], columns["item"]) == ("user_id", "product_id")
    assert found.warnings == [
        "orders.csv: the user may be user_id (taken) or user; --set data.columns.user=user takes the other"
    ]
    assert of(log(text), columns=Columns(user="user"))[1]["user"] == "user"


def test_a_number_of_the_row_is_no_item():
    columns = of(log(orders("id", "user_id", "sku", id=lambda n, u, i: n, sku=lambda n, u, i: f"s{i}")))[1]
    assert columns["item"] == "sku"
    with pytest.raises(
        ValueError, match="has no column that looks like the item; name it with --set data.columns.item"
    ):
        of(log("id,user_id\n" + "".join(f"{n},u{n % 3}\n" for n in range(20))))


def test_the_name_of_a_customer_is_no_title():
    made = {"name": lambda n, u, i: f"Customer {u}", "product_name": lambda n, u, i: f"{KINDS[i % 6]} {i}"}
    found, columns = of(log(orders("user_id", "name", "product_id", "product_name", "time", **made)))
    assert columns["title"] == "product_name"
    found, columns = of(log(orders("user_id", "name", "product_id", "time", **made)))
    assert "title" not in columns
    assert found.warnings == [
        "orders.csv: name belongs to the user and not to the item, so that it is no title; --set "
        "data.columns.title=name takes it all the same"
    ]


def test_the_headline_of_a_review_is_no_title():
    made = {"title": lambda n, u, i: ("Five stars", "Broke after a week", "Just right")[(n + u) % 3]}
    found, columns = of(log(orders("user_id", "product_id", "title", "time", **made)))
    assert "title" not in columns
    assert "title differs between the rows of one item ('Five stars', 'Broke after a week')" in found.warnings[0]


def test_reviews_of_2023_are_known_by_their_columns_in_any_container():
    review = {"title": "Great", "parent_asin": "B1", "user_id": "A", "timestamp": 1_600_000_000_000, "rating": 5.0}
    table = raw.file("raw.csv", ",".join(review) + "\n" + ",".join(map(str, review.values())) + "\n")
    found, columns = of(table)
    assert (found.format, columns["item"]) == ("amazon2023", "parent_asin")
    assert "title" not in columns


def test_the_name_of_a_product_is_the_title_and_its_id_the_item():
    made = {"product": lambda n, u, i: f"blue {KINDS[i % 6]} {i}", "customer": lambda n, u, i: f"c{u}"}
    columns = of(log(orders("customer", "product", "product_id", "time", **made)))[1]
    assert (columns["user"], columns["item"], columns["title"]) == ("customer", "product_id", "product")


@pytest.mark.parametrize(
    "when",
    [
        lambda n, u, i: f"2020-09-{1 + n % 28:02d} 10:00:00",
        lambda n, u, i: f"{1 + n % 28}/9/2020 10:00",
        lambda n, u, i: f"{1 + n % 28:02d}.09.2020",
    ],
)
def test_a_time_with_an_unusual_name_is_known_by_its_values(when: Any, tmp_path: Path):
    (tmp_path / "x.csv").write_text(orders("user_id", "product_id", "kassiert_um", kassiert_um=when))
    manifest = ingest("x", str(tmp_path / "x.csv"), tmp_path / "out", DataConfig(min_user=0, min_item=0))
    assert manifest.config["time"] == "ms"
    assert str(manifest.counts["first_event"]).startswith("2020-09-01")
    assert manifest.warnings[0].startswith("x.csv: kassiert_um is taken as the time, as its values look like times")


def test_two_columns_of_times_are_both_named():
    made = {name: (lambda n, u, i: f"2020-09-{1 + n % 28:02d}") for name in ("bestellt", "versandt")}
    found, columns = of(log(orders("user_id", "product_id", "bestellt", "versandt", **made)))
    assert columns["time"] == "bestellt"
    assert "So may versandt: --set data.columns.time=versandt." in found.warnings[0]


def test_numbers_that_may_be_times_are_a_hint_and_the_order_counts():
    text = orders("user_id", "product_id", "seen", seen=lambda n, u, i: 1_600_000_000 + n)
    found, columns = of(log(text))
    assert "time" not in columns
    assert "seen looks like one; --set data.columns.time=seen" in found.warnings[0]
    assert found.warnings[1].startswith("no timestamps: the order of the files is taken for the order of the events")


def test_a_day_and_an_hour_in_two_columns(tmp_path: Path):
    made = {"date": lambda n, u, i: f"2020-09-{1 + n % 28:02d}", "time": lambda n, u, i: f"{n % 24:02d}:30"}
    text = orders("user_id", "product_id", "date", "time", **made)
    assert of(log(text))[1]["time"] == "date+time"
    (tmp_path / "x.csv").write_text(text)
    manifest = ingest("x", str(tmp_path / "x.csv"), tmp_path / "out", DataConfig(min_user=0, min_item=0))
    assert manifest.counts["first_event"] == "2020-09-01T00:30:00+00:00"
    german = text.replace("date,time", "Tag,Uhr")
    (tmp_path / "x.csv").write_text(german)
    settings = DataConfig(min_user=0, min_item=0, columns=Columns(time="Tag+Uhr"))
    assert ingest("x", str(tmp_path / "x.csv"), tmp_path / "out", settings).counts["first_event"] == (
        "2020-09-01T00:30:00+00:00"
    )


@pytest.mark.parametrize(("number", "kind"), [(20_200_917, int), ("20200917", str)])
def test_days_as_numbers_are_days_and_not_seconds(number: Any, kind: type, tmp_path: Path):
    rows = [{"user": f"u{n % 4}", "item": f"i{n % 5}", "date": kind(int(number) + n % 3)} for n in range(40)]
    log, events = raw.read([raw.lines("x.jsonl", rows)], tmp_path)
    assert min(event[2] for event in events) == 1_600_300_800_000
    assert "times are read as %Y%m%d (data.time_format)" in log.notes


def test_day_and_month_that_may_be_either_are_asked_for():
    text = orders("user_id", "product_id", "date", date=lambda n, u, i: f"0{1 + n % 9}/0{1 + n % 7}/2020")
    with pytest.raises(ValueError, match=r"may be %m/%d/%Y or %d/%m/%Y, .*--set \"data.time_format=%m/%d/%Y\""):
        of(log(text))
    assert of(log(text), time_format="%d/%m/%Y")[0].events[0][1].time_format == "%d/%m/%Y"


def test_a_score_in_words_is_no_weight():
    found, columns = of(log(orders("user_id", "product_id", "time", "score", score=lambda n, u, i: "good")))
    assert "weight" not in columns
    assert "score holds no numbers ('good')" in found.warnings[0]


def test_none_says_that_there_is_no_such_column():
    text = orders("user_id", "product_id", "time", "name", name=lambda n, u, i: f"lamp {i}")
    assert of(log(text))[1]["title"] == "name"
    assert "title" not in of(log(text), columns=Columns(title="none"))[1]


RATINGS = "user_id,book_id,rating\n" + "".join(f"u{n % 9},{n % 7},{n % 5}\n" for n in range(90))
BOOKS = "book_id,authors,title\n" + "".join(f"{n},A. Author,Book {n}\n" for n in range(7))


def test_a_file_is_movielens_by_its_name_and_its_header():
    assert of(raw.file("ratings.csv", "userId,movieId,rating,timestamp\n1,2,3,1\n"))[0].format == "movielens"
    found, columns = of(raw.file("ratings.csv", "user_id,item_id,rating,timestamp\nu,i,3,1600000000\n"))
    assert (found.format, columns["item"]) == ("table", "item_id")


def test_a_folder_like_goodbooks():
    files = [
        raw.file("book_tags.csv", "goodreads_book_id,tag_id,count\n1,2,3\n"),
        raw.file("books.csv", BOOKS),
        raw.file("ratings.csv", RATINGS),
        raw.file("tags.csv", "tag_id,tag_name\n1,fiction\n"),
        raw.file("to_read.csv", "user_id,book_id\nu1,2\n"),
    ]
    found, columns = of(*files)
    assert [file.name for file, _ in found.events] == ["ratings.csv"]
    assert [file.name for file, _ in found.items] == ["books.csv"]
    assert columns == {"user": "user_id", "item": "book_id", "weight": "rating"}
    assert found.warnings[0].startswith("to_read.csv could hold events too, but has not the columns of ratings.csv")
    assert "not read: book_tags.csv, tags.csv, to_read.csv" in found.notes


def test_a_log_with_the_name_of_an_item_file_is_a_log():
    found, _ = of(raw.file("item_views.csv", orders("user_id", "product_id", "time")))
    assert [file.name for file, _ in found.events] == ["item_views.csv"]


@pytest.mark.parametrize(("of_log", "of_items"), [("p{}", " p{}"), ("{}", "{}.0"), ("0{}", "{}")])
def test_ids_that_are_written_differently_are_shown_beside_each_other(of_log: str, of_items: str, tmp_path: Path):
    raw = tmp_path / "raw"
    raw.mkdir()
    rows = "".join(f"u{n % 9},{of_log.format(n % 7)}\n" for n in range(90))
    (raw / "log.csv").write_text("user_id,item_id\n" + rows)
    items = "".join(f"{of_items.format(n)},Lamp {n}\n" for n in range(7))
    (raw / "items.csv").write_text("item_id,title\n" + items)
    said = f"such as {of_log.format(0)!r} and {of_items.format(0)!r}: are the ids written alike"
    settings = DataConfig(min_user=0, min_item=0)
    with pytest.raises(ValueError, match=f"none of the 7 items of the log is in the metadata, and 7 .*{said}"):
        ingest("x", str(raw), tmp_path / "out", settings)
    (raw / "items.csv").write_text("item_id,title\n" + items + f"{of_log.format(3)},Lamp\n")
    warnings = ingest("x", str(raw), tmp_path / "out", settings).warnings
    assert any(
        f"6 of 7 items of the log are not in the metadata, and 7 of the metadata not in the log, {said}" in one
        for one in warnings
    )


# --- what a newcomer's files had ------------------------------------------------------------------------------------


def test_a_german_log_is_read_and_a_price_is_no_time(tmp_path: Path):
    rows = "".join(
        f"k{n % 8};a{n % 7};{1 + n % 28:02d}.03.2024;Ding {n % 7};{-1 if n % 5 == 0 else 2};{n % 7},50\n"
        for n in range(80)
    )
    (tmp_path / "x.csv").write_text("Kunde;Artikelnummer;Bestelldatum;Bezeichnung;Menge;Preis\n" + rows)
    manifest = ingest("x", str(tmp_path / "x.csv"), tmp_path / "out", DataConfig(min_user=0, min_item=0))
    said = next(note for note in manifest.notes if note.startswith("events from"))
    assert "user = Kunde, item = Artikelnummer, time = Bestelldatum, weight = Menge, title = Bezeichnung" in said
    assert any("16 events of negative weight are dropped as returns" in warning for warning in manifest.warnings)
    columns = of(
        log("user_id;item_id;Tag;Betrag\n" + "".join(f"u{n % 3};i{n};0{1 + n % 9}.03.2024;{n},50\n" for n in range(9)))
    )
    assert columns[1]["time"] == "Tag"
    assert "Betrag" not in columns[0].warnings[0]


@pytest.mark.parametrize(("user", "known"), [("müşteri", True), ("şahıs", False)])
def test_a_turkish_log_is_read_or_the_guess_of_its_encoding_is_named(user: str, known: bool, tmp_path: Path):
    rows = [
        f"m{u};u{(u + k) % 9};2026-0{k + 1}-11;Güneş gözlüğü {(u + k) % 9};4,50" for u in range(9) for k in range(6)
    ]
    text = "\n".join([f"{user};ürün;tarih;ürün adı;fiyat", *rows]) + "\n"
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/satış.csv").write_bytes(text.encode("cp1254"))
    if known:
        ingest("x", str(tmp_path / "raw"), tmp_path / "out", DataConfig(encoding="cp1254"))
        table = artifacts.read_table(tmp_path / "out", "items.parquet", "interactions")
        assert "Güneş gözlüğü 3" in table["title"].to_pylist()
    else:
        with pytest.raises(ValueError, match=r"(?s)no column that looks like the user.*is not UTF-8; it is read as"):
            ingest("x", str(tmp_path / "raw"), tmp_path / "out", DataConfig())


def test_negative_numbers_are_no_times():
    columns = of(log(orders("user_id", "product_id", "discount", discount=lambda n, u, i: -0.6)))[1]
    assert "time" not in columns


def test_kinds_of_events_that_all_count_are_said():
    made = {"event": lambda n, u, i: "transaction" if n % 9 == 0 else "view"}
    text = orders("user_id", "product_id", "time", "event", **made)
    assert (
        "event tells kinds of events apart, such as view (42), transaction (6), and all of them count"
        in (of(log(text))[0].warnings[0])
    )
    assert not of(log(text), filters=("event=transaction",))[0].warnings


def test_an_empty_column_is_no_user():
    made = {"user_id": lambda n, u, i: "", "customer": lambda n, u, i: f"c{u}"}
    assert of(log(orders("user_id", "customer", "product_id", "time", **made)))[1]["user"] == "customer"


def test_items_are_called_what_the_events_call_them():
    files = [
        raw.file("reviews.csv", "user_id,book_id\nu,1\nv,2\n"),
        raw.file("books.csv", "asin,book_id,title\n,1,A\n,2,B\n"),
    ]
    assert of(*files)[0].items[0][1].columns["item"] == ("book_id",)


def test_users_and_items_in_two_files_are_to_be_joined():
    files = [
        raw.file("orders.csv", "order_id,user_id,order_number\n1,u,1\n"),
        raw.file("order_products.csv", "order_id,product_id,reordered\n1,p,0\n"),
    ]
    with pytest.raises(ValueError, match=r"orders.csv has the user, order_products.csv the item; join them first"):
        of(*files)


def test_a_list_of_records_is_named():
    rows = [{"user_id": f"u{n}", "line_items": [{"product_id": 1}, {"product_id": 2}]} for n in range(3)]
    with pytest.raises(ValueError, match="but line_items holds lists of records; write a row for each record"):
        of(raw.lines("orders.jsonl", rows))


@pytest.mark.parametrize("odd", ["U1", "u1 "])
def test_ids_that_differ_by_capitals_or_spaces_are_said(odd: str, tmp_path: Path):
    text = orders("user_id", "product_id", "time") + f"{odd},p1,2020-09-01T10:00:00\n" * 3
    (tmp_path / "x.csv").write_text(text)
    settings = DataConfig(min_user=0, min_item=0, dedup="none")
    warnings = ingest("x", str(tmp_path / "x.csv"), tmp_path / "out", settings).warnings
    assert any(
        f"2 of 9 users differ from another one by capitals or spaces alone, such as 'u1' and {odd!r}" in one
        for one in warnings
    )


def test_users_that_stand_for_nobody_are_said(tmp_path: Path):
    text = orders("user_id", "product_id", "time", user_id=lambda n, u, i: "NULL" if u == 0 else f"u{u}")
    (tmp_path / "x.csv").write_text(text)
    warnings = ingest("x", str(tmp_path / "x.csv"), tmp_path / "out", DataConfig(min_user=0, min_item=0)).warnings
    assert "the user 'NULL' may stand for nobody; --set 'data.filters=user_id!=NULL' leaves them out" in warnings


def test_a_date_that_stands_for_none_is_said(tmp_path: Path):
    text = orders("user_id", "product_id", "time") + "u1,p1,2099-12-31T00:00:00\n"
    (tmp_path / "x.csv").write_text(text)
    manifest = ingest("x", str(tmp_path / "x.csv"), tmp_path / "out", DataConfig(min_user=0, min_item=0))
    assert any("the last event is of 2099-12-31: --set data.until=DATE" in one for one in manifests.warnings(manifest))


def test_users_of_one_event_are_named_as_the_reason(tmp_path: Path):
    (tmp_path / "x.csv").write_text("order_id,user_id,item_id\n" + "".join(f"{n},u{n},i{n % 5}\n" for n in range(50)))
    with pytest.raises(ValueError, match="none has 3 events .* the longest history has 1: does the column of the user"):
        ingest("x", str(tmp_path / "x.csv"), tmp_path / "out", DataConfig(min_user=0, min_item=0))
