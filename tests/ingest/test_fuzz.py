"""Damaged files of every format: each is read with its rows counted, or refused in words; nothing else may happen."""

import gzip
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from calrec.arrays.vocabulary import Vocabulary
from calrec.config import DataConfig
from calrec.ingest.log import read
from calrec.reading.items import Attributes
from calrec.storage.files import File
from tests.reading import raw

# 2,000 files of each reader with `make test-long`; some of them at every run.
FILES = int(os.environ.get("CALREC_FUZZ", "150"))
REVIEWS = [
    {
        "reviewerID": f"A{n % 3}",
        "asin": f"B{n % 4}",
        "overall": 4.0,
        "unixReviewTime": 1_400_000_000 + n,
        "verified": True,
    }
    for n in range(6)
]
META = [
    {"asin": f"B{n}", "title": f"Toy {n}", "category": ["Toys"], "brand": "Acme", "price": "$2.50"} for n in range(4)
]
NEW = [
    {"user_id": f"A{n % 3}", "parent_asin": f"B{n % 4}", "rating": 4.0, "timestamp": 1_400_000_000_000 + n}
    for n in range(6)
]
FLAGS = "|".join("0" * 19)
FORMATS: dict[str, list[File]] = {
    "amazon2014": [
        raw.lines("reviews.json", [{**r, "helpful": [0, 0]} for r in REVIEWS]),
        raw.lines("meta_x.json", [repr(m) for m in META]),
    ],
    "amazon2018": [raw.lines("x_5.json", REVIEWS), raw.lines("meta_x.json", META)],
    "amazon2023": [
        raw.lines("x.jsonl", NEW),
        raw.lines("meta_x.jsonl", [{"parent_asin": f"B{n}", "title": "t", "store": None} for n in range(4)]),
    ],
    "movielens": [
        raw.file("ratings.csv", "userId,movieId,rating,timestamp\n1,2,3.5,1260759144\n1,3,2,1260759145\n"),
        raw.file("movies.csv", 'movieId,title,genres\n2,"A, B",Drama|War\n3,C,Comedy\n'),
    ],
    "ml-100k": [
        raw.file("u.data", "1\t2\t3\t881250949\n1\t3\t2\t881250950\n"),
        raw.file("u.item", f"2|Misérables|1995||x|{FLAGS}\n3|B|1995||x|{FLAGS}\n".encode("latin-1")),
    ],
    "ml-1m": [
        raw.file("ratings.dat", "1::2::3::881250949\n1::3::2::881250950\n"),
        raw.file("movies.dat", "2::A::Drama\n3::B::War\n"),
    ],
    "recbole": [
        raw.file("a.inter", "user_id:token\titem_id:token\ttimestamp:float\n7\t9\t881250949\n7\t8\t881250950\n"),
        raw.file("a.item", "item_id:token\tname:token_seq\n9\tToy Story\n"),
    ],
    "sequences": [
        raw.lines("sequences.jsonl", [{"user_id": "u", "items": ["x", "y"]}, {"user_id": "v", "items": ["y"]}]),
        raw.lines("items.jsonl", [{"item_id": "x", "title": "X", "categories": ["A"]}]),
    ],
    "csv": [
        raw.file(
            "log.csv", 'user,item,time,quantity,title\na,x,2020-01-01,1,"two\nlines"\nb,y,2020-01-02 10:00:00,2,T\n'
        )
    ],
    "jsonl": [raw.lines("log.jsonl", [{"user": "a", "item": n, "time": "2020-01-01", "price": 2.5} for n in range(4)])],
    "parquet": [
        raw.parquet(
            "log.parquet", pa.table({"user": ["a", "b"], "item": [1, 2], "time": pa.array([1, 2], pa.timestamp("s"))})
        )
    ],
}
TOKENS = st.sampled_from(
    [
        b"",
        b"\n",
        b"\r\n",
        b"\x00",
        b'"',
        b"'",
        b",",
        b"\t",
        b"::",
        b"|",
        b"{",
        b"}",
        b"[",
        b"]",
        b"null",
        b"NaN",
        b"-1",
        b"1e400",
        b"\xff\xfe",
        b"\xef\xbb\xbf",
        b"\\ud800",
        b"99999999999999999999999",
        b'{"a":' * 2000,
        b"x" * 5000,
        b"9999-99-99",
    ]
)
EDIT = st.tuples(st.floats(0, 1), st.integers(0, 30), TOKENS | st.binary(max_size=6))
WRAP = st.sampled_from(["plain", "plain", "gz", "members", "zst", "cut", "flipped"])
DAMAGE = st.tuples(st.integers(0, 1), st.lists(EDIT, min_size=1, max_size=5), WRAP)


def damaged(source: File, edits: list[tuple[float, int, bytes]], wrap: str) -> File:
    """The file with some bytes replaced, compressed, and perhaps cut or broken after that."""
    data = source.open().read()
    for where, length, new in edits:
        at = int(where * len(data))
        data = data[:at] + new + data[at + length :]
    if source.name.endswith(".parquet") or wrap == "plain":
        return raw.file(source.name, data)
    if wrap == "zst":
        return raw.file(source.name + ".zst", pa.compress(data, "zstd", asbytes=True))
    half = len(data) // 2
    packed = gzip.compress(data[:half]) + gzip.compress(data[half:]) if wrap == "members" else gzip.compress(data)
    if wrap == "cut":
        packed = packed[: len(packed) * 2 // 3]
    if wrap == "flipped":
        packed = packed[:14] + bytes([packed[14] ^ 0x55]) + packed[15:]
    return raw.file(source.name + ".gz", packed)


@pytest.mark.parametrize("form", FORMATS)
@settings(max_examples=FILES, deadline=None, suppress_health_check=list(HealthCheck))
@given(DAMAGE)
def test_a_damaged_file_is_read_or_refused_in_words(form: str, damage: tuple[int, list[Any], str]):
    which, edits, wrap = damage
    files = list(FORMATS[form])
    which %= len(files)
    files[which] = damaged(files[which], edits, wrap)
    with tempfile.TemporaryDirectory() as folder:
        try:
            check(files, Path(folder))
        except (ValueError, FileNotFoundError) as error:
            assert any(file.name in str(error) for file in files) or str(error).startswith("here"), repr(error)


def check(files: list[File], folder: Path) -> None:
    """Every row that is read comes out, or is counted as a reject that is in the rejects file."""
    data = DataConfig(max_reject_share=1.0)
    log = read("here", files, data, folder / "cache", folder)
    users, items, events = Vocabulary(), Vocabulary(), 0
    attributes = Attributes(items, data.category)
    for batch in log.batches():
        codes = items.encode(batch["item_id"])
        attributes.add_events(codes, batch)
        events += len(users.encode(batch["user_id"]))
    of_items = log.describe(attributes)
    catalogue = attributes.catalogue("d", np.arange(len(items))).table
    catalogue.validate(full=True)
    kept = sum(len(pa.parquet.read_table(path)) for path in log.rejects)
    assert log.counts.rows == events + log.counts.rejects
    assert kept == log.counts.rejects + of_items.rejects
    assert of_items.rows == of_items.rejects + of_items.absent + of_items.repeated + len(attributes._described)


@pytest.mark.parametrize("form", FORMATS)
def test_the_files_are_well_formed_before(form: str, tmp_path: Path):
    check(FORMATS[form], tmp_path)
