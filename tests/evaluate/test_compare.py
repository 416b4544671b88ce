"""Two evaluations by hand: the users that both have, what is refused, and what is said of the difference."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calrec.cli.__main__ import main
from calrec.config import EvaluateConfig
from calrec.evaluate.compare import Comparison, Side, compare, markdown, text, write
from calrec.evaluate.results import Difference, Figure
from calrec.evaluate.step import evaluate
from tests.evaluate import world

CONFIG = EvaluateConfig(recall_at=(1, 3), ndcg_at=(3,), bootstrap=100, baselines=("popularity",))
BETTER: world.Ranked = {
    **world.LISTS,
    "u2": [("d", 3.0), ("a", 2.0), ("c", 2.0)],  # 1 instead of 2
    "u3": [("f", 3.0), ("e", 3.0), ("b", 0.0)],  # 2 instead of none
    "u4": [("a", 2.0), ("c", 2.0), ("d", 2.0)],  # none instead of 3
}


def judged(
    root: Path,
    lists: world.Ranked = world.LISTS,
    users: Sequence[str] = world.JUDGED,
    config: EvaluateConfig = CONFIG,
    split: str = "test",
    sequences: dict[str, list[str]] = world.SEQUENCES,
    **settings: Any,
) -> Path:
    """An evaluation of lists for some users."""
    texts = world.texts(root, sequences)
    generations = world.generations(root, texts, users, split=split)
    rows = world.rows_of({user: lists[user] for user in users})
    ranked = world.recommendations(root, texts, generations, rows, **settings)
    evaluate(texts, generations, ranked, root / "e", config)
    return root / "e"


@pytest.fixture(scope="module")
def champion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return judged(tmp_path_factory.mktemp("champion"))


@pytest.fixture(scope="module")
def challenger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return judged(tmp_path_factory.mktemp("challenger"), BETTER)


def test_every_user_against_himself(champion: Path, challenger: Path):
    """Ranks 1, 2, 0, 3, 0 against 1, 1, 2, 0, 0."""
    found = compare(champion, challenger, CONFIG)
    assert (found.users, found.a.more_users, found.b.more_users, found.k) == (5, 0, 0, 3)
    hit = found.differences["recall_at_1"]
    assert (hit.mean, hit.wins, hit.losses, hit.p) == (pytest.approx(1 / 5), 1, 0, 1.0)
    assert found.differences["recall_at_3"].mean == 0
    assert (found.differences["recall_at_3"].wins, found.differences["recall_at_3"].losses) == (1, 1)
    assert found.differences["mrr"].mean == pytest.approx((1 / 2 + 1 / 2 - 1 / 3) / 5)
    assert found.a.figures["mrr"].mean == pytest.approx((1 + 1 / 2 + 1 / 3) / 5)
    assert found.b.figures["mrr"].mean == pytest.approx((1 + 1 + 1 / 2) / 5)
    assert all(one.p_holm >= one.p for one in found.differences.values())


def test_nothing_differs_from_itself(champion: Path):
    found = compare(champion, champion, CONFIG)
    assert {(one.mean, one.p_holm, one.wins, one.losses) for one in found.differences.values()} == {(0.0, 1.0, 0, 0)}
    assert found.verdict == "No difference shown in recall_at_1, recall_at_3, ndcg_at_3, mrr."


def test_only_shared_users_count_in_any_order(champion: Path, tmp_path: Path):
    other = judged(tmp_path, {**BETTER, "u6": world.LISTS["u1"]}, users=("u6", "u3", "u2"))
    found = compare(champion, other, CONFIG)
    assert (found.users, found.a.more_users, found.b.more_users) == (2, 3, 1)
    assert found.differences["mrr"].mean == pytest.approx((1 / 2 + 1 / 2) / 2)
    assert "2 users of shop with a test item are in both; 3 are only in A and 1 only in B; lists of 3" in text(found)


def test_any_method_may_be_compared(champion: Path, challenger: Path):
    """Popularity lists a, b, then c, f or what follows: ranks 1, 0, 0, 2, and for u5 item c."""
    found = compare(champion, challenger, CONFIG, method_a="popularity")
    assert found.a.method == "popularity" and found.a.figures["recall_at_1"].mean == 1 / 5
    with pytest.raises(ValueError, match="no method 'bm25'; there are: calrec, popularity"):
        compare(champion, challenger, CONFIG, method_b="bm25")


def test_lists_of_another_length_are_cut(champion: Path, tmp_path: Path):
    short = {user: items[:2] for user, items in world.LISTS.items()}
    config = dataclasses.replace(CONFIG, recall_at=(1, 2), ndcg_at=(2,))
    found = compare(champion, judged(tmp_path, short, config=config, k=2), CONFIG)
    assert found.k == 2 and list(found.differences) == ["recall_at_1", "mrr"]
    assert {one.mean for one in found.differences.values()} == {0.0}
    assert found.a.figures["mrr"].mean == pytest.approx((1 + 1 / 2) / 5)


def test_what_cannot_be_compared(champion: Path, tmp_path: Path):
    others = {
        "no user in common": {"users": ("u6",), "lists": {"u6": world.LISTS["u1"]}},
        "of another split: test and valid": {"split": "valid"},
        "1 users have another target in .* such as user u5 with f and c": {
            "sequences": {**world.SEQUENCES, "u5": ["a", "d", "f"]}
        },
    }
    for number, (message, change) in enumerate(others.items()):
        other = judged(tmp_path / str(number), **change)
        with pytest.raises(ValueError, match=message):
            compare(champion, other, CONFIG)


def test_what_may_differ_when_a_person_says_so(champion: Path, tmp_path: Path):
    left = {"u1": "def", "u2": "bed", "u3": "fcd", "u4": "def", "u5": "bef"}
    lists = {user: [(item, 1.0) for item in items] for user, items in left.items()}
    other = judged(tmp_path, lists, exclude_seen=True)
    with pytest.raises(ValueError, match="exclude_seen is False and True.*--despite exclude_seen"):
        compare(champion, other, CONFIG)
    assert compare(champion, other, CONFIG, despite=["exclude_seen"]).users == 5
    with pytest.raises(ValueError, match="only exclude_seen and catalogue may differ; got 'split'"):
        compare(champion, other, CONFIG, despite=["split"])


def test_another_catalogue_is_said(champion: Path, tmp_path: Path):
    without_f = {**world.SEQUENCES, "u6": ["a", "e", "a", "a"]}
    lists = {**world.LISTS, "u3": [("e", 3.0), ("a", 1.0), ("b", 0.0)]}
    other = judged(tmp_path, lists, sequences=without_f)
    with pytest.raises(ValueError, match=r"the catalogues differ \(6 and 5 items\).*--despite catalogue"):
        compare(champion, other, CONFIG)
    assert compare(champion, other, CONFIG, despite=["catalogue"]).differences["mrr"].wins == 1


def figure(mean: float) -> Figure:
    return Figure(mean, mean - 0.01, mean + 0.01)


def test_the_verdict_says_what_is_shown_and_what_is_not():
    names = {"recall_at_1": (0.012, 0.003), "recall_at_10": (-0.02, 1e-5), "mrr": (0.001, 0.4)}
    differences = {
        name: Difference(mean, mean - 0.008, mean + 0.008, p / 3, p, 0.1, 10, 5) for name, (mean, p) in names.items()
    }
    figures = {name: figure(0.1) for name in names}
    found = Comparison("shop", "test", 99, 20, Side("A", "calrec", figures, 0), Side("B", "x", figures, 0), differences)
    assert found.verdict == (
        "B is better in recall_at_1 by 0.0120 (0.0040 – 0.0200; p = 0.003 after Holm), and worse in recall_at_10 by "
        "0.0200 (0.0120 – 0.0280; p < 0.001 after Holm); no difference shown in mrr."
    )
    assert text(found).splitlines()[-1] == found.verdict and found.verdict in markdown(found)


def test_a_real_difference_is_found_among_many_users():
    from calrec.evaluate.figures import correct_holm, differences

    rng = np.random.default_rng(0)
    theirs = rng.integers(0, 4, 4000).astype(np.int32)
    ours = np.where(rng.random(4000) < 0.1, 1, theirs).astype(np.int32)
    found = correct_holm([differences(ours, theirs, CONFIG)])[0]
    assert all(one.p_holm < 0.001 and one.low > 0 for one in found.values())


def test_the_command_prints_and_writes(champion: Path, challenger: Path, tmp_path: Path, capsys: Any):
    for ending in ("md", "json"):
        out = tmp_path / "made" / f"c.{ending}"
        assert main(["compare", str(champion), str(challenger), "--out", str(out)]) == 0
        shown = capsys.readouterr().out
        assert "B: calrec of" in shown and "B less A" in shown and shown.strip().endswith("mrr.")
        assert shown.strip().splitlines()[-1] in out.read_text()
    document = json.loads((tmp_path / "made/c.json").read_text())
    assert document["differences"]["mrr"]["wins"] == 2 and document["b"]["method"] == "calrec"
    assert main(["compare", str(champion), str(challenger), "--method-b", "none"]) == 2
    assert "no method 'none'" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"written as .md or .json; got c.txt"):
        write(compare(champion, challenger, CONFIG), Path("c.txt"))
