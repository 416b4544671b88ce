"""Co-occurrence counts against a dictionary."""

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from calrec.retrieve.following import Following


@given(st.lists(st.lists(st.integers(0, 6), max_size=7), max_size=8))
def test_what_followed_is_counted_and_sorted(histories: list[list[int]]):
    counts = Counter(pair for history in histories for pair in itertools.pairwise(history))
    found = Following.of(histories)
    for item in range(8):
        expected = sorted(((-n, after) for (before, after), n in counts.items() if before == item))
        codes, times = found.next(item)
        assert list(zip((-times).tolist(), codes.tolist(), strict=True)) == expected


def test_it_is_read_as_it_was_written(tmp_path: Path):
    found = Following.of([[1, 2, 3, 2], [2, 3]])
    found.save(tmp_path / "following.npz")
    same = Following.load(tmp_path / "following.npz")
    for item in range(5):
        for a, b in zip(found.next(item), same.next(item), strict=True):
            assert np.array_equal(a, b)
