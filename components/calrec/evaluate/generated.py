"""What was generated for each user, in numbers that explain the metrics."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from calrec.evaluate.user_batches import blocks, parquet
from calrec.retrieve.catalogue import Catalogue

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Generated:
    """Counts by user, in the order of the generations."""

    user_id: pa.Array
    samples: Ints
    distinct: Ints
    """Distinct texts."""
    exact: Ints
    """Samples that are the text of an item, letter by letter."""


def load_generated(folder: Path, catalogue: Catalogue) -> Generated:
    """Read the generations of a category, bounded in memory."""
    known = pa.array(catalogue.group_texts, pa.string())
    users, counted = [pa.array([], pa.string())], [np.empty((3, 0), np.int64)]
    for block in blocks(parquet(Path(folder) / "generations.parquet", ["user_id", "text", "count"])):
        count = block.rows["count"].to_numpy().astype(np.int64)
        exact = count * pc.is_in(block.rows["text"].chunk(0), value_set=known).to_numpy(zero_copy_only=False)
        users.append(block.user_id)
        counted.append(np.array([np.add.reduceat(each, block.offsets[:-1]) for each in (count, count > 0, exact)]))
    samples, distinct, exact = np.concatenate(counted, axis=1)
    return Generated(pa.concat_arrays(users), samples, distinct, exact)


def most_frequent(folder: Path, users: list[str], texts: int) -> dict[str, list[tuple[str, int]]]:
    """(text, samples) of a few users, the most frequent first."""
    path = Path(folder) / "generations.parquet"
    table = pq.read_table(path, columns=["user_id", "text", "count"], filters=[("user_id", "in", users)])
    found: dict[str, list[tuple[str, int]]] = {user: [] for user in users}
    for user, text, count in zip(*(column.to_pylist() for column in table.columns), strict=True):
        found[user].append((text, count))
    return {user: sorted(pairs, key=lambda pair: -pair[1])[:texts] for user, pairs in found.items()}
