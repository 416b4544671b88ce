"""Readers and the whole step, on files as they are found, and on damaged ones."""

import gzip
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from calrec import artifacts
from calrec.config import DataConfig
from calrec.ingest.step import ingest
from tests.conftest import shared, write_lines, write_sequences

LOOSE = DataConfig(min_user=0, min_item=0)


def review(user: str, item: str, time: int, stars: float = 5.0) -> dict[str, object]:
    return {"reviewerID": user, "asin": item, "unixReviewTime": time, "overall": stars, "reviewText": "fine"}


def amazon(folder: Path, reviews: list[object], meta: list[object] | None = None) -> Path:
    write_lines(folder / "Toys_5.json.gz", reviews)
    if meta is None:
        meta = [{"asin": f"a{i}", "title": f"Toy {i}", "category": ["Toys", "Wood"], "brand": "by\n Acme",
                 "price": "$2.50"}
                for i in range(6)]  # fmt: skip
    write_lines(folder / "meta_Toys.json.gz", meta)
    return folder


GOOD = [review("u1", f"a{i}", 100 + i) for i in range(4)]


def table(out: Path, name: str) -> list[dict[str, object]]:
    return pq.read_table(out / name).to_pylist()


def test_amazon_2018_is_read_and_cleaned(tmp_path: Path):
    manifest = ingest("toys", str(amazon(tmp_path / "raw", GOOD)), tmp_path / "out", LOOSE)
    assert table(tmp_path / "out", "interactions.parquet")[0] == {
        "user_id": "u1", "item_id": "a0", "timestamp": 100_000, "domain": "toys", "weight": 5.0,
    }  # fmt: skip
    assert table(tmp_path / "out", "items.parquet")[0] == {
        "item_id": "a0", "domain": "toys", "title": "Toy 0", "category": "Toys", "brand": "Acme", "price": "2.50",
    }  # fmt: skip
    assert manifest.config["format"] == "amazon2018"
    assert manifest.counts["rows_read"] == 4 + 6
    assert "detected" in manifest.notes[0]


def test_a_bad_line_becomes_a_reject_with_its_place_and_reason(tmp_path: Path):
    bad = ["{not json", {"asin": "a1", "unixReviewTime": 3}, [1], review("u1", "a1", "noon"), review("u1", 7.5, 1)]  # type: ignore[arg-type]
    ingest(
        "toys",
        str(amazon(tmp_path / "raw", [*GOOD, *bad])),
        tmp_path / "out",
        DataConfig(min_user=0, min_item=0, max_reject_share=0.5),
    )
    rejects = table(tmp_path / "out", "rejects.parquet")
    assert [(r["file"], r["line"], r["reason"]) for r in rejects] == [
        ("Toys_5.json.gz", 5, "not JSON"),
        ("Toys_5.json.gz", 6, "no reviewerID"),
        ("Toys_5.json.gz", 7, "not a JSON object"),
        ("Toys_5.json.gz", 8, "unixReviewTime is not a number"),
        ("Toys_5.json.gz", 9, "asin is not a string"),
    ]
    assert rejects[0]["raw"] == "{not json\n"


def test_too_many_rejects_stop_the_step_with_the_first_one(tmp_path: Path):
    source = amazon(tmp_path / "raw", [*GOOD, "{'asin': 'a1'}"])
    with pytest.raises(
        ValueError, match=r"1 of 11 rows cannot be read \(9.1%, data.max_reject_share is 1.0%\).*Toys_5.json.gz line 5"
    ):
        ingest("toys", str(source), tmp_path / "out", LOOSE)
    assert not (tmp_path / "out").exists()


def test_rows_in_are_rows_out_and_rows_counted(tmp_path: Path):
    reviews = [*GOOD, *GOOD, review("u2", "a0", 1), "oops"]
    manifest = ingest(
        "toys",
        str(amazon(tmp_path / "raw", reviews)),
        tmp_path / "out",
        DataConfig(min_user=0, min_item=0, max_reject_share=0.5),
    )
    dropped = sum(rule["rows_before"] - rule["rows_after"] for rule in manifest.rules if "metadata" not in rule["rule"])
    assert manifest.counts["interactions"] + dropped + manifest.counts["rejects"] == len(reviews)
    assert dropped == 4 + 1


def test_repeated_metadata_are_counted_and_the_first_is_taken(tmp_path: Path):
    meta = [{"asin": f"a{i % 4}", "title": f"Toy {i}"} for i in range(8)]
    manifest = ingest("toys", str(amazon(tmp_path / "raw", GOOD, meta)), tmp_path / "out", LOOSE)
    assert manifest.rules[0] == {"rule": "repeated metadata of an item", "rows_before": 8, "rows_after": 4}
    assert table(tmp_path / "out", "items.parquet")[1]["title"] == "Toy 1"


def test_items_without_metadata_are_kept_or_dropped(tmp_path: Path):
    source = str(amazon(tmp_path / "raw", [*GOOD, review("u1", "zz", 999)]))
    kept = ingest("toys", source, tmp_path / "kept", LOOSE)
    dropped = ingest("toys", source, tmp_path / "dropped", DataConfig(min_user=0, min_item=0, missing_metadata="drop"))
    assert (kept.counts["interactions"], kept.counts["items_without_metadata"]) == (5, 1)
    assert (dropped.counts["interactions"], dropped.counts["items_without_metadata"]) == (4, 0)


def test_sequences_keep_their_order(tmp_path: Path):
    write_lines(tmp_path / "raw/items.jsonl.gz", [{"item_id": i, "title": i, "categories": ["A", "B"]} for i in "xyz"])
    write_lines(tmp_path / "raw/sequences.jsonl.gz", [{"user_id": "u", "items": list("zzyx")}])
    manifest = ingest("d", str(tmp_path / "raw"), tmp_path / "out", DataConfig(min_user=0, min_item=0, category="last"))
    assert [r["item_id"] for r in table(tmp_path / "out", "interactions.parquet")] == list("zyx")
    assert manifest.config["time"] == "order"
    assert table(tmp_path / "out", "items.parquet")[0]["category"] == "B"


def test_the_sample_is_read_and_identical_texts_are_one_item(tmp_path: Path):
    manifest = ingest("cosmetics", "sample:COSMETICS", tmp_path / "out", DataConfig())
    items = table(tmp_path / "out", "items.parquet")
    texts = [(i["title"], i["category"], i["brand"]) for i in items]
    assert len(set(texts)) == len(items) == manifest.counts["items"]
    assert all(float(str(i["price"])) > 0 for i in items)
    assert manifest.rules[0]["rule"] == "quantity > 0"


# --- what is refused --------------------------------------------------------------------------------------------


def test_a_truncated_gzip_is_named_with_its_line(tmp_path: Path):
    source = amazon(tmp_path / "raw", [review(f"u{i}", f"a{i % 6}", i) for i in range(3000)])
    whole = (source / "Toys_5.json.gz").read_bytes()
    (source / "Toys_5.json.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"Toys_5.json.gz: damaged gzip after line \d+ .*; fetch the file again"):
        ingest("toys", str(source), tmp_path / "out", LOOSE)
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_no_gzip_is_named(tmp_path: Path):
    source = amazon(tmp_path / "raw", GOOD)
    (source / "Toys_5.json.gz").write_text("plain")
    with pytest.raises(ValueError, match="Toys_5.json.gz: damaged gzip after line 0"):
        ingest("toys", str(source), tmp_path / "out", LOOSE)


def test_multi_member_gzip_is_read_to_the_end(tmp_path: Path):
    source = amazon(tmp_path / "raw", GOOD[:2])
    with (source / "Toys_5.json.gz").open("ab") as stream:
        stream.write(gzip.compress(b'{"reviewerID":"u1","asin":"a5","unixReviewTime":900}\n'))
    assert ingest("toys", str(source), tmp_path / "out", LOOSE).counts["interactions"] == 3


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("nowhere", FileNotFoundError, "nowhere does not exist"),
        ("sample:GROCERIES", ValueError, "sample has no department 'GROCERIES'; one of: .*GROCERY"),
        ("empty", ValueError, "holds no known raw log; expected .* found: nothing"),
    ],
)
def test_a_wrong_source_is_refused(tmp_path: Path, source: str, error: type[Exception], message: str):
    (tmp_path / "empty").mkdir()
    with pytest.raises(error, match=message):
        ingest("x", source if ":" in source else str(tmp_path / source), tmp_path / "out", LOOSE)


def test_reviews_without_metadata_are_refused(tmp_path: Path):
    write_lines(tmp_path / "raw/Toys_5.json.gz", GOOD)
    with pytest.raises(FileNotFoundError, match=r"no metadata \(meta_\*.json.gz\) beside Toys_5.json.gz"):
        ingest("toys", str(tmp_path / "raw"), tmp_path / "out", LOOSE)


def test_metadata_of_other_items_are_refused(tmp_path: Path):
    source = amazon(tmp_path / "raw", GOOD, [{"asin": "other", "title": "x"}])
    with pytest.raises(ValueError, match="none of the 4 items of the log is in the metadata"):
        ingest("toys", str(source), tmp_path / "out", LOOSE)


def test_no_user_left_says_which_setting_to_lower(tmp_path: Path):
    with pytest.raises(
        ValueError, match=r"raw: no user is left .* longest history has 4; lower data.min_user or data.min_item"
    ):
        ingest("toys", str(amazon(tmp_path / "raw", GOOD)), tmp_path / "out", DataConfig(min_user=50))
    assert not (tmp_path / "out").exists()


def test_empty_files_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="no user is left"):
        ingest("toys", str(amazon(tmp_path / "raw", [])), tmp_path / "out", LOOSE)


def test_a_failed_rerun_leaves_the_old_output(tmp_path: Path):
    source = write_sequences(tmp_path / "raw")
    digest = ingest("x", str(source), tmp_path / "out", LOOSE).digest
    with pytest.raises(ValueError, match="no user is left"):
        ingest("x", str(source), tmp_path / "out", DataConfig(min_user=1000))
    assert artifacts.read_manifest(tmp_path / "out").digest == digest


# --- real files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "users", "items", "interactions"),
    [
        ("amazon2018-gift-cards", 453, 147, 2944),
        ("scientific2018", 8386, 4373, 58983),
        ("beauty2014", 22363, 12101, 198502),
        ("games2018", 50335, 16428, 437772),
    ],
)
def test_real_sets_give_known_counts(tmp_path: Path, name: str, users: int, items: int, interactions: int):
    counts = ingest(name, str(shared("data", name)), tmp_path / "out", DataConfig()).counts
    assert (counts["users"], counts["items"], counts["interactions"]) == (users, items, interactions)


def test_as_found_sets_keep_every_event_without_rules(tmp_path: Path):
    counts = ingest(
        "s", str(shared("data", "scientific2018")), tmp_path / "out", DataConfig(dedup="none", min_user=0, min_item=0)
    ).counts
    assert (counts["users"], counts["items"], counts["interactions"]) == (8442, 4385, 59384)


def test_reviews_alone_are_refused(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="no metadata"):
        ingest("x", str(shared("data", "amazon2018-all-beauty-reviews-only")), tmp_path / "out", DataConfig())


def test_the_truncated_files_are_refused(tmp_path: Path):
    for name, found in (
        ("meta_", "TRUNCATED-as-found-meta_Digital_Music.json.gz"),
        ("", "TRUNCATED-as-found-reviews_Digital_Music_5.json.gz"),
    ):
        target = tmp_path / "raw" / f"{name}Music.json.gz"
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(shared("data", "amazon2014-digital-music-prefix", found).read_bytes())
    with pytest.raises(ValueError, match=r"damaged gzip after line \d\d\d\d"):
        ingest("x", str(tmp_path / "raw"), tmp_path / "out", LOOSE)
