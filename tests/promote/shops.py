"""Real evaluations of the shop of six items, with and without a champion beside the model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from calrec.config import EvaluateConfig
from calrec.evaluate.results import CHAMPION
from calrec.evaluate.step import evaluate
from tests.evaluate import world

CONFIG = EvaluateConfig(recall_at=(1, 3), ndcg_at=(3,), bootstrap=100, baselines=("popularity", "repeat_last"))


def evaluated(
    root: Path,
    lists: world.Ranked = world.LISTS,
    champion: world.Ranked | None = None,
    users: Sequence[str] = world.JUDGED,
    split: str = "test",
    sequences: dict[str, list[str]] = world.SEQUENCES,
    config: EvaluateConfig = CONFIG,
    **settings: Any,
) -> Path:
    """Lists for some users, beside those of a champion if any; `settings` are of the retrieve section."""
    texts = world.texts(root, sequences)
    generations = world.generations(root, texts, users, split=split)
    rows = world.rows_of({user: lists[user] for user in users})
    ranked = world.recommendations(root, texts, generations, rows, **settings)
    rankings = {}
    if champion:
        lines = [f"{row['user_id']},{row['rank']},{row['item_id']}" for row in world.rows_of(champion)]
        (root / "champion.csv").write_text("\n".join(["user_id,rank,item_id", *lines, ""]))
        rankings = {CHAMPION: root / "champion.csv"}
    evaluate(texts, generations, ranked, root / "e", config, rankings=rankings)
    return root / "e"
