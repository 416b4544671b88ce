"""The leakage test of the split: a held-out event must not be trained on, in its own category or in another.

Files of two categories can hold the same items, and stage 1 trains on all categories together.
"""

from collections.abc import Collection

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from calrec.config.checks import iso
from calrec.textify.sequences import Histories, Ints
from calrec.textify.splits import Split

_UNTIMED = (
    "; without times the same user and item count as the same event: if the ids of the two files only look alike, make "
    "them distinct"
)


def refuse_leaks(histories: Histories, split: Split, item_id: pa.ChunkedArray, ordered: Collection[str] = ()) -> None:
    """Stop when an event is both held out and training.

    Args:
        histories: of all categories.
        split: theirs.
        item_id: id of each item code.
        ordered: categories whose events have an order but no time; there the same user and item are the same event.

    Raises:
        ValueError: names the first user or the two categories, the number of events and one example.
    """
    _inside_users(histories, split)
    if split.cuts:
        _around_cuts(histories, split, split.cuts)
    if split.unit == "basket":
        _around_baskets(histories, split)
    shared = _shared(item_id)
    if not (shared >= 0).any():
        return
    events = _events(histories, split, shared)
    targets, training = (events.filter(pc.equal(events["target"], of)) for of in (True, False))
    without_time = np.array([domain in ordered for domain in histories.domains])
    for untimed, keys in ((False, ["key", "time"]), (True, ["key"])):
        leaks = _matches(targets, training, keys, without_time, untimed)
        if len(leaks):
            raise ValueError(_message(leaks, histories, split, item_id) + (_UNTIMED if untimed else ""))


def _inside_users(histories: Histories, split: Split) -> None:
    """Training comes before validation, and validation before test."""
    end, valid, test = split.train_end, split.valid_at, split.test_at
    wrong = (end < 0) | (split.used > histories.lengths)
    wrong |= ((valid >= 0) & (valid < end)) | ((test >= 0) & (test < end))
    wrong |= (valid >= 0) & (test >= 0) & (test <= valid)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise ValueError(
            f"the split of {int(wrong.sum()):,} users is out of order, first user {histories.user_id[row]}: training "
            f"ends at {end[row]}, validation is {valid[row]}, test {test[row]} of {histories.lengths[row]} events"
        )


def _around_cuts(histories: Histories, split: Split, cuts: tuple[int, int]) -> None:
    """Training before the first cut, validation targets between, what a test history holds before the second."""
    positions, times = histories.positions, histories.times
    training = positions < histories.per_event(split.train_end)
    known = positions < histories.per_event(np.where(split.test_at >= 0, split.test_at, histories.lengths))
    valid, test = (times[held_out_events(histories, at)] for at in (split.valid_at, split.test_at))
    wrong = {
        "training events at or after the first cut": times[training] >= cuts[0],
        "validation targets outside of their window": (valid < cuts[0]) | (valid >= cuts[1]),
        "events of a history at or after the second cut": times[known] >= cuts[1],
        "test targets before the second cut": test < cuts[1],
    }
    for what, faults in wrong.items():
        if faults.any():
            raise ValueError(
                f"{int(faults.sum()):,} {what} ({iso(cuts[0])}, {iso(cuts[1])}): the interactions are not in the "
                "order of their times; run ingest again"
            )


def _around_baskets(histories: Histories, split: Split) -> None:
    """What precedes a target, and what is trained on, is older than the target's basket."""
    for name, at in (("validation", split.valid_at), ("test", split.test_at)):
        held = np.full(len(at), np.iinfo(np.int64).max)
        held[at >= 0] = histories.times[held_out_events(histories, at)]
        known = histories.positions < histories.per_event(np.maximum(at, split.train_end))
        wrong = known & (histories.times >= histories.per_event(held))
        if wrong.any():
            user = int(np.searchsorted(histories.offsets, int(wrong.argmax()), side="right")) - 1
            raise ValueError(
                f"{int(wrong.sum()):,} events of a {name} basket are in the history or the training before it, first "
                f"user {histories.user_id[user]}: the interactions are not in the order of their times; run ingest "
                "again"
            )


def held_out_events(histories: Histories, at: Ints) -> Ints:
    """Event numbers of the targets at these positions of the users that have one."""
    has = at >= 0
    return histories.offsets[:-1][has] + at[has]


# --- across categories ------------------------------------------------------------------------------------------


def _shared(item_id: pa.ChunkedArray) -> Ints:
    """Of each item code: a number that all categories with this item share, or -1 when it is in one category alone."""
    counted = pc.value_counts(item_id)
    several = counted.field("values").filter(pc.greater(counted.field("counts"), 1))
    shared: Ints = pc.fill_null(pc.index_in(item_id, value_set=several), -1).to_numpy().astype(np.int64)
    return shared


def _events(histories: Histories, split: Split, shared: Ints) -> pa.Table:
    """Held-out and training events of shared items: key (of user and item), time, category, event, target."""
    is_target = np.zeros(len(histories.codes), dtype=bool)
    for at in (split.valid_at, split.test_at):
        is_target[held_out_events(histories, at)] = True
    chosen = is_target | (histories.positions < histories.per_event(split.train_end))
    event = np.flatnonzero(chosen & (shared[histories.codes] >= 0))
    user = np.searchsorted(histories.offsets, event, side="right") - 1
    key = _same_users(histories, user)[user] * (shared.max() + 1) + shared[histories.codes[event]]
    return pa.table(
        {
            "key": key,
            "time": histories.times[event],
            "category": histories.category[user],
            "event": event,
            "target": is_target[event],
        }
    )


def _same_users(histories: Histories, rows: Ints) -> Ints:
    """Of each user row: a number that the rows of one user in all categories share; -1 for rows that do not occur."""
    occurring = np.unique(rows)
    names = histories.user_id.take(pa.array(occurring)).combine_chunks().dictionary_encode()
    numbers = np.full(len(histories.user_id), -1, dtype=np.int64)
    numbers[occurring] = names.indices.to_numpy()
    return numbers


def _matches(
    targets: pa.Table, training: pa.Table, keys: list[str], without_time: NDArray[np.bool_], untimed: bool
) -> pa.Table:
    """(event, category, category of the training event) of each held-out event that another category trains on.

    Args:
        targets: held-out events.
        training: training events.
        keys: what makes two events the same.
        without_time: of each category.
        untimed: look at pairs of categories of which one has no times, or at those that both have them.
    """
    right = training.select([*keys, "category"]).rename_columns([*keys, "other"])
    joined = targets.select([*keys, "category", "event"]).join(right, keys=keys, join_type="inner")
    one, other = joined["category"].to_numpy(), joined["other"].to_numpy()
    mask = (one != other) & ((without_time[one] | without_time[other]) == untimed)
    return joined.select(["event", "category", "other"]).filter(pa.array(mask))


def _message(leaks: pa.Table, histories: Histories, split: Split, item_id: pa.ChunkedArray) -> str:
    """Says the pair of categories with the most leaks."""
    pairs = leaks.group_by(["category", "other"]).aggregate([("event", "count_distinct"), ("event", "min")])
    first = pairs.sort_by(
        [("event_count_distinct", "descending"), ("category", "ascending"), ("other", "ascending")]
    ).to_pylist()[0]
    here, there = histories.domains[first["category"]], histories.domains[first["other"]]
    event = first["event_min"]
    user = int(np.searchsorted(histories.offsets, event, side="right")) - 1
    what = "test" if event - histories.offsets[user] == split.test_at[user] else "validation"
    return (
        f"the categories {here} and {there} overlap: {first['event_count_distinct']:,} held-out events of {here} are "
        f"training events of {there}, for example the {what} item {item_id[histories.codes[event]]} of user "
        f"{histories.user_id[user]} ({pc.count_distinct(leaks['event']).as_py():,} events in all categories together); "
        f"drop one of the two categories, or give the overlapping items to one of them"
    )
