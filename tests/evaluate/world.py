"""A shop of six items and six users whose every figure can be computed by hand; e and f share a text."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa

from calrec import artifacts
from calrec.artifacts import Manifest
from calrec.config import DataConfig, GenerateConfig, RetrieveConfig, TextConfig
from calrec.config.overrides import to_dict
from calrec.ingest.step import ingest
from calrec.textify.step import textify
from tests.conftest import write_lines

ITEMS = {
    "a": ("red tea", "Tea", "1.00"),
    "b": ("red cup", "Cups", "2.00"),
    "c": ("blue cup", "Cups", "3.00"),
    "d": ("tea pot", "Pots", "4.00 - 6.00"),
    "e": ("lamp", "Lamps", ""),
    "f": ("lamp", "Lamps", ""),
}
# The last item is the test target, the one before it validation.
SEQUENCES = {
    "u1": ["a", "b", "c", "a"],
    "u2": ["a", "c", "d"],
    "u3": ["a", "b", "b", "e"],
    "u4": ["a", "c", "b", "b"],
    "u5": ["a", "d", "c"],
    "u6": ["a", "f", "a", "a"],
}
TRAINING = {"a": 6, "b": 2, "c": 1, "d": 0, "e": 0, "f": 1}
TARGETS = {user: items[-1] for user, items in SEQUENCES.items()}
JUDGED = ("u1", "u2", "u3", "u4", "u5")
K = 3
Ranked = Mapping[str, Sequence[tuple[str, float | None]]]
LISTS: Ranked = {
    "u1": [("a", 3.0), ("b", 2.0), ("c", 1.0)],  # rank 1
    "u2": [("a", 3.0), ("d", 2.0), ("c", 2.0)],  # rank 2, tied with 3
    "u3": [("f", 3.0), ("a", 1.0), ("b", 0.0)],  # not in the list, its text is at 1
    "u4": [("a", 2.0), ("c", 2.0), ("b", 2.0)],  # rank 3, all tied
    "u5": [("a", 3.0), ("b", 0.0), ("d", 0.0)],  # not in the list
}
RANKS = {"u1": 1, "u2": 2, "u3": 0, "u4": 3, "u5": 0}
TEXT_A, TEXT_D = (
    "Title: red tea. Category: Tea. Brand: Unknown. Price: 1.00.",
    "Title: tea pot. Category: Pots. Brand: Unknown. Price: 4.00 - 6.00.",
)
GENERATED = {user: [(TEXT_A, 3), ("Title: nonsense.", 1)] for user in SEQUENCES}


def texts(
    root: Path, sequences: Mapping[str, Sequence[str]] = SEQUENCES, attributes: Sequence[str] = TextConfig().attributes
) -> Path:
    """The folder of the textify step."""
    rows = [
        {"item_id": item, "title": title, "categories": [category], "brand": "", "price": price}
        for item, (title, category, price) in ITEMS.items()
    ]
    write_lines(root / "raw/items.jsonl.gz", rows)
    rows = [{"user_id": user, "items": items} for user, items in sequences.items()]
    write_lines(root / "raw/sequences.jsonl.gz", rows)
    ingest("shop", str(root / "raw"), root / "log", DataConfig(dedup="none", min_user=3, min_item=0))
    textify([root / "log"], root / "texts", TextConfig(attributes=tuple(attributes)))
    return root / "texts"


def rows_of(lists: Ranked) -> list[dict[str, Any]]:
    """Rows of a ranking, in order."""
    return [
        {"user_id": user, "rank": rank, "item_id": item, "score": score}
        for user, its in lists.items()
        for rank, (item, score) in enumerate(its, 1)
    ]


def generations(root: Path, of_texts: Path, users: Sequence[str] = JUDGED, **settings: Any) -> Path:
    """The folder of the generate step, as if a model had written GENERATED."""
    rows = [
        {"user_id": user, "text": text, "logprob": -1.0, "count": count, "finished": True}
        for user in users
        for text, count in GENERATED[user]
    ]
    with artifacts.writing(root / "generations") as folder:
        artifacts.write_table(folder, "generations.parquet", pa.Table.from_pylist(rows, schema=artifacts.GENERATIONS))
        config = {"domain": "shop", "generate": to_dict(GenerateConfig(samples=4, **settings))}
        inputs = {"texts": artifacts.read_manifest(of_texts).digest, "model": "m"}
        artifacts.finish(folder, Manifest("generations", config, {"users": len(users)}, inputs=inputs))
    return root / "generations"


def recommendations(
    root: Path, of_texts: Path, of_generations: Path, rows: Sequence[Mapping[str, Any]], **settings: Any
) -> Path:
    """The folder of the retrieve step with these rows."""
    more = {"title": "", "source": "generation", "reason": TEXT_A, "logprob": -1.0, "match": 0.5}
    table = pa.Table.from_pylist([{**more, **row} for row in rows], schema=artifacts.RECOMMENDATIONS)
    made = artifacts.read_manifest(of_generations)
    with artifacts.writing(root / "recommendations") as folder:
        artifacts.write_table(folder, "recommendations.parquet", table)
        config = {**made.config, "retrieve": to_dict(RetrieveConfig(**{"k": K, **settings}))}
        inputs = {"texts": artifacts.read_manifest(of_texts).digest, "generations": made.digest}
        artifacts.finish(folder, Manifest("recommendations", config, {"bm25_margin": 0.25}, inputs=inputs))
    return root / "recommendations"


def shop(root: Path, rows: Sequence[Mapping[str, Any]] | None = None, **settings: Any) -> SimpleNamespace:
    """All folders; `settings` are of the retrieve section."""
    of_texts = texts(root)
    of_generations = generations(root, of_texts)
    ranked = recommendations(root, of_texts, of_generations, rows_of(LISTS) if rows is None else rows, **settings)
    return SimpleNamespace(texts=of_texts, generations=of_generations, recommendations=ranked)
