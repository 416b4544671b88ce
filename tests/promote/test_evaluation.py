"""What is read of a real evaluation of the shop that can be computed by hand."""

import json
import math
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from calrec.evaluate.results import Evaluation
from calrec.promote.evaluation import parse_evaluation, results
from tests.evaluate import world
from tests.promote.shops import evaluated

UNSEEN: world.Ranked = {
    user: [(item, 1.0) for item in items]
    for user, items in {"u1": "def", "u2": "bde", "u3": "cde", "u4": "def", "u5": "bce"}.items()
}
LONGER: world.Ranked = {
    user: [*its, (min(set(world.ITEMS) - {item for item, _ in its}), 0.0)] for user, its in world.LISTS.items()
}


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    folder = evaluated(tmp_path_factory.mktemp("judged"))
    return SimpleNamespace(folder=folder, document=json.loads((folder / "metrics.json").read_text()))


def test_gains_of_each_user_by_hand(judged: SimpleNamespace):
    """Ranks 1, 2, 0, 3, 0."""
    found = results(judged.folder, judged.document)
    assert found.users.to_pylist() == list(world.JUDGED)
    assert found.gains["recall_at_1"].tolist() == [1, 0, 0, 0, 0]
    assert found.gains["recall_at_3"].tolist() == [1, 1, 0, 1, 0]
    assert found.gains["ndcg_at_3"] == pytest.approx([1, 1 / math.log2(3), 0, 1 / 2, 0])
    assert found.gains["mrr"] == pytest.approx([1, 1 / 2, 0, 1 / 3, 0])


def test_the_mean_of_the_gains_is_the_figure_of_the_report(judged: SimpleNamespace):
    for method, its in judged.document["methods"].items():
        gains = results(judged.folder, judged.document, method).gains
        assert {name: of.mean() for name, of in gains.items()} == pytest.approx(
            {name: figure["mean"] for name, figure in its["figures"].items()}
        )


def test_floors_are_those_that_were_evaluated(judged: SimpleNamespace):
    found = results(judged.folder, judged.document, floors=("popularity", "markov"))
    assert list(found.floors) == ["popularity"]
    theirs = results(judged.folder, judged.document, "popularity").gains["mrr"]
    np.testing.assert_array_equal(found.floors["popularity"]["mrr"], theirs)


def test_kinds_of_users_by_hand(judged: SimpleNamespace):
    """Targets a, d, e, b, c; of these a and b are in the history, and d and e have no training event."""
    kinds = {kind: of.tolist() for kind, of in results(judged.folder, judged.document).slices.items()}
    assert kinds["target repeat"] == [True, False, False, True, False]
    assert kinds["target frequency 0 (cold)"] == [False, True, True, False, False]
    assert kinds["history length under 5"] == [True] * 5
    assert kinds["category Cups"] == [False, False, False, True, True]
    assert kinds["price no price"] == [False, False, True, False, False]
    shown = {f"{one['by']} {one['value']}": one["users"] for one in judged.document["slices"] if one["by"] != "price"}
    assert {kind: kinds[kind].count(True) for kind in shown} == shown


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({}, True),
        ({"lists": {**world.LISTS, "u1": world.LISTS["u2"]}}, True),  # another model
        ({"users": ("u5", "u4", "u3", "u2", "u1")}, True),
        ({"users": ("u1", "u2", "u3")}, False),
        ({"split": "valid"}, False),
        ({"exclude_seen": True, "lists": UNSEEN}, False),
        ({"k": 4, "lists": LONGER}, False),
        ({"sequences": {**world.SEQUENCES, "u2": ["a", "d", "c"]}}, False),  # another target
    ],
)
def test_the_hash_of_the_data_is_of_what_was_asked(
    judged: SimpleNamespace, tmp_path: Path, change: dict[str, Any], same: bool
):
    other = evaluated(tmp_path, **change)
    found = results(other, json.loads((other / "metrics.json").read_text()))
    assert (found.data == results(judged.folder, judged.document).data) is same


def test_an_evaluation_is_opened_as_it_was_written(judged: SimpleNamespace):
    found = parse_evaluation(judged.document)
    assert isinstance(found, Evaluation)
    assert json.loads(json.dumps(asdict(found))) == {**judged.document, "slices": [], "examples": []}
