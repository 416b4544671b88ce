"""The processes of a stage: one, or several that torchrun started, with data-parallel or sharded weights."""

import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor


@dataclass(frozen=True)
class Ranks:
    """One process among all of them; when it is alone, every exchange is the identity."""

    rank: int = 0
    size: int = 1

    @property
    def main(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0

    def total(self, values: Tensor) -> Tensor:
        """Sum over ranks."""
        if self.size > 1:
            dist.all_reduce(values := values.clone())
        return values

    def gather(self, rows: Tensor) -> Tensor:
        """The rows of all ranks, rank by rank; each has as many."""
        if self.size == 1:
            return rows
        every = [torch.empty_like(rows) for _ in range(self.size)]
        dist.all_gather(every, rows.contiguous())
        return torch.cat(every)

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether the flag is set on one of them."""
        return flag if self.size == 1 else bool(self.total(torch.tensor(float(flag), device=device)) > 0)

    def share(self, value: Any) -> Any:
        """What the main process holds."""
        if self.size > 1:
            dist.broadcast_object_list(box := [value])
            value = box[0]
        return value

    def objects(self, value: Any) -> list[Any]:
        """What each rank holds, on every rank; for small things."""
        if self.size == 1:
            return [value]
        dist.all_gather_object(every := [None] * self.size, value)
        return list(every)

    def share_tensors(self, tensors: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
        """The main process's tensors, one after the other."""
        names = self.share(list(tensors) if tensors is not None else None)
        return {name: self.share(tensors[name] if tensors is not None else None) for name in names}


@contextmanager
def process_group() -> Iterator[tuple[Ranks, torch.device]]:
    """The process group that torchrun asks for by WORLD_SIZE, and this process's device."""
    size, gpu = int(os.environ.get("WORLD_SIZE", "1")), torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if gpu else torch.device("cpu")
    if gpu:
        torch.cuda.set_device(device)
    if size == 1:
        yield Ranks(), device
        return
    dist.init_process_group("nccl" if gpu else "gloo")
    try:
        yield Ranks(dist.get_rank(), size), device
    finally:
        dist.destroy_process_group()


def distribute(network: Any, layers: Any, ranks: Ranks, sharding: str, dtype: torch.dtype) -> Any:
    """The network as all ranks train it: itself, replicated (DDP), or sharded layer by layer (FSDP2).

    Both average gradients over ranks.
    """
    if ranks.size == 1:
        return network
    if sharding == "fsdp":
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
        for layer in layers:
            fully_shard(layer, mp_policy=policy)
        return fully_shard(network, mp_policy=policy)
    from torch.nn.parallel import DistributedDataParallel

    return DistributedDataParallel(network)


def syncing(network: Any, now: bool) -> AbstractContextManager[Any]:
    """Whether the next backward pass exchanges gradients; only the last of a step must."""
    if isinstance(network, torch.nn.parallel.DistributedDataParallel):
        return nullcontext() if now else network.no_sync()
    if hasattr(network, "set_requires_gradient_sync"):
        network.set_requires_gradient_sync(now)
    return nullcontext()


# --- tensors that may be spread over ranks ----------------------------------------------------------------------


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, on the CPU; every rank must ask."""
    full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return full.detach().cpu()


def like(value: Tensor, tensor: Tensor) -> Tensor:
    """`value` where and how `tensor` lies."""
    value = value.to(tensor.device)
    if isinstance(tensor, DTensor):
        return distribute_tensor(value, tensor.device_mesh, tensor.placements)
    return value


def device_of(network: Any) -> torch.device:
    """Where the weights lie."""
    return next(network.parameters()).device  # type: ignore[no-any-return]


def trainable_parameters(network: Any) -> dict[str, Tensor]:
    """The parameters that training changes by name, each once when tied."""
    return {name: p for name, p in network.named_parameters() if p.requires_grad}


def fill(network: Any, weights: Mapping[str, Tensor]) -> None:
    """Put saved weights into the network.

    Raises:
        ValueError: other names or shapes than the network has.
    """
    own = trainable_parameters(network)
    if wrong := [name for name in own.keys() | weights.keys() if _shape(own, name) != _shape(weights, name)]:
        name = min(wrong)
        raise ValueError(
            f"a checkpoint does not fit the model: {name} is {_shape(weights, name)} there and {_shape(own, name)} here"
        )
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(like(weights[name], parameter))


def _shape(weights: Mapping[str, Tensor], name: str) -> list[int] | None:
    return list(weights[name].shape) if name in weights else None


def optimizer_state(network: Any, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's tensors by parameter and kind."""
    own = trainable_parameters(network).items()
    return {f"{n}:{kind}": whole(value) for n, p in own for kind, value in optimizer.state.get(p, {}).items()}


def fill_optimizer(network: Any, optimizer: torch.optim.Optimizer, state: Mapping[str, Tensor]) -> None:
    """Put a saved state back."""
    own = trainable_parameters(network)
    for key, value in state.items():
        name, _, kind = key.rpartition(":")
        parameter = own[name]
        optimizer.state[parameter][kind] = like(value, parameter) if value.ndim else value.to(parameter.device)
