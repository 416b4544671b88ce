"""The step on real evaluations of the shop: what is decided, counted and written."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from calrec import artifacts
from calrec.config import GateConfig
from calrec.promote.step import promote
from tests.evaluate import world
from tests.promote.shops import evaluated

WORSE: world.Ranked = {user: [("f", 3.0), ("e", 2.0), ("d", 1.0)] for user in world.JUDGED}  # finds one of five targets
ALL: world.Ranked = {
    user: [(world.TARGETS[user], 3.0), ("e", 2.0), ("f", 1.0)] for user in ("u1", "u2", "u4", "u5")
} | {"u3": [("e", 3.0), ("a", 2.0), ("f", 1.0)]}
RULE = GateConfig(metric="mrr", beat=("popularity",))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Evaluations: of the shop's model, of one that is always right, and of this beside two champions."""
    root = tmp_path_factory.mktemp("folders")
    made: dict[str, dict[str, Any]] = {
        "plain": {},
        "right": {"lists": ALL},
        "beside the shop's": {"lists": ALL, "champion": world.LISTS},
        "beside itself": {"lists": ALL, "champion": ALL},
        "of others": {"lists": ALL, "users": ("u1", "u2", "u3")},
    }
    return {name: evaluated(root / str(at), **one) for at, (name, one) in enumerate(made.items())}


def test_without_a_champion_the_floors_decide(folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture):
    made = promote(folders["right"], tmp_path / "d", RULE)
    assert made.counts == {"promote": 1}
    assert made.inputs == {"evaluation": artifacts.read_manifest(folders["right"]).digest}
    assert artifacts.read_manifest(tmp_path / "d", "decision") == made
    assert f"promote shop: passes the gate; {'; '.join(made.notes)}\n" in capsys.readouterr().out


def test_the_champion_of_the_evaluation_is_compared_user_by_user(folders: dict[str, Path], tmp_path: Path):
    """MRR 1 against (1 + 1/2 + 0 + 1/3 + 0) / 5."""
    made = promote(folders["beside the shop's"], tmp_path / "d", RULE)
    assert made.counts["promote"] == 1
    assert made.counts["gain"] == pytest.approx(1 - (1 + 1 / 2 + 1 / 3) / 5)
    assert 0 < made.counts["gain_low"] < made.counts["gain"] < made.counts["gain_high"] <= 1


def test_a_tie_with_the_champion_changes_nothing(folders: dict[str, Path], tmp_path: Path):
    made = promote(folders["beside itself"], tmp_path / "d", RULE)
    assert made.counts == {"promote": 0, "gain": 0.0, "gain_low": 0.0, "gain_high": 0.0}


def test_the_champion_of_another_folder_gives_the_same_decision(folders: dict[str, Path], tmp_path: Path):
    one = promote(folders["beside the shop's"], tmp_path / "one", RULE)
    other = promote(folders["right"], tmp_path / "other", RULE, champion=folders["plain"])
    assert (other.counts, other.notes) == (one.counts, one.notes)
    assert other.inputs["champion"] == artifacts.read_manifest(folders["plain"]).digest
    for name in ("one", "other"):
        assert re.search(r"^\| Champion \| 0\.3667 \(", (tmp_path / name / "decision.md").read_text(), re.MULTILINE)


def test_the_folder_that_is_named_goes_before_the_champion_of_the_evaluation(folders: dict[str, Path], tmp_path: Path):
    made = promote(folders["beside the shop's"], tmp_path / "d", RULE, champion=folders["right"])
    assert made.counts == {"promote": 0, "gain": 0.0, "gain_low": 0.0, "gain_high": 0.0}


def test_a_champion_of_other_users_is_a_reason_and_no_row(folders: dict[str, Path], tmp_path: Path):
    made = promote(folders["right"], tmp_path / "d", RULE, champion=folders["of others"])
    assert made.counts == {"promote": 0}
    assert any("2 are the model's alone and 0 the champion's" in reason for reason in made.notes)
    assert "| Champion |" not in (tmp_path / "d/decision.md").read_text()


def test_the_decision_reads_as_verdict_reasons_figures_cost_and_rule(folders: dict[str, Path], tmp_path: Path):
    rule = GateConfig(metric="mrr", beat=("popularity", "markov"), max_seconds=5)
    made = promote(folders["beside the shop's"], tmp_path / "d", rule)
    text = (tmp_path / "d/decision.md").read_text()
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == ["Why", "Figures", "Cost", "Rule"]
    assert "**shop does not pass the gate.**" in text
    assert [re.sub(r"\W", "", line)[:6] for line in text.split("## ")[1].splitlines()[4:-1]] == [
        reason[:6] for reason in made.notes
    ]
    assert "| **failed** | MRR of the baseline Markov (last item) is missing |" in text
    assert "| **failed** | What training took is not known; 5 s is the limit |" in text
    figures = json.loads((folders["beside the shop's"] / "metrics.json").read_text())["methods"]["popularity"][
        "figures"
    ]
    mean, low, high = (figures["mrr"][end] for end in ("mean", "low", "high"))
    assert f"| Popularity | {mean:.4f} ({low:.4f} to {high:.4f}) |" in text


def test_the_same_evaluation_gives_the_same_folder(folders: dict[str, Path], tmp_path: Path):
    made = [promote(folders["beside the shop's"], tmp_path / name, RULE) for name in ("a", "b")]
    assert made[0] == made[1]
    assert (tmp_path / "a/decision.md").read_bytes() == (tmp_path / "b/decision.md").read_bytes()
