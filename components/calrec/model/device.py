"""Where tensors live and how many CPU threads work on them."""

import os
import resource
import sys
from pathlib import Path
from typing import Any

from calrec.system import machine

LARGE = 50_000_000
"""Parameters from which freed memory is kept."""


def device() -> Any:
    """The GPU when there is one, else the CPU."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def place_network(network: Any) -> Any:
    """The network where it is used: on the GPU in bf16, which its arithmetic is made for, else on the CPU as it is."""
    import torch

    where = device()
    return network.to(where, torch.bfloat16) if where.type == "cuda" else network.to(where)


def use_threads(threads: int) -> int:
    """Set the CPU threads of torch; 0 means all that this process may use, or its part of them under torchrun.

    Returns:
        the number set.

    The same number gives the same sums: a run is reproducible on one machine only with the same number of threads.
    """
    import torch

    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    threads = threads or max(1, machine.cores() // here)
    torch.set_num_threads(threads)
    return threads


def keep_memory(network: Any) -> bool:
    """Have the process keep freed memory where its steps are large enough; whether it does.

    Steps of 135M parameters gain by it, those of 10M hardly, and with two threads those of 1M lose: `make bench
    STEP=memory`.
    """
    return sum(p.numel() for p in network.parameters()) >= LARGE and machine.keep_memory()


def fast_bf16(device: Any) -> bool:
    """Whether matrix products in bf16 are several times as fast as in fp32: on GPUs, and on CPUs with AMX tiles.

    By rule and not by a stopwatch: the same machine must choose the same. Without tiles (AVX-512's bf16 alone, or
    none) what the products gain is lost to the casts around them.
    """
    import torch

    return bool(device.type == "cuda" or torch.cpu._is_amx_tile_supported())


def peak_memory() -> int:
    """Bytes: the most that tensors took on the GPU when one is in use, else that this process ever took."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return int(torch.cuda.max_memory_allocated())
    status = Path("/proc/self/status")  # ru_maxrss also counts what the process was forked from
    lines = status.read_text().splitlines() if status.is_file() else []
    found = [int(line.split()[1]) for line in lines if line.startswith("VmHWM:")]
    unit = 1 if sys.platform == "darwin" else 1024
    return found[0] * 1024 if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
