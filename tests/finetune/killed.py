"""Kill a stage at random moments and go on, many times; weights and curves must be those of a stage left alone.

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

from calrec.artifacts import RECORD
from calrec.config import ModelConfig, StageConfig
from calrec.finetune.step import finetune

STAGE = StageConfig(
    steps=130, batch_size=4, lr=3e-3, train_on="all", valid_every=7, valid_users=16, checkpoint_every=4, ema=0.5,
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


def newest(out: Path) -> int:
    """Step of the newest whole checkpoint."""
    found = out.with_name(out.name + ".checkpoint").glob("step-????????/state.json")
    return max((int(path.parent.name.removeprefix("step-")) for path in found), default=0)


def killed(folder: Path, delay: float, further: int) -> None:
    """Start the stage, wait for some more checkpoints and a moment, and kill it."""
    goal = newest(folder / "killed") + further * STAGE.checkpoint_every
    pid = child(folder, folder / "killed")
    while newest(folder / "killed") < goal:
        time.sleep(0.002)
    time.sleep(delay)
    os.kill(pid, signal.SIGKILL)
    assert os.WIFSIGNALED(os.waitpid(pid, 0)[1]), "it ended before it was killed"


def main(folder: Path, kills: int, seed: int = 0) -> None:
    """The stage once left alone, then killed `kills` times and finished."""
    rng = random.Random(seed)
    begun = time.monotonic()
    assert os.waitpid(child(folder, folder / "alone"), 0)[1] == 0
    interval = (time.monotonic() - begun) * STAGE.checkpoint_every / STAGE.steps
    for _ in range(kills):  # each gets at most three checkpoints further, so that none comes too late
        killed(folder, rng.uniform(0, interval), rng.randrange(3))
    assert os.waitpid(child(folder, folder / "killed"), 0)[1] == 0
    one, other = (load_file(folder / name / "model.safetensors") for name in ("alone", "killed"))
    curves = [json.loads((folder / name / RECORD).read_text())["curves"] for name in ("alone", "killed")]
    same = {"weights": all(one[k].equal(other[k]) for k in one), "curves": curves[0] == curves[1]}
    print(json.dumps({"killed": kills, "identical": same}), file=sys.stderr)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
