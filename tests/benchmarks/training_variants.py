"""One training step in several ways, each timed in the process that runs it; see tests/benchmarks/train.py."""

import functools
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from calrec.finetune import attention, telemetry, towers
from calrec.finetune.batches import collate
from calrec.finetune.gradients import backward
from calrec.finetune.optimizer import adamw
from calrec.finetune.ranks import Ranks
from calrec.finetune.towers import Towers
from tests.benchmarks.training_rows import (
    ITEMS,
    LONGEST_PROMPT,
    LONGEST_TARGET,
    STAGE,
    llama,
    naive_loss,
    pairs,
    peak_bytes,
    synthetic,
)

Figures = dict[str, Any]
WARM, TIMED = 1, 3
WIDTHS = (LONGEST_PROMPT + LONGEST_TARGET, LONGEST_TARGET)


class Case:
    """One model and its batches, the same for every variant."""

    def __init__(self, device: str, size: str, users: int) -> None:
        self.device, self.users = device, users
        self.dtype = torch.bfloat16 if self.device == "cuda" else torch.float32
        if self.device == "cpu":
            torch.set_num_threads(1)
        self.network = llama(size, device)
        self.cache, self.rows = synthetic(self.network.config.vocab_size, WARM + TIMED, self.users)

    def autocast(self) -> Any:
        """Where the products are to be in bf16."""
        return torch.autocast(self.device, self.dtype, enabled=self.dtype != torch.float32)

    def timed(self, steps: Iterable[float]) -> Figures:
        """Figures of a variant that yields the loss of each step, when its work is done."""
        seconds, found = [], []
        start = time.perf_counter()
        for loss in steps:
            self.wait()
            seconds.append(time.perf_counter() - start)
            found.append(float(loss))
            start = time.perf_counter()
        return figures_of(seconds[WARM:], found[0])

    def wait(self) -> None:
        """Until the device has done what it was told."""
        if self.device == "cuda":
            torch.cuda.synchronize()


def figures_of(seconds: list[float], first_loss: float) -> Figures:
    """What every variant gives."""
    return {
        "seconds": statistics.median(seconds),
        "each_seconds": seconds,
        "first_loss": first_loss,
        "peak_bytes": peak_bytes(),
    }


# --- variants: each yields the loss of a step after the step -----------------------------------------------------


def ours(case: Case, kernel: str = "") -> Figures:
    """Rows put together, both towers in one packed row, exact negatives, clipping, fused AdamW."""
    kernel = kernel or next(
        k
        for k in attention.candidates(case.network.device, case.dtype)
        if not towers.suits(case.network, k, case.dtype)
    )
    reader = Towers(case.network, kernel=kernel, dtype=case.dtype)
    optimizer, groups = adamw(case.network, STAGE), np.arange(ITEMS, dtype=np.int32)
    nig, tokens, flops = [], [], []

    def steps() -> Iterator[float]:
        for rows in case.rows:
            batch = collate(rows, case.cache, groups, STAGE.train_on).to(reader.device)
            terms = backward(reader, [batch], STAGE, Ranks())
            _update(case.network, optimizer)
            nig.append(terms.nig.item())
            tokens.append(batch.tokens)
            flops.append(telemetry.flops(case.network, batch.tokens, batch.squares, len(batch.label_N)))
            yield terms.loss.item()

    figures = case.timed(steps())
    speed = statistics.median(f / s for f, s in zip(flops[WARM:], figures["each_seconds"], strict=True))
    return {
        **figures,
        "first_nig": nig[0],
        "kernel": kernel,
        "tokens": statistics.median(tokens[WARM:]),
        "flops_per_second": speed,
    }


def naive(case: Case, widths: tuple[int, int] | None = None) -> Figures:
    """The loss as it is often written, in a loop of one's own."""
    data = [pairs(rows, case.cache) for rows in case.rows]
    optimizer = torch.optim.AdamW(case.network.parameters(), STAGE.lr)

    def steps() -> Iterator[float]:
        for batch in data:
            with case.autocast():
                loss = naive_loss(case.network, batch, widths, STAGE)
            loss.backward()  # type: ignore[no-untyped-call]
            _update(case.network, optimizer)
            yield loss.item()

    return case.timed(steps())


def trainer(case: Case) -> Figures:
    """The same loss in the Trainer of transformers, padded to the longest."""
    from transformers import Trainer, TrainingArguments

    class Naive(Trainer):  # type: ignore[misc]
        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **unused: Any) -> Any:
            return naive_loss(model, inputs["pairs"], None, STAGE)

    with _settings(case) as settings:
        arguments = TrainingArguments(**settings, remove_unused_columns=False, train_sampling_strategy="sequential")
        data = [pair for rows in case.rows for pair in pairs(rows, case.cache)]
        return _by_trainer(case, Naive, args=arguments, train_dataset=data, data_collator=lambda b: {"pairs": b})


def trl(case: Case) -> Figures:
    """TRL's SFTTrainer on the same rows, at its defaults: the targets' token loss alone, so one tower."""
    try:
        from datasets import Dataset  # type: ignore[import-not-found]
        from trl import SFTConfig, SFTTrainer  # type: ignore[import-not-found]
    except ImportError as error:
        return {"not_measured": f"{error}; pip install -c constraints.txt '.[bench]'"}
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), eos_token="<e>", pad_token="<p>")
    data = [
        {"input_ids": torch.cat([p.prompt, p.target]).tolist(), "labels": [-100] * len(p.prompt) + p.target.tolist()}
        for rows in case.rows
        for p in pairs(rows, case.cache)
    ]
    tokens = [sum(len(p.prompt) + len(p.target) for p in pairs(rows, case.cache)) for rows in case.rows[WARM:]]
    with _settings(case) as settings:
        arguments = SFTConfig(
            **settings, max_length=WIDTHS[0], dataset_kwargs={"skip_prepare_dataset": True},
            train_sampling_strategy="sequential",
        )  # fmt: skip
        figures = _by_trainer(
            case, SFTTrainer, args=arguments, train_dataset=Dataset.from_list(data), processing_class=words
        )
    # Without Triton its head takes a fallback, which no GPU user meets; a ratio must not be quoted without this.
    slow = (
        "" if case.device == "cuda" else "TRL without Triton scores every position and its entropy, not labelled ones"
    )
    return {**figures, "nig_only": True, "tokens": statistics.median(tokens), "note": slow}


def gemm(case: Case) -> Figures:
    """FLOP/s of matrix products: the best of the shapes of the MLP and of a large square."""
    width, inner = case.network.config.hidden_size, case.network.config.intermediate_size
    large, best = 2048 if case.device == "cpu" else 8192, 0.0
    for m, k, n in ((4096, width, inner), (large, large, large)):
        a, b = (torch.randn(shape, device=case.device, dtype=case.dtype) for shape in ((m, k), (k, n)))
        for _ in range(20):
            start = time.perf_counter()
            a @ b
            case.wait()
            best = max(best, 2 * m * k * n / (time.perf_counter() - start))
    return {"flops_per_second": best, "data_sheet": telemetry.peak_flops(case.device, case.dtype)}


def _update(network: Any, optimizer: torch.optim.Optimizer) -> None:
    torch.nn.utils.clip_grad_norm_(network.parameters(), STAGE.clip)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


@contextmanager
def _settings(case: Case) -> Iterator[Figures]:
    """What both trainers are told; neither saves memory by computing activations again."""
    with tempfile.TemporaryDirectory() as folder:
        yield {
            "output_dir": folder, "per_device_train_batch_size": case.users, "max_steps": WARM + TIMED,
            "use_cpu": case.device == "cpu", "bf16": case.device == "cuda", "gradient_checkpointing": False,
            "report_to": [], "save_strategy": "no", "logging_steps": 1, "disable_tqdm": True,
            "learning_rate": STAGE.lr, "max_grad_norm": STAGE.clip,
        }  # fmt: skip


def _by_trainer(case: Case, kind: Any, **given: Any) -> Figures:
    from transformers import TrainerCallback

    ends: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *of_training: Any, **unused: Any) -> None:
            case.wait()
            ends.append(time.perf_counter())

    used = kind(model=case.network, callbacks=[Clock()], **given)
    used.train()
    seconds = [b - a for a, b in itertools.pairwise(ends)]
    loss = next(entry["loss"] for entry in used.state.log_history if "loss" in entry)
    return figures_of(seconds[WARM - 1 :], loss)


STEPS: dict[str, Callable[[Case], Figures]] = {
    "packed": ours,
    "pad to 1024": functools.partial(naive, widths=WIDTHS),
    "pad to longest": naive,
    "padded reference": functools.partial(ours, kernel="padded"),
    "TRL SFTTrainer": trl,
    "HF Trainer": trainer,
    "gemm": gemm,
}
