"""Where tensors live and how many CPU threads work on them."""

import os
from typing import Any


def device() -> Any:
    """The GPU when there is one, else the CPU."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def use_threads(threads: int) -> int:
    """Set the CPU threads of torch; 0 means all that this process may run on. Returns the number set.

    The same number gives the same sums: a run is reproducible on one machine only with the same number of threads.
    """
    import torch

    threads = threads or len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    return threads
