"""Rankings from files: what is read, and that every kind of fault is counted, named and never scored."""

import csv
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from calrec.config import EvaluateConfig
from calrec.evaluate import rankings, user_batches
from calrec.evaluate.lists import Lists
from calrec.evaluate.step import evaluate
from calrec.model.loading import load_users
from calrec.retrieve.catalogue import load_catalogue
from tests.evaluate import world

Rows = list[dict[str, Any]]
CONFIG = EvaluateConfig(recall_at=(1, 3), ndcg_at=(3,), bootstrap=20, baselines=("popularity",))


def judge(shop: SimpleNamespace, out: Path, **more: Any) -> dict[str, dict[str, int]]:
    """Method → user → rank."""
    evaluate(shop.texts, shop.generations, shop.recommendations, out, CONFIG, **more)
    found: dict[str, dict[str, int]] = {}
    for row in pq.read_table(out / "ranks.parquet").to_pylist():
        found.setdefault(row["method"], {})[row["user_id"]] = row["rank"]
    return found


def test_lists_from_rows():
    lists = Lists.of([[7, 8], []], 3, [[2.0, 1.0], []])
    assert lists.items.tolist() == [[7, 8, -1], [-1, -1, -1]]
    assert lists.scores[0, :2].tolist() == [2.0, 1.0] and np.isnan(lists.scores[:, 2]).all()
    assert lists.lengths.tolist() == [2, 0] and len(lists) == 2


def test_blocks_hold_whole_users(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(user_batches, "_ROWS", 3)
    users = list("aabbbbcddd")
    table = pa.table({"user_id": users, "n": range(10)})
    for size in (1, 2, 4, 10):
        found = list(user_batches.blocks(table.to_batches(size)))
        assert [u for block in found for u in block.user_id.to_pylist()] == ["a", "b", "c", "d"]
        assert [n for block in found for n in block.rows["n"].to_pylist()] == list(range(10))
        assert [n for block in found for n in block.place.tolist()] == [0, 1, 0, 1, 2, 3, 0, 0, 1, 2]
        assert [block.user_id[int(r)].as_py() for block in found for r in block.run] == users
    assert list(user_batches.blocks([])) == []


@pytest.mark.parametrize("rows_of_a_block", [1, 4, 1 << 18])
def test_a_good_ranking_is_read_in_any_order_of_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows_of_a_block: int
):
    monkeypatch.setattr(user_batches, "_ROWS", rows_of_a_block)
    lists = {user: world.LISTS[user] for user in ("u4", "u1", "u5", "u3", "u2")}
    assert judge(world.shop(tmp_path, world.rows_of(lists)), tmp_path / "e")["calrec"] == world.RANKS


def swap(rows: Rows, a: int, b: int) -> None:
    rows[a], rows[b] = rows[b], rows[a]


FAULTS: dict[str, tuple[Callable[[Rows], Any], str]] = {
    "a repeated item": (
        lambda t: t[1].update(item_id="a"),
        r"1 faults in the rankings: 1 repeated items \(item a of user u1\)",
    ),
    "an unknown item": (lambda t: t[0].update(item_id="nope"), r"1 unknown items \(item nope of user u1\)"),
    "an unknown user": (
        lambda t: t.extend({**row, "user_id": "nobody"} for row in t[:3]),
        r"1 faults in the rankings: 1 unknown users \(nobody\)",
    ),
    "a user who was not asked for": (
        lambda t: t.extend({**row, "user_id": "u6"} for row in t[:3]),
        r"1 users for whom nothing was generated \(u6\)",
    ),
    "users without a list": (lambda t: t.__delitem__(slice(0, 6)), r"2 judged users without a list \(u1; u2\)"),
    "no list at all": (lambda t: t.clear(), r"5 judged users without a list \(u1; u2; u3, …\)"),
    "a short list": (lambda t: t.pop(), r"1 lists of another length \(user u5 has 2 items, expected 3\)"),
    "a long list": (
        lambda t: t.append({**t[-1], "rank": 4, "item_id": "e"}),
        r"1 lists of another length \(user u5 has 4 items, expected 3\)",
    ),
    "ranks from 0": (
        lambda t: [row.update(rank=row["rank"] - 1) for row in t[:3]],
        r"1 users whose ranks are not 1, 2, … in order \(u1\)",
    ),
    "rows out of order": (
        lambda t: [row.update(rank=rank) for row, rank in zip(t[:3], (1, 3, 2), strict=True)],
        r"1 users whose ranks are not 1, 2, … in order \(u1\)",
    ),
    "no rank": (lambda t: t[0].update(rank=None), r"1 users whose ranks are not 1, 2, … in order \(u1\)"),
    "not a number": (lambda t: t[0].update(score=float("nan")), r"1 scores that are no finite numbers \(item a of u"),
    "infinity": (lambda t: t[0].update(score=float("inf")), r"1 scores that are no finite numbers \(item a of user u1"),
    "no score": (lambda t: t[2].update(score=None), r"1 scores that are no finite numbers \(item c of user u1\)"),
    "a rising score": (lambda t: t[4].update(score=3.5), r"1 scores that rise \(item d of user u2\)"),
    "a user in two places": (lambda t: swap(t, 2, 5), r"1 users whose rows are not together \(u1\)"),
}


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("rows_of_a_block", [1, 1 << 18])
def test_a_fault_is_counted_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, rows_of_a_block: int):
    monkeypatch.setattr(user_batches, "_ROWS", rows_of_a_block)
    change, message = FAULTS[name]
    rows = world.rows_of(world.LISTS)
    change(rows)
    with pytest.raises(ValueError, match=message):
        judge(world.shop(tmp_path, rows), tmp_path / "e")
    assert not (tmp_path / "e").exists()


def test_all_kinds_are_said_at_once_and_the_first_of_each(tmp_path: Path):
    rows = world.rows_of(world.LISTS)
    for at in range(0, 15, 3):
        rows[at].update(item_id="nope")
    rows[1].update(score=9.0)
    with pytest.raises(ValueError) as error:
        judge(world.shop(tmp_path, rows), tmp_path / "e")
    assert str(error.value).endswith(
        "recommendations.parquet: 6 faults in the rankings: 5 unknown items (item nope of user u1; item nope of user "
        "u2; item nope of user u3, …), 1 scores that rise (item b of user u1)"
    )


def test_items_of_the_history_are_a_fault_where_they_are_excluded(tmp_path: Path):
    with pytest.raises(ValueError, match=r"excluded items \(item a of user u1; item b of user u1; item c of user u1"):
        judge(world.shop(tmp_path, exclude_seen=True), tmp_path / "e")


def test_a_list_is_as_long_as_the_catalogue_allows(tmp_path: Path):
    """Six items, less what the user had: u1 a, b, c; u2 a, c; u3 a, b; u4 a, c, b; u5 a, d."""
    left = {"u1": "def", "u2": "bdef", "u3": "cdef", "u4": "def", "u5": "bcef"}
    lists = {user: [(item, 1.0) for item in items] for user, items in left.items()}
    found = judge(world.shop(tmp_path, world.rows_of(lists), exclude_seen=True, k=5), tmp_path / "e")
    assert found["calrec"] == {"u1": 0, "u2": 2, "u3": 3, "u4": 0, "u5": 2}
    assert set(found["popularity"]) == set(left)
    lists["u5"] = lists["u5"][:3]
    with pytest.raises(ValueError, match=r"user u5 has 3 items, expected 4"):
        judge(world.shop(tmp_path / "short", world.rows_of(lists), exclude_seen=True, k=5), tmp_path / "f")


def test_baselines_leave_out_what_was_seen_too(tmp_path: Path):
    """Counted before the test items, a is first, then b 4, c 3, d 1, f 1, e 0; targets are a, d, e, b and c."""
    left = {"u1": "def", "u2": "bdef", "u3": "cdef", "u4": "def", "u5": "bcef"}
    lists = {user: [(item, 1.0) for item in items] for user, items in left.items()}
    seen = judge(world.shop(tmp_path, world.rows_of(lists), exclude_seen=True, k=5), tmp_path / "e")
    assert seen["popularity"] == {"u1": 0, "u2": 2, "u3": 4, "u4": 0, "u5": 2}
    lists = {user: [(item, 1.0) for item in "abcde"] for user in left}
    again = judge(world.shop(tmp_path / "again", world.rows_of(lists), k=5), tmp_path / "f")
    assert again["popularity"] == {"u1": 1, "u2": 4, "u3": 0, "u4": 2, "u5": 3}


def test_what_only_fills_a_list_of_log_probabilities_has_no_score_and_is_a_tie(tmp_path: Path):
    rows = world.rows_of(world.LISTS)
    for at in (4, 5):  # u2's target d and the item after it
        rows[at] |= {"score": None, "source": "fill", "reason": "", "logprob": None, "match": None}
    shop = world.shop(tmp_path, rows, rerank=10)
    assert judge(shop, tmp_path / "e")["calrec"] == world.RANKS
    row = pq.read_table(tmp_path / "e/ranks.parquet", filters=[("user_id", "==", "u2")]).to_pylist()[0]
    assert (row["rank_best"], row["rank_worst"]) == (2, 3)
    with pytest.raises(ValueError, match="2 scores that are no finite numbers"):
        judge(world.shop(tmp_path / "fused", rows), tmp_path / "f")
    rows[4]["source"] = "generation"
    with pytest.raises(ValueError, match="1 scores that are no finite numbers"):
        judge(world.shop(tmp_path / "generated", rows, rerank=10), tmp_path / "f")


# --- rankings of other programs -----------------------------------------------------------------------------------


def write_csv(path: Path, rows: Rows, columns: tuple[str, ...]) -> Path:
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    return world.shop(tmp_path_factory.mktemp("shop"))


def test_another_programs_ranking_is_one_more_method(shop: SimpleNamespace, tmp_path: Path):
    rows = [{**row, "why": "x"} for row in world.rows_of(world.LISTS)]
    table = pa.Table.from_pylist(rows)
    types = {"user_id": pa.large_string(), "rank": pa.int64(), "item_id": pa.dictionary(pa.int32(), pa.string())}
    for name, kind in types.items():
        table = table.set_column(table.column_names.index(name), name, table[name].cast(kind))
    pq.write_table(table, tmp_path / "p.parquet")
    files = {
        "sasrec": write_csv(tmp_path / "s.csv", rows, ("item_id", "rank", "user_id")),
        "with-scores": write_csv(tmp_path / "w.csv", rows, ("user_id", "rank", "item_id", "score")),
        "parquet": tmp_path / "p.parquet",
    }
    found = judge(shop, tmp_path / "e", rankings=files)
    assert list(found) == ["calrec", *files, "popularity"]
    assert all(found[name] == world.RANKS for name in files)
    ties = {
        name: pq.read_table(tmp_path / "e/ranks.parquet", filters=[("method", "==", name)])["rank_worst"].to_pylist()
        for name in files
    }
    assert ties == {"sasrec": [1, 2, 0, 3, 0], "with-scores": [1, 3, 0, 3, 0], "parquet": [1, 3, 0, 3, 0]}


def test_numbers_as_ids_are_read_as_text(tmp_path: Path):
    path = tmp_path / "numbers.csv"
    path.write_text("user_id,rank,item_id\n007,1,NA\n")
    (batch,) = user_batches.foreign(path, pa.schema([("user_id", pa.string()), ("item_id", pa.string())]))
    assert batch.to_pylist() == [{"user_id": "007", "item_id": "NA"}]


@pytest.mark.parametrize("kind", ["csv", "text", "float", "double", "decimal"])
def test_ranks_that_are_whole_are_whole_however_they_are_written(shop: SimpleNamespace, tmp_path: Path, kind: str):
    rows = world.rows_of(world.LISTS)
    if kind == "csv":
        path = write_csv(tmp_path / "r.csv", [{**row, "rank": f"{row['rank']}.0"} for row in rows], list(rows[0]))
    else:
        types = {"text": pa.string(), "float": pa.float32(), "double": pa.float64(), "decimal": pa.decimal128(22, 2)}
        table, path = pa.Table.from_pylist(rows), tmp_path / "r.parquet"
        pq.write_table(table.set_column(1, "rank", table["rank"].cast(types[kind])), path)
    assert judge(shop, tmp_path / "e", rankings={"r": path})["r"] == world.RANKS


@pytest.mark.parametrize("rank", [1.5, float("nan"), None, "third"])
def test_a_rank_of_parquet_that_is_no_whole_number_is_named(shop: SimpleNamespace, tmp_path: Path, rank: Any):
    ranks = ["1", rank, "3"] if isinstance(rank, str) else [1.0, rank, 3.0]
    pq.write_table(pa.table({"user_id": ["u1"] * 3, "rank": ranks, "item_id": list("abc")}), tmp_path / "r.parquet")
    with pytest.raises(ValueError, match=rf"r.parquet: rank {rank!r} in row 2 is (not a|missing)"):
        judge(shop, tmp_path / "e", rankings={"r": tmp_path / "r.parquet"})


@pytest.mark.parametrize("kind", [pa.int64(), pa.uint64(), pa.float64(), pa.decimal128(25, 0), pa.string()])
def test_ids_of_rankings_are_exact_whatever_their_type(tmp_path: Path, kind: pa.DataType):
    whole = 10 if pa.types.is_floating(kind) else 12_345_678_901_234_567
    column = pa.array([whole, whole + 1]).cast(kind)
    pq.write_table(pa.table({"user_id": column, "rank": [1, 1], "item_id": column}), tmp_path / "r.parquet")
    (batch,) = user_batches.foreign(tmp_path / "r.parquet", rankings.RANKING, ["score"])
    assert batch["user_id"].to_pylist() == batch["item_id"].to_pylist() == [str(whole), str(whole + 1)]


def test_ids_that_lost_digits_are_no_ids_of_anybody(shop: SimpleNamespace, tmp_path: Path):
    users = pa.array([1.2345678901234567e25])
    pq.write_table(pa.table({"user_id": users, "rank": [1], "item_id": ["a"]}), tmp_path / "r.parquet")
    with pytest.raises(ValueError, match=r"r\.parquet: user_id 1.234567890123456\de\+25 in row 1 is a float of"):
        judge(shop, tmp_path / "e", rankings={"r": tmp_path / "r.parquet"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("user_id,rank,item_id\nu1,1,a\n", "4 judged users without a list"),
        ("user_id,rank,item\nu1,1,a\n", r"s.csv: no column item_id; there are: user_id, rank, item"),
        ("user_id,rank,item_id\nu1,1,a\nu1,first,b\n", r"s.csv: rank 'first' in row 2 is not a number"),
        (
            "user_id,rank,item_id\nu1,1,a\nu1,1.5,b\n",
            r"s.csv: rank '1.5' in row 2 is not a whole number; ranks are",
        ),
        ("user_id,rank,item_id\nu1,nan,a\n", r"s.csv: rank 'nan' in row 1 is not a number"),
        ("user_id,rank,item_id\nu1,,a\n", r"s.csv: rank '' in row 1 is"),
        ("user_id,rank,item_id\nu1,3e9,a\n", r"s.csv: rank '3e9' in row 1 is not a whole number"),
        ("user_id,rank,item_id\n,1,a\n", r"s.csv: user_id '' in row 1 is missing"),
        ("user_id,rank,item_id\nu1,1\n", r"s.csv: .*Expected 3 columns, got 2"),
        ("user_id,rank,item_id,score\nu1,1,a,\n", "1 scores that are no finite numbers"),
        ("", r"s.csv: Empty CSV file"),
    ],
)
def test_a_bad_file_is_refused(shop: SimpleNamespace, tmp_path: Path, text: str, message: str):
    (tmp_path / "s.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        judge(shop, tmp_path / "e", rankings={"sasrec": tmp_path / "s.csv"})


def test_names_and_files_of_rankings(shop: SimpleNamespace, tmp_path: Path):
    (tmp_path / "s.txt").write_text("")
    for name in ("calrec", "markov"):
        with pytest.raises(ValueError, match=f"the name '{name}' is a method of ours"):
            judge(shop, tmp_path / "e", rankings={name: tmp_path / "s.csv"})
    with pytest.raises(ValueError, match="a ranking's name is of letters"):
        judge(shop, tmp_path / "e", rankings={"a b": tmp_path / "s.csv"})
    with pytest.raises(ValueError, match=r"rankings are read from .csv and .parquet files"):
        judge(shop, tmp_path / "e", rankings={"x": tmp_path / "s.txt"})
    with pytest.raises(FileNotFoundError, match="none.csv: no such file"):
        judge(shop, tmp_path / "e", rankings={"x": tmp_path / "none.csv"})


def test_the_shop_is_what_the_tests_count_on(shop: SimpleNamespace):
    catalogue, users = load_catalogue(shop.texts, "shop"), load_users(shop.texts)
    assert dict(zip(catalogue.item_id, catalogue.train_count.tolist(), strict=True)) == world.TRAINING
    assert {
        user: catalogue.item_id[int(items[at])]
        for user, items, at in zip(users.user_id, users.items, users.test_at, strict=True)
    } == world.TARGETS
