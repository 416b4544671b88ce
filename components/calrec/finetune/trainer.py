"""The training loop of one stage."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray

from calrec.config import StageConfig
from calrec.finetune import batches
from calrec.finetune.batches import IGNORE, Batch, Row
from calrec.finetune.losses import Terms
from calrec.finetune.state import Checkpoints, Progress
from calrec.finetune.towers import decoder_and_head, loss_of
from calrec.model.loading import Users
from calrec.textify.tokens import TokenCache

Log = Callable[[int, dict[str, float]], None]
REPORT_SECONDS = 5.0


def no_log(step: int, metrics: dict[str, float]) -> None:
    """Track nothing."""


@dataclass(frozen=True)
class Data:
    """What a stage trains on."""

    users: Users
    cache: TokenCache
    groups: NDArray[np.int32]


def train(
    network: Any, data: Data, stage: StageConfig, checkpoints: Checkpoints, label: str, log: Log = no_log
) -> Progress:
    """Train `network` in place for `stage.steps` steps and leave it with the best validated weights.

    Args:
        network: a causal LM; only weights with requires_grad change.
        data: users, tokens, text groups.
        stage: loss and schedule.
        checkpoints: where an interrupted stage goes on from.
        label: first words of each progress line.
        log: called with (step, metrics); losses in nats.

    Returns:
        where the stage ended and which step was best.

    Raises:
        ValueError: fewer trainable users than rows in a batch.
        FloatingPointError: the loss is not finite; names step and users, before any weight changed.
    """
    able = int(batches.trainable(data.users).sum())
    if able < stage.batch_size:
        raise ValueError(
            f"{able} users can train, fewer than batch_size = {stage.batch_size}; lower batch_size or add data"
        )
    torch.manual_seed(stage.seed)
    trainer = _Trainer(network, data, stage, checkpoints, label, log)
    if trainer.progress.step == 0:
        _print_arithmetic(label, stage, data, trainer.order, able)
        trainer.validate()
    while trainer.progress.step < stage.steps and not trainer.patience_is_over:
        trainer.step()
        done = trainer.progress.step
        if stage.valid_every and (done % stage.valid_every == 0 or done == stage.steps):
            trainer.validate()
        if stage.checkpoint_every and done % stage.checkpoint_every == 0 and done < stage.steps:
            checkpoints.write(network, trainer.optimizer, trainer.progress)
    if stage.valid_every:
        checkpoints.load_best(network)
        best = trainer.progress
        print(f"{label}: best validation {best.best_nig:.4f} nats/token at step {best.best_step}", flush=True)
    return trainer.progress


class _Trainer:
    """What a stage works with, and its two actions."""

    def __init__(
        self, network: Any, data: Data, stage: StageConfig, checkpoints: Checkpoints, label: str, log: Log
    ) -> None:
        self.network, self.data, self.stage, self.checkpoints = network, data, stage, checkpoints
        self.decoder, self.head = decoder_and_head(network)
        self.optimizer = _optimizer(network, stage)
        self.order = batches.order(data.users, stage.steps, stage.batch_size, stage.mix, stage.position, stage.seed)
        self.held_out = _validation_rows(data.users, stage)
        self.progress = checkpoints.resume(network, self.optimizer)
        self.report = _Report(label, stage, log, self.progress.step)

    @property
    def patience_is_over(self) -> bool:
        """No validation was better for as long as the stage allows."""
        return bool(self.stage.valid_every and 0 < self.stage.patience <= self.progress.worse)

    def step(self) -> None:
        """One optimizer step."""
        stage, step = self.stage, self.progress.step
        rows = self.order.rows(self.data.users, step, stage.batch_size)
        batch = _to(batches.collate(rows, self.data.cache, self.data.groups, stage.train_on), self.network)
        self.network.train()
        terms = loss_of(self.decoder, self.head, batch, stage)
        if not torch.isfinite(terms.loss):
            self._stop(terms)
        terms.loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), stage.clip)
        lr = stage.lr * schedule(step, stage.steps, stage.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.progress.step += 1
        self.report.step(self.progress.step, terms, float(norm), lr, batch.tokens)

    def validate(self) -> None:
        """Measure the held-out targets; keep the weights when they are the best so far."""
        if not self.stage.valid_every:
            return
        progress = self.progress
        nig = validation_nig(self.network, self.decoder, self.head, self.data, self.held_out, self.stage.batch_size)
        better = nig < progress.best_nig
        progress.worse = 0 if better else progress.worse + 1
        if better:
            progress.best_nig, progress.best_step = nig, progress.step
            self.checkpoints.write_best(self.network)
        self.report.validation(progress.step, nig, better)

    def _stop(self, terms: Terms) -> NoReturn:
        step, size = self.progress.step, self.stage.batch_size
        users = [self.data.users.user_id[u] for u in self.order.user[step * size : (step + 1) * size]]
        raise FloatingPointError(
            f"{self.report.label}: loss is {terms.loss.item()} at step {step} (nig {terms.nig.item()}, "
            f"tt {terms.tt.item()}, ut {terms.ut.item()}); lower lr (now {self.stage.lr}); "
            f"users of the batch: {', '.join(users)}"
        )


def schedule(step: int, steps: int, warmup: float) -> float:
    """Share of the peak learning rate: linear warm-up, then cosine to a tenth."""
    ramp = max(1, round(steps * warmup))
    if step < ramp:
        return (step + 1) / ramp
    done = (step - ramp) / max(1, steps - ramp)
    return 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * done))


def _optimizer(network: Any, stage: StageConfig) -> torch.optim.Optimizer:
    """AdamW; vectors (norms, biases) are not decayed."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": stage.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=stage.lr, betas=(0.9, 0.95), fused=True)


def _to(batch: Batch, network: Any) -> Batch:
    device = next(network.parameters()).device
    return Batch(**{name: tensor.to(device) for name, tensor in vars(batch).items()})


# --- validation -------------------------------------------------------------------------------------------------


def _validation_rows(users: Users, stage: StageConfig) -> list[Row]:
    """A fixed random sample of users, each with the validation item as target."""
    held_out = np.flatnonzero(users.valid_at >= 1)
    chosen = np.random.default_rng(stage.seed).permutation(held_out)[: stage.valid_users]
    return [
        Row(users.items[user][:at].tolist(), int(users.items[user][at]))
        for user, at in zip(chosen.tolist(), users.valid_at[chosen].tolist(), strict=True)
    ]


@torch.no_grad()
def validation_nig(network: Any, decoder: Any, head: Any, data: Data, rows: Sequence[Row], batch_size: int) -> float:
    """Nats per token of the held-out targets: summed over all rows, divided once."""
    network.eval()
    total, tokens = 0.0, 0
    for start in range(0, len(rows), batch_size):
        batch = _to(batches.collate(rows[start : start + batch_size], data.cache, data.groups, "last"), network)
        predicted = batch.labels_BT != IGNORE
        states = decoder(input_ids=batch.joint_BT, use_cache=False).last_hidden_state[predicted]
        total += float(
            torch.nn.functional.cross_entropy(head(states).float(), batch.labels_BT[predicted], reduction="sum")
        )
        tokens += int(predicted.sum())
    return total / max(1, tokens)


# --- what a person sees -----------------------------------------------------------------------------------------


def _print_arithmetic(label: str, stage: StageConfig, data: Data, order: batches.Order, able: int) -> None:
    first = [
        batches.collate(order.rows(data.users, step, stage.batch_size), data.cache, data.groups, stage.train_on)
        for step in range(min(stage.steps, 8))
    ]
    tokens = sum(batch.tokens for batch in first)
    padded = sum(batch.joint_BT.numel() + batch.target_BS.numel() for batch in first)
    share = sum(int((batch.labels_BT != IGNORE).sum()) for batch in first) / tokens
    print(
        f"{label}: {able:,} of {len(data.users):,} users train; {stage.steps} steps of {stage.batch_size} users = "
        f"{stage.steps * stage.batch_size / able:.1f} epochs; {stage.batch_size - 1} negatives per anchor\n"
        f"{label}: {tokens // len(first):,} tokens per step, {share:.0%} of them predicted; padding is "
        f"{1 - tokens / padded:.0%} of what is computed; {torch.get_num_threads()} threads",
        flush=True,
    )


class _Report:
    """Progress lines now and then, and metrics to the log."""

    def __init__(self, label: str, stage: StageConfig, log: Log, first_step: int):
        self.label, self.stage, self.log = label, stage, log
        self.started = self.last = time.perf_counter()
        self.first_step, self.tokens, self.steps = first_step, 0, 0

    def step(self, step: int, terms: Any, norm: float, lr: float, tokens: int) -> None:
        self.tokens += tokens
        self.steps += 1
        now = time.perf_counter()
        if now - self.last < REPORT_SECONDS and step < self.stage.steps:
            return
        rate = self.tokens / (now - self.last)
        metrics = {name: getattr(terms, name).item() for name in ("loss", "nig", "tt", "ut")}
        eta = (now - self.started) / (step - self.first_step) * (self.stage.steps - step)
        parts = " ".join(f"{name} {value:.3f}" for name, value in metrics.items())
        print(
            f"{self.label}: step {step}/{self.stage.steps} {parts} grad {norm:.2f} lr {lr:.1e} "
            f"{rate:,.0f} tokens/s ETA {int(eta) // 60}:{int(eta) % 60:02d}",
            flush=True,
        )
        self.log(step, {**metrics, "grad_norm": norm, "lr": lr, "tokens_per_second": rate})
        self.last, self.tokens = now, 0

    def validation(self, step: int, nig: float, better: bool) -> None:
        print(
            f"{self.label}: step {step} validation {nig:.4f} nats/token{' (best so far)' if better else ''}", flush=True
        )
        self.log(step, {"valid_nig": nig})
