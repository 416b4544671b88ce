"""Filters and hints: what is written wrong is said, with the values that are there and the setting that mends it."""

import itertools
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calrec.artifacts import Manifest
from calrec.config import DataConfig, runs
from calrec.config.overrides import override
from calrec.ingest.hints import odd_ids, shape, with_filter
from calrec.ingest.step import ingest
from calrec.reading.layouts import Layout
from calrec.reading.rows import DroppedError, Events

Row = tuple[str, str, int, float, str]  # user, item, time, quantity, kind
HEADER = "user,item,time,quantity,kind"
LOG: list[Row] = [(f"u{u}", f"10{i}", 100 + i, 2.0, "Sale") for u in range(3) for i in range(4)]


def read(folder: Path, rows: list[Row], header: str = HEADER, **settings: Any) -> Manifest:
    folder.mkdir(exist_ok=True)
    (folder / "log.csv").write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return ingest("x", str(folder), folder.parent / "out", DataConfig(**{"min_user": 0, "min_item": 0} | settings))


def dropped(manifest: Manifest) -> dict[str, int]:
    return {rule["rule"]: rule["rows_before"] - rule["rows_after"] for rule in manifest.rules}


def events(folder: Path) -> list[tuple[Any, ...]]:
    table = pq.read_table(folder.parent / "out/interactions.parquet").select(
        ["user_id", "item_id", "timestamp", "weight"]
    )
    return [tuple(row.values()) for row in table.to_pylist()]


# --- filters ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("filter_", "left"),
    [
        (r"item~^10[12]$", 6), (r"item!~^10[12]$", 6), ("item~1|2", 12), ("kind~ale", 12), ("item ~ 3$", 3),
        (r'["item~^\\d{1,3}$"]', 12), (r'["item~^10[1,2]$","user!=u0"]', 4), ("kind!~^s", 12),
        ("kind!~(?i)^S,item~1", 0),
    ],
)  # fmt: skip
def test_a_pattern_is_searched_as_python_does_it(tmp_path: Path, filter_: str, left: int):
    data = override(runs.sample(), [f"data.filters={filter_}"]).data
    if not left:
        with pytest.raises(ValueError, match=r"the filter kind!~\(\?i\)\^S leaves none of 12 rows"):
            read(tmp_path / "raw", LOG, filters=data.filters)
        return
    assert read(tmp_path / "raw", LOG, filters=data.filters, min_length=1).counts["interactions"] == left


@given(
    st.lists(st.sampled_from([None, float("nan"), 1.0, 2.5, -10.0]) | st.none(), max_size=8),
    st.sampled_from(["~", "!~", "=", "!="]),
    st.sampled_from(["", "1", r"^\d$", "nan", "."]),
)
def test_both_paths_pass_the_same_rows(cells: list[Any], operator: str, value: str):
    columns = {"user": ("u",), "item": ("i",)}
    reader = Events(Layout("parquet", columns, filters=(("f", operator, value),)))
    ids = [str(at) for at in range(len(cells))]
    for kind in (pa.float64(), pa.string()):
        values = cells if kind == pa.float64() else [None if cell is None else f"{cell}\n" for cell in cells]
        table = pa.table({"u": ids, "i": ids, "f": pa.array(values, kind, from_pandas=False)})
        passed = []
        for record in table.to_pylist():
            try:
                passed += [row[0] for row in reader.row(record)]
            except DroppedError:
                continue
        fast = reader.table(table)
        assert fast is not None
        assert (fast[0]["user_id"].to_pylist(), fast[1]) == (passed, [len(cells) - len(passed)])


def test_a_float_that_is_no_number_is_missing_for_a_filter(tmp_path: Path):
    table = pa.table({"user": [1.0, 1.0, 1.0, float("nan")], "item": list("abcd"), "time": [1, 2, 3, 4]})
    (tmp_path / "raw").mkdir()
    pq.write_table(table, tmp_path / "raw/log.parquet")
    manifest = ingest(
        "x", str(tmp_path / "raw"), tmp_path / "out", DataConfig(filters=("user!=",), min_user=0, min_item=0)
    )
    assert dropped(manifest)["filter user!="] == 1
    assert manifest.counts["interactions"] == 3


def test_a_filter_that_drops_nothing_is_a_warning_with_the_values(tmp_path: Path):
    manifest = read(tmp_path / "raw", LOG, filters=("kind!=sale", "quantity>0", "user!=u0"))
    first, second = manifest.warnings
    assert first == (
        "the filter kind!=sale drops none of 12 rows; is it written right? "
        "the column kind has values such as 'Sale' (12)"
    )
    assert second.startswith("the filter quantity>0 drops none of 12 rows")


def test_a_filter_that_leaves_nothing_is_blamed_and_not_the_core(tmp_path: Path):
    message = r"raw: the filter quantity>5 leaves none of 12 rows; the column quantity has values such as '2.0' \(12\)$"
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "raw", LOG, filters=("user!=", "quantity>5", "kind=Sale"), min_user=5, min_item=5)


def test_a_star_is_literal_and_said(tmp_path: Path):
    manifest = read(tmp_path / "raw", LOG, filters=("item!=103", "kind!=Sa*"))
    (warning,) = manifest.warnings
    assert warning.endswith(
        "the filter kind!=Sa* takes * as it is; for anything in its place write a regular expression: "
        "--set 'data.filters=item!=103,kind!~^Sa.*$'"
    )
    with pytest.raises(ValueError, match=r"leaves none of 12 rows; .*--set 'data.filters=kind~\^Sa\.\*\$'"):
        read(tmp_path / "raw", LOG, filters=("kind=Sa*",))


def test_too_many_rows_without_an_id_name_the_filter_that_drops_them(tmp_path: Path):
    rows = [*LOG, ("", "100", 1, 1.0, "Sale"), ("", "101", 1, 1.0, "Sale")]
    header = HEADER.replace("user", "CustomerID")
    with pytest.raises(ValueError, match=r"rows without CustomerID are left out by --set 'data.filters=CustomerID!='"):
        read(tmp_path / "raw", rows, header)
    with pytest.raises(ValueError, match=r"--set 'data.filters=quantity>0,CustomerID!='"):
        read(tmp_path / "raw", rows, header, filters=("quantity>0",))
    assert read(tmp_path / "raw", rows, header, filters=("CustomerID!=",)).counts["interactions"] == 12


# --- weights ----------------------------------------------------------------------------------------------------


TWICE: list[Row] = [("u0", "100", 100, 3.0, "Sale"), ("u0", "100", 100, -1.0, "Back"), ("u0", "101", 90, -2.0, "Back")]


@pytest.mark.parametrize(
    ("column", "settings", "weight", "rule"),
    [
        ("quantity", {}, 5.0, "one event per user, item and time (weights added)"),
        ("rating", {}, 2.0, "one event per user, item and time (the first stays)"),
        (
            "Review Score",
            {"columns.weight": "Review Score"},
            2.0,
            "one event per user, item and time (the first stays)",
        ),
        ("rating", {"weight": "quantity"}, 5.0, "one event per user, item and time (weights added)"),
        ("quantity", {"weight": "rating"}, 2.0, "one event per user, item and time (the first stays)"),
        ("quantity", {"returns": "cancel"}, 4.0, "one event per user, item and time (weights added)"),
    ],
)
def test_lines_of_one_time_are_added_when_they_are_quantities(
    tmp_path: Path, column: str, settings: dict[str, str], weight: float, rule: str
):
    data = override(runs.sample(), [f"data.{name}={value}" for name, value in settings.items()]).data
    manifest = read(
        tmp_path / "raw", [*LOG, *TWICE], HEADER.replace("quantity", column),
        columns=data.columns, weight=data.weight, returns=data.returns,
    )  # fmt: skip
    assert events(tmp_path / "raw")[0] == ("u0", "100", 100_000, weight)
    assert dropped(manifest)[rule] == 1
    assert (
        dropped(manifest)["returns (negative weight)"]
        + dropped(manifest).get("returns (negative weight) without an earlier purchase", 0)
        == 2
    )
    assert any(note.startswith(f"weight {column} is a ") for note in manifest.notes)
    assert any("2 events of negative weight are" in warning for warning in manifest.warnings)


def test_cancel_without_quantities_is_said(tmp_path: Path):
    manifest = read(tmp_path / "raw", LOG, HEADER.replace("quantity", "stars"), returns="cancel")
    assert manifest.warnings == ("data.returns=cancel takes quantities back, and this log has none (see data.weight)",)


# --- ids of another shape ---------------------------------------------------------------------------------------


def test_ids_of_another_shape_are_a_hint_with_the_filter_that_drops_them(tmp_path: Path):
    rows = [(f"u{u}", item, 1, 1.0, "a") for u in range(3) for item in [*(f"{i}A" for i in range(40)), "POST"]]
    manifest = read(tmp_path / "raw", rows, filters=("kind!=b", "kind!=c"))
    (hint,) = [note for note in manifest.notes if note.startswith("hint")]
    assert hint == (
        "hint: 1 of 41 items have ids of another shape than the rest: POST (3 events); if they are no products, drop "
        r"them: --set 'data.filters=kind!=b,kind!=c,item~^\d'"
    )
    assert not any(n.startswith("hint") for n in read(tmp_path / "raw", rows, filters=(r"item~^\d",)).notes)


HEX = [f"{i * 7919 % 65536:04x}{i * 104729 % 65536:04x}" for i in range(200)]


@pytest.mark.parametrize(
    ("usual", "odd", "pattern"),
    [
        ([str(i) for i in range(100)], ["M", "C2"], r"^\d"),
        ([f"SKU-{i}" for i in range(100)], ["12"], r"^[^\W\d_]"),
        ([f"p{i}" for i in range(100)], ["fee"], r"\d"),
        ([f"{chr(97 + a)}{chr(97 + b)}" for a, b in itertools.product(range(10), range(10))], ["a1"], r"^\D*$"),
        ([f"B{i}X" for i in range(100)], ["B9X9"], ""),
        (HEX, [], ""),
        ([str(i) for i in range(18)], ["M"], ""),
        ([str(i) for i in range(100)], list("ABCDEFGHIJKLMN"), ""),
    ],
)  # fmt: skip
def test_the_pattern_keeps_the_usual_ids(usual: list[str], odd: list[str], pattern: str):
    found = odd_ids(dict.fromkeys([*odd, *usual], 7), "sku", ())
    assert (found == []) == (not pattern)
    assert not pattern or found[0].endswith(f"drop them: {with_filter((), f'sku~{pattern}')}")


def test_shapes():
    assert [shape(one) for one in ("85123A", "BANK CHARGES", "日本-12", "a_b")] == ["9A", "A A", "A-9", "A_A"]


def test_a_filter_with_a_comma_is_suggested_as_a_list_that_can_be_typed():
    setting = with_filter(["a~^.{1,2}$"], r"b~^\d").removeprefix("--set '").removesuffix("'")
    assert override(runs.sample(), [setting]).data.filters == ("a~^.{1,2}$", r"b~^\d")
