"""The arithmetic of a stage, said before its first step."""

from typing import TYPE_CHECKING

import torch
from torch.distributed.fsdp import FSDPModule

from calrec.finetune import telemetry
from calrec.finetune.batches import collate
from calrec.finetune.order import trainable

if TYPE_CHECKING:
    from calrec.finetune.trainer import Trainer

_LOOK = 8  # steps that stand for the others


def arithmetic(trainer: "Trainer") -> list[str]:
    """Tokens per step, negatives per anchor, epochs, share of predicted tokens, and the memory expected."""
    stage, users, among = trainer.stage, trainer.data.users, trainer.among
    able = int(trainable(users).sum())
    steps = [trainer.batches_of(step) for step in range(min(stage.steps, _LOOK))]
    rows = [batch for step in steps for batch in step]
    tokens, predicted = sum(b.tokens for b in rows), sum(len(b.label_N) for b in rows)
    fewest, most = min(map(len, rows)), max(map(len, rows))
    seen = {"batch": stage.batch_size, "ranks": most * among.size, "micro": most}[stage.negatives]
    least = {"batch": stage.batch_size, "ranks": fewest * among.size, "micro": fewest}[stage.negatives]
    negatives = f"{seen - 1}" if seen == least else f"{least - 1} to {seen - 1}"
    memory = expected_memory(trainer, max(batch.tokens for batch in rows))
    return [
        f"{able:,} of {len(users):,} users train; {stage.steps} steps of {stage.batch_size} users = "
        f"{stage.steps * stage.batch_size / able:.1f} epochs of {able / stage.batch_size:.0f} steps; "
        f"{negatives} negatives per anchor",
        f"{among.size * tokens // len(steps):,} tokens per step in {len(rows) / len(steps):.1f} packed rows on each of "
        f"{among.size} processes, {predicted / tokens:.0%} of them predicted; attention {trainer.towers.kernel}, "
        f"{str(trainer.towers.dtype).removeprefix('torch.')}; {torch.get_num_threads()} threads; "
        f"about {memory / 2**30:.1f} GiB expected for weights, gradients, optimizer and activations",
    ]


def expected_memory(trainer: "Trainer", tokens: int) -> int:
    """Bytes for weights, gradients, two moments, and what autograd keeps of a packed row of so many tokens.

    What a token costs is measured on one user of the first step.
    """
    data, stage = trainer.data, trainer.stage
    row = trainer.order.rows(data.users, 0, stage.batch_size)[:1]
    one = collate(row, data.cache, data.groups, stage.train_on).to(trainer.towers.device)
    reader = trainer.towers
    spread, reader.call = reader.call, reader.core  # replicas would wait for a backward pass
    try:
        each = telemetry.activation_bytes(lambda: reader(one)) / one.tokens
    finally:
        reader.call = spread
    fixed = telemetry.expected_memory(trainer.network, 0, 0, state=12 if stage.ema else 8)
    sharded = trainer.among.size if isinstance(reader.core, FSDPModule) else 1
    return round(fixed / sharded + each * tokens)
