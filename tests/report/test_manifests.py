"""Warnings say what a person should know, and nothing when there is nothing."""

from typing import Any

import pytest

from calrec.artifacts import Manifest
from calrec.report import manifests

SOUND = {"users": 5000, "items": 100, "rejects": 0, "tied_share": 0.1, "items_without_title": 3}


@pytest.mark.parametrize(
    ("kind", "changes", "said"),
    [
        ("interactions", {}, []),
        ("interactions", {"rejects": 7}, ["7 rows could not be read; they are in rejects.parquet with their reasons"]),
        ("interactions", {"users": 99}, ["only 99 users: metrics will have wide intervals"]),
        ("interactions", {"items_without_title": 40}, ["40% of the items have no title"]),
        ("interactions", {"tied_share": 0.5}, ["50% of neighbouring events have one time: "]),
        ("interactions", {"first_event": "1970-01-18 02:00:00"}, ["the first event is in 1970: is the unit of the"]),
        ("tokens", {"assembled_exact_share": 0.5}, ["only 50.0% of probed prompts are assembled exactly"]),
        (
            "tokens",
            {"prompts": 10, "prompts_cut": 6},
            ["60% of the prompts lose their oldest items; raise text.max_tokens"],
        ),
        (
            "model",
            {"best_valid_nig": 0.3, "steps": 30, "best_step": 30},
            ["the last step was the best one: more steps may help"],
        ),
        (
            "model",
            {"best_valid_nig": 0.3, "steps": 30, "best_step": 0},
            ["validation never improved: this is the model that the stage began"],
        ),
        ("model", {"best_valid_nig": 0.3, "steps": 30, "best_step": 20}, []),
        ("recommendations", {"filled_share": 0.5}, ["50% of the places are filled with popular items"]),
        (
            "recommendations",
            {"unknown_words_share": 0.2},
            ["20% of the words that were searched are in no text"],
        ),
        ("batch", {"users_with_fill_alone": 4000}, ["80% of the users match no item: their lists are the most"]),
        ("evaluation", {"targets_in_the_history": 0.5}, ["50% of the targets are in the history"]),
        ("decision", {"promote": 0}, ["the model does not pass the gate"]),
        ("texts", {"users_of_too_few_baskets": 4000}, ["80% of the users have fewer than three baskets and are"]),
        ("generations", {"empty_texts": 500, "users_with_mostly_empty_texts": 50}, []),
        ("generations", {"users_with_mostly_empty_texts": 200}, ["4% of the users have mostly empty texts: the model"]),
        ("generations", {"unfinished_share": 0.2}, ["20.0% of the samples were cut; raise generate.max_new_tokens"]),
    ],
)
def test_warnings(kind: str, changes: dict[str, Any], said: list[str]):
    found = manifests.warnings(Manifest(kind, config={"time": "ms"}, counts={**SOUND, **changes}))
    assert len(found) == len(said)
    assert all(text.startswith(start) for text, start in zip(found, said, strict=True))


def test_a_rule_that_drops_most_events_is_named():
    rule = {"rule": "k-core", "rows_before": 1000, "rows_after": 100}
    assert manifests.warnings(Manifest("interactions", counts=SOUND, rules=(rule,))) == [
        "the rule 'k-core' drops 90% of the events"
    ]


def test_counts_and_rules_are_aligned_and_histograms_apart():
    rule = {"rule": "k-core", "rows_before": 1000, "rows_after": 900}
    counts = {"items": 1234, "lengths_histogram": [("3", 5), ("4+", 2)], "by_category": {"toys": {"users": 7}}}
    manifest = Manifest("texts", counts=counts, rules=(rule,), notes=("a note",))
    assert manifests.text(manifest).splitlines() == [
        "  a note", "counts:", "  items       1,234", "  toys.users  7", "rules (rows before → after):",
        "  k-core  1,000 → 900",
    ]  # fmt: skip
    assert manifests.histograms(manifest) == {"lengths": [("3", 5), ("4+", 2)]}
