"""Blocks and lines: nothing is lost between them, and the fast path gives what the line-by-line reference gives."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calrec.reading import blocks, parsing, records
from calrec.reading.blocks import Block
from calrec.reading.layouts import Layout
from calrec.reading.rows import Events
from tests.reading import raw

ROLES = {"user": ("u",), "item": ("i",), "time": ("t",), "weight": ("w",)}
JSON = Layout("json", ROLES, types={"u": "text", "i": "text", "t": "whole", "w": "number"})
CSV = Layout("csv", {**ROLES, "title": ("n",)}, header=("u", "i", "t", "w", "n"), body=2)


def plain(layout: Layout, **changes: object) -> Layout:
    return Layout(**{**layout.__dict__, **changes})


# --- blocks -----------------------------------------------------------------------------------------------------


@given(
    st.lists(st.binary(max_size=20).map(lambda b: b"x" + b.replace(b"\n", b"")), max_size=30),
    st.integers(1, 40),
    st.booleans(),
)
def test_blocks_hold_every_line_once_with_its_number(rows: list[bytes], size: int, ended: bool):
    data = b"\n".join(rows) + (b"\n" if ended and rows else b"")
    found = [line for block in blocks.blocks(raw.file("x", data), size) for line in block.lines()]
    expected = (data.removesuffix(b"\n") if data else b"").removeprefix(b"\xef\xbb\xbf").split(b"\n") if data else []
    assert found == [(n, line.removesuffix(b"\r")) for n, line in enumerate(expected, 1)]


def test_the_first_block_is_a_whole_one():
    assert [block.data for block in blocks.blocks(raw.file("x.csv", "\n\n\na,b\n1,2\n"))] == [b"\n\n\na,b\n1,2\n"]


def test_compressed_files_are_known_by_their_first_bytes():
    text = b"one\ntwo\n"
    stored = {
        "x.json": text,
        "x.gz": gzip.compress(text[:4]) + gzip.compress(text[4:]),
        "y": gzip.compress(text),
        "x.zst": pa.compress(text[:4], "zstd", asbytes=True) + pa.compress(text[4:], "zstd", asbytes=True),
        "bom": b"\xef\xbb\xbf" + text,
    }
    for name, data in stored.items():
        assert [line for b in blocks.blocks(raw.file(name, data), 3) for _, line in b.lines()] == [b"one", b"two"], name
    assert list(blocks.blocks(raw.file("x.gz", b""))) == []


LONG = gzip.compress(b"".join(b"%d\n" % (n * 7919) for n in range(30_000)))
LONG_ZSTD = pa.compress(b"".join(b"%d\n" % (n * 7919) for n in range(30_000)), "zstd", asbytes=True)


@pytest.mark.parametrize(
    ("name", "data", "why"),
    [
        ("a.gz", LONG[:-100], r"damaged after line [\d,]+ .*end-of-stream.*fetch the file again"),
        ("a.gz", LONG[:2000] + b"\x00\xff\x00" + LONG[2003:], r"damaged after line \d+"),
        ("a.gz", LONG + b"junk", r"damaged after line 2\d,\d{3}"),
        ("a.gz", b"<html>no such file</html>", r"damaged after line 0 \(it ends in .gz but begins with b'<htm'\)"),
        ("a.zst", LONG_ZSTD[:-9], r"damaged after line [\d,]+ \(Truncated compressed stream\)"),
        ("a.zst", LONG_ZSTD[:-9] + b"junk", r"damaged after line \d+"),
    ],
)
def test_damage_is_named_with_its_line(name: str, data: bytes, why: str):
    with pytest.raises(ValueError, match=why):
        list(blocks.blocks(raw.file(name, data), 1000))


def test_an_error_of_the_disk_is_not_called_damage():
    def fails() -> None:
        raise OSError(5, "Input/output error")

    broken = raw.File("a", 1, "", fails, fails)  # type: ignore[arg-type]
    with pytest.raises(OSError, match="Input/output error"):
        list(blocks.blocks(broken))


def test_a_line_of_100_mb_is_one_reject_in_bounded_memory(tmp_path: Path):
    good = {"u": "a", "i": "b", "t": 1, "w": 2}
    source = raw.lines("x.json.gz", [good, b"{" + b"9" * 100_000_000, good, "[", good])
    assert max(len(block.data) for block in blocks.blocks(source)) <= 2 * blocks.SIZE
    part = records.read_events(source, JSON, tmp_path)
    assert (part.counts.rows, part.counts.rejects) == (5, 2)
    assert list(part.counts.reasons) == ["the line is longer than 16,777,216 bytes", "not JSON"]


# --- the fast path gives what the reference gives ----------------------------------------------------------------


def both(block: Block, layout: Layout) -> tuple[list[dict[str, object]] | None, records._Parsed]:
    events = Events(layout)
    table = parsing.fast(block, layout)
    found = None if table is None else events.table(table)
    slow = records._line_by_line(parsing.slow(block, layout), events, layout)
    if found is None:
        return None, slow
    assert found[1] == slow.filtered
    return found[0].to_pylist(), slow


CELL = st.sampled_from(
    [
        '"x"',
        '"y"',
        "1",
        "1.5",
        "-3",
        "null",
        "true",
        "{}",
        "[]",
        '"1e3"',
        "1e3",
        "NaN",
        '"\\u00e9"',
        '""',
        '"\\ud800"',
        '"\t"',
        "99999999999999999999",
        "1000000000000000000000029",
        "9007199254740993",
    ]
)
NAME = st.sampled_from(["u", "i", "t", "w", "z"])
GOOD_JSON = st.builds(
    lambda u, t, w, z: json.dumps({"u": u, "i": "b", "t": t, "w": w, "z": z}),
    st.sampled_from(["a", "ü", "long id"]),
    st.integers(0, 2 * 10**12),
    st.integers(1, 5) | st.floats(0, 5),
    st.none() | st.text(max_size=3) | st.lists(st.integers(), max_size=2),
)
ANY_JSON = st.lists(st.tuples(NAME, CELL), max_size=6).map(lambda p: "{" + ",".join(f'"{n}":{c}' for n, c in p) + "}")
ODD = st.sampled_from(["", " ", "null", "[1]", "{", "}", '{"u":"a"}{"u":"b"}', "{'u': 'a'}", "\x00", '{"u":"a"} null'])
JSON_LINES = st.lists(st.one_of(GOOD_JSON, GOOD_JSON, ANY_JSON, ODD), max_size=5) | st.lists(GOOD_JSON, max_size=5)


@settings(max_examples=1500, deadline=None)
@given(
    JSON_LINES,
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
    st.sampled_from([(), (("w", ">", "2"),), (("u", "!=", "a|"),)]),
)
def test_json_is_read_alike_fast_and_slow(
    rows: list[str], end: str, ended: bool, filters: tuple[tuple[str, str, str], ...]
):
    data = (end.join(rows) + (end if ended else "")).encode("utf-8", "surrogatepass")
    fast, slow = both(Block(data, 1), plain(JSON, filters=filters))
    if fast is not None:
        assert fast == slow.events.to_pylist()
        assert not slow.rejects


FIELD = st.sampled_from(
    [
        "a",
        "b",
        "ü",
        "1",
        "2.5",
        "",
        " ",
        '"q"',
        '"a,b"',
        '"a""b"',
        '5" x',
        '"two\nlines"',
        '"open',
        "x\x00",
        "1_0",
        "nan",
    ]
)
GOOD_CSV = st.builds(
    "{},{},{},{},{}".format,
    st.sampled_from("ab"),
    st.sampled_from("xyz"),
    st.integers(0, 2 * 10**12),
    st.sampled_from(["1", "2.5", "5.0"]),
    st.sampled_from(["lamp", "", "ü"]),
)
CSV_LINES = st.lists(
    GOOD_CSV | st.lists(FIELD, min_size=3, max_size=6).map(",".join) | st.sampled_from(["", " ", "\r"]), max_size=6
) | st.lists(GOOD_CSV, max_size=6)


@settings(max_examples=1500, deadline=None)
@given(CSV_LINES, st.sampled_from(["\n", "\r\n"]), st.booleans(), st.sampled_from([",", "\t", "::"]), st.booleans())
def test_csv_is_read_alike_fast_and_slow(rows: list[str], end: str, ended: bool, delimiter: str, quoted: bool):
    data = (end.join(["u,i,t,w,n", *rows]) + (end if ended else "")).replace(",", delimiter).encode()
    fast, slow = both(Block(data, 1), plain(CSV, delimiter=delimiter, quoted=quoted and len(delimiter) == 1))
    if fast is not None:
        assert fast == slow.events.to_pylist()
        assert not slow.rejects


@settings(max_examples=300, deadline=None)
@given(st.lists(st.lists(FIELD, min_size=5, max_size=5).map(",".join), max_size=8), st.integers(1, 30))
def test_where_csv_blocks_are_cut_does_not_matter(rows: list[str], size: int):
    source = raw.file("x.csv", "\n".join(["u,i,t,w,n", *rows]))

    def read(block_size: int) -> tuple[list[object], list[object]]:
        found = [
            records._line_by_line(parsing.slow(block, CSV), Events(CSV), CSV)
            for block in parsing.whole_records(blocks.blocks(source, block_size))
        ]
        return [row for one in found for row in one.events.to_pylist()], [row for one in found for row in one.rejects]

    stray = sum(row.count('"') for row in rows) % 2 or any(x in row for row in rows for x in ('5" x', '"open'))
    if not stray:
        assert read(size) == read(1 << 22)


def test_clean_blocks_take_the_fast_path():
    good = b'{"u":"a","i":"b","t":1400000000,"w":5.0,"z":{"deep":[null]}}\n'
    assert (
        both(Block(good * 3, 1), JSON)[0]
        == [{"user_id": "a", "item_id": "b", "timestamp": 1_400_000_000_000, "weight": 5.0}] * 3
    )
    assert both(Block(b"u,i,t,w,n\na,b,2020-01-01,1,lamp\n", 1), CSV)[0] == [
        {"user_id": "a", "item_id": "b", "timestamp": 1_577_836_800_000, "weight": 1.0, "title": "lamp"}
    ]


def test_an_unclosed_quote_costs_one_line():
    rows = ["u,i,t,w,n", 'a,b,1,1,"lamp', "a,c,2,1,x", '"a",d,3,1,"two\nlines"']
    slow = list(parsing.slow(Block("\n".join(rows).encode(), 1), CSV))
    assert [(n, record[:7] if isinstance(record, str) else record["i"]) for n, _, record in slow] == [
        (2, "not CSV"),
        (3, "c"),
        (4, "d"),
    ]
