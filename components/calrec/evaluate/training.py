"""What the steps before left for the report: learning curves of the stages, and what each step took."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from calrec import artifacts

Curves = dict[str, Sequence[Mapping[str, float]]]
"""stage → rows of {step, …}; what is not a finite number is left out."""
Costs = dict[str, Mapping[str, float]]
"""step → seconds, tokens, peak_memory_bytes and so on."""


def curves_and_cost(models: Sequence[Path], generations: Path | None) -> tuple[Curves, Costs]:
    """Curves and costs in the order of the pipeline; what is not there, or says nothing, is left out.

    Args:
        models: model folders in the order of the stages.
        generations: folder of the generate step.

    Raises:
        ValueError: a folder of another kind, or a record that is not one.
    """
    curves: Curves = {}
    costs: Costs = {}
    for folder in models:
        stage = artifacts.read_manifest(folder, "model").config.get("stage")
        record = artifacts.read_record(folder)
        if stage and record:
            costs[str(stage)] = record["cost"]
            curves[str(stage)] = [{n: v for n, v in row.items() if math.isfinite(v)} for row in record["curves"]]
    if generations:
        artifacts.read_manifest(generations, "generations")
        costs["generate"] = artifacts.read_record(generations).get("cost", {})
    return curves, {step: cost for step, cost in costs.items() if cost}
