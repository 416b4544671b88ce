"""Training steps beside other work, and with freed memory kept; each way in a process of its own, in turns.

    make bench STEP=busy
    make bench STEP=memory

`busy`: two threads of training on a quiet machine and beside as many busy processes as there are CPUs, with libgomp's
own way of waiting and with calrec.system.machine.WAITING. `memory`: whole steps of three sizes with one and two
threads, with glibc's own way and with calrec.system.machine.keep_memory; it decides calrec.model.device.LARGE.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from calrec.system import machine

Figures = dict[str, Any]
USERS = {"1M": 4, "10M": 2, "135M": 1}
STEPS = {"1M": 9, "10M": 4, "135M": 2}
OWN_WAY: Mapping[str, str] = {}  # of libgomp


def busy() -> Figures:
    """Tokens per second of a 1M model with two threads; `ratio` is ours against libgomp's way beside busy processes."""
    ways = {"libgomp": OWN_WAY, "ours": machine.WAITING}
    found: dict[str, list[float]] = {f"{way}, {when}": [] for when in ("quiet", "busy") for way in ways}
    rows: dict[str, Figures] = {}
    for _ in range(3):
        for way, variables in ways.items():
            rows[way] = _alone("1M", 2, False, variables)
            found[f"{way}, quiet"].append(rows[way]["tokens_per_second"])
        with _busy_processes(os.cpu_count() or 1):
            for way, variables in ways.items():
                found[f"{way}, busy"].append(_alone("1M", 2, False, variables)["tokens_per_second"])
    assert rows["ours"]["losses"] == rows["libgomp"]["losses"], "waiting changed a number"
    speed = {name: statistics.median(values) for name, values in found.items()}
    ratios = [ours / theirs for ours, theirs in zip(found["ours, busy"], found["libgomp, busy"], strict=True)]
    return {
        "what": f"tokens/s of 2 threads beside {os.cpu_count()} busy processes: {machine.WAITING}, against libgomp's "
        "own waiting; losses identical",
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "tokens_per_second": {name: round(value) for name, value in speed.items()},
        "quiet_ratio": speed["ours, quiet"] / speed["libgomp, quiet"],
        "left_when_busy": {way: speed[f"{way}, busy"] / speed[f"{way}, quiet"] for way in ways},
    }


def memory() -> Figures:
    """Whole steps by size and threads; `ratio` is the best gain of all, `each` has all of them."""
    each: dict[str, Figures] = {}
    for size in USERS:
        for threads in (1, 2):
            kept, own = [], []
            for _ in range(2 if size == "1M" else 1):
                own.append(_alone(size, threads, False, OWN_WAY))
                kept.append(_alone(size, threads, True, OWN_WAY))
            assert kept[0]["losses"] == own[0]["losses"], "the allocator changed a number"
            speeds = [[run["tokens_per_second"] for run in runs] for runs in (kept, own)]
            each[f"{size}, {threads} threads"] = {
                "ratio": statistics.median(a / b for a, b in zip(*speeds, strict=True)),
                **{f"{name}_{way}": round(statistics.median(run[name] for run in runs))
                   for way, runs in (("kept", kept), ("glibc", own))
                   for name in ("tokens_per_second", "faults", "system_ms", "peak_mib")},
            }  # fmt: skip
    ratios = [figures["ratio"] for figures in each.values()]
    return {
        "what": "tokens/s of whole training steps with freed memory kept, against glibc's own way: the most of "
        f"{len(each)} cases; losses identical",
        "ratio": max(ratios),
        "ratio_min": min(ratios),
        "each": each,
    }


@contextmanager
def _busy_processes(count: int) -> Iterator[None]:
    children = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for child in children:
            child.kill()
            child.wait()


def _alone(size: str, threads: int, keep: bool, variables: Mapping[str, str]) -> Figures:
    given = {name: value for name, value in os.environ.items() if not name.startswith(("GOMP_", "OMP_", "MALLOC_"))}
    command = [sys.executable, "-m", "tests.benchmarks.machine", size, str(threads), str(int(keep))]
    done = subprocess.run(command, capture_output=True, text=True, env=given | variables, check=True)
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    print(f"  {size}, {threads} threads, keep {keep}, {variables or 'own way'}: {figures}", file=sys.stderr, flush=True)
    return figures


def steps(size: str, threads: int, keep: bool) -> Figures:
    """Whole steps in this process: rows put together, forward, backward, clipping, AdamW; the first warms up."""
    import torch

    from calrec.finetune.batches import collate
    from calrec.finetune.gradients import backward
    from calrec.finetune.optimizer import adamw
    from calrec.finetune.ranks import Ranks
    from calrec.finetune.towers import Towers
    from tests.benchmarks.training_rows import ITEMS, STAGE, llama, peak_bytes, synthetic

    assert not keep or machine.keep_memory(), "glibc alone can be told to keep memory"
    torch.set_num_threads(threads)
    network = llama(size, "cpu")
    cache, batches = synthetic(network.config.vocab_size, STEPS[size], USERS[size])
    reader, optimizer, groups = Towers(network), adamw(network, STAGE), np.arange(ITEMS, dtype=np.int32)
    losses, tokens = [], 0
    started, before = 0.0, resource.getrusage(resource.RUSAGE_SELF)
    for number, rows in enumerate(batches):
        if number == 1:
            started, before, tokens = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF), 0
        batch = collate(rows, cache, groups, STAGE.train_on)
        losses.append(backward(reader, [batch], STAGE, Ranks()).loss.item())
        torch.nn.utils.clip_grad_norm_(network.parameters(), STAGE.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        tokens += batch.tokens
    after, timed = resource.getrusage(resource.RUSAGE_SELF), len(batches) - 1
    return {
        "tokens_per_second": tokens / (time.perf_counter() - started),
        "faults": (after.ru_minflt - before.ru_minflt) / timed,
        "system_ms": 1000 * (after.ru_stime - before.ru_stime) / timed,
        "peak_mib": peak_bytes() / 2**20,
        "losses": losses,
    }


if __name__ == "__main__":
    print(json.dumps(steps(sys.argv[1], int(sys.argv[2]), sys.argv[3] == "1")))
