"""Ranks of many users → figures with intervals, and differences of two methods over the same users."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from calrec.config import EvaluateConfig, metric_names
from calrec.evaluate import statistics
from calrec.evaluate.metrics import count_rank_pairs, worth
from calrec.evaluate.results import Difference, Figure

Ints = NDArray[np.int64]
Ranks = NDArray[np.int32]


def means(counts: Ints, config: EvaluateConfig) -> dict[str, float]:
    """Each metric of users who are counted by rank, from 0 on."""
    found = statistics.mean_of(worth(np.arange(len(counts)), config), counts)
    return dict(zip(metric_names(config), found.tolist(), strict=True))


def figures(counts: Ints, config: EvaluateConfig) -> dict[str, Figure]:
    """The same with intervals."""
    table = worth(np.arange(len(counts)), config)
    low, high = statistics.interval(statistics.bootstrap(table, counts, config.bootstrap, config.seed))
    rows = zip(statistics.mean_of(table, counts).tolist(), low.tolist(), high.tolist(), strict=True)
    return {name: Figure(*row) for name, row in zip(metric_names(config), rows, strict=True)}


def differences(ours: Ranks, theirs: Ranks, config: EvaluateConfig) -> dict[str, Difference]:
    """Each metric of one method less the other's over the same users; Holm's correction is still to be made."""
    our_rank, their_rank, users = count_rank_pairs(ours, theirs)
    table = worth(our_rank, config) - worth(their_rank, config)
    mean, effect = statistics.mean_of(table, users), statistics.effect_size(table, users)
    resampled = statistics.bootstrap(table, users, max(config.bootstrap, statistics.TEST_RESAMPLES), config.seed)
    low, high = statistics.interval(resampled)
    p = statistics.p_values(resampled, mean)
    found = {}
    for at, name in enumerate(metric_names(config)):
        wins, losses = (int(users[sign * table[:, at] > 0].sum()) for sign in (1, -1))
        its = statistics.mcnemar(wins, losses) if name.startswith("recall") else float(p[at])
        found[name] = Difference(
            float(mean[at]), float(low[at]), float(high[at]), its, its, float(effect[at]), wins, losses
        )
    return found


def correct_holm(tables: Sequence[Mapping[str, Difference]]) -> list[dict[str, Difference]]:
    """The same differences with Holm's correction over all of them together."""
    p = iter(statistics.holm([one.p for table in tables for one in table.values()]))
    return [{name: replace(one, p_holm=next(p)) for name, one in table.items()} for table in tables]
