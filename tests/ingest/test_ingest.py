"""Readers and the whole step, on files as they are found, and on damaged ones."""

import gzip
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from calrec import artifacts
from calrec.config import DataConfig
from calrec.ingest.step import ingest
from calrec.report import manifests
from calrec.storage import files
from tests.conftest import write_lines, write_sequences

LOOSE = DataConfig(min_user=0, min_item=0)


def review(user: str, item: str, time: int, stars: float = 5.0) -> dict[str, object]:
    return {"reviewerID": user, "asin": item, "unixReviewTime": time, "overall": stars, "reviewText": "fine"}


def amazon(folder: Path, reviews: list[object], meta: list[object] | None = None) -> Path:
    write_lines(folder / "Toys_5.json.gz", reviews)
    if meta is None:
        meta = [
            {"asin": f"a{i}", "title": f"Toy {i}", "category": ["Toys", "Wood"], "brand": "by\n Acme", "price": "$2.50"}
            for i in range(6)
        ]
    write_lines(folder / "meta_Toys.json.gz", meta)
    return folder


GOOD = [review("u1", f"a{i}", 100 + i) for i in range(4)]


def table(out: Path, name: str) -> list[dict[str, object]]:
    return pq.read_table(out / name).to_pylist()


def test_amazon_2018_is_read_and_cleaned(tmp_path: Path):
    manifest = ingest("toys", str(amazon(tmp_path / "raw", GOOD)), tmp_path / "out", LOOSE)
    assert table(tmp_path / "out", "interactions.parquet")[0] == {
        "user_id": "u1",
        "item_id": "a0",
        "timestamp": 100_000,
        "domain": "toys",
        "weight": 5.0,
    }
    assert table(tmp_path / "out", "items.parquet")[0] == {
        "item_id": "a0",
        "domain": "toys",
        "title": "Toy 0",
        "category": "Toys",
        "brand": "Acme",
        "price": "2.50",
    }
    assert manifest.config["format"] == "amazon2018"
    assert (manifest.counts["event_rows"], manifest.counts["item_rows"]) == (4, 6)
    assert manifest.notes[0] == "format amazon2018, detected from the files"


def test_a_bad_line_becomes_a_reject_with_its_place_and_reason(tmp_path: Path):
    bad = ["{not json", {"asin": "a1", "unixReviewTime": 3}, [1], review("u1", "a1", "noon"), review("u1", 7.5, 1)]  # type: ignore[arg-type]
    ingest(
        "toys",
        str(amazon(tmp_path / "raw", [*GOOD, *bad])),
        tmp_path / "out",
        DataConfig(min_user=0, min_item=0, max_reject_share=0.6),
    )
    rejects = table(tmp_path / "out", "rejects.parquet")
    assert [(r["file"], r["line"], r["reason"]) for r in rejects] == [
        ("Toys_5.json.gz", 5, "not JSON"),
        ("Toys_5.json.gz", 6, "reviewerID is missing"),
        ("Toys_5.json.gz", 7, "not a JSON object"),
        ("Toys_5.json.gz", 8, "unixReviewTime is neither a number nor an ISO 8601 time; set data.time_format"),
        ("Toys_5.json.gz", 9, "asin is not an id"),
    ]
    assert rejects[0]["raw"] == "{not json"
    manifest = artifacts.read_manifest(tmp_path / "out")
    assert manifest.counts["rejects_by_reason"] == [[reject["reason"], 1] for reject in rejects]
    assert "  asin is not an id  " in manifests.text(manifest)


def test_too_many_rejects_stop_the_step_with_the_first_one(tmp_path: Path):
    source = amazon(tmp_path / "raw", [*GOOD, "{'asin': 'a1'}"])
    with pytest.raises(
        ValueError,
        match=r"1 of 5 rows of events cannot be read \(20.0%, data.max_reject_share is 1.0%\).*Toys_5.json.gz line 5",
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
    dropped = sum(rule["rows_before"] - rule["rows_after"] for rule in manifest.rules)
    assert manifest.counts["interactions"] + dropped == manifest.counts["event_rows"] == len(reviews)
    assert (dropped, manifest.counts["event_rejects"]) == (1 + 4 + 1, 1)


def test_repeated_metadata_are_counted_and_the_first_is_taken(tmp_path: Path):
    meta = [{"asin": f"a{i % 4}", "title": f"Toy {i}"} for i in range(8)]
    manifest = ingest("toys", str(amazon(tmp_path / "raw", GOOD, meta)), tmp_path / "out", LOOSE)
    assert (manifest.counts["item_rows"], manifest.counts["item_rows_repeated"]) == (8, 4)
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
    assert manifest.rules[1]["rule"] == "filter quantity>0"


# --- what is refused --------------------------------------------------------------------------------------------


def test_a_truncated_gzip_is_named_with_its_line(tmp_path: Path):
    source = amazon(tmp_path / "raw", [review(f"u{i}", f"a{i % 6}", i) for i in range(3000)])
    whole = (source / "Toys_5.json.gz").read_bytes()
    (source / "Toys_5.json.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"Toys_5.json.gz: damaged after line [12],\d{3} .*; fetch the file again"):
        ingest("toys", str(source), tmp_path / "out", LOOSE)
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_no_gzip_is_named(tmp_path: Path):
    source = amazon(tmp_path / "raw", GOOD)
    (source / "Toys_5.json.gz").write_text("plain")
    with pytest.raises(ValueError, match="Toys_5.json.gz: damaged after line 0 .*it ends in .gz but begins with"):
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
        ("empty", FileNotFoundError, "empty holds no file"),
    ],
)
def test_a_wrong_source_is_refused(tmp_path: Path, source: str, error: type[Exception], message: str):
    (tmp_path / "empty").mkdir()
    with pytest.raises(error, match=message):
        ingest("x", source if ":" in source else str(tmp_path / source), tmp_path / "out", LOOSE)


def test_without_metadata_there_are_items_without_text_and_a_warning(tmp_path: Path):
    write_lines(tmp_path / "raw/Toys_5.json.gz", GOOD)
    manifest = ingest("toys", str(tmp_path / "raw"), tmp_path / "out", LOOSE)
    assert manifest.counts["items_without_metadata"] == manifest.counts["items_without_title"] == 4
    assert "100% of the items have no metadata: their text is Unknown" in manifests.warnings(manifest)
    with pytest.raises(ValueError, match="no user is left"):
        ingest("toys", str(tmp_path / "raw"), tmp_path / "out", DataConfig(missing_metadata="drop"))


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
    with pytest.raises(ValueError, match="raw holds only empty files: Toys_5.json.gz"):
        ingest("toys", str(amazon(tmp_path / "raw", [])), tmp_path / "out", LOOSE)


def test_a_failed_rerun_leaves_the_old_output(tmp_path: Path):
    source = write_sequences(tmp_path / "raw")
    digest = ingest("x", str(source), tmp_path / "out", LOOSE).digest
    with pytest.raises(ValueError, match="no user is left"):
        ingest("x", str(source), tmp_path / "out", DataConfig(min_user=1000))
    assert artifacts.read_manifest(tmp_path / "out").digest == digest


# --- increments, memory, disks ----------------------------------------------------------------------------------


def test_only_new_and_changed_files_are_read_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    days = [
        [{"user": f"u{u}", "item": f"i{(u + d) % 5}", "time": d * 86_400, "title": "x"} for u in range(9)]
        for d in range(4)
    ]
    for number, day in enumerate(days[:3]):
        write_lines(tmp_path / f"raw/day{number}.jsonl.gz", day)
    source, cache = str(tmp_path / "raw"), tmp_path / "cache"
    read = re.compile(r"files of events: (\d+), (\d+) of them as read before")

    def run(**settings: Any) -> tuple[tuple[str, ...], Any]:
        data = DataConfig(min_user=0, min_item=0, **settings)
        manifest = ingest("d", source, tmp_path / "out", data, cache=cache)
        found = read.search(capsys.readouterr().out)
        assert found
        assert manifest == ingest("d", source, tmp_path / "fresh", data)
        capsys.readouterr()
        return found.groups(), manifest

    assert run()[0] == ("3", "0")
    assert run()[0] == ("3", "3")
    assert run(min_weight=0.5)[0] == ("3", "3")  # rules do not decide how a file is read
    assert run(filters=("user!=u1",))[0] == ("3", "0")
    write_lines(tmp_path / "raw/day3.jsonl.gz", days[3])
    assert run()[0] == ("4", "3")
    write_lines(tmp_path / "raw/day1.jsonl.gz", days[1][:5])
    found, manifest = run()
    assert (found, manifest.counts["event_rows"]) == (("4", "3"), 9 + 5 + 9 + 9)


def test_what_nobody_uses_for_a_month_leaves_the_cache(tmp_path: Path):
    source = str(amazon(tmp_path / "raw", GOOD))
    ingest("toys", source, tmp_path / "out", LOOSE, cache=tmp_path / "cache")
    (kept,) = (tmp_path / "cache").iterdir()
    os.utime(kept, (0, 0))
    ingest("toys", source, tmp_path / "out", LOOSE, cache=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == [kept], "what is used stays, however old"
    os.utime(kept, (0, 0))
    write_lines(tmp_path / "raw/Toys_5.json.gz", GOOD[:3])
    ingest("toys", source, tmp_path / "out", LOOSE, cache=tmp_path / "cache")
    assert kept not in (tmp_path / "cache").iterdir()


def test_little_memory_gives_the_same_folder(tmp_path: Path):
    source = str(write_sequences(tmp_path / "raw", users=200))
    digests = {
        ingest("x", source, tmp_path / f"{gb}", DataConfig(memory_gb=gb)).files["interactions.parquet"]
        for gb in (0.0, 1e-6, 1e-4)
    }
    assert len(digests) == 1


FULL = """
import resource, signal, sys
from pathlib import Path
from typing import Any
from calrec.cli import __main__ as cli
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
sys.exit(cli.main(["ingest", "--source", sys.argv[1], "--out", sys.argv[2], "--set", "data.dedup=none"]))
"""


def test_a_full_disk_is_an_error_that_leaves_the_old_output(tmp_path: Path):
    source = write_sequences(tmp_path / "raw", users=3000, items=500)
    digest = ingest("x", str(write_sequences(tmp_path / "small")), tmp_path / "out", LOOSE).digest
    command = [sys.executable, "-c", FULL, str(source), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "calrec: failed:" in done.stderr
    assert "File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert artifacts.read_manifest(tmp_path / "out").digest == digest
    assert not list(tmp_path.glob("out.partial*"))


# --- odd logs ---------------------------------------------------------------------------------------------------


def test_all_timestamps_equal_is_said(tmp_path: Path):
    reviews = [review(f"u{u}", f"a{i}", 77) for u in range(5) for i in range(6)]
    manifest = ingest("toys", str(amazon(tmp_path / "raw", reviews)), tmp_path / "out", DataConfig())
    assert manifest.counts["tied_users_share"] == 1
    assert any("have one time" in warning for warning in manifests.warnings(manifest))
    assert any("in 1970" in warning for warning in manifests.warnings(manifest))


def test_users_with_one_event_are_dropped_and_counted(tmp_path: Path):
    reviews = [*GOOD, *(review(f"once{n}", "a1", n) for n in range(7))]
    manifest = ingest("toys", str(amazon(tmp_path / "raw", reviews)), tmp_path / "out", LOOSE)
    assert manifest.rules[-1] == {"rule": "users with at least 3 events", "rows_before": 11, "rows_after": 4}


def test_the_content_hash_does_not_depend_on_where_the_data_lay(tmp_path: Path):
    digests = {
        ingest("toys", str(amazon(tmp_path / place, GOOD)), tmp_path / f"out-{place}", LOOSE).digest for place in "ab"
    }
    assert len(digests) == 1


def test_a_window_needs_timestamps(tmp_path: Path):
    with pytest.raises(ValueError, match="data.since and data.until need timestamps, and this log has none"):
        ingest("x", str(write_sequences(tmp_path / "raw")), tmp_path / "out", DataConfig(since="2020-01-01"))


def test_the_report_has_rules_and_histograms(tmp_path: Path):
    ingest("toys", str(amazon(tmp_path / "raw", GOOD)), tmp_path / "out", LOOSE)
    page = (tmp_path / "out/report.html").read_text()
    assert page.count("<svg") == 2
    assert "users with at least 3 events" in page
    assert "| rows that can be read | 4 | 0 | 4 |" in (tmp_path / "out/report.md").read_text()


# --- the cache ----------------------------------------------------------------------------------------------------


def test_a_cache_forgets_only_what_is_its_own(tmp_path: Path):
    write_sequences(tmp_path / "log")
    cache = tmp_path / "mine"
    (cache / "photos").mkdir(parents=True)
    (cache / "0123456789abcdef").mkdir()
    for name in ("photos/a.jpg", "0123456789abcdef/a.jpg", "notes.txt"):
        (cache / name).write_text("mine")
    ingest("home", str(tmp_path / "log"), tmp_path / "out", DataConfig(), cache=cache)
    parts = [path for path in cache.iterdir() if (path / "counts.json").is_file()]
    assert len(parts) == 1
    for path in cache.iterdir():
        os.utime(path, (0, 0))
    (tmp_path / "log/sequences.jsonl.gz").unlink()
    write_sequences(tmp_path / "log", users=41)
    ingest("home", str(tmp_path / "log"), tmp_path / "out", DataConfig(), cache=cache)
    assert not parts[0].exists()
    assert (cache / "photos/a.jpg").read_text() == (cache / "0123456789abcdef/a.jpg").read_text() == "mine"
    assert (cache / "notes.txt").read_text() == "mine"


def test_a_file_without_a_version_is_not_kept(tmp_path: Path):
    write_sequences(tmp_path / "log")
    raw = [replace(file, version="") for file in files.local(str(tmp_path / "log"))]
    made = [ingest("home", "log", tmp_path / f"out{n}", DataConfig(), raw, tmp_path / "cache").digest for n in (1, 2)]
    assert made[0] == made[1]
    assert not (tmp_path / "cache").exists()
