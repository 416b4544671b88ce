"""The training loop of one stage."""

import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calrec.config import StageConfig
from calrec.finetune import batches, gradients, order, ranks, telemetry, validation
from calrec.finetune.batches import Batch
from calrec.finetune.checkpoints import Checkpoints, Progress
from calrec.finetune.gradients import Interrupted
from calrec.finetune.losses import Terms
from calrec.finetune.optimizer import Average, adamw, rate
from calrec.finetune.ranks import Ranks
from calrec.finetune.telemetry import Report
from calrec.finetune.towers import Towers
from calrec.model.loading import Users
from calrec.textify.tokens import TokenCache

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
Saved = tuple[dict[str, dict[str, Tensor]], Progress]


@dataclass(frozen=True)
class Data:
    """What a stage trains on."""

    users: Users
    cache: TokenCache
    groups: NDArray[np.int32]


class Trainer:
    """What a stage works with, and its actions."""

    def __init__(
        self,
        network: Any,
        towers: Towers,
        data: Data,
        stage: StageConfig,
        checkpoints: Checkpoints | None,
        report: Report,
        among: Ranks,
        found: Saved | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Set out, from a checkpoint when there is one.

        Args:
            network: a causal LM; only weights with requires_grad change.
            towers: how it reads.
            data: users, tokens, text groups.
            stage: loss and schedule.
            checkpoints: where an interrupted stage can go on from; None on ranks other than 0.
            report: what a person sees.
            among: the processes that share the stage.
            found: what the stage goes on from; None: it begins, or this rank is not 0.
            clock: seconds, for checkpoints by time; rank 0's decides for all.
        """
        self.network, self.towers, self.data, self.stage = network, towers, data, stage
        self.checkpoints, self.report, self.among = checkpoints, report, among
        self.order = order.order(data.users, stage)
        self.held_out = validation.in_batches(
            validation.sample_validation_rows(data.users, stage), data.cache, data.groups
        )
        self.optimizer = adamw(network, stage)
        self.average = Average(network, stage.ema)
        self.progress = self._resume(found)
        self.progress.precision = next(name for name, dtype in PRECISIONS.items() if dtype == towers.dtype)
        report.begin(self.progress.step, self.progress.record)
        self._clock, self._saved_at = clock, clock()
        self._next: list[Batch] | None = None
        self._stopped = False

    def train(self) -> dict[str, Tensor]:
        """Train to the end of the stage, or until it is told to stop.

        Returns:
            the best validated weights, or the last ones where these are wanted or nothing was validated; on the CPU, by
            name.

        Raises:
            SystemExit: SIGTERM came; a checkpoint was written, and EX_TEMPFAIL says that a retry goes on from there.
            FloatingPointError: the loss is not finite; names step and users, before any weight changed.
        """
        stage, progress = self.stage, self.progress
        with self._listening():
            if progress.step == 0 and progress.best_score == math.inf:  # else a checkpoint knows of it
                self.validate()
            while progress.step < stage.steps and not self.patience_is_over:
                try:
                    self.step()
                except Interrupted:
                    self._leave()
                done = progress.step
                if stage.valid_every and (done % stage.valid_every == 0 or done == stage.steps):
                    self.validate()
                if done < stage.steps and self._is_due(done):
                    self.save()
        if stage.keep == "last" or not (stage.valid_every and self.held_out):
            with self.average.applied_to(self.network):  # on a CPU they are the network's own, which change back
                return {name: weight.clone() for name, weight in self._weights().items()}
        return self.among.share_tensors(self.checkpoints.load_best(progress.best_step) if self.checkpoints else None)

    @property
    def patience_is_over(self) -> bool:
        """No validation was better for as long as the stage allows."""
        return bool(self.stage.valid_every and 0 < self.stage.patience <= self.progress.worse)

    def _is_due(self, done: int) -> bool:
        """Whether a checkpoint is written after this step; the same on all ranks, since all take part in writing it."""
        stage = self.stage
        if stage.checkpoint_every and done % stage.checkpoint_every == 0:
            return True
        late = self.among.main and self._clock() - self._saved_at >= 60 * stage.checkpoint_minutes
        return bool(stage.checkpoint_minutes) and self.among.any(late, self.towers.device)

    def step(self) -> None:
        """One optimizer step."""
        stage, step = self.stage, self.progress.step
        random = gradients.random_state()
        rows = self._next or self.batches_of(step)
        self.network.train()
        try:
            terms = gradients.backward(self.towers, rows, stage, self.among, self._told_to_stop)
        except Interrupted:
            gradients.set_random_state(random)
            raise
        # A GPU still computes; the next step's tokens are assembled meanwhile.
        self._next = self.batches_of(step + 1) if step + 1 < stage.steps else None
        norm = float(ranks.whole(torch.nn.utils.clip_grad_norm_(self.network.parameters(), stage.clip)))
        if not np.isfinite([terms.loss.item(), norm]).all():
            self._not_finite(terms, norm)
        lr = stage.lr * rate(step, stage)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.progress.step += 1
        self.average.update(self.network, self.progress.step)
        metrics = {name: value.item() for name, value in vars(terms).items()} | {"grad_norm": norm, "lr": lr}
        self.report.step(self.progress.step, metrics, *self._cost(rows))

    def batches_of(self, step: int) -> list[Batch]:
        """The packed rows of a step that fall to this rank, on its device."""
        data, stage = self.data, self.stage
        rows = self.order.rows(data.users, step, stage.batch_size)
        turns = order.shares(batches.row_tokens(rows, data.cache), self.among.size, stage.micro_tokens)[self.among.rank]
        collated = [batches.collate([rows[i] for i in t], data.cache, data.groups, stage.train_on) for t in turns]
        return [batch.to(self.towers.device) for batch in collated]

    def _cost(self, rows: Sequence[Batch]) -> tuple[int, float]:
        """Tokens and FLOPs of the step over all ranks, each taken to do what this one does."""
        tokens, squares = sum(batch.tokens for batch in rows), sum(batch.squares for batch in rows)
        predicted = sum(len(batch.label_N) for batch in rows)
        size = self.among.size
        return tokens * size, telemetry.flops(self.network, tokens, squares, predicted) * size

    def validate(self) -> None:
        """Measure the held-out targets; keep the weights when they are the best so far."""
        if not (self.stage.valid_every and self.held_out):
            return
        progress = self.progress
        with self.average.applied_to(self.network):
            values = validation.validate(self.towers, self.held_out, self.among)
            score = values["nig"] if self.stage.valid_metric == "nig" else -values["ndcg"]
            better = score < progress.best_score
            progress.worse = 0 if better else progress.worse + 1
            if better:
                progress.best_score, progress.best_step = score, progress.step
                weights = self._weights()
                if self.checkpoints:
                    self.checkpoints.save_best(weights, progress.step)
        self.report.validation(progress.step, values, better)

    def save(self) -> None:
        """Write a checkpoint of everything that the next step depends on."""
        states = self.among.objects(gradients.random_state())
        tensors = {
            "weights": self._weights(),
            "optimizer": ranks.optimizer_state(self.network, self.optimizer),
            "rng": {f"{name}.{rank}": state for rank, own in enumerate(states) for name, state in own.items()},
            **({"ema": {name: ranks.whole(t) for name, t in self.average.tensors.items()}} if self.stage.ema else {}),
        }
        self.report.count()
        if self.checkpoints:
            self.checkpoints.save(tensors, self.progress)
        self._saved_at = self._clock()

    def _resume(self, found: Saved | None) -> Progress:
        progress: Progress | None = self.among.share(found[1] if found else None)
        if progress is None:
            return Progress()
        kinds = self.among.share(list(found[0]) if found else None)
        saved = {kind: self.among.share_tensors(found[0][kind] if found else None) for kind in kinds}
        ranks.fill(self.network, saved["weights"])
        ranks.fill_optimizer(self.network, self.optimizer, saved["optimizer"])
        if self.stage.ema:
            averages = self.average.tensors
            self.average.load({name: ranks.like(value, averages[name]) for name, value in saved["ema"].items()})
        suffix = f".{self.among.rank}"  # a rank that was not there before draws anew
        own = {name.removesuffix(suffix): state for name, state in saved["rng"].items() if name.endswith(suffix)}
        if own:
            gradients.set_random_state(own)
        self.report.line(f"going on after step {progress.step}")
        return progress

    def _weights(self) -> dict[str, Tensor]:
        return {name: ranks.whole(p) for name, p in ranks.trainable_parameters(self.network).items()}

    # --- interruptions ------------------------------------------------------------------------------------------

    def _told_to_stop(self) -> bool:
        return self.among.any(self._stopped, self.towers.device)

    @contextmanager
    def _listening(self) -> Iterator[None]:
        """Note SIGTERM, which is looked at before each packed row."""

        def note(*_: Any) -> None:
            self._stopped = True

        try:
            old = signal.signal(signal.SIGTERM, note)
        except ValueError:  # not in the main thread: somebody else must listen
            yield
            return
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, old)

    def _leave(self) -> NoReturn:
        self.optimizer.zero_grad(set_to_none=True)
        self.save()
        if self.checkpoints:
            self.checkpoints.wait()
        self.report.line(
            f"told to stop; a checkpoint of step {self.progress.step} is written, the same command goes on"
        )
        raise SystemExit(os.EX_TEMPFAIL)

    def _not_finite(self, terms: Terms, norm: float) -> NoReturn:
        step, size = self.progress.step, self.stage.batch_size
        users = [self.data.users.user_id[u] for u in self.order.user[step * size : (step + 1) * size]]
        raise FloatingPointError(
            f"{self.report.label}: loss is {terms.loss.item()} at step {step} (nig {terms.nig.item()}, tt "
            f"{terms.tt.item()}, ut {terms.ut.item()}, grad norm {norm}); lower lr (now {self.stage.lr}); no weight "
            f"was changed by this step; users of the batch: {', '.join(users)}"
        )
