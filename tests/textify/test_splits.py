"""The time split against a plain loop, leaks planted and found, and the steps after a time split."""

import datetime
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from calrec import artifacts
from calrec.artifacts import Manifest
from calrec.config import GenerateConfig, SplitConfig, StageConfig, TextConfig
from calrec.evaluate.users import load_judged
from calrec.finetune import order, validation
from calrec.generate.step import choose_users
from calrec.model.loading import load_users
from calrec.retrieve.catalogue import load_catalogue
from calrec.retrieve.following import countable
from calrec.textify.leakage import refuse_leaks
from calrec.textify.sequences import Histories
from calrec.textify.splits import Split, cut_points, split
from calrec.textify.step import textify

Events = list[tuple[str, int]]
"""(item, time), oldest first."""
Log = dict[str, dict[str, Events]]
"""category → user → events."""
DAY = 86_400_000
TIME = SplitConfig(kind="time", valid_from="1970-01-05", test_from="1970-01-08")
V, T = 4 * DAY, 7 * DAY


def histories_of(log: Log) -> tuple[Histories, pa.ChunkedArray]:
    """The log as the step reads it, and the id of each item code."""
    items = [(domain, item) for domain in log for item in sorted({i for e in log[domain].values() for i, _ in e})]
    code = {key: at for at, key in enumerate(items)}
    rows = [(c, d, user, events) for c, (d, users) in enumerate(log.items()) for user, events in users.items()]
    made = Histories(
        domains=list(log),
        category=np.array([c for c, _, _, _ in rows]),
        user_id=pa.chunked_array([[user for _, _, user, _ in rows]], pa.string()),
        offsets=np.cumsum([0, *(len(events) for *_, events in rows)]),
        codes=np.array([code[d, item] for _, d, _, events in rows for item, _ in events], np.int32),
        times=np.array([time for *_, events in rows for _, time in events], np.int64),
    )
    return made, pa.chunked_array([[item for _, item in items]], pa.string())


def split_of(log: Log, config: SplitConfig) -> tuple[Histories, Split]:
    histories, item_id = histories_of(log)
    return split(histories, config, item_id)


def write_log(root: Path, log: Log, time: str = "ms", title: str = "Thing") -> list[Path]:
    """Folders as the ingest step writes them."""
    for domain, users in log.items():
        rows = [(user, item, at, domain, 1.0) for user, events in users.items() for item, at in events]
        items = [(i, domain, title and f"{title} {i}", "", "", "") for i in sorted({row[1] for row in rows})]
        tables = {
            "interactions": pa.table([*zip(*rows, strict=True)], schema=artifacts.INTERACTIONS),
            "items": pa.table([*zip(*items, strict=True)], schema=artifacts.ITEMS),
            "rejects": artifacts.REJECTS.empty_table(),
        }
        with artifacts.writing(root / domain) as folder:
            for name, table in tables.items():
                artifacts.write_table(folder, f"{name}.parquet", table)
            for name, schema in artifacts.KINDS["interactions"][1].items():
                if schema is None:
                    (folder / name).touch()
            artifacts.finish(folder, Manifest("interactions", config={"domain": domain, "time": time}))
    return [root / domain for domain in log]


def days(*pairs: tuple[str, float]) -> Events:
    return [(item, round(day * DAY)) for item, day in pairs]


# One user per case: what he did before, in and after the windows.
CASES: dict[str, Events] = {
    "all": days(("a", 0), ("b", 1), ("c", 4), ("d", 5), ("e", 7), ("f", 9)),
    "no test": days(("a", 0), ("b", 1), ("c", 5)),
    "no valid": days(("a", 0), ("b", 1), ("c", 8)),
    "train only": days(("a", 0), ("b", 1), ("c", 2)),
    "one train": days(("a", 3), ("b", 6.9), ("c", 7)),
    "late": days(("a", 4), ("b", 5), ("c", 9)),
    "valid only": days(("a", 4), ("b", 5), ("d", 6)),
    "test only": days(("a", 7), ("b", 8), ("d", 9)),
}
EXPECTED = {
    "all": (2, 2, 4), "no test": (2, 2, -1), "no valid": (2, -1, 2), "train only": (3, -1, -1), "one train": (1, 1, 2),
    "late": (0, -1, 2), "valid only": (0, -1, -1),
}  # fmt: skip


# --- the time split -----------------------------------------------------------------------------------------------


def test_each_case_of_the_time_split_by_hand():
    kept, made = split_of({"x": CASES}, TIME)
    columns = (made.train_end.tolist(), made.valid_at.tolist(), made.test_at.tolist())
    assert dict(zip(kept.user_id.to_pylist(), zip(*columns, strict=True), strict=True)) == EXPECTED
    assert made.cuts == (V, T)
    facts = {name: of.tolist() for name, of in made.facts.items()}
    assert facts == {"users_active_in_validation": [5], "users_active_in_test": [5], "users_left_out": [1],
                     "interactions_left_out": [3], "users_with_tied_validation": [0],
                     "users_with_tied_test": [0]}  # fmt: skip
    # behind a target: f of all; not held out and not trained on: valid only
    assert (kept.lengths - made.used).tolist() == [1, 0, 0, 0, 0, 0, 3]


logs = st.dictionaries(
    st.sampled_from(["x", "y", "z"]),
    st.dictionaries(
        st.sampled_from(["u0", "u1", "u2"]),
        st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 9)), min_size=3, max_size=6),
        min_size=1,
    ),
    min_size=1,
).map(lambda log: {d: {u: sorted(e, key=lambda event: event[1]) for u, e in us.items()} for d, us in log.items()})


def plain_split(events: Events, valid: int, test: int) -> tuple[int, int, int]:
    times = [time for _, time in events]
    in_valid = [at for at, time in enumerate(times) if valid <= time < test]
    in_test = [at for at, time in enumerate(times) if time >= test]
    return (
        sum(time < valid for time in times),
        in_valid[0] if in_valid and in_valid[0] > 0 else -1,
        in_test[0] if in_test and in_test[0] > 0 else -1,
    )


@settings(deadline=None, max_examples=200)
@given(logs, st.integers(1, 8), st.integers(1, 4))
def test_the_time_split_equals_a_plain_loop(log: Log, valid: int, window: int):
    histories, item_id = histories_of(log)
    at = [datetime.datetime.fromtimestamp(n / 1000, datetime.UTC).isoformat() for n in (valid, valid + window)]
    try:
        kept, made = split(histories, SplitConfig(kind="time", valid_from=at[0], test_from=at[1]), item_id)
    except ValueError:
        assume(False)
    expected = [
        (domain, user, *plain_split(events, valid, valid + window))
        for domain, users in log.items()
        for user, events in users.items()
        if events[0][1] < valid + window
    ]
    columns = (kept.domain.to_pylist(), kept.user_id.to_pylist(), made.train_end, made.valid_at, made.test_at)
    assert [*zip(*columns, strict=True)] == expected
    refuse_leaks(kept, made, item_id)  # a time split has no leak, whatever the categories share


def test_a_share_of_half_an_event_is_rounded_as_the_share_says():
    cuts = SplitConfig(kind="time", valid_share=0.25, test_share=0.10000000000000002)  # a little over 3.5 of 35 events
    assert cut_points(np.arange(35), cuts)[1] == 31


@given(st.lists(st.integers(0, 1000), min_size=30, max_size=200, unique=True), st.data())
def test_cuts_by_shares_leave_the_shares(times: list[int], data: st.DataObject):
    valid, test = (data.draw(st.floats(0.1, 0.4)) for _ in range(2))
    first, second = cut_points(np.array(times), SplitConfig(kind="time", valid_share=valid, test_share=test))
    in_test = sum(time >= second for time in times)
    assert abs(in_test - test * len(times)) <= 0.5
    assert abs(sum(time >= first for time in times) - (test + valid) * len(times)) <= 0.5


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"valid_from": "1960-01-01", "test_from": "1970-01-08"}, r"valid_from=1960-01-01T00:00:00\+00:00 leaves no"),
        ({"valid_from": "1970-01-05", "test_from": "2030-01-01"}, "reach from 1970-01-01T.* to 1970-01-10T"),
        ({"valid_from": "1970-01-03T12:00", "test_from": "1970-01-03T13:00"}, "x: no user has an event in the valid"),
        ({"valid_share": 0.01, "test_share": 0.005}, "too many events have the same time|no user has an event"),
    ],
)
def test_cuts_that_leave_nothing_are_refused(config: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        split_of({"x": CASES}, SplitConfig(kind="time", **config))


def test_a_category_without_test_users_is_named():
    log = {"x": CASES, "y": {"u": days(("a", 0), ("b", 1), ("c", 5))}}
    with pytest.raises(ValueError, match="y: no user has an event in the test window .*; .*leave y out"):
        split_of(log, TIME)


def test_data_without_times_are_refused(tmp_path: Path):
    folders = write_log(tmp_path, {"x": CASES}, time="order")
    with pytest.raises(ValueError, match="needs times, but x came as an order alone; use split.kind=leave_last_out"):
        textify(folders, tmp_path / "t", TextConfig(), TIME)


# --- leaks --------------------------------------------------------------------------------------------------------


def plain_leaks(log: Log, made: Split, ordered: set[str]) -> set[tuple[str, str, int]]:
    """Held-out events (category, user, position) that another category trains on, event by event."""
    training, held = defaultdict(set), []
    rows = [(domain, user, events) for domain, users in log.items() for user, events in users.items()]
    for row, (domain, user, events) in enumerate(rows):
        for at, (item, time) in enumerate(events):
            if at < made.train_end[row]:
                training[user, item].add((domain, time))
            if at in (made.valid_at[row], made.test_at[row]):
                held.append((domain, user, at, item, time))
    return {
        (domain, user, at)
        for domain, user, at, item, time in held
        for other, then in training[user, item]
        if other != domain and (time == then or domain in ordered or other in ordered)
    }


@settings(deadline=None, max_examples=300)
@given(logs, st.sets(st.sampled_from(["x", "y", "z"])))
def test_leaks_are_those_that_a_plain_loop_finds(log: Log, ordered: set[str]):
    histories, item_id = histories_of(log)
    kept, made = split(histories, SplitConfig(), item_id)
    timed = plain_leaks(log, made, set())
    assert plain_count(kept, made, item_id, ()) == len(timed)
    if not timed:  # the comparison with times comes first
        assert plain_count(kept, made, item_id, ordered) == len(plain_leaks(log, made, ordered))


def plain_count(histories: Histories, made: Split, item_id: pa.ChunkedArray, ordered: Any) -> int:
    try:
        refuse_leaks(histories, made, item_id, ordered)
    except ValueError as error:
        return int(str(error).split(" events in all categories")[0].rsplit("(", 1)[1].replace(",", ""))
    return 0


PLANTED: Log = {
    "toys": {"ann": [("car", 1), ("doll", 2), ("kite", 3), ("ball", 4)], "bob": [("car", 1), ("doll", 2), ("ball", 9)]},
    "sport": {"ann": [("ball", 4), ("bike", 5), ("boat", 6)], "bob": [("ski", 1), ("boat", 2), ("bike", 3)]},
}


def test_a_planted_leak_is_named(tmp_path: Path):
    with pytest.raises(ValueError) as error:
        textify(write_log(tmp_path, PLANTED), tmp_path / "t", TextConfig())
    assert str(error.value) == (
        "the categories toys and sport overlap: 1 held-out events of toys are training events of sport, for example "
        "the test item ball of user ann (1 events in all categories together); drop one of the two categories, or give "
        "the overlapping items to one of them"
    )
    assert not (tmp_path / "t").exists()


def test_the_same_item_at_another_time_is_no_leak(tmp_path: Path):
    log = {**PLANTED, "sport": {**PLANTED["sport"], "ann": [("ball", 3), ("bike", 5), ("boat", 6)]}}
    assert textify(write_log(tmp_path, log), tmp_path / "t", TextConfig()).notes == ()
    histories, item_id = histories_of(log)
    kept, made = split(histories, SplitConfig(), item_id)
    with pytest.raises(ValueError, match="if the ids of the two files only look alike, make them distinct"):
        refuse_leaks(kept, made, item_id, ["sport"])


def altered(made: Split, **columns: list[int]) -> Split:
    return Split(**{**vars(made), **{name: np.array(of) for name, of in columns.items()}})


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"train_end": [3, 3, 3]}, "the split of 3 users is out of order, first user u0: training ends at 3"),
        ({"valid_at": [2, 3, 2]}, "the split of 1 users is out of order, first user u1"),
        ({"test_at": [3, 3, 4]}, "first user u2: .* test 4 of 4 events"),
        ({"train_end": [-1, 2, 2]}, "first user u0"),
    ],
)
def test_a_split_out_of_order_is_found(columns: dict[str, list[int]], message: str):
    histories, item_id = histories_of({"x": {f"u{n}": [(i, n) for n, i in enumerate("abcd")] for n in range(3)}})
    kept, made = split(histories, SplitConfig(), item_id)
    refuse_leaks(kept, made, item_id)
    with pytest.raises(ValueError, match=message):
        refuse_leaks(kept, altered(made, **columns), item_id)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"train_end": [2, 2, 2, 3, 2, 0, 0], "valid_at": [2, 2, -1, -1, -1, -1, -1]}, "1 training events at or after"),
        ({"valid_at": [3, 2, 2, -1, 1, -1, -1], "test_at": [4, -1, -1, -1, 2, 2, -1]}, "1 validation targets outside"),
        ({"test_at": [5, -1, 2, -1, 2, 2, -1]}, "1 events of a history at or after the second cut"),
        ({"test_at": [4, -1, 2, -1, 2, 1, -1]}, "1 test targets before the second cut"),
    ],
)
def test_an_event_on_the_wrong_side_of_a_cut_is_found(columns: dict[str, list[int]], message: str):
    histories, item_id = histories_of({"x": CASES})
    kept, made = split(histories, TIME, item_id)
    refuse_leaks(kept, made, item_id)
    with pytest.raises(ValueError, match=message):
        refuse_leaks(kept, altered(made, **columns), item_id)


# --- the step, and the steps after it -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def timed(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    root = tmp_path_factory.mktemp("timed")
    manifest = textify(write_log(root, {"x": CASES}), root / "texts", TextConfig(), TIME)
    return SimpleNamespace(texts=root / "texts", manifest=manifest, users=load_users(root / "texts"))


def test_the_manifest_has_the_cuts_and_the_counts(timed: SimpleNamespace):
    assert timed.manifest.config["split"] == {
        "kind": "time", "valid_from": "1970-01-05T00:00:00+00:00", "test_from": "1970-01-08T00:00:00+00:00",
        "valid_share": 0.1, "test_share": 0.1, "unit": "event",
    }  # fmt: skip
    assert timed.manifest.counts["by_category"]["x"] == {
        "users": 7, "users_who_train": 4, "users_with_validation": 3, "users_with_test": 4, "items": 6,
        "items_with_shared_text": 0, "text_groups": 6, "interactions": 24, "interactions_in_training": 10,
        "interactions_unused": 4, "users_active_in_validation": 5, "users_active_in_test": 5, "users_left_out": 1,
        "interactions_left_out": 3, "users_with_tied_validation": 0, "users_with_tied_test": 0,
    }  # fmt: skip


def test_cuts_by_shares_are_recorded_and_give_the_same_again(tmp_path: Path):
    folders = write_log(tmp_path, {"x": CASES})
    shares = SplitConfig(kind="time", valid_share=0.3, test_share=0.3)
    made = textify(folders, tmp_path / "t", TextConfig(), shares)
    cuts = {name: made.config["split"][name] for name in ("valid_from", "test_from")}
    assert textify(folders, tmp_path / "u", TextConfig(), SplitConfig(kind="time", **cuts)).digest == made.digest


def test_training_draws_only_from_before_the_first_cut(timed: SimpleNamespace):
    drawn = order.order(timed.users, StageConfig(steps=20, batch_size=4))
    assert {timed.users.user_id[u] for u in drawn.user} == {"all", "no test", "no valid", "train only"}
    assert (drawn.cut < timed.users.train_end[drawn.user]).all() and (drawn.cut >= 1).all()
    rows = validation.sample_validation_rows(timed.users, StageConfig())
    assert sorted((len(row.history), row.target) for row in rows) == [(1, 1), (2, 2), (2, 2)]


@pytest.mark.parametrize(("which", "expected"), [("test", ["all", "no valid", "one train", "late"]),
                                                 ("valid", ["all", "no test", "one train"])])  # fmt: skip
def test_only_users_with_a_target_are_asked_for(timed: SimpleNamespace, which: str, expected: list[str]):
    users, at = choose_users(timed.users, GenerateConfig(split=which))
    assert [timed.users.user_id[user] for user in users] == expected and min(at) >= 1


@pytest.mark.parametrize(("which", "cut"), [("test", T), ("valid", V)])
def test_floors_count_all_events_before_the_window_and_none_in_it(timed: SimpleNamespace, which: str, cut: int):
    items = artifacts.read_table(timed.texts, "items.parquet", "texts")["item_id"].to_pylist()
    counted = [[items[code] for code in history] for history in countable(timed.users, which)]
    assert counted == [[item for item, time in CASES[user] if time < cut] for user in timed.users.user_id]


def test_floors_of_leave_last_out_count_what_precedes_the_held_out_item(tmp_path: Path):
    textify(write_log(tmp_path, {"x": CASES}), tmp_path / "t", TextConfig())
    users = load_users(tmp_path / "t")
    for which, at in (("test", users.test_at), ("valid", users.valid_at)):
        expected = [items[:end].tolist() for items, end in zip(users.items, at, strict=True)]
        assert countable(users, which) == expected


def test_a_user_without_a_target_cannot_be_judged(timed: SimpleNamespace, tmp_path: Path):
    catalogue = load_catalogue(timed.texts, "x")
    with pytest.raises(ValueError, match="user no test is without a test item"):
        load_judged(timed.users, pa.array(["no test"]), catalogue, "test", tmp_path)
