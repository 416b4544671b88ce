"""Whether a run trains: every way in which something is new, and none."""

import dataclasses

import pytest

from calrec.config import Source, runs
from calrec.watch.step import NOTHING_NEW, SHAPING, TRAIN, Decision, decide, fill_snapshots, report

SECTIONS = {name: getattr(runs.sample(), name) for name in SHAPING}
SOURCES = [Source("books", "gs://shop/books", "a1"), Source("toys", "gs://shop/toys", "b1")]


def look(entered: dict[str, str | None], only_new: bool = True, sources: list[Source] = SOURCES, code: str = "1"):
    return decide(sources, SECTIONS, code, entered, only_new)


STATE = look({}).state


@pytest.mark.parametrize(
    ("entered", "only_new", "decision", "reason"),
    [
        ({"books": STATE, "toys": STATE}, True, NOTHING_NEW, "the newest models of books, toys were made from these"),
        ({"books": STATE, "toys": STATE}, False, TRAIN, "this run trains whether the data are new or not"),
        ({"books": STATE, "toys": None}, True, TRAIN, "toys: no model yet"),
        ({"books": "older", "toys": STATE}, True, TRAIN, "books: data, settings or code have changed"),
    ],
)
def test_decide(entered: dict[str, str | None], only_new: bool, decision: str, reason: str):
    found = look(entered, only_new)
    assert (found.decision, found.state) == (decision, STATE)
    assert found.reasons[0].startswith(reason)
    assert "toys gs://shop/toys at b1" in found.reasons


def test_each_thing_that_shapes_a_model_changes_the_state():
    changed = [dataclasses.replace(SOURCES[0], snapshot="a2"), SOURCES[1]]
    states = {STATE, look({}, sources=changed).state, look({}, sources=SOURCES[:1]).state, look({}, code="2").state}
    for name, section in SECTIONS.items():
        other = {"data": {"min_user": 9}, "split": {"test_share": 0.2}, "text": {"phrases": False}}.get(name)
        other = other or {"retrieve": {"b": 0.1}, "generate": {"samples": 3}, "model": {"seed": 9}}.get(
            name, {"lr": 0.9}
        )
        shaped = {**SECTIONS, name: dataclasses.replace(section, **other)}
        states.add(decide(SOURCES, shaped, "1", {}, True).state)
    assert len(states) == 4 + len(SECTIONS)


def test_a_snapshot_that_is_given_stays():
    sources = [Source("books", "x"), Source("toys", "y", "frozen")]
    assert [one.snapshot for one in fill_snapshots(sources, ["now", "now"])] == ["now", "frozen"]


def test_the_report_is_markdown():
    assert report(Decision(NOTHING_NEW, "s", ("because", "data"))) == "**no new data**\n\n- because\n- data\n"
