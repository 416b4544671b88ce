"""A training step of ours against the usual ways to write it; each is measured in a process of its own, in turns.

    make bench STEP=train
    PYTHONPATH=components python -m tests.benchmarks.train --device cuda --out train.json

On a CPU: a Llama of 10M parameters, 8 users, fp32, one thread. With a GPU, the second command: 135M parameters, 64
users, bf16. It needs torch, transformers, peft, accelerate and numpy, neither a pipeline nor a network.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

Figures = dict[str, Any]
VARIANTS = ("packed", "pad to 1024", "pad to longest", "padded reference", "TRL SFTTrainer", "HF Trainer", "gemm")
DEFAULTS: dict[str, Figures] = {"cpu": {"size": "10M", "users": 8}, "cuda": {"size": "135M", "users": 64}}


def train() -> Figures:
    """Figures of every variant on the CPU.

    Raises:
        RuntimeError: our step or the one it is compared with failed.
    """
    figures = compared(_options([]))
    if figures["ratio"] is None:
        raise RuntimeError(f"no ratio: pad to longest was {figures['variants']['pad to longest']}")
    return figures


def compared(options: argparse.Namespace) -> Figures:
    """Measure the variants in turns; `ratio` is how often a step of ours fits into one padded to the longest."""
    found: dict[str, list[Figures]] = {name: [] for name in options.only}
    for _ in range(options.rounds):
        for name, rounds in found.items():
            rounds.append(_alone(name, options))
            print(f"  {name}: {rounds[-1]}", file=sys.stderr, flush=True)
    wrong = {name: next(r["not_measured"] for r in rounds if "not_measured" in r)
             for name, rounds in found.items() if any("not_measured" in r for r in rounds)}  # fmt: skip
    if "packed" in wrong:
        raise RuntimeError(f"our own step failed: {wrong['packed']}")
    measured = {name: rounds for name, rounds in found.items() if name not in wrong}
    own, peaks = measured["packed"], measured.pop("gemm", [])
    table = {name: _against(own, rounds) for name, rounds in measured.items()}
    ratios = table.get("pad to longest", {"ratio": None, "ratio_min": None})
    return {
        "what": f"a training step of {options.users} users, {own[0]['tokens']:,.0f} tokens, Llama {options.size}, "
        f"{options.device}: packed, against padded to the longest with all logits",
        "ratio": ratios["ratio"],
        "ratio_min": ratios["ratio_min"],
        "variants": {**table, **{name: f"not measured: {why}" for name, why in wrong.items()}},
        **_share(own, peaks),
        "rounds": options.rounds,
    }


def _against(own: list[Figures], other: list[Figures]) -> Figures:
    """A variant beside ours: medians over rounds, ratios round by round."""
    ratios = [b["seconds"] / a["seconds"] for a, b in zip(own, other, strict=True)]
    memory = [b["peak_bytes"] / a["peak_bytes"] for a, b in zip(other, own, strict=True)]
    seconds = statistics.median(figures["seconds"] for figures in other)
    loss, reference = own[0]["first_nig" if other[0].get("nig_only") else "first_loss"], other[0]["first_loss"]
    return {
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "seconds": seconds,
        "tokens_per_second": other[0].get("tokens", own[0]["tokens"]) / seconds,
        "peak_mib": round(statistics.median(figures["peak_bytes"] for figures in other) / 2**20),
        "our_share_of_memory": statistics.median(memory),
        "first_loss": reference,
        "loss_error": abs(loss - reference) / abs(reference),
        "note": other[0].get("note", ""),
    }


def _share(own: list[Figures], peaks: list[Figures]) -> Figures:
    """What part of the machine's matrix products our FLOP/s are; on a GPU that is known, of its data sheet (MFU)."""
    speed = statistics.median(figures["flops_per_second"] for figures in own)
    figures: Figures = {"kernel": own[0]["kernel"], "gflops_per_second": speed / 1e9}
    if peaks:
        best = max(peak["flops_per_second"] for peak in peaks)
        figures |= {"gemm_gflops_per_second": best / 1e9, "share_of_gemm": speed / best}
        figures |= {"mfu": speed / peaks[0]["data_sheet"]} if peaks[0]["data_sheet"] else {}
    return figures


def _alone(name: str, options: argparse.Namespace) -> Figures:
    """Figures of a variant from a process of its own, so that memory is its own too."""
    command = [sys.executable, "-m", "tests.benchmarks.train", "--one", name, "--device", options.device]
    command += ["--size", options.size, "--users", str(options.users)]
    given = {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "0", **os.environ}
    if options.device == "cpu":
        given["OMP_NUM_THREADS"] = "1"
    done = subprocess.run(command, capture_output=True, text=True, env=given, check=False)
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        return {"not_measured": (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]}
    return json.loads(lines[-1])  # type: ignore[no-any-return]


def lines(figures: Figures) -> list[str]:
    """The figures as a table for people."""
    head = f"{'':18}{'s/step':>9}{'tokens/s':>11}{'ratio':>8}{'least':>8}{'MiB':>8}{'memory':>8}{'loss error':>12}"
    rows = []
    for name, one in figures["variants"].items():
        if isinstance(one, str):
            rows.append(f"{name:18}{one}")
            continue
        rows.append(
            f"{name:18}{one['seconds']:9.3f}{one['tokens_per_second']:11,.0f}{one['ratio']:8.2f}{one['ratio_min']:8.2f}"
            f"{one['peak_mib']:8,}{one['our_share_of_memory']:8.2f}{one['loss_error']:12.1e}"
            f"  {one['note']}".rstrip()
        )
    rest = {key: value for key, value in figures.items() if key not in ("variants", "what")}
    return [figures["what"], head, *rows, json.dumps(rest)]


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.train", description="Time a training step.")
    parser.add_argument("--device", choices=list(DEFAULTS), default="cpu")
    parser.add_argument("--size", help="10M or 135M; default by device")
    parser.add_argument("--users", type=int, help="users per step; default by device")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="packed and others")
    parser.add_argument("--one", choices=VARIANTS, help="measure one variant here and print its figures")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    options = parser.parse_args(arguments)
    if "packed" not in options.only:
        parser.error("--only must name packed, which the others are compared with")
    for key, value in DEFAULTS[options.device].items():
        if getattr(options, key) is None:
            setattr(options, key, value)
    return options


def main(arguments: list[str]) -> int:
    """Measure one variant, or all and print the table."""
    options = _options(arguments)
    if options.one:
        from tests.benchmarks.training_variants import STEPS, Case

        print(json.dumps(STEPS[options.one](Case(options.device, options.size, options.users))))
        return 0
    figures = compared(options)
    print("\n".join(lines(figures)))
    if options.out:
        options.out.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
