"""Ranking metrics from per-user ranks, and bootstrap intervals."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from calrec.config import EvaluateConfig

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def rank_of(wanted: int, ranking: Sequence[int]) -> int:
    """Place of the first entry equal to `wanted`, from 1; 0 when it is not there."""
    return next((place for place, entry in enumerate(ranking, 1) if entry == wanted), 0)


def recall(ranks: Ints, k: int) -> Floats:
    """Per user: 1 when the one target is among the first k."""
    return ((ranks >= 1) & (ranks <= k)).astype(np.float64)


def ndcg(ranks: Ints, k: int) -> Floats:
    """Per user: 1 / log2(rank + 1) within the first k; the ideal is 1 as there is one target."""
    return np.where(recall(ranks, k) > 0, 1 / np.log2(np.maximum(ranks, 1) + 1), 0.0)


def reciprocal_rank(ranks: Ints) -> Floats:
    """Per user: 1 / rank within the list, 0 beyond it."""
    return np.where(ranks >= 1, 1 / np.maximum(ranks, 1), 0.0)


def per_user(ranks: Ints, config: EvaluateConfig) -> dict[str, Floats]:
    """Every configured metric as one value per user; names as :func:`calrec.config.metric_names`."""
    return {
        **{f"recall_at_{k}": recall(ranks, k) for k in config.recall_at},
        **{f"ndcg_at_{k}": ndcg(ranks, k) for k in config.ndcg_at},
        "mrr": reciprocal_rank(ranks),
    }


def interval(values: Floats, resamples: int, seed: int) -> tuple[float, float]:
    """Bootstrap 95 % interval of the mean over users (percentiles)."""
    rng = np.random.default_rng(seed)
    means = [values[rng.integers(0, len(values), len(values))].mean() for _ in range(resamples)]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)
