"""The model card: it says what the evaluation says, and fits into the registry."""

import copy
import json
import re
from typing import Any

import pytest

from calrec.promote.card import card
from calrec.promote.gate import Decision
from calrec.tracking.limits import DESCRIPTION as LONGEST
from tests.promote.shops import evaluated

DECISION = Decision(False, ("passed: Recall@3 0.6 against 0.2 of Popularity", "failed: the champion is better"))
STAGE = {"steps": 1200, "batch_size": 16, "lr": 0.003, "seed": 0}
MODEL = {"name": "scratch", "size": "small", "tuning": "full", "dora": False, "lora_rank": 16}


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return json.loads((evaluated(tmp_path_factory.mktemp("card")) / "metrics.json").read_text())


def changed(evaluation: dict[str, Any], **parts: Any) -> dict[str, Any]:
    """A copy with other parts; of `config` those sections alone."""
    found = copy.deepcopy(evaluation)
    config = {**found["config"], **parts.pop("config", {})}
    return {**found, **parts, "config": config}


def section(text: str, title: str) -> str:
    return text.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def test_its_sections(evaluation: dict[str, Any]):
    text = card(evaluation, DECISION, {})
    names = ["Model", "Data", "Figures", "Decision", "Limits", "Cost", "Use"]
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == names
    assert text.startswith("# Model card: shop\n")


def test_the_data_and_the_figures_are_those_of_the_evaluation(evaluation: dict[str, Any]):
    text = card(evaluation, DECISION, {})
    assert f"| Hash of the texts | {evaluation['data']['texts']} |" in text
    assert f"| Hash of the catalogue | {evaluation['data']['catalogue']} |" in text
    assert "5 users out of 6 with a held-out test item" in section(text, "Data")
    assert "22, of which 10 train" in section(text, "Data")
    for name, shown in (("calrec", r"\*\*CALRec\*\*"), ("popularity", "Popularity")):
        figure = evaluation["methods"][name]["figures"]["recall_at_3"]
        mean, low, high = (f"{figure[end]:.4f}" for end in ("mean", "low", "high"))
        assert re.search(rf"^\| {shown} \| {mean} \({low} to {high}\) \|", section(text, "Figures"), re.MULTILINE)


def test_the_decision_with_its_reasons(evaluation: dict[str, Any]):
    said = section(card(evaluation, DECISION, {}), "Decision")
    assert "It does not pass the gate." in said
    assert "| passed | Recall@3 0.6 against 0.2 of Popularity |" in said
    assert "| **failed** | The champion is better |" in said
    assert "It passes the gate." in card(evaluation, Decision(True, ()), {})


def test_the_limits_are_numbers_of_the_evaluation(evaluation: dict[str, Any]):
    """Two of five targets are in the history, d and e have no training event, five of six items are listed."""
    said = section(card(evaluation, DECISION, {}), "Limits")
    figure = evaluation["methods"]["calrec"]["figures"]["recall_at_3"]
    assert f"Recall@3 is known to ± {(figure['high'] - figure['low']) / 2:.4f}, from 5 users" in said
    assert "40.0 % of the targets are items that the user had before" in said
    assert re.search(r"Recall@3 is 0\.5000 \(0\.0000 to 1\.0000\) for the 2 users whose target has no training", said)
    assert "83.3 % of the 6 items are in somebody's list" in said
    assert "75.0 % of the generated texts are an item's" in said
    assert "Since the champion's data" not in said


def test_without_cold_targets_it_says_that_nothing_is_known_of_new_items(evaluation: dict[str, Any]):
    warm = [one for one in evaluation["slices"] if one["value"] != "0 (cold)"]
    assert "of new items nothing is known" in card(changed(evaluation, slices=warm), DECISION, {})


def test_the_drift_is_said_when_there_is_one(evaluation: dict[str, Any]):
    figures = {"new_items_share": 0.125, "length_shift": 0.5}
    drift = {"figures": figures, "data": "d", "sizes": {}, "moved": []}
    assert "Since the champion's data: new items in the catalogue 12.5 %, history length 50.0 %." in card(
        changed(evaluation, drift=drift), DECISION, {}
    )


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (MODEL, ["| Base model | scratch, size small |", "| Tuning | every weight |", "that of no base model |"]),
        (
            {**MODEL, "name": "org/base-1b", "tuning": "lora"},
            [
                "| Base model | org/base-1b |",
                "| Licence | see the base model |",
                "| Tuning | LoRA adapters of rank 16 |",
            ],
        ),
        ({**MODEL, "tuning": "lora", "dora": True}, ["| Tuning | DoRA adapters of rank 16 |"]),
    ],
)
def test_the_base_model_and_its_tuning(evaluation: dict[str, Any], model: dict[str, Any], said: list[str]):
    stages = {"stage1": STAGE, "stage2": {**STAGE, "steps": 0}}
    text = section(card(changed(evaluation, config={"model": model, **stages}), DECISION, {}), "Model")
    assert [line for line in said if line not in text] == []
    assert "| Stage 1 | 1,200 steps with batches of 16, learning rate 0.003 |" in text
    assert "| Stage 2 | none |" in text


def test_facts_stand_beside_what_the_evaluation_knows_and_never_instead(evaluation: dict[str, Any]):
    facts = {"base_model": "another", "commit": "abc123", "parameters": 1234567}
    text = section(card(changed(evaluation, config={"model": MODEL}), DECISION, facts), "Model")
    assert "another" not in text
    assert "| Commit | abc123 |" in text
    assert "| Parameters | 1,234,567 |" in text
    assert "| Base model | another |" in card(evaluation, DECISION, facts)  # which was not given the models


def test_ranking_beyond_the_paper_is_named(evaluation: dict[str, Any]):
    retrieve = {**evaluation["config"]["retrieve"], "rerank": 100}
    text = card(changed(evaluation, config={"retrieve": retrieve}), DECISION, {})
    assert "| Ranking | lists of 3; BM25 with k1 1.5 and b 0.75; rerank 100 |" in text


def test_a_champion_stands_below_the_model(evaluation: dict[str, Any]):
    worst = {name: dict.fromkeys(figure, 0.0) for name, figure in evaluation["methods"]["calrec"]["figures"].items()}
    champion = {**evaluation["methods"]["popularity"], "figures": worst}
    text = card(changed(evaluation, methods={**evaluation["methods"], "champion": champion}), DECISION, {})
    rows = re.findall(r"^\| (.*?) \|", section(text, "Figures"), re.MULTILINE)
    assert rows[2:4] == ["**CALRec**", "Champion"]


def test_it_fits_into_the_registry_and_still_says_how_to_use_the_model(evaluation: dict[str, Any]):
    one = evaluation["methods"]["popularity"]
    others = {f"somebody.elses_recommender-{number}" * 3: one for number in range(40)}
    reasons = tuple(f"passed: {'a long reason ' * 10}{number}" for number in range(40))
    text = card(changed(evaluation, methods={**evaluation["methods"], **others}), Decision(True, reasons), {})
    assert 0.9 * LONGEST < len(text) <= LONGEST
    assert "\n… the rest is in decision.md and report.md\n" in text
    assert "models:/calrec-shop@champion" in section(text, "Use")
    assert section(text, "Use").count("```") == 2


def test_words_of_the_data_are_shown_as_they_are(evaluation: dict[str, Any]):
    hostile = "<img src=x> | **bold** [a](javascript:b)"
    text = card(changed(evaluation, domain=hostile), DECISION, {"note": hostile}).split("\n## Use")[0]
    assert "<img" not in text
    assert "[a]" not in text.replace(r"\[a\]", "")
    assert r"| Note | &lt;img src=x&gt; \| \*\*bold\*\* \[a\](javascript:b) |" in text


def test_without_a_record_the_cost_is_said_to_be_unknown(evaluation: dict[str, Any]):
    assert "No step left a record" in section(card(changed(evaluation, cost={}), DECISION, {}), "Cost")
