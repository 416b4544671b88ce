"""`make bench STEP=…`: time a step against its reference in turns, print the ratio and write build/bench/STEP.json."""

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Timed = tuple[Callable[[], Any], Callable[[], Any]]
ROUNDS = 5


def in_turns(ours: Callable[[], Any], reference: Callable[[], Any]) -> dict[str, float]:
    """Median seconds of both, and the ratio: how often ours fits into the reference. Alternates, so drift hits both."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS + 1):
        for run, times in zip((ours, reference), seconds, strict=True):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
    a, b = (statistics.median(times[1:]) for times in seconds)  # the first round warms up
    ratios = [y / x for x, y in zip(seconds[0][1:], seconds[1][1:], strict=True)]
    return {"seconds": a, "reference_seconds": b, "ratio": statistics.median(ratios), "ratio_min": min(ratios)}


def main(steps: list[str]) -> int:
    """Run the named benchmarks, or all."""
    from tests.benchmarks.steps import STEPS

    names = list(STEPS) if steps in ([], ["all"]) else steps
    for name in names:
        if name not in STEPS:
            print(f"bench: no benchmark {name!r}; one of: {', '.join(STEPS)}", file=sys.stderr)
            return 2
    out = Path("build/bench")
    out.mkdir(parents=True, exist_ok=True)
    for name in names:
        figures = {"step": name, **measured(STEPS[name]()), "machine": machine()}
        (out / f"{name}.json").write_text(json.dumps(figures, indent=1) + "\n")
        print(f"{name}: {figures['ratio']:.1f}x {figures['what']}")
        print(json.dumps(figures, indent=1))
    return 0


def measured(found: Any) -> dict[str, Any]:
    """Figures of a benchmark: those it gives, or those of its two paths in turns."""
    if isinstance(found, dict):
        return found
    ours, reference, what = found
    return {"what": what, **in_turns(ours, reference)}


def machine() -> str:
    """Processor and cores that the figures belong to."""
    return f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
