"""The rule of `schedule apply`, on a model of the server."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.kubeflow import changes, cron, recurring
from pipelines.kubeflow.changes import Create, Delete, next_step
from pipelines.kubeflow.recurring import Recurring, Wanted
from pipelines.kubeflow.submission import Version
from tests.pipelines.firings import DAILY, LATER, MONTHLY, NOW, fire_next


def wish(name: str = "nightly", when: str = DAILY, **changed: Any) -> Wanted:
    version = Version("pipeline", "version", "calrec-training-0", True)
    return Wanted(
        name, cron.parse_cron(when), **({"version": version, "experiment_id": "e", "parameters": {}} | changed)
    )


@dataclass
class Model:
    """Recurring runs that change by one call at a time."""

    kept: list[Recurring] = field(default_factory=list)
    ids: Iterator[int] = field(default_factory=itertools.count)
    seed: int = 0

    def look(self) -> list[Recurring]:
        return sorted(self.kept, key=recurring._order)

    def do(self, step: Create | Delete, wanted: Wanted, mark: str) -> None:
        if isinstance(step, Delete):
            self.kept = [one for one in self.kept if one.id != step.id]
            return
        number = next(self.ids)  # ids of a server are random: they must not give the order away
        self.kept.append(
            Recurring(
                str(hash((number, self.seed))), wanted.name, step.number, mark, "", step.after, NOW, wanted.cron.text,
                step.start, step.enabled, wanted.version.pipeline_id, wanted.version.version_id, wanted.experiment_id,
                wanted.parameters,
            )
        )  # fmt: skip


def applying(model: Model, wanted: Wanted, mark: str) -> Iterator[bool]:
    """`changes.apply` on the model, stopping after each call; yields whether it was a change."""
    made = False
    while True:
        found = model.look()
        yield False
        step = next_step(found, wanted, NOW, made)
        if step is None:
            return
        model.do(step, wanted, mark)
        made = made or isinstance(step, Create)
        yield True


WISHES = [wish(when=DAILY), wish(when=LATER), wish(when=MONTHLY), wish(when=DAILY, parameters={"a": 1})]


@settings(max_examples=300)
@given(
    st.lists(st.tuples(st.sampled_from(WISHES), st.integers(0, 12)), min_size=1, max_size=5),
    st.sampled_from(WISHES),
    st.integers(0, 100),
)
def test_killed_wherever_one_fires_next(killed: list[tuple[Wanted, int]], last: Wanted, seed: int) -> None:
    model = Model(seed=seed)
    for wanted, calls in [*killed, (last, 100)]:
        for _ in itertools.islice(applying(model, wanted, "m"), calls):
            assert not model.kept or len(fire_next(model.kept)) == 1
            assert len(model.kept) <= 2
    assert [changes.differences(one, last) for one in model.kept] == [[]]
    assert model.kept[0].firings(NOW)[0] == last.cron.next(NOW)[0]  # nothing is lost


@settings(max_examples=300)
@given(
    st.lists(st.tuples(st.sampled_from(WISHES), st.integers(0, 8)), max_size=2),
    st.lists(st.sampled_from(WISHES), min_size=2, max_size=3),
    st.lists(st.integers(0, 2), max_size=60),
    st.integers(0, 100),
)
def test_applies_at_the_same_time_end_with_one(
    before: list[tuple[Wanted, int]], wanted: list[Wanted], turns: list[int], seed: int
) -> None:
    model = Model(seed=seed)
    for one, calls in before:
        list(itertools.islice(applying(model, one, "m"), calls))
    going: dict[int, Iterator[bool]] = {i: applying(model, one, str(i)) for i, one in enumerate(wanted)}
    lost, had_one = set(), bool(model.kept)
    for turn in itertools.chain(turns, itertools.cycle(range(3))):
        if not going:
            break
        try:
            if turn in going:
                next(going[turn])
        except StopIteration:
            del going[turn]
        except RuntimeError:
            lost.add(turn)
            del going[turn]
        assert model.kept or not had_one  # never none
        had_one = had_one or bool(model.kept)
    assert len(model.kept) == 1
    assert len(lost) < len(wanted)
    assert [changes.differences(model.kept[0], one) for i, one in enumerate(wanted) if i not in lost].count([]) >= 1
    if len({one.cron.text + str(one.parameters) for one in wanted}) == 1:
        assert not lost


def test_the_successor_waits_until_the_old_one_would_fire() -> None:
    old = Recurring("old", "nightly", 1, cron=cron.parse_cron(DAILY).text, experiment_id="e", version_id="version")
    due = old.firings(NOW)[0]
    changed = wish(parameters={"a": 1})
    assert next_step([old], changed, NOW) == Create(2, True, due, ("old",))
    assert next_step([replace(old, enabled=False)], changed, NOW) == Create(2, False, None, ("old",))
    # A later cron cannot fire together with the old one.
    assert next_step([old], wish(when=LATER), NOW) == Create(2, True, None, ("old",))


@pytest.mark.parametrize(("seconds", "waits"), [(-30, None), (-10, 10), (-1, 19), (1, 21), (14, 34), (30, None)])
def test_waits_while_a_firing_is_near(seconds: int, waits: int | None) -> None:
    now = datetime(2026, 11, 28, 3, 0, 0, tzinfo=UTC) - timedelta(seconds=seconds)
    old = Recurring("old", "nightly", 1, cron="0 0 3 * * *")
    until = changes.near(old, wish(when="0 12 * * *"), now)
    assert until == (None if waits is None else now + timedelta(seconds=waits))
    assert changes.near(replace(old, cron="0 0 12 * * *"), wish(when="0 3 * * *"), now) == until
