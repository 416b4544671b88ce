"""Files that hold files, and text that is not plain UTF-8 CSV: read right, or refused in words."""

import datetime
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import openpyxl
import pyarrow as pa
import pytest

from calrec.reading import encodings
from calrec.storage.files import File
from tests.reading import raw

ROWS = [{"user_id": f"u{n % 4}", "item_id": f"i{n % 5}", "timestamp": 1_600_000_000 + n} for n in range(20)]
EVENTS = [(row["user_id"], row["item_id"], row["timestamp"] * 1000, 1.0) for row in ROWS]


def table(rows: list[dict[str, Any]], delimiter: str = ",") -> str:
    lines = [delimiter.join(rows[0]), *(delimiter.join(map(str, row.values())) for row in rows)]
    return "\n".join(lines) + "\n"


def zipped(name: str, members: dict[str, bytes]) -> File:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, data in members.items():
            archive.writestr(member, data)
    return raw.file(name, stream.getvalue())


def workbook(name: str, sheets: dict[str, list[list[Any]]]) -> File:
    book, stream = openpyxl.Workbook(), io.BytesIO()
    book.remove(book.active)
    for title, rows in sheets.items():
        sheet = book.create_sheet(title)
        for row in rows:
            sheet.append(row)
    book.save(stream)
    return raw.file(name, stream.getvalue())


# --- archives -----------------------------------------------------------------------------------------------------


def test_an_archive_is_a_folder(tmp_path: Path):
    parquet = io.BytesIO()
    pa.parquet.write_table(pa.Table.from_pylist(ROWS[10:]), parquet)
    inner = {
        "data/a.csv": table(ROWS[:10]).encode(),
        "data/b.parquet": parquet.getvalue(),
        "data/items.csv": b"item_id,title\ni1,Lamp\n",
        "__MACOSX/data/._a.csv": b"no",
    }
    log, events = raw.read([zipped("all.zip", inner)], tmp_path)
    assert sorted(events) == sorted(EVENTS)
    assert any(note.startswith("items from all.zip/data/items.csv") for note in log.notes)


@pytest.mark.parametrize("name", ["../x.csv", "/etc/x.csv", "a/../../x.csv", "C:\\x.csv"])
def test_no_member_lies_outside_of_its_archive(name: str, tmp_path: Path):
    with pytest.raises(ValueError, match=r"all.zip: its member .* lies outside of the archive"):
        raw.read([zipped("all.zip", {name: table(ROWS).encode()})], tmp_path)


def test_a_damaged_archive_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="x.zip: not a zip archive"):
        raw.read([raw.file("x.zip", b"PK\x03\x04 no")], tmp_path)
    whole = zipped("x.zip", {"x.csv": table(ROWS).encode()}).open().read()
    broken = whole[:60] + bytes(byte ^ 0x55 for byte in whole[60:80]) + whole[80:]
    with pytest.raises(ValueError, match=r"x.zip(: its member 'x.csv' cannot be read|/x.csv: damaged)"):
        raw.read([raw.file("x.zip", broken)], tmp_path)


# --- workbooks ----------------------------------------------------------------------------------------------------


def test_a_workbook_with_a_sheet_for_each_year(tmp_path: Path):
    def rows(year: int) -> list[list[Any]]:
        header = ["Invoice", "StockCode", "Quantity", "InvoiceDate", "Price", "Customer ID"]
        day = datetime.datetime(year, 12, 1, 8, 26)
        return [header, [489434, 85048, 12, day, 6.95, 13085], ["C489449", "22087A", -12, day, 2.95, None]]

    log, events = raw.read(
        [workbook("retail.xlsx", {"Year 2009": rows(2009), "Year 2010": rows(2010)})],
        tmp_path,
        filters=("Customer ID!=",),
    )
    assert events == [("13085", "85048", 1_259_655_960_000, 12.0), ("13085", "85048", 1_291_191_960_000, 12.0)]
    assert log.rules[-1]["rows_before"] - log.rules[-1]["rows_after"] == 2


def test_rows_of_a_sheet_keep_their_numbers(tmp_path: Path):
    rows = [[None, None], ["user", "item"], ["a", "x"], ["", "y"], ["b", "z"]]
    log, events = raw.read([workbook("x.xlsx", {"S": rows})], tmp_path, max_reject_share=0.5)
    assert [event[:2] for event in events] == [("a", "x"), ("b", "z")]
    assert raw.rejects(log) == [("x.xlsx", 4, "user is missing")]


def test_a_damaged_workbook_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="x.xlsx: not a readable workbook .*; save it as CSV"):
        raw.read([raw.file("x.xlsx", b"PK no")], tmp_path)


# --- JSON documents -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(ROWS),
        json.dumps(ROWS, indent=1),
        json.dumps({"events": ROWS}),
        json.dumps({"version": 2, "data": {"events": ROWS}}, indent=2),
        "\n".join(json.dumps(row, indent=2) for row in ROWS),
        "\ufeff" + json.dumps(ROWS),
    ],
)
def test_one_json_document_is_read_as_rows(text: str, tmp_path: Path):
    assert raw.read([raw.file("log.json", text)], tmp_path)[1] == EVENTS


def test_whole_numbers_of_a_document_keep_their_digits(tmp_path: Path):
    rows = [{"user_id": 10**24 + n, "item_id": 9_007_199_254_740_993, "timestamp": 1} for n in range(3)]
    events = raw.read([raw.file("log.json", json.dumps(rows))], tmp_path)[1]
    assert [event[:2] for event in events] == [(str(10**24 + n), "9007199254740993") for n in range(3)]


def test_a_document_that_breaks_off_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="log.json: damaged JSON"):
        raw.read([raw.file("log.json", json.dumps(ROWS)[:-30])], tmp_path)


# --- text ---------------------------------------------------------------------------------------------------------

TITLES = {
    "cp1252": "Café crème – “déjà vu” à 5 €",
    "cp1251": "Лампа настольная синяя",
    "gb18030": "小米无线蓝牙耳机黑色",
    "shift_jis": "ワイヤレスイヤホン黒色の椅子",
    "cp949": "무선 이어폰 검정 의자",
    "utf-16": "Été à la mer",
    "utf-16-le": "Été à la mer",
    "utf-32": "Été à la mer",
    "utf-8-sig": "Été à la mer",
}


def titled(encoding: str) -> list[File]:
    items = "".join(f"i{n},{TITLES[encoding]} {n}\n" for n in range(5))
    return [raw.file("log.csv", table(ROWS)), raw.file("items.csv", f"item_id,title\n{items}".encode(encoding))]


@pytest.mark.parametrize("encoding", TITLES)
def test_an_encoding_is_recognised_and_a_guess_is_said(encoding: str, tmp_path: Path):
    log, items = raw.read(titled(encoding), tmp_path, items=True)
    assert items[3]["title"] == f"{TITLES[encoding]} 3"
    guessed = [warning for warning in log.warnings if "items.csv is not UTF-8; it is read as" in warning]
    assert len(guessed) == (not encoding.startswith("utf"))
    assert all(TITLES[encoding][:8] in warning and "data.encoding" in warning for warning in guessed)


@pytest.mark.parametrize("encoding", TITLES)
def test_an_encoding_that_is_named_is_taken(encoding: str, tmp_path: Path):
    files = [raw.file("log.csv", table(ROWS).encode(encoding)), titled(encoding)[1]]
    log, items = raw.read(files, tmp_path, items=True, encoding=encoding)
    assert (items[3]["title"], log.warnings) == (f"{TITLES[encoding]} 3", [])


def test_a_file_of_another_encoding_than_named_is_refused_or_counted(tmp_path: Path):
    odd = raw.file("log.csv", table(ROWS).encode() + b"x")
    with pytest.raises(ValueError, match="log.csv is not utf-16.*; set data.encoding to what it is"):
        raw.read([odd], tmp_path, encoding="utf-16")
    with pytest.raises(ValueError, match="data.encoding must be auto or a text encoding of Python"):
        raw.read([odd], tmp_path, encoding="utf-7000")


def test_a_few_broken_letters_in_utf_8_are_no_other_encoding():
    text = "Éléphant à roulettes\n".encode() * 20
    assert encodings.detect_encoding(text + b"Caf\xe9\n") == "utf-8"
    assert encodings.detect_encoding(text[:-3]) == "utf-8"
    assert encodings.detect_encoding(text[: text.index(b"\xc3") + 1]) == "utf-8"


def test_a_file_without_a_header_is_said_and_named(tmp_path: Path):
    text = table(ROWS).partition("\n")[2]
    with pytest.raises(ValueError, match=r"seems to have no header, its first line is 'u0,i0,1600000000'; name its 3"):
        raw.read([raw.file("log.csv", text)], tmp_path)
    names = ("user", "item", "time")
    assert raw.read([raw.file("log.csv", text)], tmp_path, header=names)[1] == EVENTS
    assert raw.read([raw.file("log.csv", "user,item,time\n" + text)], tmp_path, header=names)[1] == EVENTS
    with pytest.raises(ValueError, match="data.header names 2 columns, the file has 3; its first line"):
        raw.read([raw.file("log.csv", text)], tmp_path, header=("user", "item"))


def test_excel_says_the_delimiter_above_the_header(tmp_path: Path):
    assert raw.read([raw.file("log.csv", "sep=;\r\n" + table(ROWS, ";"))], tmp_path)[1] == EVENTS
    odd = table(ROWS, "^")
    assert raw.read([raw.file("log.csv", "SEP=^\n" + odd)], tmp_path)[1] == EVENTS


def test_a_header_may_have_a_line_break(tmp_path: Path):
    text = '"user_id",item_id,"time\nstamp"\n' + table(ROWS).partition("\n")[2]
    assert raw.read([raw.file("log.csv", text)], tmp_path)[1] == EVENTS


def test_quotes_behind_backslashes(tmp_path: Path):
    titles = [f'{n}\\" pipe, \\"copper\\"' for n in range(5)]
    items = "item_id,title\n" + "".join(f'i{n},"{title}"\n' for n, title in enumerate(titles))
    found = raw.read([raw.file("log.csv", table(ROWS)), raw.file("items.csv", items)], tmp_path, items=True)[1]
    assert [item["title"] for item in found] == [f'{n}" pipe, "copper"' for n in range(5)]


# --- files that are not what they are called ------------------------------------------------------------------------


def test_a_report_may_have_a_title_above_its_header(tmp_path: Path):
    rows = [["Sales of 2023", None, None], [None] * 3, ["user", "item", "time"], ["a", "x", 1], ["b", "z", 2]]
    assert len(raw.read([workbook("x.xlsx", {"S": rows})], tmp_path)[1]) == 2
    text = "Sales of 2023;;\n\nuser;item;time\na;x;1600000000\nb;z;1600000000\n"
    log, events = raw.read([raw.file("x.csv", text)], tmp_path)
    assert [event[:2] for event in events] == [("a", "x"), ("b", "z")]
    assert "x.csv: the 2 lines above its header are left out" in log.warnings


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("x.csv", b"PK\x03\x04rest", "x.csv is a workbook or an archive; rename it to .xlsx or .zip"),
        ("x.csv", b"\n<!DOCTYPE html><html>", "x.csv is a web page and no table"),
        (
            "x.json",
            b'{"user_id":{"0":"u","1":"v"},"item_id":{"0":"i","1":"j"}}',
            "x.json is one JSON object of columns",
        ),
        ("x.tsv", b"user_000001\t2023-09-17T12:44:00Z\ta\n", "x.tsv seems to have no header"),
    ],
)
def test_a_file_in_disguise_is_named(name: str, data: bytes, message: str, tmp_path: Path):
    with pytest.raises(ValueError, match=message):
        raw.read([raw.file(name, data)], tmp_path)


def test_times_beyond_python_are_rejects(tmp_path: Path):
    when = pa.array([1_600_000_000_000_000, 2**62], pa.timestamp("us"))
    source = raw.parquet("x.parquet", pa.table({"user": ["a", "b"], "item": ["x", "y"], "time": when}))
    log, events = raw.read([source], tmp_path, max_reject_share=1.0)
    assert [event[0] for event in events] == ["a"]
    assert [line for _, line, _ in raw.rejects(log)] == [2]
