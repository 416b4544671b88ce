"""The loss of CALRec on tensors, apart from any model (PAPER.md, "Loss").

Shape suffixes: B rows of the batch, D width of the model, N predicted tokens, M some of them, V vocabulary.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Terms:
    """The weighted loss and its parts, all scalars."""

    loss: Tensor
    nig: Tensor
    tt: Tensor
    ut: Tensor


def token_nll(logits_NV: Tensor, labels_N: Tensor, begin_M: Tensor, barred: int) -> Tensor:
    """Negative log-likelihood summed over the predicted tokens (nats); L_NIG divides the sum of a step once.

    Args:
        logits_NV: of each predicted token.
        labels_N: the tokens.
        begin_M: which of the N are predicted among all tokens but `barred`.
        barred: a token.
    """
    logits_NV = logits_NV.float()
    if len(begin_M):
        never = torch.full_like(begin_M, float("-inf"), dtype=logits_NV.dtype)
        logits_NV = logits_NV.index_put((begin_M, torch.full_like(begin_M, barred)), never)
    return F.cross_entropy(logits_NV, labels_N, reduction="sum")


def info_nce(anchor_BD: Tensor, positive_BD: Tensor, group_B: Tensor, tau: float, direction: str) -> Tensor:
    """InfoNCE over cosine similarities / tau with in-batch negatives, mean over rows (nats).

    Rows whose targets share a text group are never each other's negatives: they are −inf before the log-sum-exp.

    Args:
        anchor_BD: one side, v_T|U or v_U.
        positive_BD: the other side, v_T; row i belongs to row i.
        group_B: text group of each row's target.
        tau: temperature.
        direction: "user" normalises over the targets for each anchor, "target" over the anchors for each target,
            "both" is the mean of the two.
    """
    scores_BB = F.normalize(anchor_BD.float(), dim=-1) @ F.normalize(positive_BD.float(), dim=-1).T / tau
    same_BB = (group_B[:, None] == group_B[None, :]).fill_diagonal_(False)
    scores_BB = scores_BB.masked_fill(same_BB, float("-inf"))
    own_B = torch.arange(len(scores_BB), device=scores_BB.device)
    if direction == "user":
        return F.cross_entropy(scores_BB, own_B)
    if direction == "target":
        return F.cross_entropy(scores_BB.T, own_B)
    return (F.cross_entropy(scores_BB, own_B) + F.cross_entropy(scores_BB.T, own_B)) / 2


def combine(nig: Tensor, tt: Tensor, ut: Tensor, alpha: float, beta: float) -> Terms:
    """L = (1 − α − β)·L_NIG + α·L_TT + β·L_UT."""
    return Terms((1 - alpha - beta) * nig + alpha * tt + beta * ut, nig, tt, ut)
