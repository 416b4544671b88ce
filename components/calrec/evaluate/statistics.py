"""How sure a mean or a difference is: bootstrap, exact McNemar, effect size, Holm.

A metric of ranks takes few values, so users with the same outcome are counted, and a resample of the users is a draw
of new counts from the multinomial distribution. That is the bootstrap itself and no approximation of it: drawing n
users with replacement and counting them by outcome has this distribution. Time and memory do not grow with the users.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

TEST_RESAMPLES = 10_000
"""At least so many resamples behind a p-value, of which the smallest is then 1 in 10,001: small enough to stay below
0.05 when Holm's correction multiplies it by the number of differences of a table."""
_CELLS = 1 << 22  # numbers that are drawn at a time: 32 MiB


def bootstrap(values: Floats, counts: Ints, resamples: int, seed: int) -> Floats:
    """Means of `resamples` resamples of the users, (resamples, metrics).

    Args:
        values: of each outcome in each metric, (outcomes, metrics).
        counts: users of each outcome.
        resamples: how many.
        seed: the same seed gives the same resamples.
    """
    some = counts > 0
    values, counts = values[some], counts[some]
    users, rng = int(counts.sum()), np.random.default_rng(seed)
    means = np.empty((resamples, values.shape[1]))
    step = max(1, _CELLS // len(counts))
    for start in range(0, resamples, step):
        part = means[start : start + step]
        part[:] = rng.multinomial(users, counts / users, len(part)) @ values / users
    return means


def interval(means: Floats) -> tuple[Floats, Floats]:
    """The 95 % percentile interval of each metric from its resampled means: lower ends, upper ends."""
    low, high = np.percentile(means, [2.5, 97.5], axis=0)
    return low, high


def p_values(means: Floats, mean: Floats) -> Floats:
    """Two-sided p-value of each mean difference under the hypothesis that it is 0.

    The share of resampled means, moved so that they lie around 0, that are at least as far from 0 as the mean that
    was found; it counts as one of them, so p is never 0.
    """
    tolerance = 1e-12 * np.maximum(np.abs(mean), 1e-300)
    extreme = (np.abs(means - mean) >= np.abs(mean) - tolerance).sum(axis=0)
    p: Floats = (1 + extreme) / (1 + len(means))
    return p


def mcnemar(wins: int, losses: int) -> float:
    """Exact two-sided p-value that wins and losses are equally likely: a binomial test of those users who differ."""
    users = wins + losses
    if wins == losses:
        return 1.0
    steps = np.arange(1, min(wins, losses) + 1)
    log_choose = np.concatenate([[0.0], np.cumsum(np.log(users + 1 - steps) - np.log(steps))])
    top = log_choose.max()
    tail = math.log(np.exp(log_choose - top).sum()) + top - users * math.log(2)
    return min(1.0, 2 * math.exp(tail))


def mean_of(values: Floats, counts: Ints) -> Floats:
    """Mean over users of each metric; arguments as in :func:`bootstrap`."""
    mean: Floats = counts @ values / counts.sum()
    return mean


def effect_size(differences: Floats, counts: Ints) -> Floats:
    """Cohen's d_z of each metric: mean difference by its standard deviation over users; 0 where all are equal."""
    users, mean = int(counts.sum()), mean_of(differences, counts)
    variance = counts @ np.square(differences - mean) / max(1, users - 1)
    effect: Floats = np.divide(mean, np.sqrt(variance), out=np.zeros_like(mean), where=variance > 1e-24)
    return effect


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down correction: p-values that may be compared with one level, whichever of them are looked at."""
    order = np.argsort(p, kind="stable")
    factors = len(p) - np.arange(len(p))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(np.asarray(p, dtype=np.float64)[order] * factors))
    return adjusted.tolist()
