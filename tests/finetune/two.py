"""What the tests run on two processes: `torchrun --nproc-per-node 2 -m tests.finetune.two ROOT OUT WHAT SHARDING`."""

import functools
import itertools
import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import torch

from calrec.config import ModelConfig
from calrec.finetune import ranks, towers
from calrec.finetune import step as finetune_step
from calrec.finetune.gradients import backward
from calrec.finetune.ranks import Ranks
from calrec.finetune.step import finetune
from calrec.finetune.towers import Towers
from calrec.finetune.trainer import Trainer
from tests.finetune.networks import batches, made
from tests.finetune.test_towers import STAGE as LOSS
from tests.finetune.test_training import STAGE

TUNING = ModelConfig(size="tiny", vocab_size=400)


def gradients(out: Path, sharding: str) -> None:
    """Relative errors of loss and gradient against one process with the same four packed rows."""
    seen = {}
    with ranks.process_group() as (among, _):
        for family in ("llama", "gpt2"):
            for negatives in ("batch", "ranks", "micro"):
                stage, rows = replace(LOSS, negatives=negatives), batches([3, 3, 3, 3])
                alone, network = made(family), made(family)
                spread = ranks.distribute(network, towers.layers(network), among, sharding, torch.float32)
                reader = Towers(network, spread)
                ours = backward(reader, rows[among.rank * 2 : among.rank * 2 + 2], stage, among)
                reader.close()
                reader = Towers(alone)
                # On one process, what both ranks read at one time is one row.
                pairs = [batches([3, 3, 3, 3])[i] for i in (0, 2, 1, 3)] if negatives == "ranks" else rows
                theirs = (
                    _together(reader, pairs, stage) if negatives == "ranks" else backward(reader, rows, stage, Ranks())
                )
                reader.close()
                mine = {name: ranks.whole(p.grad) for name, p in network.named_parameters()}
                size = torch.stack([p.grad.norm() for p in alone.parameters()]).norm()
                error = max(
                    float((mine[name] - p.grad).norm() / p.grad.norm().clamp(min=1e-3 * size))
                    for name, p in alone.named_parameters()
                )
                seen[f"{family} {negatives}"] = (float(abs(ours.loss - theirs.loss) / abs(theirs.loss)), error)
        if among.main:
            out.write_text(json.dumps(seen))


def _together(reader: Towers, rows: list, stage):
    """Negatives of pairs of rows, with one graph."""
    from calrec.finetune.losses import combine, info_nce

    tokens = sum(len(row.label_N) for row in rows)
    nig, tt, ut = torch.zeros(()), torch.zeros(()), torch.zeros(())
    for a, b in (rows[:2], rows[2:]):
        one, other = reader(a), reader(b)
        vectors, group = torch.cat([one.vectors_3BD, other.vectors_3BD], 1), torch.cat([a.group_B, b.group_B])
        nig = nig + (one.nll + other.nll) / tokens
        tt = tt + info_nce(vectors[1], vectors[2], group, stage.tau, stage.direction) / 2
        ut = ut + info_nce(vectors[0], vectors[2], group, stage.tau, stage.direction) / 2
    terms = combine(nig, tt, ut, stage.alpha, stage.beta)
    terms.loss.backward()
    return terms


def main(root: Path, out: Path, what: str, sharding: str) -> None:
    """One of the cases."""
    if what == "gradients":
        gradients(out, sharding)
        return
    stage = {
        "stage": replace(STAGE, steps=8, ema=0.5, micro_tokens=250),
        "odd": replace(STAGE, batch_size=3),
        "endless": replace(STAGE, steps=100_000),
        "timed": replace(STAGE, checkpoint_every=0, checkpoint_minutes=1.0, keep_checkpoints=100),
    }[what]

    def keep(step: int, metrics: dict[str, float]) -> None:
        if step == 8:  # the checkpoint of step 4 is still there
            shutil.copytree(out.with_name("m.checkpoint"), out.with_name("m.after-4"), dirs_exist_ok=True)
            names = sorted(path.name for path in out.with_name("m.checkpoint").glob("step-*"))
            out.with_name("m.seen").write_text(json.dumps(names))

    if what == "timed":  # half a minute for each look at the clock; the second rank's runs on
        clock = itertools.count(0, 1000 if int(os.environ["RANK"]) else 30).__next__
        finetune_step.Trainer = functools.partial(Trainer, clock=clock)
    log = {"log": keep} if what in ("stage", "timed") else {}
    finetune(root / "texts", root / "tokens", root / "base", out, stage, TUNING, sharding=sharding, **log)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
