"""The two towers of one causal LM: the joint tower reads history + target, the target tower the target alone.

This is the padded reference path, the oracle of any faster one.
Shape suffixes: B rows, T tokens of history + target, S tokens of a target, D width, N predicted tokens, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor

from calrec.config import StageConfig
from calrec.finetune import losses
from calrec.finetune.batches import IGNORE, Batch
from calrec.finetune.losses import Terms


def decoder_and_head(network: Any) -> tuple[Any, Any]:
    """The stack that gives last-layer states, and the layer that turns them into logits.

    Raises:
        ValueError: the architecture computes its logits in another way (scaling, soft-capping).
    """
    core = network.get_base_model() if hasattr(network, "get_base_model") else network
    decoder, head = core.base_model, core.get_output_embeddings()
    if decoder is core or head is None:
        raise ValueError(
            f"{type(core).__name__} has no separate decoder and output layer; use a causal LM such as Llama or Qwen"
        )
    with torch.no_grad():
        probe = torch.tensor([[1, 2, 3]], device=core.device)
        ours = head(decoder(input_ids=probe, use_cache=False).last_hidden_state)
        theirs = core(input_ids=probe, use_cache=False).logits
    if not torch.allclose(ours, theirs, atol=1e-4, rtol=1e-4):
        raise ValueError(
            f"{type(core).__name__} changes its logits after the output layer, which training does not reproduce"
        )
    return decoder, head


def towers(decoder: Any, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(v_U, v_T|U, v_T), each [B, D] and fp32, and the joint tower's states [B, T, D].

    v_U is the mean over all tokens before the target, v_T|U over the target's tokens in the joint tower, v_T over the
    same tokens in the target tower, whose positions start at 0.
    """
    joint_BTD = decoder(input_ids=batch.joint_BT, use_cache=False).last_hidden_state
    target_BSD = decoder(input_ids=batch.target_BS, use_cache=False).last_hidden_state
    zero_B = torch.zeros_like(batch.prompt_B)
    return (
        mean_between(joint_BTD, zero_B, batch.prompt_B),
        mean_between(joint_BTD, batch.prompt_B, batch.length_B),
        mean_between(target_BSD, zero_B, batch.length_B - batch.prompt_B),
        joint_BTD,
    )


def mean_between(states_BTD: Tensor, start_B: Tensor, stop_B: Tensor) -> Tensor:
    """Mean of the states at positions start ≤ t < stop of each row, in fp32."""
    at_T = torch.arange(states_BTD.shape[1], device=states_BTD.device)
    inside_BT = (at_T >= start_B[:, None]) & (at_T < stop_B[:, None])
    sum_BD = torch.einsum("btd,bt->bd", states_BTD.float(), inside_BT.float())
    return sum_BD / (stop_B - start_B)[:, None]


def loss_of(decoder: Any, head: Any, batch: Batch, stage: StageConfig) -> Terms:
    """The CALRec loss of a batch; logits are computed only where a token is predicted."""
    v_u_BD, v_tu_BD, v_t_BD, joint_BTD = towers(decoder, batch)
    predicted_BT = batch.labels_BT != IGNORE
    return losses.combine(
        nig=losses.next_item(head(joint_BTD[predicted_BT]), batch.labels_BT[predicted_BT]),
        tt=losses.info_nce(v_tu_BD, v_t_BD, batch.group_B, stage.tau, stage.direction),
        ut=losses.info_nce(v_u_BD, v_t_BD, batch.group_B, stage.tau, stage.direction),
        alpha=stage.alpha,
        beta=stage.beta,
    )
