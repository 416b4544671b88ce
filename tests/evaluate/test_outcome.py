"""The headline of a target, from figures written by hand."""

import json
import re
from pathlib import Path

from calrec.evaluate.headline import outcome


def method(recall: float, ndcg: float) -> dict:
    means = {"recall_at_5": 0.0, "recall_at_10": recall, "ndcg_at_10": ndcg}
    return {"figures": {name: {"mean": mean, "low": mean - 0.05, "high": mean + 0.05} for name, mean in means.items()}}


def evaluation(folder: Path, **others: dict) -> Path:
    document = {
        "domain": "toys|games",
        "users": 1200,
        "methods": {"calrec": method(0.25, 0.125), **others},
        "data": {"logs": {"toys|games": "495cb5c3"}},
    }
    (folder / "metrics.json").write_text(json.dumps(document))
    return folder


def cells(table: str) -> dict[str, str]:
    header, _, row = ([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table.splitlines())
    return dict(zip(header, row, strict=True))


def test_the_model_stands_beside_the_champion_and_the_best_of_the_others(tmp_path: Path):
    folder = evaluation(tmp_path, champion=method(0.3, 0.2), popularity=method(0.1, 0.5), markov=method(0.2, 0.1))
    found = outcome(folder, "version 3,\nthe champion")
    assert cells(found.table) == {
        "target": "toys\\|games",
        "users": "1,200",
        "Recall@10": "0.2500",
        "NDCG@10": "0.1250",
        "Recall@10: 95 % interval": "0.2000 to 0.3000",
        "champion": "0.3000",
        "best other method": "0.2000 Markov (last item)",
        "decision": "version 3, the champion",
    }
    assert found.metrics == {"recall_at_10": 0.25, "ndcg_at_10": 0.125}
    assert found.data == {"toys|games": "495cb5c3"}


def test_without_a_champion_or_baselines_the_row_has_the_same_columns(tmp_path: Path):
    (tmp_path / "a").mkdir()
    full = outcome(evaluation(tmp_path / "a", champion=method(0.3, 0.2), popularity=method(0.1, 0.5)))
    found = cells(outcome(evaluation(tmp_path)).table)
    assert list(found) == list(cells(full.table))
    assert (found["champion"], found["best other method"], found["decision"]) == ("none yet", "–", "–")
