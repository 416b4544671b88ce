"""What this process may take of the machine: CPUs of its affinity mask and of its container, and memory that is kept.

Libraries ask the machine, and a container that may use 4 CPUs of 64 would start 64 threads, which the kernel then stops
for most of each tenth of a second.
"""

import ctypes
import math
import os
import platform
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

_POOLS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")
"""Of libgomp (torch, scikit-learn) and pyarrow, of numpy and scipy, of a torch that is built so, of tokenizers."""
WAITING = {"GOMP_SPINCOUNT": "1000"}
"""How threads of torch wait for each other: some microseconds busily, then asleep. libgomp's own default, 300,000, is
for a machine with nothing else to do: beside other processes a thread then uses up its time waiting for one that has
none. libgomp reads this when torch is loaded. Measured by `make bench STEP=busy`."""
LARGE_BLOCKS = {"MALLOC_MMAP_THRESHOLD_": "4194304"}
"""For glibc in what serves: blocks of 4 MiB and more go back to the system at once. Else each thread keeps some that it
has freed. The opposite of :func:`keep_memory`, which leaves a process with this setting alone."""
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # malloc.h
_KEPT = ((_M_MMAP_THRESHOLD, 2**30), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 2**26))


def cores(root: Path = Path("/")) -> int:
    """CPUs that this process may keep busy: of its affinity mask, and at most its container's, 2 of 2.5, but one.

    Args:
        root: of /proc and /sys.
    """
    limit = quota(root)
    return max(1, min(_affinity(), math.floor(limit) if limit is not None else sys.maxsize))


def quota(root: Path = Path("/")) -> float | None:
    """CPUs of this process's control group and of those around it, cgroup v2 or v1; None: there is no limit."""
    limits = [limit for folder in _groups(root) if (limit := _limit(folder)) is not None]
    return min(limits, default=None)


def describe_limit(root: Path = Path("/")) -> str:
    """How many CPUs and why, when a container may use fewer than the process sees; else empty."""
    count = cores(root)
    if count == _affinity():
        return ""
    return f"{count} threads (the container's CPU limit; the machine has {os.cpu_count()})"


def environment(given: Mapping[str, str], processes: int = 1, root: Path = Path("/")) -> dict[str, str]:
    """Variables for a process that has not begun, or has not loaded its libraries.

    Args:
        given: its environment, whose smaller numbers, and whose way of waiting, stay.
        processes: how many of its kind share the CPUs.
        root: of /proc and /sys.
    """
    count = max(1, cores(root) // processes)
    waiting = {} if "OMP_WAIT_POLICY" in given else {name: given.get(name, value) for name, value in WAITING.items()}
    if count == os.cpu_count():
        return waiting
    numbers = [given[name] if given.get(name, "").isdecimal() else str(count) for name in _POOLS]
    return {**waiting, **{n: str(min(int(number), count)) for n, number in zip(_POOLS, numbers, strict=True)}}


def prepare(root: Path = Path("/")) -> str:
    """Bring this process's libraries, loaded or not, down to its CPUs; may be called again.

    Returns:
        as :func:`said`.
    """
    os.environ.update(environment(os.environ, root=root))
    if text := describe_limit(root):
        count = cores(root)
        if pyarrow := sys.modules.get("pyarrow"):
            pyarrow.set_cpu_count(min(count, pyarrow.cpu_count()))
            pyarrow.set_io_thread_count(min(max(2, count), pyarrow.io_thread_count()))
        if "numpy" in sys.modules:
            from threadpoolctl import ThreadpoolController

            for pool in ThreadpoolController().lib_controllers:
                pool.set_num_threads(min(count, pool.num_threads))
        return text
    return ""


def keep_memory() -> bool:
    """Have glibc keep what is freed: a training step frees and takes the same large blocks again and again.

    Its default gives blocks above 32 MiB back at once, and then each page of the next one is faulted in and cleared.

    Returns:
        whether it does: not with another C library, nor against MALLOC_* variables or GLIBC_TUNABLES.
    """
    given = any(name.startswith("MALLOC_") for name in os.environ) or "malloc" in os.environ.get("GLIBC_TUNABLES", "")
    if given or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return [mallopt(what, value) for what, value in _KEPT] == [1] * len(_KEPT)


def _affinity() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _groups(root: Path) -> Iterator[Path]:
    """Folders of this process's control groups, from the inmost to the whole container's or machine's."""
    top, listed = root / "sys/fs/cgroup", root / "proc/self/cgroup"
    for line in listed.read_text().splitlines() if listed.is_file() else []:
        _, controllers, path = line.split(":", 2)
        mounts = ["", "unified"] if not controllers else [controllers] if "cpu" in controllers.split(",") else []
        if "cpu" in controllers.split(","):
            mounts += ["cpu", "cpu,cpuacct"]
        own = [part for part in PurePosixPath(path).parts if part not in ("/", "..")]
        for mount in mounts:
            # Without a namespace the path is the host's, and the group itself is mounted at the top.
            for depth in range(len(own), -1, -1):
                yield top.joinpath(mount, *own[:depth])


def _limit(group: Path) -> float | None:
    """CPUs that a group may use; None: all."""
    try:
        if (group / "cpu.max").is_file():
            used, period = (group / "cpu.max").read_text().split()[:2]
        else:
            used, period = ((group / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
        return int(used) / int(period) if used != "max" and int(used) > 0 < int(period) else None
    except (OSError, ValueError):
        return None
