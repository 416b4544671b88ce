"""What the figures mean, where events share their times, stands below every table and in every list of figures."""

import json
from pathlib import Path

import pytest

from calrec import artifacts
from calrec.config import EvaluateConfig, SplitConfig, TextConfig
from calrec.evaluate import compare
from calrec.evaluate.step import evaluate
from calrec.report import manifests
from calrec.textify.step import textify
from tests.evaluate import world
from tests.textify.test_splits import DAY, Log, write_log

CONFIG = EvaluateConfig(recall_at=(1, 3), ndcg_at=(3,), bootstrap=50, baselines=("popularity",))
EVENT = "100% of the targets are any item of a basket"
BASKET = "the history ends before the basket, and its other items are in neither"


def shop(apart: bool = False) -> Log:
    """Three baskets of each user, the last of three items, or six events at times of their own."""
    baskets = [["a"], ["b", "e"], ["c", "d", "f"]]
    return {
        "shop": {
            user: [
                (item, (3 * n + apart * at) * DAY) for n, basket in enumerate(baskets) for at, item in enumerate(basket)
            ]
            for user in world.SEQUENCES
        }
    }


def judged(root: Path, unit: str, apart: bool = False) -> Path:
    textify(write_log(root, shop(apart)), root / "texts", TextConfig(), SplitConfig(unit=unit))
    generations = world.generations(root, root / "texts")
    ranked = world.recommendations(root, root / "texts", generations, world.rows_of(world.LISTS))
    evaluate(root / "texts", generations, ranked, root / "e", CONFIG)
    return root / "e"


@pytest.mark.parametrize(("unit", "said"), [("event", EVENT), ("basket", BASKET)])
def test_it_stands_below_the_tables(tmp_path: Path, unit: str, said: str, capsys: pytest.CaptureFixture[str]):
    out = judged(tmp_path, unit)
    assert said in capsys.readouterr().out
    assert said in json.loads((out / "metrics.json").read_text())["meaning"]
    for report in ("report.md", "report.html"):
        text = (out / report).read_text()
        for section in ("Result", "Against each method", "Kinds of users"):
            below = text.split(section, 2 if report.endswith("html") else 1)[-1]
            assert said in below.split("<section" if report.endswith("html") else "\n## ")[0], section
    assert any(said in note for note in artifacts.read_manifest(out).notes)
    assert said in manifests.text(artifacts.read_manifest(out))
    both = compare.compare(out, out, CONFIG, "calrec", "popularity")
    assert compare.text(both).count(said) == compare.markdown(both).count(said) == 1


def test_single_events_at_times_of_their_own_need_no_words(tmp_path: Path):
    out = judged(tmp_path, "event", apart=True)
    assert json.loads((out / "metrics.json").read_text())["meaning"] == ""
    assert "basket" not in (out / "report.md").read_text().replace("split.unit", "").lower()


def test_a_target_by_baskets_is_not_preceded_by_its_basket(tmp_path: Path):
    out = judged(tmp_path, "basket")
    rows = artifacts.read_table(out, "users.parquet", "evaluation").to_pylist()
    assert {row["history_length"] for row in rows} == {3}
    assert {row["target"] for row in rows} <= set("cdf") and not any(row["target_in_history"] for row in rows)
