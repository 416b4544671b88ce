"""Which events of a user are training, validation and test."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa

from calrec.config import SplitConfig
from calrec.config.checks import instant, iso
from calrec.textify import baskets
from calrec.textify.sequences import Histories, Ints


@dataclass(frozen=True)
class Split:
    """Positions in each user's history; -1: none."""

    train_end: Ints
    """Events of the training part; they come first."""
    valid_at: Ints
    """The validation target; the history is what precedes it."""
    test_at: Ints
    """The test target. With a time split, -1 means that the user has no event in the test window."""
    cuts: tuple[int, int] | None = None
    """Time split: first milliseconds of the validation and of the test window."""
    unit: str = "event"
    """basket: the target stands first in its basket, and what follows it there precedes no target of that basket."""
    facts: Mapping[str, Ints] = field(default_factory=dict)
    """Counts per category that the positions do not tell."""

    @property
    def used(self) -> Ints:
        """Events per user up to the last one that is training or a target; those behind serve nothing."""
        ends: Ints = np.maximum(self.train_end, np.maximum(self.valid_at, self.test_at) + 1)
        return ends


def split(
    histories: Histories, config: SplitConfig, item_id: pa.ChunkedArray, ordered: Sequence[str] = ()
) -> tuple[Histories, Split]:
    """The histories that are kept, and their split.

    Args:
        histories: of all categories.
        config: leave_last_out keeps every user; time leaves out those whose every event lies in the test window. By
            baskets the target of each held-out basket moves to its first place, see :mod:`calrec.textify.baskets`.
        item_id: id of each item code.
        ordered: categories whose events have an order but no time.

    Raises:
        ValueError: a time split, or one by baskets, of data without times; a cut outside of the data; a category with
            an empty window, or in which nobody has three baskets.
    """
    for name, timed in (("kind=time", config.kind == "time"), ("unit=basket", config.unit == "basket")):
        if timed and ordered:
            instead = "kind=leave_last_out" if config.kind == "time" else "unit=event"
            raise ValueError(
                f"split.{name} needs times, but {', '.join(ordered)} came as an order alone; use split.{instead}"
            )
    if config.kind == "time":
        histories, made = _by_time(histories, config)
    elif config.unit == "basket":
        made = _by_baskets(histories)
    else:
        made = Split(*leave_last_out(histories.lengths))
    if config.unit == "basket":
        made = replace(made, unit="basket")
        histories = replace(histories, codes=baskets.targets_first(histories, (made.valid_at, made.test_at), item_id))
    ties = {
        f"users_with_tied_{name}": histories.per_category(baskets.has_tie(histories, at))
        for name, at in (("validation", made.valid_at), ("test", made.test_at))
    }
    return histories, replace(made, facts={**made.facts, **ties})


def _by_time(histories: Histories, config: SplitConfig) -> tuple[Histories, Split]:
    cuts = cut_points(histories.times, config)
    before_valid, before_test = (_before(histories, cut) for cut in cuts)
    facts = _activity(histories, before_valid, before_test)
    _refuse_empty_windows(histories, before_valid, before_test, cuts)
    kept = before_test > 0
    return histories.only(kept), Split(
        *by_time(before_valid[kept], before_test[kept], histories.lengths[kept]), cuts=cuts, facts=facts
    )


def _by_baskets(histories: Histories) -> Split:
    """Leave-last-out by baskets; users of one or two are training only."""
    made = Split(*baskets.leave_last_out(histories))
    trains_only = histories.per_category(made.test_at < 0)
    for name, users, without in zip(
        histories.domains, histories.per_category(np.ones_like(made.test_at)), trains_only, strict=True
    ):
        if users == without:
            raise ValueError(
                f"{name}: none of its {users:,} users has {baskets.FEWEST} baskets (events of one user at one time), "
                "so nothing can be held out; use split.unit=event"
            )
    return replace(made, facts={"users_of_too_few_baskets": trains_only})


def leave_last_out(lengths: Ints) -> tuple[Ints, Ints, Ints]:
    """The last item is the test target, the one before the validation target, the rest is training.

    Args:
        lengths: events per user, each >= 3.

    Returns:
        (train_end, valid_at, test_at) per user: positions in the user's sequence.
    """
    assert (lengths >= 3).all(), "ingest keeps users with at least 3 events"
    return lengths - 2, lengths - 2, lengths - 1


def by_time(before_valid: Ints, before_test: Ints, lengths: Ints) -> tuple[Ints, Ints, Ints]:
    """A user's first event in a window is its target, when he has an event before the window.

    Args:
        before_valid: events per user before the first cut.
        before_test: events per user before the second cut.
        lengths: events per user.

    Returns:
        (train_end, valid_at, test_at) per user; -1 where a window has no target.
    """
    valid_at = np.where((before_valid > 0) & (before_test > before_valid), before_valid, -1)
    test_at = np.where((before_test > 0) & (lengths > before_test), before_test, -1)
    return before_valid, valid_at, test_at


def cut_points(times: Ints, config: SplitConfig) -> tuple[int, int]:
    """Start of the validation and of the test window in milliseconds, as given or by the shares of all events.

    Raises:
        ValueError: a cut outside of the data, or times too coarse for the shares; names the range of the data.
    """
    first, last = int(times.min()), int(times.max())
    reach = f"the data reach from {iso(first)} to {iso(last)}"
    valid, test = instant("split.valid_from", config.valid_from), instant("split.test_from", config.test_from)
    if valid is not None and test is not None:
        for name, cut in (("valid_from", valid), ("test_from", test)):
            if not first < cut <= last:
                raise ValueError(f"split.{name}={iso(cut)} leaves no event on one side of it: {reach}")
        return valid, test
    shares = (config.valid_share + config.test_share, config.test_share)
    at = [min(len(times) - 1, len(times) - round(len(times) * share)) for share in shares]
    ordered = np.partition(times, at)
    valid, test = int(ordered[at[0]]), int(ordered[at[1]])
    if not first < valid < test:
        raise ValueError(
            f"too many events have the same time to set the cuts by shares ({iso(valid)} and {iso(test)}, {reach}); "
            "give split.valid_from and split.test_from, or change the shares"
        )
    return valid, test


def _before(histories: Histories, cut: int) -> Ints:
    """Events per user before an instant."""
    running = np.concatenate([[0], np.cumsum(histories.times < cut)])
    return np.diff(running[histories.offsets])


def _activity(histories: Histories, before_valid: Ints, before_test: Ints) -> dict[str, Ints]:
    """Per category: users with an event in a window, and what is left out with users who come only after the cuts."""
    late = before_test == 0
    per_user = {
        "users_active_in_validation": before_test > before_valid,
        "users_active_in_test": histories.lengths > before_test,
        "users_left_out": late,
        "interactions_left_out": late * histories.lengths,
    }
    return {name: histories.per_category(numbers) for name, numbers in per_user.items()}


def _refuse_empty_windows(histories: Histories, before_valid: Ints, before_test: Ints, cuts: tuple[int, int]) -> None:
    _, valid_at, test_at = by_time(before_valid, before_test, histories.lengths)
    for number, domain in enumerate(histories.domains):
        of = histories.category == number
        for name, at in (("validation", valid_at), ("test", test_at)):
            if (at[of] < 0).all():
                times = histories.times[histories.per_event(of)]
                raise ValueError(
                    f"{domain}: no user has an event in the {name} window and one before it; its data reach from "
                    f"{iso(int(times.min()))} to {iso(int(times.max()))}, validation begins {iso(cuts[0])} and test "
                    f"{iso(cuts[1])}; move split.valid_from and split.test_from, or leave {domain} out"
                )
