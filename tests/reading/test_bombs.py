"""Small files that would become large ones: refused in a sentence, in bounded memory; and what is only odd is read."""

import gzip
import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from calrec.reading import archives, bombs
from calrec.storage.files import File
from tests.conftest import REPO
from tests.reading import raw
from tests.reading.test_containers import EVENTS, ROWS, table, workbook, zipped


def refused(tmp_path: Path, file: File, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        raw.read([file], tmp_path)
    assert file.name.split("/")[0] in str(error.value)


# --- Parquet ------------------------------------------------------------------------------------------------------


def repeated(value: str, rows: int) -> pa.Table:
    """A text that is stored once, for many users."""
    zeros = pa.array(np.zeros(rows, np.int32))
    users = pa.DictionaryArray.from_arrays(zeros, [value])
    return pa.table({"user_id": users, "item_id": pa.array(["i"]).take(zeros), "timestamp": zeros})


READS = """
import sys
from pathlib import Path
from tests.reading import raw
file, folder = raw.file("log.parquet", Path(sys.argv[1]).read_bytes()), Path(sys.argv[2])
log = raw.log_of("here", [file], raw.DataConfig(), folder, folder)
rows, status = sum(len(batch) for batch in log.batches()), Path("/proc/self/status").read_text()
print(rows, int(status.split("VmHWM:")[1].split()[0]) // 1024)  # ru_maxrss begins with what the parent took
"""


def test_a_long_text_of_many_rows_takes_no_memory_for_each(tmp_path: Path):
    path = tmp_path / "log.parquet"
    pq.write_table(repeated("u" * 30_000, 80_000), path, compression="zstd", store_schema=False)
    assert path.stat().st_size < 10_000
    ran = subprocess.run(
        [sys.executable, "-c", READS, str(path), str(tmp_path)], capture_output=True, text=True, cwd=REPO,
        env={"PYTHONPATH": f"{REPO / 'components'}:{REPO}", "PATH": ""},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    rows, megabytes = map(int, ran.stdout.split()[-2:])
    assert rows == 80_000
    assert megabytes < 1500  # 2.4 GB of text


def test_a_text_that_is_too_long_is_refused(tmp_path: Path):
    refused(tmp_path, raw.parquet("x.parquet", repeated("u" * (bombs.VALUE + 1), 3)), "a value of 16,777,217 bytes")


def test_dictionaries_change_no_row(tmp_path: Path):
    rows = pa.Table.from_pylist(ROWS)
    for column in rows.column_names:
        rows = rows.append_column(f"{column}_too", rows[column].dictionary_encode())
    assert raw.read([raw.parquet("x.parquet", rows)], tmp_path)[1] == EVENTS


def test_a_page_of_nothing_is_a_bomb(tmp_path: Path):
    stream = io.BytesIO()
    columns = {name: np.zeros(50_000_000, np.int64) for name in ("user_id", "item_id")}
    pq.write_table(pa.table(columns), stream, compression="zstd", use_dictionary=False, row_group_size=50_000_000)
    refused(tmp_path, raw.file("x.parquet", stream.getvalue()), "unpack to 800,[0-9,]+ and more; it looks like a bomb")


def test_lists_of_nothing_are_a_bomb(tmp_path: Path):
    stream, count = io.BytesIO(), bombs._VALUES + 1
    lists = pa.ListArray.from_arrays(pa.array([0, count], pa.int32()), pa.array(np.zeros(count, np.int8)))
    pq.write_table(pa.table({"user_id": ["u"], "item_id": ["i"], "tags": lists}), stream, compression="zstd")
    refused(tmp_path, raw.file("x.parquet", stream.getvalue()), "33,554,433 values of tags.list.* bytes; it looks like")


# --- compression --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gz", "zst", "zip"])
def test_a_stream_of_nothing_is_a_bomb(tmp_path: Path, kind: str):
    start, zeros = table(ROWS).encode(), bytes(1 << 24)
    parts = [start, *[zeros] * 20]
    if kind == "gz":
        data = b"".join(map(gzip.compress, parts))
    elif kind == "zst":
        data = pa.compress(b"".join(parts), "zstd", asbytes=True)
    else:
        data = zipped("x.zip", {"x.csv": b"".join(parts)}).open().read()
    name = "x.zip" if kind == "zip" else f"x.csv.{kind}"
    refused(tmp_path, raw.file(name, data), f"bytes unpack to .* and more; {bombs._REMEDY}")


def test_archives_in_archives_have_an_end(tmp_path: Path):
    file = zipped("a.zip", {"x.csv": table(ROWS).encode()})
    for _ in range(bombs.DEPTH - 1):
        file = zipped("a.zip", {"a.zip": file.open().read()})
    assert raw.read([file], tmp_path)[1] == EVENTS
    refused(tmp_path, zipped("a.zip", {"a.zip": file.open().read()}), "more than 3 archives in one another; unpack")


def test_an_archive_of_too_many_files(tmp_path: Path):
    refused(tmp_path, zipped("a.zip", {str(n): b"" for n in range(bombs._MEMBERS + 1)}), "holds 100,001 files, at most")


# --- tables and documents -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_table_of_too_many_columns(tmp_path: Path, kind: str):
    names = ["user_id", "item_id", *map(str, range(20_000))]
    if kind == "csv":
        file = raw.file("x.csv", ",".join(names) + "\n" + ",".join("1" * 20_002) + "\n")
    elif kind == "jsonl":
        file = raw.lines("x.jsonl", [dict.fromkeys(names, 1)])
    else:
        file = raw.parquet("x.parquet", pa.table({name: [1] for name in names}))
    refused(tmp_path, file, "has 20,002 columns, at most 10,000 are read")


def test_a_document_with_a_record_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bombs, "RECORD", 1 << 18)
    rows = [*ROWS, {"user_id": "u", "item_id": "i", "timestamp": 1, "text": "x" * (1 << 20)}]
    refused(tmp_path, raw.file("x.json", json.dumps(rows, indent=1)), "a record of more than 262,144 bytes")


@pytest.mark.parametrize("depth", [500, 5_000, 500_000])
def test_a_document_that_is_nested_deeply(tmp_path: Path, depth: int):
    deep = '{"user_id": "u", "item_id": "i", "x": ' + "[" * depth + "]" * depth + "}"
    rows = ", ".join([*map(json.dumps, ROWS), deep])
    for file in (raw.file("x.json", f"[{rows}]"), raw.lines("x.jsonl", [*ROWS, deep])):
        try:
            log, events = raw.read([file], tmp_path / file.name, max_reject_share=0.5)
            assert sorted(events)[: len(EVENTS)] == sorted(EVENTS)
            assert len(events) + len(raw.rejects(log)) == 21
        except ValueError as error:
            assert file.name in str(error)


# --- workbooks ----------------------------------------------------------------------------------------------------


def test_a_workbook_with_a_cell_far_away(tmp_path: Path):
    book, stream = openpyxl.Workbook(), io.BytesIO()
    sheet = book.active
    for row in [list(ROWS[0]), *(list(row.values()) for row in ROWS)]:
        sheet.append(row)
    sheet["XFD1000000"] = "x"
    book.save(stream)
    message = "a sheet spans 16,384,000,000 cells, at most 33,554,432 are read; delete what stands far"
    refused(tmp_path, raw.file("x.xlsx", stream.getvalue()), message)
    file = workbook("x.xlsx", {"log": [list(ROWS[0]), *(list(row.values()) for row in ROWS)]})
    styled = rewritten(file.open().read(), lambda text: text.replace(b"</row>", b'<c r="XFD9" s="0"/></row>', 1))
    assert sorted(raw.read([raw.file("x.xlsx", styled)], tmp_path)[1]) == sorted(EVENTS)


def rewritten(data: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """A workbook with another text of its sheet."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as new:
        for info in old.infolist():
            text = old.read(info)
            new.writestr(info.filename, change(text) if "/worksheets/" in info.filename else text)
    return stream.getvalue()


def test_an_open_document_that_repeats_a_cell(tmp_path: Path):
    cell = '<table:table-cell table:number-columns-repeated="16000" office:value-type="string"><text:p>x</text:p>'
    row = f'<table:table-row table:number-rows-repeated="1000000">{cell}</table:table-cell></table:table-row>'
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("content.xml", f"<office:document-content>{row}</office:document-content>")
    with pytest.raises(ValueError, match=r"x.ods: a sheet spans 16,000,000,000 cells"):
        archives.unpack([raw.file("x.ods", stream.getvalue())])
