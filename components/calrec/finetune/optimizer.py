"""AdamW, its learning rate over the steps, and the moving average of the weights."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from calrec.config import OptimizerConfig
from calrec.finetune.ranks import trainable_parameters


def adamw(network: Any, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW of the trainable weights; vectors (norms, biases) are not decayed."""
    parameters = list(trainable_parameters(network).values())
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    fused = all(p.device.type in ("cpu", "cuda") for p in parameters)
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=config.lr, betas=(0.9, 0.95), fused=fused)


def rate(step: int, config: OptimizerConfig) -> float:
    """Share of the peak learning rate at a step, counted from 0: linear warm-up, then `config.schedule`."""
    ramp = max(1, round(config.steps * config.warmup))
    if step < ramp:
        return (step + 1) / ramp
    done = (step - ramp) / max(1, config.steps - ramp)
    if config.schedule == "constant":
        return 1.0
    if config.schedule == "linear":
        return 1.0 - 0.9 * done
    return 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * done))


class Average:
    """Exponential moving average of the trainable weights, from the first ones on; a decay of 0 keeps nothing."""

    def __init__(self, network: Any, decay: float):
        self.decay = decay
        self.tensors: dict[str, Tensor] = {}
        """fp32 averages by name: the state for a checkpoint."""
        if decay:
            # A step's change times 1 - decay is below the resolution of bf16.
            self.tensors = {
                n: p.detach().to(torch.float32, copy=True) for n, p in trainable_parameters(network).items()
            }

    @torch.no_grad()
    def update(self, network: Any, step: int) -> None:
        """Move each average by 1 - decay of its distance to the weight after `step` steps.

        The decay begins low, so that the first weights are soon forgotten.
        """
        if self.tensors:
            weights = trainable_parameters(network)
            present = [weights[name].detach().float() for name in self.tensors]
            torch._foreach_lerp_(list(self.tensors.values()), present, 1 - min(self.decay, (1 + step) / (10 + step)))

    @contextmanager
    def applied_to(self, network: Any) -> Iterator[None]:
        """The averages in place of the weights, for a validation or to be saved; the weights come back after it.

        Values are copied, not exchanged: sharded weights are views that others hold too.
        """
        _reshard(network)
        weights = {name: p for name, p in trainable_parameters(network).items() if name in self.tensors}
        kept = {name: p.detach().clone() for name, p in weights.items()}
        _copy(self.tensors, weights)
        try:
            yield
        finally:
            _reshard(network)
            _copy(kept, weights)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from the averages of a checkpoint.

        Raises:
            ValueError: they are of other weights, or there are none.
        """
        if tensors.keys() != self.tensors.keys():
            names = sorted(tensors.keys() ^ self.tensors.keys())
            raise ValueError(f"the checkpoint's averages are of other weights than are trained, such as {names[0]}")
        _copy(tensors, self.tensors)


@torch.no_grad()
def _copy(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> None:
    for name, tensor in target.items():
        tensor.copy_(source[name])


def _reshard(network: Any) -> None:
    """Drop gathered weights: FSDP keeps those of the root after a forward pass, so new values would not be seen."""
    for module in network.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
