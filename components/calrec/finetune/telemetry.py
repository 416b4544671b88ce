"""What a stage costs, what the machine could do, and what a person sees of it."""

import re
import resource
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from calrec.finetune.record import Record
from calrec.finetune.towers import core
from calrec.model.device import peak_memory
from calrec.report.progress import bar, duration

Log = Callable[[int, dict[str, float]], None]
REPORT_SECONDS = 5.0
_MEASURE_SECONDS = 0.3

# Words of a GPU's name: bf16, fp16 and fp32 FLOP/s of the vendor's data sheet, in 1e12, dense, TF32 off. The first
# that fits counts. 0: not on the sheet, so it is measured.
_PEAKS: tuple[tuple[str, float, float, float], ...] = (
    ("B200", 2250, 2250, 75),
    ("H200 NVL", 835.5, 835.5, 60),
    ("H200", 989, 989, 67),
    ("H100 NVL", 835.5, 835.5, 60),
    ("H100 PCIe", 756, 756, 51),
    ("H100", 989, 989, 67),
    ("A100", 312, 312, 19.5),
    ("L40S", 362, 362, 91.6),
    ("L4", 121, 121, 30.3),
    ("A10G", 70, 70, 35),
    ("A10", 125, 125, 31.2),
    ("V100S", 0, 130, 16.4),
    ("V100 PCIE", 0, 112, 14),
    ("V100", 0, 125, 15.7),
    ("T4", 0, 65, 8.1),
)
_DTYPES = (torch.bfloat16, torch.float16, torch.float32)


# --- arithmetic -------------------------------------------------------------------------------------------------


def flops(network: Any, tokens: int, squares: int, predicted: int) -> float:
    """FLOPs of forward and backward pass of a step, each counted once however often it is computed.

    A matrix costs 2 per weight and token in the forward pass, 2 for the gradient of its input and, unless it is
    frozen, 2 for its own. Norms, activations and DoRA's lengths are left out.

    Args:
        network: a Llama- or GPT-2-style causal LM, plain or with adapters; of one without heads, or with layers that
            differ, the products of attention are left out.
        tokens: tokens that pass through the decoder.
        squares: sum of the squared lengths of the sequences; causal attention needs half of the products.
        predicted: tokens for which logits are computed.
    """
    inner = core(network)
    config = inner.config.get_text_config()
    try:
        heads, layers = config.num_attention_heads, config.num_hidden_layers
        width = layers * heads * (getattr(config, "head_dim", None) or config.hidden_size // heads)
    except (AttributeError, TypeError, RuntimeError, ValueError):  # the library's own error is among them
        width = 0
    embeddings = {id(m.weight) for m in inner.base_model.modules() if isinstance(m, nn.Embedding)}
    matrices = [p for p in inner.base_model.parameters() if p.ndim == 2 and id(p) not in embeddings]
    head = [p for p in inner.get_output_embeddings().parameters() if p.ndim == 2]
    return float(_per_token(matrices) * tokens + 6 * width * squares + _per_token(head) * predicted)


def _per_token(matrices: list[Tensor]) -> int:
    return sum(p.numel() * (6 if p.requires_grad else 4) for p in matrices)


def peak_flops(device: torch.device | str, dtype: torch.dtype) -> float:
    """Most FLOP/s of matrix products: by the name of a known GPU, else measured for less than half a second."""
    device = torch.device(device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return peak_by_name(name, dtype) or _measured(device, dtype)


def peak_by_name(name: str, dtype: torch.dtype) -> float:
    """FLOP/s on the data sheet of a GPU; 0 when it is not known."""
    if dtype not in _DTYPES:
        return 0.0
    words = set(re.split("[ -]", name))  # such as NVIDIA A100-SXM4-80GB
    for known, *peaks in _PEAKS:
        if words.issuperset(known.split()) and "MIG" not in words:  # MIG: a part of the GPU
            return peaks[_DTYPES.index(dtype)] * 1e12
    return 0.0


def _measured(device: torch.device, dtype: torch.dtype) -> float:
    size = 2048 if device.type == "cuda" else 1024
    matrix = torch.ones(size, size, device=device, dtype=dtype)  # no random numbers: they would move those of training
    best, started = float("inf"), time.perf_counter()
    while time.perf_counter() - started < _MEASURE_SECONDS:
        begun = time.perf_counter()
        matrix @ matrix
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - begun)
    return 2 * size**3 / best


# --- memory -----------------------------------------------------------------------------------------------------


def memory_now() -> int:
    """Bytes: the most that tensors took on the GPU when one is in use, else what the process takes now."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return torch.cuda.max_memory_allocated()
    statm = Path("/proc/self/statm")
    if statm.is_file():
        return int(statm.read_text().split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def activation_bytes(run: Callable[[], Any]) -> int:
    """Bytes that autograd keeps for the backward pass of what `run` computes; shared ones count once.

    Parameters do not count: they are there anyway. The graph must outlive `run`, so `run` does no backward pass.
    """
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter) and not isinstance(tensor._base, nn.Parameter):
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        alive = run()
    del alive  # until here, so that no address is used twice
    return sum(kept.values())


def expected_memory(network: Any, bytes_per_token: float, tokens: int, state: int = 8) -> int:
    """Bytes of a step: weights, gradients, `state` bytes per trained weight (AdamW keeps 8), and activations."""
    parameters = list(network.parameters())
    weights: int = sum(p.numel() * p.element_size() for p in parameters)
    trained: int = sum(p.numel() * (p.element_size() + state) for p in parameters if p.requires_grad)
    return weights + trained + round(bytes_per_token * tokens)


# --- what a person sees -----------------------------------------------------------------------------------------


class Report:
    """Progress lines now and then, metrics to log and record, a bar below the lines where stderr is a terminal."""

    def __init__(self, label: str, steps: int, log: Log, first_step: int, peak: float = 0.0, quiet: bool = False):
        """`peak` is the FLOP/s of all ranks (0: no MFU); a `quiet` report does nothing (ranks other than 0)."""
        self.label, self.steps, self.log, self.peak, self.quiet = label, steps, log, peak, quiet
        self.started = self.last = self._counted = time.perf_counter()
        self.first_step, self.tokens, self.flops = first_step, 0, 0.0
        self.record = Record()
        self.bar = None if quiet else bar(label, steps, first_step, "step")

    def begin(self, step: int, record: Record) -> None:
        """The stage begins or goes on after `step`; from now on its time counts."""
        self.first_step, self.record = step, record
        self.started = self.last = self._counted = time.perf_counter()

    def count(self) -> None:
        """Bring the record's time and memory up to now."""
        now = time.perf_counter()
        self.record.seconds += now - self._counted
        self.record.peak_memory_bytes = max(self.record.peak_memory_bytes, peak_memory())
        self._counted = now

    def step(self, step: int, metrics: Mapping[str, float], tokens: int, flops: float) -> None:
        """Count one step of all ranks; every REPORT_SECONDS and at the last step, print a line and log."""
        if self.quiet:
            return
        self.record.step(step, metrics, tokens)
        self.tokens += tokens
        self.flops += flops
        if self.bar is not None:
            self.bar.update(step - self.bar.n)
        now = time.perf_counter()
        if now - self.last >= REPORT_SECONDS or step >= self.steps:
            eta = (now - self.started) / (step - self.first_step) * (self.steps - step)
            speed = self._speed(now - self.last)
            parts = [_text(name, value) for name, value in {**metrics, **speed}.items()]
            self.line(f"step {step}/{self.steps} {' '.join(parts)} ETA {duration(eta)}")
            self.log(step, {**metrics, **speed})
            self.last, self.tokens, self.flops = now, 0, 0.0

    def validation(self, step: int, values: Mapping[str, float], better: bool) -> None:
        """Print and log a validation; in the log `valid_` stands before each name."""
        if self.quiet:
            return
        parts = [f"{name} {value:.4f}{' nats/token' if name == 'nig' else ''}" for name, value in values.items()]
        self.line(f"step {step} validation {', '.join(parts)}{' (best so far)' if better else ''}")
        named = {f"valid_{name}": value for name, value in values.items()}
        self.record.validation(step, named)
        self.log(step, named)

    def line(self, text: str) -> None:
        """Print any other line of the stage, above the bar."""
        if self.quiet:
            return
        if self.bar is None:
            print(f"{self.label}: {text}", flush=True)
        else:
            self.bar.write(f"{self.label}: {text}", file=sys.stdout)
            sys.stdout.flush()

    def close(self) -> None:
        """The stage has ended, early or not: the bar goes."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def _speed(self, seconds: float) -> dict[str, float]:
        share = {"mfu": self.flops / seconds / self.peak} if self.peak else {}
        return {"tokens_per_second": self.tokens / seconds, **share, "memory_gib": memory_now() / 2**30}


def _text(name: str, value: float) -> str:
    texts = {
        "grad_norm": f"grad {value:.2f}",
        "lr": f"lr {value:.1e}",
        "tokens_per_second": f"{value:,.0f} tokens/s",
        "mfu": f"{value:.0%} MFU".replace("%", " %"),
        "memory_gib": f"{value:.1f} GiB",
    }
    return texts.get(name, f"{name} {value:.3f}")
