"""The gradient of one step, whatever the number of packed rows and ranks: exact in-batch negatives by GradCache.

1. Each packed row gives its embeddings, without a graph when there are several rows.
2. The contrastive losses of all embeddings, of all rows and ranks, give the gradient of each embedding.
3. Each packed row is read with its graph; the token loss and the embeddings' gradients go backward through it.

A stage with one row per step keeps the graph of point 1 for point 3. Source: Gao et al., arXiv 2101.06983.
Shape suffixes: B users, D width.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from calrec.config import LossConfig
from calrec.finetune import losses
from calrec.finetune.batches import Batch
from calrec.finetune.losses import Terms
from calrec.finetune.ranks import Ranks, syncing
from calrec.finetune.towers import Towers


class Interrupted(Exception):  # noqa: N818
    """The step was given up; no weight has changed."""


def no_interruption() -> bool:
    """Never."""
    return False


def backward(
    towers: Towers,
    batches: Sequence[Batch],
    loss: LossConfig,
    ranks: Ranks,
    interrupted: Callable[[], bool] = no_interruption,
) -> Terms:
    """Add the gradient of the step's loss to the parameters.

    Args:
        towers: the network; on several ranks its gradients are averaged over them.
        batches: the packed rows of this rank; every rank has as many, with as many users in each.
        loss: weights, temperature, and which users are each other's negatives.
        ranks: the processes that share the step.
        interrupted: asked before each packed row.

    Returns:
        the loss over all ranks and rows, without a graph: token losses are summed and divided once.

    Raises:
        Interrupted: when `interrupted` says so.
    """
    predicted = float(ranks.total(torch.tensor(float(sum(len(b.label_N) for b in batches)), device=towers.device)))
    users = ranks.size * sum(map(len, batches))
    nig_weight = (1 - loss.alpha - loss.beta) / predicted
    replays = len(batches) > 1 and loss.negatives == "batch"
    pushes, contrasts, before = _cached(towers, batches, loss, ranks, interrupted) if replays else ([], [], [])
    nll = torch.zeros((), device=towers.device)
    for turn, batch in enumerate(batches):
        if interrupted():
            raise Interrupted
        if replays:
            set_random_state(before[turn])  # the same dropout as when it was read without a graph
        with syncing(towers.call, turn == len(batches) - 1):
            read = towers(batch)
            if not replays:
                share = len(batch) * ranks.size / users
                pushed, contrast = _contrast(read.vectors_3BD.detach(), batch.group_B, loss, ranks, share)
                pushes.append(pushed)
                contrasts.append(contrast)
            # Gradients are averaged over ranks, but these are each rank's part of a sum.
            torch.autograd.backward(
                [read.nll, read.vectors_3BD], [torch.full_like(nll, nig_weight * ranks.size), pushes[turn] * ranks.size]
            )
        nll += read.nll.detach()
    tt, ut = torch.stack(contrasts).sum(0)
    if loss.negatives == "micro":
        tt, ut = ranks.total(torch.stack([tt, ut]))
    return losses.combine(ranks.total(nll) / predicted, tt, ut, loss.alpha, loss.beta)


def _cached(
    towers: Towers, batches: Sequence[Batch], loss: LossConfig, ranks: Ranks, interrupted: Callable[[], bool]
) -> tuple[list[Tensor], list[Tensor], list[dict[str, Tensor]]]:
    """Gradients of all embeddings, the contrastive losses, and the random state before each row."""
    before, vectors = [], []
    with torch.no_grad():
        for batch in batches:
            if interrupted():
                raise Interrupted
            before.append(random_state())
            vectors.append(towers(batch, graph=False).vectors_3BD)
    group_B = torch.cat([batch.group_B for batch in batches])
    pushed, contrast = _contrast(torch.cat(vectors, 1), group_B, loss, ranks, 1.0)
    parts: list[Tensor] = list(torch.split(pushed, [len(batch) for batch in batches], 1))  # type: ignore[no-untyped-call]
    return parts, [contrast], before


def _contrast(own_3BD: Tensor, group_B: Tensor, loss: LossConfig, ranks: Ranks, share: float) -> tuple[Tensor, Tensor]:
    """Gradient of α·L_TT + β·L_UT, times `share`, for this rank's embeddings; and L_TT and L_UT times `share`.

    Each rank computes the loss of all ranks' embeddings and keeps the gradient of its own.
    """
    many, alone = own_3BD.shape[1], loss.negatives == "micro"
    if alone:
        share /= ranks.size
        all_3BD = own_3BD
    else:
        all_3BD = ranks.gather(own_3BD.transpose(0, 1)).transpose(0, 1)
        group_B = ranks.gather(group_B)
    first = 0 if alone else ranks.rank * many
    with torch.enable_grad():
        v_u, v_tu, v_t = all_3BD = all_3BD.detach().requires_grad_()
        tt = share * losses.info_nce(v_tu, v_t, group_B, loss.tau, loss.direction)
        ut = share * losses.info_nce(v_u, v_t, group_B, loss.tau, loss.direction)
        (pushed,) = torch.autograd.grad(loss.alpha * tt + loss.beta * ut, all_3BD)
    return pushed[:, first : first + many], torch.stack([tt, ut]).detach()


def random_state() -> dict[str, Tensor]:
    """State of torch's generators, of the CPU and of this process's GPU."""
    state = {"cpu": torch.get_rng_state()}
    return state | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})


def set_random_state(state: dict[str, Any]) -> None:
    """Draw from there on."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
