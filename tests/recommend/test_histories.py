"""Every format gives the same histories; what cannot be read is named, and a later session sees the same users."""

import gzip
import itertools
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calrec import artifacts
from calrec.recommend import histories, rows
from calrec.recommend.histories import History, Reject
from calrec.recommend.items import read_ids

USERS = [History("u1", ("a", "b")), History("7", ("12", "b", "c")), History("ü3", ("tea, green", 'a "b"'))]


def users(path: Path, **options: Any) -> list[History]:
    return list(itertools.chain(*histories.read(path, **options)))


def rejects(path: Path, **options: Any) -> list[Reject]:
    found: list[Reject] = []
    users(path, on_reject=found.append, **options)
    return found


def lines(path: Path, *given: Any) -> Path:
    text = "".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in given)
    path.write_bytes(compressed(path.name, text.encode()))
    return path


def compressed(name: str, data: bytes) -> bytes:
    if name.endswith(".gz"):
        return gzip.compress(data)
    return pa.compress(data, "zstd", asbytes=True) if name.endswith(".zst") else data


def events(path: Path, of: list[History], column: str = "item_id", delimiter: str = ",") -> Path:
    def quoted(text: str) -> str:
        return '"' + text.replace('"', '""') + '"' if set(text) & {delimiter, '"'} else text

    rows = [[one.user_id, quoted(item)] for one in of for item in one.items or one.titles]
    path.write_bytes(compressed(path.name, "\n".join(map(delimiter.join, [["user_id", column], *rows])).encode()))
    return path


# --- formats ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["jsonl", "ndjson", "json", "jsonl.gz", "json.zst", "JSONL"])
@pytest.mark.parametrize("field", ["items", "titles"])
def test_json_lines(tmp_path: Path, ending: str, field: str):
    path = lines(tmp_path / f"h.{ending}", *({"user_id": u.user_id, field: u.items, "x": 1} for u in USERS))
    assert users(path) == [History(u.user_id, **{field: u.items}) for u in USERS]
    assert histories.count(path) == 3


@pytest.mark.parametrize("ending", ["csv", "csv.gz", "tsv", "tsv.zst"])
@pytest.mark.parametrize(("column", "field"), [("item_id", "items"), ("title", "titles")])
def test_events(tmp_path: Path, ending: str, column: str, field: str):
    path = events(tmp_path / f"h.{ending}", USERS, column, "\t" if "tsv" in ending else ",")
    assert users(path) == [History(u.user_id, **{field: u.items}) for u in USERS]
    assert histories.count(path) == 3


@pytest.mark.parametrize("kind", [pa.list_(pa.string()), pa.large_list(pa.large_string())])
def test_parquet(tmp_path: Path, kind: pa.DataType):
    table = pa.table(
        {
            "user_id": pa.array([*(u.user_id for u in USERS), "t"]).dictionary_encode(),
            "items": pa.array([*(u.items for u in USERS), None], kind),
            "titles": pa.array([None, None, None, ["a lamp"]]),
            "age": range(4),
        }
    )
    pq.write_table(table, tmp_path / "h.parquet", row_group_size=2)
    assert users(tmp_path / "h.parquet") == [*USERS, History("t", titles=("a lamp",))]
    assert histories.count(tmp_path / "h.parquet") == 4


def test_numbers_are_ids(tmp_path: Path):
    expected = [History("1", ("10", "11"))]
    assert users(lines(tmp_path / "h.jsonl", {"user_id": 1, "items": [10, 11.0]})) == expected
    for kind in (pa.int64(), pa.float64()):
        pq.write_table(
            pa.table({"user_id": pa.array([1], kind), "items": pa.array([[10, 11]], pa.list_(kind))}),
            tmp_path / "h.parquet",
        )
        assert users(tmp_path / "h.parquet") == expected


def test_numbers_of_any_length_are_ids_with_every_digit(tmp_path: Path):
    expected = [History(str(10**24 + 1), (str(10**24 + 2), str(2**64)))]
    line = {"user_id": 10**24 + 1, "items": [10**24 + 2, 2**64]}
    assert users(lines(tmp_path / "h.jsonl", line)) == expected
    (tmp_path / "h.csv").write_text(f"user_id,item_id\n{10**24 + 1},{10**24 + 2}\n{10**24 + 1},{2**64}\n")
    assert users(tmp_path / "h.csv") == expected
    kind = pa.decimal128(38, 0)
    table = {"user_id": pa.array([line["user_id"]], kind), "items": pa.array([line["items"]], pa.list_(kind))}
    pq.write_table(pa.table(table), tmp_path / "h.parquet")
    assert users(tmp_path / "h.parquet") == expected
    for width, size in ((pa.float64(), 2**53), (pa.float32(), 2**24)):
        given = pa.array([[1], [size]], pa.list_(pa.int64())).cast(pa.list_(width))
        pq.write_table(pa.table({"user_id": ["a", "b"], "items": given}), tmp_path / "h.parquet")
        assert users(tmp_path / "h.parquet") == [History("a", ("1",))]
        assert [one.reason.partition(",")[0] for one in rejects(tmp_path / "h.parquet")] == [
            f"items[0] is a float of {size:,}".partition(",")[0]
        ]


def test_ids_of_what_is_in_stock(tmp_path: Path):
    (tmp_path / "stock.txt").write_bytes(b"\xef\xbb\xbfp1\r\n p2\n\n1000000000000000000000029\np\xc2\x853\n")
    found = read_ids(tmp_path / "stock.txt")
    assert found == ("p1", " p2", "p2", "1000000000000000000000029", "p\x853")
    (tmp_path / "stock.txt").write_bytes(b"\xff")
    with pytest.raises(ValueError, match="stock.txt is not UTF-8 .*; save it as UTF-8"):
        read_ids(tmp_path / "stock.txt")


def test_empty_lists_and_empty_files(tmp_path: Path):
    path = lines(tmp_path / "h.jsonl", {"user_id": "new", "items": []}, "", {"user_id": "also", "titles": []}, " ")
    assert users(path) == [History("new"), History("also")]
    assert histories.count(path) == 2
    assert users(lines(tmp_path / "none.jsonl")) == []
    assert users(lines(tmp_path / "none.csv", "user_id,item_id")) == []
    assert histories.count(lines(tmp_path / "none.csv", "user_id,item_id")) == 0


def test_texts(small: SimpleNamespace):
    items = artifacts.read_table(small.texts, "items.parquet", "texts")["item_id"].to_pylist()
    table = artifacts.read_table(small.texts, "sequences.parquet", "texts").to_pylist()
    for domain in ("home", "garden"):
        expected = [History(r["user_id"], tuple(items[i] for i in r["items"])) for r in table if r["domain"] == domain]
        assert users(small.texts, domain=domain) == expected
        assert histories.count(small.texts, domain) == len(expected) > 0
        assert users(small.texts, domain=domain, start=7, batch=5) == expected[7:]
    with pytest.raises(ValueError, match="unknown category 'toys'; .* holds: garden, home"):
        histories.read(small.texts, "toys")
    assert histories.digest(small.texts) == artifacts.read_manifest(small.texts).digest


def test_events_are_put_in_the_order_of_time_and_ties_stay(tmp_path: Path):
    path = lines(
        tmp_path / "h.csv", "user_id,item_id,timestamp,shop",
        "u,c,2026-03-01,x", "u,a,2026-01-01,x", "u,b1,2026-02-01,x", "u,b2,2026-02-01,x", "v,z,30,x", "v,y,4,x",
    )  # fmt: skip
    assert users(path) == [History("u", ("a", "b1", "b2", "c")), History("v", ("y", "z"))]


# --- one batch after the other ----------------------------------------------------------------------------------


def test_only_what_is_asked_for_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    made = 0
    real = rows._history

    def counted(record: Any) -> Any:
        nonlocal made
        made += 1
        return real(record)

    monkeypatch.setattr(rows, "_history", counted)
    path = lines(tmp_path / "h.jsonl", *({"user_id": u, "items": ["a"]} for u in range(10_000)))
    reader = histories.read(path, batch=16)
    assert [one.user_id for one in next(reader)] == [str(u) for u in range(16)]
    assert made == 16
    table = pa.table({"user_id": range(10_000), "items": [["a"]] * 10_000})
    pq.write_table(table, tmp_path / "h.parquet")
    next(histories.read(tmp_path / "h.parquet", batch=16))
    assert made == 32


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["good", "bad", "lacking", "again"]), max_size=12), st.integers(1, 4), st.data())
@pytest.mark.parametrize("kind", ["jsonl", "parquet", "csv"])
def test_a_later_session_goes_on_with_the_same_users_and_rejects(
    tmp_path_factory: pytest.TempPathFactory, kind: str, which: list[str], batch: int, data: st.DataObject
):
    path = mixed(tmp_path_factory.mktemp("mixed") / f"h.{kind}", ["good", *which])
    found: list[Any] = []
    batches = []
    for some in histories.read(path, batch=batch, on_reject=found.append):
        batches.append((list(found), some))
        found.clear()
    assert all(len(some) == batch for _, some in batches[:-1])
    begin = data.draw(st.integers(0, len(batches)))
    again: list[Any] = []
    rest = []
    for some in histories.read(
        path, start=sum(len(u) for _, u in batches[:begin]), batch=batch, on_reject=again.append
    ):
        rest.append((list(again), some))
        again.clear()
    assert rest == batches[begin:]
    assert again == found  # those after the last user


def test_many_rejects_in_a_row_are_not_held_back(tmp_path: Path):
    path = lines(
        tmp_path / "h.jsonl",
        *[GOOD, "no", {"user_id": "u", "items": []}],
        *["bad"] * 2500,
        {"user_id": "v", "items": []},
    )
    found: list[Reject] = []
    steps = [([u.user_id for u in some], len(found)) for some in histories.read(path, on_reject=found.append)]
    assert steps == [(["good", "u"], 1), (["v"], 2501)]
    assert rejects(path, start=2) == found[1:]
    assert rejects(path, start=3) == []


def mixed(path: Path, which: list[str]) -> Path:
    given: list[Any] = []
    for number, kind in enumerate(which):
        user = {"bad": None, "again": "u0"}.get(kind, f"u{number}")
        given.append({"user_id": user, "items": [None, "b"] if kind == "lacking" else ["a", "b"]})
    if path.suffix == ".jsonl":
        return lines(path, *given)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(given), path)
        return path
    rows = [f"{one['user_id'] or ''},{item or ''}" for one in given if one["user_id"] != "u0" for item in one["items"]]
    return lines(path, "user_id,item_id", "u0,a", *rows)


# --- bad rows ---------------------------------------------------------------------------------------------------

GOOD = {"user_id": "good", "items": ["a"]}
BAD = [
    ({"items": ["a"]}, "user_id is missing, got None"),
    ({"user_id": " ", "items": ["a"]}, "user_id is missing, got ' '"),
    ({"user_id": True, "items": ["a"]}, "user_id is not an id, got True"),
    ({"user_id": ["u"], "items": ["a"]}, "user_id is a list, not a single value, got ['u']"),
    ({"user_id": "u"}, "has neither items nor titles, but ['user_id']; give one of them"),
    ({"user_id": "u", "items": None}, "has neither items nor titles"),
    ({"user_id": "u", "items": ["a"], "titles": ["b"]}, "has both items and titles; give one"),
    ({"user_id": "u", "items": "a"}, "items is a str, not a list"),
    ({"user_id": "u", "titles": {"a": 1}}, "titles is a dict, not a list"),
    ({"user_id": "u", "items": ["a", {"id": 1}]}, "items[1] is a dict, not a single value"),
    ({"user_id": "u", "items": ["a", 1.5]}, "items[1] is not an id, got 1.5"),
    ({"user_id": "good", "items": ["b"]}, "user 'good' is here again; the first row counts"),
    ('{"user_id": "u", "items": ["a"', "not JSON"),
    ("[1]", "not a JSON object"),
    ('{"user_id": "\\ud800", "items": []}', "user_id is not UTF-8"),
]


@pytest.mark.parametrize(("bad", "reason"), BAD)
def test_a_bad_line_is_a_reject(tmp_path: Path, bad: Any, reason: str):
    path = lines(tmp_path / "h.jsonl", GOOD, "", bad, {"user_id": "last", "items": []})
    assert [u.user_id for u in users(path)] == ["good", "last"]
    (one,) = rejects(path)
    assert one.where == "line 3"
    assert one.reason.startswith(reason)
    assert one.raw == (bad if isinstance(bad, str) else json.dumps(bad))
    pa.Table.from_pylist([one.__dict__])  # it can be written


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({"user_id": None, "items": ["a"]}, "user_id is missing"),
        ({"user_id": " ", "items": ["a"]}, "user_id is missing"),
        ({"user_id": "u"}, "has neither items nor titles"),
        ({"user_id": "u", "items": ["a"], "titles": ["b"]}, "has both items and titles"),
        ({"user_id": "good", "items": ["b"]}, "user 'good' is here again"),
    ],
)
def test_a_bad_row_of_parquet_is_a_reject(tmp_path: Path, bad: Any, reason: str):
    pq.write_table(pa.Table.from_pylist([GOOD | {"titles": None}, bad]), tmp_path / "h.parquet")
    (one,) = rejects(tmp_path / "h.parquet")
    assert one.where == "row 2"
    assert one.reason.startswith(reason)
    assert "user_id" in one.raw


def test_text_that_is_not_utf8(tmp_path: Path):
    ids = pa.Array.from_buffers(
        pa.string(), 3, [None, pa.array([0, 1, 2, 3], pa.int32()).buffers()[1], pa.py_buffer(b"a\xffc")]
    )
    pq.write_table(pa.table({"user_id": ids, "items": [["x"]] * 3}), tmp_path / "h.parquet")
    assert users(tmp_path / "h.parquet") == [History("a", ("x",)), History("c", ("x",))]
    assert [(one.where, one.reason) for one in rejects(tmp_path / "h.parquet")] == [
        ("row 2", "holds text that is not UTF-8")
    ]
    (tmp_path / "h.csv").write_bytes(b"user_id,item_id\na,x\n\xff,x\na,y\n")
    assert users(tmp_path / "h.csv") == [History("a", ("x", "y"))]
    assert [one.where for one in rejects(tmp_path / "h.csv")] == ["line 3"]


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_missing_entries_are_left_out(tmp_path: Path, ending: str):
    given = [{"user_id": "u", "items": ["a", None, "b", ""]}, {"user_id": "v", "items": [None]}]
    path = tmp_path / f"h.{ending}"
    if ending == "parquet":
        pq.write_table(pa.Table.from_pylist(given), path)
    else:
        lines(path, *given)
    assert users(path) == [History("u", ("a", "b")), History("v")]
    assert [one.reason for one in rejects(path)] == ["2 of 4 items missing; left out", "1 of 1 items missing; left out"]
    table = pa.table({"user_id": ["u"], "items": pa.array([[1.0, float("nan")]])})
    pq.write_table(table, tmp_path / "nan.parquet")
    assert users(tmp_path / "nan.parquet") == [History("u", ("1",))]


def test_bad_events(tmp_path: Path):
    path = lines(
        tmp_path / "h.csv", "user_id,item_id,timestamp", "u,a,1", ",b,2", "u,,3", "u,c,soon", "u,d", "u,e,5",
        'v," ",1', "w,f,1",
    )  # fmt: skip
    assert users(path) == [History("u", ("a", "e")), History("v"), History("w", ("f",))]
    assert [(one.where, one.reason.partition(",")[0], one.raw) for one in rejects(path)] == [
        ("line 3", "user_id is missing", ",b,2"),
        ("line 4", "item_id is missing", "u,,3"),
        ("line 5", "timestamp is neither a number nor an ISO 8601 time; set data.time_format", "u,c,soon"),
        ("line 6", "2 fields", "u,d"),
        ("line 8", "item_id is missing", 'v," ",1'),
    ]
    assert histories.count(path) == 3


def test_a_user_who_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = lines(tmp_path / "h.csv", "user_id,item_id", "u,a", "v,b", "u,c")
    reader = histories.read(path, batch=1)
    assert [next(reader), next(reader)] == [[History("u", ("a",))], [History("v", ("b",))]]
    with pytest.raises(ValueError, match=r"h\.csv line 4: user 'u' comes back .*; sort the file by user_id"):
        next(reader)


def test_the_seen_users_are_those_of_a_set():
    seen = rows._Seen()
    ids = [str(n % 150_000) for n in range(0, 400_000, 7)] + [str(n) for n in range(200_000)]
    expected: set[str] = set()
    for one in ids:
        assert seen.add(one) == (one not in expected)
        expected.add(one)
    assert len(seen._sorted) > 1 << 16


# --- unreadable files -------------------------------------------------------------------------------------------


def test_a_file_without_one_good_row_is_unreadable(tmp_path: Path):
    path = lines(tmp_path / "h.jsonl", *[{"user": "u", "history": []}] * 5)
    with pytest.raises(
        ValueError, match=r"h.jsonl: none of its first 5 rows .* line 1: user_id is missing.*accepted are"
    ):
        users(path)
    path = lines(tmp_path / "h.jsonl", *[{"user_id": "u"}] * 2000, GOOD)
    with pytest.raises(ValueError, match="none of its first 1,000 rows"):
        users(path)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("h.txt", b"u a", "h.txt: a file of histories with an unknown ending; accepted are JSON lines"),
        ("h.parquet.gz", b"", "unknown ending"),
        ("h.json", b'\n[{"user_id": "u"}]', "begins with '\\[', a JSON array; write one object per line"),
        ("h.csv", b"user,item\nu,a\n", "no header with user_id and item_id or title, but user, item; accepted are"),
        ("h.csv", b"", "but an empty file"),
        ("h.csv", b"user_id,item_id,title\n", "has both item_id and title"),
        ("h.csv", b"user_id,user_id,title\n", "names the column 'user_id' twice"),
        ("h.parquet", b"PAR1 no", "h.parquet: not a readable Parquet file"),
    ],
)
def test_an_unreadable_file_is_refused_at_once(tmp_path: Path, name: str, data: bytes, message: str):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=message):
        histories.read(tmp_path / name)


def test_what_is_not_there(tmp_path: Path):
    for function in (histories.read, histories.count):
        with pytest.raises(FileNotFoundError, match="no such file of histories; accepted are"):
            function(tmp_path / "none.jsonl")
        with pytest.raises(ValueError, match="folder without manifest.json; name one file in it"):
            function(tmp_path)
    pq.write_table(pa.table({"user_id": ["u"], "item_id": ["a"]}), tmp_path / "h.parquet")
    with pytest.raises(ValueError, match="no columns user_id and items or titles, but user_id, item_id"):
        histories.read(tmp_path / "h.parquet")
    for options in ({"start": -1}, {"batch": 0}):
        with pytest.raises(ValueError, match="must be at least"):
            histories.read(tmp_path / "h.parquet", **options)


def test_a_file_cut_short(tmp_path: Path):
    path = lines(tmp_path / "h.jsonl.gz", *({"user_id": u, "items": [str(u * u)]} for u in range(5000)))
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ValueError, match="damaged after line"):
        users(path)


def test_the_digest_is_that_of_the_content(tmp_path: Path):
    path = lines(tmp_path / "h.jsonl", GOOD)
    before = histories.digest(path)
    assert before == histories.digest(lines(tmp_path / "other.jsonl", GOOD))
    assert before != histories.digest(lines(path, GOOD, GOOD))
