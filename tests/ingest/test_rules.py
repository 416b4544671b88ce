"""The cleaning rules in memory and in files against the words of PAPER.md, "Data", in plain Python."""

import hashlib
import itertools
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calrec.config import DataConfig
from calrec.ingest.profile import FREQUENCIES, LENGTHS
from calrec.ingest.rules import Cleaned, EventLog

Row = tuple[int, int, int, float]  # user, item, time, weight

ITEMS = ["", "a", "b", "日本", "item4", "item5"]
KNOWN = [True, True, False, True, True, False]
USERS = 6
WEIGHTS = [1.0, 2.0, 3.0, 4.0, -1.0, -2.0]
LARGE = 1 << 30
NO_LIMITS: dict[str, Any] = {"min_user": 0, "min_item": 0}
START = "1970-01-01T00:00:00.002"
END = "1970-01-01T00:00:00.005"


# --- the oracle -------------------------------------------------------------------------------------------------


def oracle(log: list[Row], data: DataConfig, weight: str) -> tuple[list[Row], list[int]]:
    """What is left, in order, and how many rows there are after each rule."""
    left, after = [(*row, position) for position, row in enumerate(log)], []

    def rule(rows: list[Any]) -> None:
        left[:] = rows
        after.append(len(rows))

    if data.missing_metadata == "drop":
        rule([r for r in left if KNOWN[r[1]]])
    if data.since:
        rule([r for r in left if r[2] >= milliseconds(data.since)])
    if data.until:
        rule([r for r in left if r[2] < milliseconds(data.until)])
    cancels = weight == "quantity" and data.returns == "cancel"
    if cancels:
        returns, matched, rest = taken_back(left)
        rule([r for r in left if r not in returns or r in matched])
        rule([r for r in left if r not in returns])
        rule([(*r[:3], rest[r], r[4]) for r in left if rest[r] > 0])
    elif data.returns != "keep":
        rule([r for r in left if r[3] >= 0])
    if data.min_weight > 0 and weight != "quantity":
        rule([r for r in left if r[3] >= data.min_weight])
    events: dict[Any, list[Any]] = {}
    for r in left:
        events.setdefault(r[:3], []).append(r)
    total = sum if weight == "quantity" else lambda weights: weights[0]
    rule([(*key, total([r[3] for r in rs]), rs[0][4]) for key, rs in events.items()])
    if data.min_weight > 0 and weight == "quantity":
        rule([r for r in left if r[3] >= data.min_weight])
    left.sort(key=lambda r: (r[0], r[2], digest(r[1]) if data.tie_break == "hash" else b"", r[4]))
    if data.dedup != "none":
        rule(without_repeats(left, data.dedup))
    core = left
    while True:
        users, items = Counter(r[0] for r in core), Counter(r[1] for r in core)
        kept = [r for r in core if users[r[0]] >= data.min_user and items[r[1]] >= data.min_item]
        kept = without_repeats(kept, data.dedup)
        if kept == core:
            break
        core = kept
    rule(core)
    users = Counter(r[0] for r in left)
    rule([r for r in left if users[r[0]] >= data.min_length])
    return [r[:4] for r in left], after


def taken_back(log: list[Any]) -> tuple[list[Any], list[Any], dict[Any, float]]:
    """Returns, those that find a purchase, and what is left of each purchase: one unit after the other."""
    returns = sorted((r for r in log if r[3] < 0), key=lambda r: (r[2], r[4]))
    rest, matched = {r: r[3] for r in log if r[3] >= 0}, []
    for back in returns:
        for unit in range(int(-back[3])):
            before = [r for r, left in rest.items() if left > 0 and r[:2] == back[:2] and r[2] <= back[2]]
            if before:
                rest[max(before, key=lambda r: (r[2], r[4]))] -= 1
                matched += [back] * (unit == 0)
    return returns, matched, rest


def without_repeats(rows: list[Any], dedup: str) -> list[Any]:
    if dedup == "consecutive":
        return [r for i, r in enumerate(rows) if i == 0 or r[:2] != rows[i - 1][:2]]
    if dedup == "first":
        return [r for i, r in enumerate(rows) if r[:2] not in [earlier[:2] for earlier in rows[:i]]]
    return rows


def digest(item: int) -> bytes:
    return hashlib.blake2b(ITEMS[item].encode(), digest_size=8).digest()


def milliseconds(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def facts(rows: list[Row]) -> dict[str, Any]:
    """The facts, user by user."""
    histories: dict[int, list[Row]] = {}
    for row in rows:
        histories.setdefault(row[0], []).append(row)
    users = list(histories.values())
    frequency = Counter(r[1] for r in rows)
    repeats = sum(r[1] in [e[1] for e in h[:i]] for h in users for i, r in enumerate(h))
    ties = sum(a[2] == b[2] for h in users for a, b in itertools.pairwise(h))
    return {
        "interactions": len(rows),
        "users": len(users),
        "items": len(frequency),
        "mean_length": round(len(rows) / len(users), 2),
        "repeat_share": round(repeats / len(rows), 4),
        "target_is_previous_share": round(sum(h[-1][1] == h[-2][1] for h in users) / len(users), 4),
        "target_in_history_share": round(sum(h[-1][1] in [r[1] for r in h[:-1]] for h in users) / len(users), 4),
        "tied_share": round(ties / (len(rows) - 1), 4),
        "tied_users_share": round(sum(len({r[2] for r in h}) == 1 for h in users) / len(users), 4),
        "first_timestamp": min(r[2] for r in rows),
        "last_timestamp": max(r[2] for r in rows),
        "users_by_history_length": classes([len(h) for h in users], LENGTHS),
        "items_by_events": classes(list(frequency.values()), FREQUENCIES),
    }


def classes(values: list[int], least: tuple[int, ...]) -> list[int]:
    return [sum(low <= v < below for v in values) for low, below in zip(least, [*least[1:], 10**9], strict=True)]


# --- what is tested ---------------------------------------------------------------------------------------------


def clean(
    folder: Path, log: list[Row], data: DataConfig, memory: int = LARGE, batch: int = 7, kind: str = "rating"
) -> Cleaned:
    events = EventLog(folder, memory)
    for start in range(0, len(log), batch):
        user, item, time, weight = zip(*log[start : start + batch], strict=True)
        events.add(*arrays(user, item, time, weight))
    return events.clean(data, pa.array(ITEMS), np.array(KNOWN), USERS, kind)


def arrays(user: Any, item: Any, time: Any, weight: Any) -> tuple[Any, ...]:
    return np.array(user, "i4"), np.array(item, "i4"), np.array(time, "i8"), np.array(weight, "f4")


def rows(cleaned: Cleaned) -> list[Row]:
    return [row for chunk in cleaned for row in zip(*(column.tolist() for column in chunk), strict=True)]


configs = st.builds(
    DataConfig,
    dedup=st.sampled_from(["consecutive", "first", "none"]),
    tie_break=st.sampled_from(["hash", "file"]),
    missing_metadata=st.sampled_from(["keep", "keep", "drop"]),
    min_weight=st.sampled_from([0.0, 0.0, 2.0]),
    returns=st.sampled_from(["drop", "cancel", "keep"]),
    since=st.sampled_from(["", "", START]),
    until=st.sampled_from(["", "", END]),
    min_user=st.sampled_from([4, 5, 3, 6, 10, 0]),
    min_item=st.sampled_from([4, 5, 3, 2, 8, 0]),
    min_length=st.integers(3, 5),
)


@st.composite
def logs(draw) -> list[Row]:
    """Few rows of any kind, or so many for a few users that something is left."""
    rows = draw(st.sampled_from([120, 80, 160, 40, 3]))
    users = draw(st.integers(1, USERS))
    size = users * 6 * 9 * len(WEIGHTS)
    numbers = draw(st.lists(st.integers(0, size - 1), min_size=rows, max_size=rows))
    return [(n % users, n // users % 6, n // users // 6 % 9 - 2, WEIGHTS[n // users // 54]) for n in numbers]


@settings(max_examples=500, deadline=None)
@given(
    logs(),
    configs,
    st.sampled_from([0, 1, 300, 1000, 2000]),
    st.integers(1, 90),
    st.sampled_from(["quantity", "rating", ""]),
)
def test_memory_files_and_plain_python_agree(tmp_path_factory, log, data, memory, batch, weight):
    expected, after = oracle(log, data, weight)
    for limit in (LARGE, memory):
        folder = tmp_path_factory.mktemp("events")
        if not expected:
            with pytest.raises(ValueError, match="no user is left after cleaning"):
                clean(folder, log, data, limit, batch, weight)
            continue
        cleaned = clean(folder, log, data, limit, batch, weight)
        assert rows(cleaned) == expected
        assert [r["rows_after"] for r in cleaned.rules] == after
        assert [r["rows_before"] for r in cleaned.rules] == [len(log), *after[:-1]]
        assert cleaned.item_counts.tolist() == [sum(r[1] == item for r in expected) for item in range(len(ITEMS))]
        labelled = ("users_by_history_length", "items_by_events")
        assert {k: [n for _, n in v] if k in labelled else v for k, v in cleaned.facts.items()} == facts(expected)


def repeated(times: int, *log: Row) -> list[Row]:
    """The same rows for so many users."""
    return [(user, item, time, weight) for user in range(times) for _, item, time, weight in log]


@pytest.mark.parametrize("memory", [LARGE, 1])
def test_the_wording_of_every_rule(tmp_path, memory):
    log = repeated(2, *((0, item, item, 5.0) for item in (0, 1, 3, 4)))
    data = DataConfig(
        min_user=4, min_item=2, missing_metadata="drop", min_weight=3, since="1960-01-01", until="2026-05-01"
    )
    assert [r["rule"] for r in clean(tmp_path, log, data, memory).rules] == [
        "item has metadata",
        "timestamp >= 1960-01-01",
        "timestamp < 2026-05-01",
        "returns (negative weight)",
        "weight >= 3",
        "one event per user, item and time (the first stays)",
        "dedup = consecutive",
        "k-core: users >= 4, items >= 2, until stable",
        "users with at least 3 events",
    ]
    data = DataConfig(min_user=4, min_item=2, min_weight=3, returns="cancel")
    assert [r["rule"] for r in clean(tmp_path, log, data, memory, kind="quantity").rules][:5] == [
        "returns (negative weight) without an earlier purchase",
        "returns (negative weight)",
        "purchases taken back by returns",
        "one event per user, item and time (weights added)",
        "weight >= 3",
    ]


@pytest.mark.parametrize("memory", [LARGE, 1])
def test_returns_are_no_purchases_unless_they_should(tmp_path, memory):
    log = [(0, 0, 1, 2.0), (0, 1, 2, 1.0), (0, 3, 3, 1.0), (0, 4, 4, 1.0), (0, 1, 5, -1.0)]
    for weight in ("quantity", "rating", ""):
        cleaned = clean(tmp_path, log, DataConfig(**NO_LIMITS), memory, kind=weight)
        assert rows(cleaned) == log[:4]
        assert cleaned.rules[0] == {"rule": "returns (negative weight)", "rows_before": 5, "rows_after": 4}
        assert rows(clean(tmp_path, log, DataConfig(**NO_LIMITS, returns="keep"), memory, kind=weight)) == log


@pytest.mark.parametrize("memory", [LARGE, 1])
@pytest.mark.parametrize("tie_break", ["hash", "file"])
def test_a_return_takes_the_newest_purchases_back(tmp_path, memory, tie_break):
    kept = [(0, 0, 1, 5.0), (0, 3, 2, 5.0), (0, 4, 3, 5.0)]
    log = [
        (0, 1, 0, -1.0),  # bought before the log begins
        (0, 1, 10, 4.0),  # one of four comes back
        (0, 1, 20, 2.0),
        (0, 5, 30, -6.0),  # one invoice, the return first in the file
        (0, 5, 30, 6.0),
        (0, 1, 40, -3.0),
        (0, 1, 50, 7.0),  # bought after the return
        *kept,
    ]
    data = DataConfig(**NO_LIMITS, returns="cancel", dedup="none", tie_break=tie_break)
    cleaned = clean(tmp_path, log, data, memory, kind="quantity")
    assert rows(cleaned) == [*kept, (0, 1, 10, 3.0), (0, 1, 50, 7.0)]
    assert [r["rows_before"] - r["rows_after"] for r in cleaned.rules[:3]] == [1, 2, 2]


def test_a_return_leaves_nothing_of_fractions_that_add_up(tmp_path):
    log = [(0, 0, 1, 1.0), (0, 3, 2, 1.0), (0, 4, 3, 1.0), (0, 1, 4, 0.1), (0, 1, 5, 0.2), (0, 1, 6, -0.3)]
    cleaned = clean(tmp_path, log, DataConfig(**NO_LIMITS, returns="cancel"), kind="quantity")
    assert rows(cleaned) == log[:3]


@pytest.mark.parametrize("memory", [LARGE, 1])
@pytest.mark.parametrize("tie_break", ["hash", "file"])
def test_lines_of_one_user_item_and_time_are_one_event_with_their_sum(tmp_path, memory, tie_break):
    log = [(0, 1, 5, 6.0), (0, 0, 5, 2.0), (0, 1, 5, 12.0), (0, 1, 5, -6.0), (0, 3, 6, 1.0), (0, 1, 7, 1.0)]
    data = DataConfig(**NO_LIMITS, tie_break=tie_break, min_weight=2, min_length=1)
    cleaned = clean(tmp_path, log, data, memory, kind="quantity")
    assert set(rows(cleaned)) == {(0, 1, 5, 18.0), (0, 0, 5, 2.0)}
    assert cleaned.rules[1]["rule"] == "one event per user, item and time (weights added)"
    assert [r["rows_after"] for r in cleaned.rules[:3]] == [5, 4, 2]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"since": "2026-05-01"}, r"'timestamp >= 2026-05-01' leaves none of 3 events; events are from 1970-01-01T00:"),
        ({"until": "1970-01-01"}, "'timestamp < 1970-01-01' leaves none of 3 events; .*; change data.since or data.un"),
        ({"min_weight": 9}, "'weight >= 9' leaves none of 3 events; the largest weight is 5; lower data.min_weight"),
    ],
)
@pytest.mark.parametrize("weight", ["quantity", "rating"])
@pytest.mark.parametrize("memory", [LARGE, 1])
def test_a_rule_that_leaves_nothing_is_named(tmp_path, settings, message, weight, memory):
    log = [(0, 0, 1, 1.0), (0, 1, 2, 5.0), (1, 1, 3, 2.0)]
    with pytest.raises(ValueError, match=message):
        clean(tmp_path, log, DataConfig(**settings), memory, kind=weight)


def test_a_log_of_returns_and_one_of_unknown_items_are_named(tmp_path):
    with pytest.raises(
        ValueError, match=r"'returns \(negative weight\)' leaves none of 1 events; weights are from -2 to -2"
    ):
        clean(tmp_path, [(0, 0, 1, -2.0)], DataConfig())
    with pytest.raises(
        ValueError, match="'item has metadata' leaves none of 1 events; .* set data.missing_metadata=keep"
    ):
        clean(tmp_path, [(0, 2, 1, 2.0)], DataConfig(missing_metadata="drop"))


def test_nothing_left_says_what_to_lower(tmp_path):
    log = repeated(2, *((0, item, item, 5.0) for item in (0, 1, 3, 4)))
    message = (
        r"no user is left after cleaning: 8 events before the k-core \(users >= 5, items >= 5\), the longest history "
    )
    with pytest.raises(ValueError, match=message + "has 4; lower data.min_user or data.min_item"):
        clean(tmp_path, log, DataConfig())


@pytest.mark.parametrize("memory", [LARGE, 1])
def test_an_empty_log_and_users_with_one_event_leave_nobody(tmp_path, memory):
    for log in ([], [(user, 0, 0, 1.0) for user in range(USERS)]):
        with pytest.raises(ValueError, match="no user is left"):
            clean(tmp_path, log, DataConfig(**NO_LIMITS), memory)


def test_the_first_rating_of_a_user_item_and_time_stays(tmp_path):
    log = [(0, 1, 5, 1.0), (0, 0, 4, 2.0), (0, 1, 5, 3.0), (0, 3, 6, 4.0)]
    assert rows(clean(tmp_path, log, DataConfig(**NO_LIMITS))) == [log[1], log[0], log[3]]


def test_ties_do_not_follow_the_file_unless_they_should(tmp_path):
    log = [(0, item, -7, 1.0) for item in (3, 1, 5, 0, 4)]
    by_hash = DataConfig(**NO_LIMITS)
    assert rows(clean(tmp_path, log, by_hash)) == rows(clean(tmp_path, log[::-1], by_hash)) != log
    assert rows(clean(tmp_path, log, DataConfig(**NO_LIMITS, tie_break="file"))) == log


def test_an_event_that_the_core_makes_adjacent_collapses_and_may_cost_the_user(tmp_path):
    common = repeated(2, (0, 0, 1, 1.0), (0, 1, 2, 1.0), (0, 3, 3, 1.0))
    fragile = [(2, 0, 1, 1.0), (2, 5, 2, 1.0), (2, 0, 3, 1.0), (2, 1, 4, 1.0)]  # item 5 is rare; then 0 0 1, then 0 1
    cleaned = clean(tmp_path, common + fragile, DataConfig(min_user=3, min_item=2))
    assert rows(cleaned) == common
    assert cleaned.rules[-2]["rows_before"] - cleaned.rules[-2]["rows_after"] == 4


@pytest.mark.parametrize("memory", [LARGE, 1 << 20])
@pytest.mark.parametrize("dedup", ["consecutive", "first", "none"])
def test_one_user_with_200_000_events_at_one_time(tmp_path, memory, dedup):
    """Quadratic work would take hours here."""
    n = 200_000
    rng = np.random.default_rng(0)
    user, item = np.zeros(n, np.int32), rng.integers(0, n, n).astype(np.int32)
    ids = [str(i) for i in range(n)]
    events = EventLog(tmp_path, memory)
    events.add(user, item, np.zeros(n, np.int64), np.ones(n, np.float32))
    cleaned = events.clean(DataConfig(dedup=dedup, **NO_LIMITS), pa.array(ids), np.ones(n, bool), 1)
    got = np.concatenate([chunk[1] for chunk in cleaned]).tolist()
    keys = {i: hashlib.blake2b(ids[i].encode(), digest_size=8).digest() for i in set(item.tolist())}
    assert got == sorted(keys, key=keys.__getitem__)
    assert cleaned.facts["tied_users_share"] == cleaned.facts["tied_share"] == 1
    assert cleaned.facts["users_by_history_length"][-1] == ("101+", 1)


@pytest.mark.parametrize("tie_break", ["hash", "file"])
def test_a_long_history_is_sorted_as_numpy_sorts_it(tmp_path, tie_break):
    rng = np.random.default_rng(1)
    n = 5000
    user, item = rng.integers(0, 3, n), rng.integers(0, 6, n)
    time, weight = rng.integers(-300, 300, n), np.arange(n)
    events = EventLog(tmp_path, LARGE)
    events.add(*arrays(user, item, time, weight))
    cleaned = events.clean(
        DataConfig(dedup="none", tie_break=tie_break, **NO_LIMITS), pa.array(ITEMS), np.array(KNOWN), 3
    )
    _, first = np.unique(np.stack([user, item, time]), axis=1, return_index=True)
    first.sort()
    key = np.array([int.from_bytes(digest(i)) for i in range(6)], np.uint64)[item] * np.uint64(tie_break == "hash")
    order = first[np.lexsort((key[first], time[first], user[first]))]
    assert [row[3] for row in rows(cleaned)] == order.tolist()


def test_files_are_only_written_when_the_events_do_not_fit(tmp_path):
    log = repeated(3, *((0, item, item, 1.0) for item in range(5)))
    clean(tmp_path / "memory", log, DataConfig(**NO_LIMITS), LARGE)
    assert not (tmp_path / "memory").exists()
    cleaned = clean(tmp_path / "files", log, DataConfig(**NO_LIMITS), 100)
    assert sorted(path.name for path in (tmp_path / "files").iterdir()) == [
        "history.item", "history.time", "history.weight",
    ]  # fmt: skip
    assert rows(cleaned) == rows(cleaned) == log
