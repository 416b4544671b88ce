"""A few users as a person sees them: some whose target is in the list, and some whose is not."""

import heapq
import itertools
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from calrec.evaluate.generated import most_frequent
from calrec.evaluate.metrics import Ranks
from calrec.evaluate.results import Example
from calrec.evaluate.users import Judged
from calrec.retrieve.catalogue import Catalogue

EXAMPLES = 10
_HISTORY, _ITEMS, _TEXTS = 8, 10, 5  # shown of each


def choose_users(user_id: Sequence[str], ranks: Ranks, many: int = EXAMPLES) -> list[int]:
    """Users of both kinds in turns, half of each where there are so many; by a hash of the id, so spread over all.

    The choice depends on who is hit and on nothing else: neither on the order of the users nor on chance.
    """

    def key(user: int) -> tuple[int, str]:
        return zlib.crc32(user_id[user].encode()), user_id[user]

    hits, misses = (heapq.nsmallest(many, np.flatnonzero(which).tolist(), key=key) for which in (ranks > 0, ranks == 0))
    hits, misses = hits[: max(many // 2, many - len(misses))], misses[: max(many - many // 2, many - len(hits))]
    turns = itertools.chain.from_iterable(itertools.zip_longest(hits, misses, fillvalue=-1))
    return [user for user in turns if user >= 0][:many]


def table(folder: Path) -> list[dict[str, Any]]:
    """The examples of an evaluation as flat rows, for a table that can be sorted and compared over runs.

    Args:
        folder: of the evaluate step.
    """
    return [
        {
            "user_id": one["user_id"],
            "history": " → ".join(one["history"]),
            "target": one["target"],
            "rank": one["rank"],
            "recommended": " · ".join(f"{place}. {title}" for place, title in enumerate(one["recommended"], 1)),
            "generated": " · ".join(f"{text} ×{count}" for text, count in one["generated"]),
        }
        for one in json.loads((Path(folder) / "metrics.json").read_text())["examples"]
    ]


def examples(
    judged: Judged, ranks: NDArray[np.int32], catalogue: Catalogue, generations: Path, recommendations: Path
) -> list[Example]:
    """The chosen users with their newest items, their target, what was generated, and what is recommended."""
    users = choose_users(judged.user_id.to_pylist(), ranks)
    ids = [judged.user_id[user].as_py() for user in users]
    texts = most_frequent(generations, ids, _TEXTS)
    path = Path(recommendations) / "recommendations.parquet"
    filters = [("user_id", "in", ids), ("rank", "<=", _ITEMS)]
    listed: dict[str, list[tuple[int, str]]] = {user: [] for user in ids}
    for row in pq.read_table(path, columns=["user_id", "rank", "title", "item_id"], filters=filters).to_pylist():
        listed[row["user_id"]].append((row["rank"], row["title"] or row["item_id"]))

    def title(item: int) -> str:
        return catalogue.title[catalogue.at(item)] or catalogue.item_id[catalogue.at(item)]

    return [
        Example(
            user_id=name,
            history=[title(item) for item in judged.histories[user][-_HISTORY:].tolist()],
            target=title(int(judged.target.item[user])),
            rank=int(ranks[user]),
            recommended=[item for _, item in sorted(listed[name])],
            generated=texts[name],
        )
        for user, name in zip(users, ids, strict=True)
    ]
