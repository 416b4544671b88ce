"""The split by baskets: by hand, against a plain loop, and what a wrong one is refused with."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calrec import artifacts
from calrec.config import SplitConfig, TextConfig
from calrec.model.loading import load_users
from calrec.report import manifests
from calrec.textify.baskets import meaning, starts
from calrec.textify.leakage import refuse_leaks
from calrec.textify.splits import split
from calrec.textify.step import textify
from tests.textify.test_splits import DAY, TIME, Events, Log, days, histories_of, logs, write_log

BASKETS = SplitConfig(unit="basket")

# user → baskets, oldest first; and the items that the history before each held-out basket holds
SHOP: dict[str, list[list[str]]] = {
    "four": [["a"], ["b", "c"], ["d", "e", "f"], ["a", "b", "g"]],
    "three": [["a", "b"], ["c"], ["d", "e"]],
    "two": [["a", "b", "c"], ["d", "e"]],
    "one": [["a", "b", "c", "d"]],
}


def shop(baskets: dict[str, list[list[str]]] = SHOP, time: Any = lambda n: n * DAY) -> Log:
    return {"x": {u: [(item, time(n)) for n, its in enumerate(of) for item in its] for u, of in baskets.items()}}


def made_of(root: Path, log: Log, config: SplitConfig = BASKETS, time: str = "ms") -> dict[str, tuple[Any, ...]]:
    """By user (training, history and target of validation, history and target of test), as later steps read them."""
    textify(write_log(root, log, time), root / "t", TextConfig(), config)
    items = artifacts.read_table(root / "t", "items.parquet", "texts")["item_id"].to_pylist()
    users = load_users(root / "t")
    found = {}
    for row, user in enumerate(users.user_id):
        names = [items[code] for code in users.items[row]]
        end, valid, test = users.train_end[row], users.valid_at[row], users.test_at[row]
        held = [(sorted(names[:at]), names[at]) if at >= 0 else None for at in (valid, test)]
        found[user] = (sorted(names[:end]), *held)
        assert sorted(names[: users.counted_until("valid")[row]]) == sorted(names[:end])
        longer = users.trained_until("test")
        assert sorted(names[: longer.train_end[row]]) == (held[1][0] if held[1] else sorted(names))
    return found


def test_history_ends_before_the_basket_and_its_rest_is_in_nothing(tmp_path: Path):
    found = made_of(tmp_path, shop())
    training, valid, test = found["four"]
    assert training == ["a", "b", "c"]
    assert valid[0] == training and valid[1] in "def"
    assert test[0] == ["a", "b", "c", "d", "e", "f"] and test[1] in "abg"
    assert found["three"][0] == ["a", "b"] and found["three"][1] == (["a", "b"], "c")
    assert found["three"][2][0] == ["a", "b", "c"] and found["three"][2][1] in "de"
    for user, items in (("two", list("abcde")), ("one", list("abcd"))):
        assert found[user] == (items, None, None)
    manifest = artifacts.read_manifest(tmp_path / "t", "texts")
    counts = manifest.counts
    assert (counts["users_of_too_few_baskets"], counts["users_with_test"], counts["users_who_train"]) == (2, 2, 4)
    assert counts["interactions_unused"] == 2 + 1 and counts["users_with_tied_test"] == 0
    report = (tmp_path / "t" / "report.md").read_text()
    assert "2 of 4 users have fewer than 3 baskets and are training only" in report


def test_the_target_depends_on_user_and_item_alone(tmp_path: Path):
    backwards = {user: [list(reversed(its)) for its in of] for user, of in SHOP.items()}
    apart = {"four": SHOP["four"]}
    first = made_of(tmp_path / "1", shop())
    assert made_of(tmp_path / "2", shop(backwards)) == first
    assert made_of(tmp_path / "3", shop(apart))["four"] == first["four"]


def test_each_item_of_a_basket_is_the_target_of_as_many_users():
    """Whatever the history holds: an item that was bought before is not passed over."""
    log = shop({f"u{n}": [["a"], ["b"], ["a", "b", "c", "d"]] for n in range(4000)})
    histories, item_id = histories_of(log)
    kept, made = split(histories, BASKETS, item_id)
    counts = Counter(item_id[code].as_py() for code in kept.codes[kept.offsets[:-1] + made.test_at].tolist())
    assert counts.keys() == set("abcd")
    assert all(abs(count - 1000) < 5 * np.sqrt(4000 * 0.25 * 0.75) for count in counts.values())


@settings(deadline=None, max_examples=200)
@given(logs, st.sampled_from([BASKETS, replace(TIME, unit="basket", valid_from="1970-01-01T00:00:00.003",
                                               test_from="1970-01-01T00:00:00.006")]))  # fmt: skip
def test_baskets_equal_a_plain_loop(log: Log, config: SplitConfig):
    histories, item_id = histories_of(log)
    try:
        kept, made = split(histories, config, item_id)
    except ValueError as error:
        assert "baskets" in str(error) or "window" in str(error) or "leaves no event" in str(error)
        return
    refuse_leaks(kept, made, pa.chunked_array([[str(at) for at in range(len(item_id))]]))  # each category's own items
    rows = iter(range(len(kept.lengths)))
    for domain in log:
        for user, events in log[domain].items():
            times = sorted({time for _, time in events})
            held = (3, 6) if config.kind == "time" else None
            if held and times[0] >= held[1]:
                continue  # left out
            row = next(rows)
            assert kept.user_id[row].as_py() == user
            _check(events, times, held, [item_id[c].as_py() for c in _codes(kept, row)], made, row)


def _codes(kept: Any, row: int) -> list[int]:
    codes: list[int] = kept.codes[kept.offsets[row] : kept.offsets[row + 1]].tolist()
    return codes


def _check(events: Events, times: list[int], held: Any, names: list[str], made: Any, row: int) -> None:
    """One user's split against his baskets, which are found by comparing times."""
    if held:
        windows = [[t for t in times if held[0] <= t < held[1]], [t for t in times if t >= held[1]]]
        wanted = [next((t for t in w if times[0] < t), None) if w and times[0] < w[0] else None for w in windows]
        training = [item for item, time in events if time < held[0]]
    elif len(times) < 3:
        wanted, training = [None, None], [item for item, _ in events]
    else:
        wanted = [times[-2], times[-1]]
        training = [item for item, time in events if time < times[-2]]
    assert Counter(names) == Counter(item for item, _ in events)
    assert Counter(names[: made.train_end[row]]) == Counter(training)
    for at, time in zip((made.valid_at[row], made.test_at[row]), wanted, strict=True):
        assert (at >= 0) == (time is not None)
        if time is not None:
            assert Counter(names[:at]) == Counter(item for item, of in events if of < time)
            assert names[at] in {item for item, of in events if of == time}


def test_starts_of_baskets():
    histories, _ = histories_of({"x": {"u": days(("a", 0), ("b", 0), ("c", 1)), "v": days(("a", 1), ("b", 2))}})
    assert starts(histories).tolist() == [True, False, True, True, True]


@pytest.mark.parametrize("part", ["valid_at", "test_at"])
def test_a_target_whose_basket_is_in_the_history_is_a_leak(part: str):
    histories, item_id = histories_of(shop())
    kept, made = split(histories, BASKETS, item_id)
    refuse_leaks(kept, made, item_id)
    name = "test" if part == "test_at" else "validation"
    at = getattr(made, part).copy()
    at[0] += 1
    wrong = replace(made, **{part: at})
    with pytest.raises(ValueError, match=f"1 events of a {name} basket are in the history .* user four"):
        refuse_leaks(kept, wrong, item_id)


def test_leave_last_out_by_events_is_what_the_leakage_test_of_baskets_refuses():
    histories, item_id = histories_of(shop())
    kept, made = split(histories, SplitConfig(), item_id)
    refuse_leaks(kept, made, item_id)
    with pytest.raises(ValueError, match="of a validation basket are in the history"):
        refuse_leaks(kept, replace(made, unit="basket"), item_id)


def test_what_cannot_be_split_by_baskets_is_refused_in_words(tmp_path: Path):
    with pytest.raises(ValueError, match="x: none of its 2 users has 3 baskets .*split.unit=event"):
        made_of(tmp_path / "1", shop({name: SHOP[name] for name in ("two", "one")}))
    with pytest.raises(ValueError, match="split.unit=basket needs times, but x came as an order alone"):
        made_of(tmp_path / "2", shop(), time="order")
    with pytest.raises(ValueError, match="split.unit must be one of event, basket"):
        SplitConfig(unit="invoice")


def test_single_events_of_baskets_are_warned_of_and_baskets_are_not(tmp_path: Path):
    log = shop({f"u{n}": [["a"], ["b", "c"], ["d", "e", "f"]] for n in range(4)})
    said = []
    for unit in ("event", "basket"):
        root = tmp_path / unit
        manifest = textify(write_log(root, log), root / "t", TextConfig(), SplitConfig(unit=unit))
        said.append((manifest.counts["users_with_tied_test"], manifests.warnings(manifest)))
    (tied, warned), clean = said
    assert tied == 4 and clean == (0, [])
    assert len(warned) == 1 and warned[0].startswith("x: 100% of the targets are any item of a basket")
    assert (
        "--set split.unit=basket" in warned[0] and "Warning: x: 100%" in (root.parent / "event/t/report.md").read_text()
    )


def test_what_figures_mean():
    assert meaning("event", 0.3) == "" and "95% of the targets" in meaning("event", 0.95)
    assert "the history ends before the basket" in meaning("basket", 0.0)
