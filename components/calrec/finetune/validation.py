"""How good the weights are on held-out targets.

Shape suffixes: R held-out rows, G distinct targets, D width.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from calrec.config import StageConfig
from calrec.finetune.batches import Batch, Row, collate, row_tokens
from calrec.finetune.order import shares
from calrec.finetune.ranks import Ranks
from calrec.finetune.towers import Towers
from calrec.model.loading import Users

_TOKENS = 8192  # of one packed row: without a graph more of them would only cost memory

_SAME = 1e-6  # cosines in fp32 that differ by less are ties


def sample_validation_rows(users: Users, stage: StageConfig) -> list[Row]:
    """A fixed random sample of users, each with the validation item as target."""
    able = np.flatnonzero(users.valid_at >= 1)
    chosen = np.random.default_rng(stage.seed).permutation(able)[: stage.valid_users]
    return [
        Row(users.items[user][:at].tolist(), int(users.items[user][at]))
        for user, at in zip(chosen.tolist(), users.valid_at[chosen].tolist(), strict=True)
    ]


def in_batches(rows: Sequence[Row], cache: Any, groups: Any) -> list[Batch]:
    """The rows in packed rows of a bounded number of tokens; only targets are predicted."""
    if not rows:
        return []
    (turns,) = shares(row_tokens(rows, cache), 1, _TOKENS)
    return [collate([rows[i] for i in turn], cache, groups, "last") for turn in turns]


@torch.no_grad()
def validate(towers: Towers, batches: Sequence[Batch], ranks: Ranks) -> dict[str, float]:
    """`nig`, nats per token of the held-out targets, and `ndcg`, see :func:`proxy`.

    Every rank reads its part, and as many packed rows as every other, as sharded weights need.

    Raises:
        FloatingPointError: on every rank, when one of these is not finite: such weights must not be kept as the best.
    """
    towers.core.eval()
    own = []
    for turn in range(-(-len(batches) // ranks.size)):
        at = turn * ranks.size + ranks.rank
        read = towers(batches[min(at, len(batches) - 1)].to(towers.device))
        if at < len(batches):
            own.append((at, float(read.nll), read.vectors_3BD.cpu()))
    _, nll, vectors = zip(*sorted(itertools.chain(*ranks.objects(own)), key=lambda seen: seen[0]), strict=True)
    v_u_RD, _, v_t_RD = torch.cat(vectors, 1)
    if not (math.isfinite(math.fsum(nll)) and bool(torch.isfinite(v_u_RD).all() and torch.isfinite(v_t_RD).all())):
        raise FloatingPointError("validation: what the model gives for held-out users is not finite; lower lr")
    ndcg = proxy(v_u_RD, v_t_RD, torch.cat([batch.group_B for batch in batches]))
    return {"nig": math.fsum(nll) / sum(len(batch.label_N) for batch in batches), "ndcg": ndcg}


def proxy(v_u_RD: Tensor, v_t_RD: Tensor, group_R: Tensor, k: int = 10) -> float:
    """NDCG@k of each user's target among the distinct targets of all users, by the cosine of v_U and v_T.

    A proxy of the ranking that generation and retrieval will give, at the price of reading the rows once. Targets that
    are as near as the user's own stand before it: a model that gives one vector for everything is the worst of all.
    """
    group_G, own_R = torch.unique(group_R, return_inverse=True)
    first_G = torch.stack([(own_R == g).nonzero()[0, 0] for g in range(len(group_G))])
    scores_RG = F.normalize(v_u_RD, dim=-1) @ F.normalize(v_t_RD[first_G], dim=-1).T
    rank_R = (scores_RG >= scores_RG.gather(1, own_R[:, None]) - _SAME).sum(1) - 1
    return float(torch.where(rank_R < k, 1 / torch.log2(rank_R + 2.0), 0.0).mean())
