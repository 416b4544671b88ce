"""The retrieve step: generated texts in, ranked real items out."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from calrec import artifacts
from calrec.artifacts import Manifest
from calrec.config import GenerateConfig, RetrieveConfig
from calrec.model.loading import Users, load_users
from calrec.retrieve.catalogue import Bm25, Catalogue, load_catalogue
from calrec.retrieve.fusion import Match, fuse, match, rank
from calrec.settings import from_dict, to_dict


def retrieve(texts: Path, generations: Path, out: Path, config: RetrieveConfig) -> Manifest:
    """Rank the real items of the category by BM25 over every user's generated texts.

    Args:
        texts: folder of the textify step.
        generations: folder of the generate step; it says which category and which split.
        out: the folder to make; `config.k` rows per user, fewer only when the catalogue is smaller.
        config: BM25 and fusion.

    Raises:
        ValueError: the generations were made from other texts.
    """
    of_generations = artifacts.read_manifest(generations, "generations")
    of_texts = artifacts.read_manifest(texts, "texts")
    if of_generations.inputs["texts"] != of_texts.digest:
        raise ValueError(f"{generations} was made from other texts than {texts}; run generate again")
    domain = str(of_generations.config["domain"])
    catalogue = load_catalogue(texts, domain)
    index = Bm25(catalogue.group_texts, config)
    users = load_users(texts, [domain])
    seen = histories(users, from_dict(GenerateConfig, of_generations.config["generate"]).split)
    depth = config.k + (max(len(items) for items in seen.values()) if config.exclude_seen else 0)

    matches: dict[str, Match] = {}
    rows: list[dict[str, Any]] = []
    margins: list[float] = []
    n_users = 0
    for user, its_texts, logprobs in _by_user(generations):
        n_users += 1
        for text in its_texts:
            if text not in matches:
                matches[text] = match(index.scores(text), depth)
                margins.append(_margin(matches[text]))
        fused = fuse([matches[text] for text in its_texts], logprobs, config.epsilon)
        excluded = seen[user] if config.exclude_seen else frozenset()
        for place, one in enumerate(rank(fused, catalogue.members, config.k, excluded), 1):
            rows.append({"user_id": user, "rank": place, **_facts(catalogue, one.item), "score": one.score,
                         "reason": "" if one.text is None else its_texts[one.text]})  # fmt: skip
    counts = {
        "users": n_users,
        "items": len(catalogue.items),
        "text_groups": len(catalogue.members),
        "distinct_texts": len(matches),
        "texts_without_known_word": sum(found.highest == 0 for found in matches.values()),
        "bm25_margin": round(float(np.mean(margins)), 4),
        "filled_share": round(sum(not row["reason"] for row in rows) / max(1, len(rows)), 4),
    }
    print(f"retrieve {domain}: {', '.join(f'{name} {value:,}' for name, value in counts.items())}", flush=True)
    with artifacts.writing(Path(out)) as folder:
        artifacts.write_table(
            folder, "recommendations.parquet", pa.Table.from_pylist(rows, schema=artifacts.RECOMMENDATIONS)
        )
        return artifacts.finish(
            folder,
            Manifest(
                "recommendations",
                config={**of_generations.config, "retrieve": to_dict(config)},
                counts=counts,
                inputs={"texts": of_texts.digest, "generations": of_generations.digest},
            ),
        )


def histories(users: Users, split: str) -> dict[str, frozenset[int]]:
    """user_id → item codes bought before the held-out item of the split."""
    at = users.test_at if split == "test" else users.valid_at
    return {
        user: frozenset(items[:end].tolist())
        for user, items, end in zip(users.user_id, users.items, at.tolist(), strict=True)
        if end >= 0
    }


def _by_user(generations: Path) -> Iterator[tuple[str, list[str], list[float]]]:
    """(user_id, texts, log-probabilities), one user after the other, bounded in memory."""
    current: tuple[str, list[str], list[float]] | None = None
    for batch in pq.ParquetFile(Path(generations) / "generations.parquet").iter_batches():
        columns = (batch[name].to_pylist() for name in ("user_id", "text", "logprob"))
        for user, text, logprob in zip(*columns, strict=True):
            if current is None or current[0] != user:
                if current is not None:
                    yield current
                current = (user, [], [])
            current[1].append(text)
            current[2].append(logprob)
    if current is not None:
        yield current


def _facts(catalogue: Catalogue, item: int) -> dict[str, str]:
    at = catalogue.at(item)
    return {"item_id": catalogue.item_id[at], "title": catalogue.title[at]}


def _margin(found: Match) -> float:
    """By what share the best group beats the second: how sure BM25 is of the item."""
    if found.highest <= 0 or len(found.scores) < 2:
        return 0.0
    return float((found.scores[0] - found.scores[1]) / found.highest)
