"""Kill a stage at random moments and go on, many times; the weights must be those of a stage that was left alone.

`python -m tests.finetune.killed FOLDER KILLS`, where FOLDER holds texts, tokens and base. Prints one JSON line.
Children are forked from a process that has imported everything, so that an attempt costs no imports.
"""

import json
import os
import random
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

from safetensors.torch import load_file

from calrec.config import ModelConfig, StageConfig
from calrec.finetune.step import finetune

STAGE = StageConfig(
    steps=90, batch_size=4, lr=3e-3, train_on="all", valid_every=7, valid_users=16, checkpoint_every=4, ema=0.5,
    micro_tokens=250, threads=1,
)  # fmt: skip
TUNING = ModelConfig(size="tiny", vocab_size=400, tuning="lora", lora_rank=2, lora_dropout=0.2)


def child(folder: Path, out: Path) -> int:
    """Start the stage in a forked process; gives its id."""
    if pid := os.fork():
        return pid
    status = 1
    try:
        finetune(folder / "texts", folder / "tokens", folder / "base", out, replace(STAGE), TUNING)
        status = 0
    finally:
        sys.stdout.flush()
        os._exit(status)


def main(folder: Path, kills: int, seed: int = 0) -> None:
    """The stage once left alone, then killed `kills` times and finished."""
    rng = random.Random(seed)
    begun = time.monotonic()
    assert os.waitpid(child(folder, folder / "alone"), 0)[1] == 0
    seconds = time.monotonic() - begun
    killed = 0
    while True:
        pid = child(folder, folder / "killed")
        if killed == kills:
            assert os.waitpid(pid, 0)[1] == 0
            break
        # Late enough to get on, early enough not to be done: what is lost is at most 4 steps an attempt.
        time.sleep(seconds * rng.uniform(0.1, 0.6))
        os.kill(pid, signal.SIGKILL)
        status = os.waitpid(pid, 0)[1]
        if os.WIFEXITED(status):  # it was faster
            break
        killed += 1
    one, other = (load_file(folder / name / "model.safetensors") for name in ("alone", "killed"))
    print(json.dumps({"killed": killed, "identical": all(one[k].equal(other[k]) for k in one)}), file=sys.stderr)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
