"""A step of 32 users in four packed rows against the same users in one row: the loss and gradient, memory and time."""

import json
import math
import os
import statistics
import subprocess
import sys
import time
from typing import Any

Figures = dict[str, Any]
USERS, ROUNDS, TIMED = 32, 3, 2
TOLERANCE = 1e-6


def gradcache() -> Figures:
    """Figures of both, each measured in processes of their own, in turns."""
    found: dict[int, list[Figures]] = {4: [], 1: []}
    for _ in range(ROUNDS):
        for rows, rounds in found.items():
            rounds.append(_alone(rows))
    ours, whole = found[4], found[1]
    errors = {name: abs(ours[0][name] - whole[0][name]) / whole[0][name] for name in ("loss", "gradient_norm")}
    for name, error in errors.items():
        assert error <= TOLERANCE, f"{name}: {ours[0][name]} in four rows, {whole[0][name]} in one"
    ratios = [b["seconds"] / a["seconds"] for a, b in zip(ours, whole, strict=True)]
    memory = [a["peak_bytes"] / b["peak_bytes"] for a, b in zip(ours, whole, strict=True)]
    return {
        "what": f"a training step of {USERS} users, Llama 10M, cpu: four packed rows by GradCache, against one row",
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "share_of_memory": statistics.median(memory),
        "peak_mib": [round(statistics.median(f["peak_bytes"] for f in rounds) / 2**20) for rounds in (ours, whole)],
        "seconds": [statistics.median(f["seconds"] for f in rounds) for rounds in (ours, whole)],
        **{f"{name}_error": error for name, error in errors.items()},
        "tokens": whole[0]["tokens"],
        "rounds": ROUNDS,
    }


def _alone(rows: int) -> Figures:
    """Figures of so many packed rows from a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.gradcache", str(rows)]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr.strip().splitlines()[-1:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])  # type: ignore[no-any-return]


def step(rows: int) -> Figures:
    """Loss, gradient norm, seconds and memory of a step in so many packed rows."""
    import numpy as np
    import torch

    from calrec.finetune.batches import collate
    from calrec.finetune.gradients import backward
    from calrec.finetune.ranks import Ranks
    from calrec.finetune.towers import Towers
    from tests.benchmarks.training_rows import ITEMS, STAGE, llama, peak_bytes, synthetic

    torch.set_num_threads(1)
    network = llama("10M", "cpu")
    cache, (users,) = synthetic(network.config.vocab_size, 1, USERS)
    each, groups = math.ceil(USERS / rows), np.arange(ITEMS, dtype=np.int32)
    batches = [collate(users[at : at + each], cache, groups, STAGE.train_on) for at in range(0, USERS, each)]
    towers, seconds = Towers(network), []
    for _ in range(1 + TIMED):
        network.zero_grad(set_to_none=True)
        start = time.perf_counter()
        loss = backward(towers, batches, STAGE, Ranks()).loss.item()
        seconds.append(time.perf_counter() - start)
    norm = torch.nn.utils.get_total_norm([p.grad for p in network.parameters() if p.grad is not None])
    return {
        "loss": loss,
        "gradient_norm": norm.item(),
        "seconds": statistics.median(seconds[1:]),
        "peak_bytes": peak_bytes(),
        "tokens": sum(batch.tokens for batch in batches),
    }


if __name__ == "__main__":
    print(json.dumps(step(int(sys.argv[1]))))
