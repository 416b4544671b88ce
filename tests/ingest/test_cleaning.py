"""Cleaning rules against brute force and by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calrec.config import DataConfig
from calrec.ingest.cleaning import Events, clean_brand, clean_events, clean_price, clean_text, tie_keys


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("  a\n  b ", "a b"),
        ("Bath &amp; Body", "Bath & Body"),
        ("A&amp;lt;b&amp;gt;B", "A B"),
        ("<b>Bold</b> title", "Bold title"),
        ("<span class='a-size'>junk</span>", ""),
        ('<img src="x"/>', ""),
        ("tab\x00\x07bell", "tab bell"),
        ("zero\u200bwidth", "zero width"),
        ("日本 é", "日本 é"),
        ("", ""),
    ],
)
def test_clean_text(raw: str, clean: str):
    assert clean_text(raw) == clean


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("$25.00", "25.00"),
        ("$1,299.99", "1299.99"),
        ("$5.00 - $10.00", "5.00 - 10.00"),
        ("7", "7"),
        (".a-box-inner{background-color:#fff}", ""),
        ("\n ", ""),
        ("from $3", ""),
    ],
)
def test_clean_price(raw: str, clean: str):
    assert clean_price(raw) == clean


def test_clean_brand():
    assert clean_brand("by\n    \n    Microsoft") == "Microsoft"
    assert clean_brand("Bygone") == "Bygone"


def events(rows: list[tuple[int, int, int]]) -> Events:
    user, item, time = (np.array(column, dtype=np.int64) for column in zip(*rows, strict=True))
    return Events(user, item, time, np.ones(len(rows), np.float32))


def rows(e: Events) -> list[tuple[int, int, int]]:
    return list(zip(e.user.tolist(), e.item.tolist(), e.time.tolist(), strict=True))


ITEMS = [f"item{i}" for i in range(6)]
KNOWN = np.ones(6, dtype=bool)


def brute(given_rows: list[tuple[int, int, int]], data: DataConfig) -> list[tuple[int, int, int]]:
    """The rules in plain Python, one after the other."""
    keys = tie_keys(ITEMS)
    left = sorted(set(given_rows), key=lambda r: (r[0], r[2], int(keys[r[1]])))
    while True:
        before = left
        if data.dedup == "consecutive":
            left = [r for i, r in enumerate(left) if i == 0 or r[:2] != left[i - 1][:2]]
        if data.dedup == "first":
            left = [r for i, r in enumerate(left) if r[:2] not in {x[:2] for x in left[:i]}]
        users, items = [r[0] for r in left], [r[1] for r in left]
        left = [r for r in left if users.count(r[0]) >= data.min_user and items.count(r[1]) >= data.min_item]
        if left == before:
            return [r for r in left if users.count(r[0]) >= 3]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5), st.integers(0, 6)), min_size=1, max_size=60),
    st.sampled_from(["consecutive", "first", "none"]),
    st.integers(0, 4),
    st.integers(0, 4),
)
def test_clean_events_equals_brute_force_and_counts_every_row(log, dedup, min_user, min_item):
    data = DataConfig(dedup=dedup, min_user=min_user, min_item=min_item)
    e, expected = events(log), brute(log, data)
    if not expected:
        with pytest.raises(ValueError, match="no user is left after cleaning"):
            clean_events(e, ITEMS, data, KNOWN)
        return
    clean_events(e, ITEMS, data, KNOWN)
    assert rows(e) == expected
    assert e.rules[0]["rows_before"] == len(log)
    assert e.rules[-1]["rows_after"] == len(expected)
    assert all(a["rows_after"] == b["rows_before"] for a, b in zip(e.rules, e.rules[1:], strict=False))


def test_ties_do_not_follow_the_file_order():
    log = [(0, item, 7) for item in range(6)]
    data = DataConfig(min_user=0, min_item=0)
    forward, backward = events(log), events(log[::-1])
    clean_events(forward, ITEMS, data, KNOWN)
    clean_events(backward, ITEMS, data, KNOWN)
    assert rows(forward) == rows(backward) != log


def test_tie_break_file_keeps_the_file_order():
    log = [(0, item, 7) for item in (3, 1, 5, 0)]
    e = events(log)
    clean_events(e, ITEMS, DataConfig(min_user=0, min_item=0, tie_break="file"), KNOWN)
    assert rows(e) == log


def test_weight_and_metadata_filters_are_counted():
    e = events([(0, i, i) for i in range(6)])
    e.weight = np.array([5, 1, 5, 5, 5, 5], np.float32)
    known = np.array([True, True, True, True, True, False])
    clean_events(e, ITEMS, DataConfig(min_user=0, min_item=0, min_weight=3, missing_metadata="drop"), known)
    assert [r["rows_after"] for r in e.rules[:2]] == [5, 4]
    assert e.item.tolist() == [0, 2, 3, 4]
