"""Which events count and which lines are one event: the rules before the k-core, each under its words."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from calrec.arrays.compiled import Int64
from calrec.config import DataConfig
from calrec.config.checks import instant
from calrec.ingest.spill import Columns

Bools = NDArray[np.bool_]
Rule = tuple[str, Callable[[Columns], Bools]]

RETURNS = "returns (negative weight)"
UNMATCHED = "returns (negative weight) without an earlier purchase"
TAKEN_BACK = "purchases taken back by returns"
DEDUP = {"none": 0, "consecutive": 1, "first": 2}


class Tidying(NamedTuple):
    """What is done to a history before the k-core."""

    cancels: bool
    adds: bool
    least: Any
    dedup: str

    @classmethod
    def of(cls, data: DataConfig, weight: str) -> "Tidying":
        """From the settings, and from what the weight is."""
        quantity = weight == "quantity"
        least = np.float32(data.min_weight if quantity and data.min_weight else -np.inf)
        return cls(quantity and data.returns == "cancel", quantity, least, data.dedup)

    def by_rule(self, lost: Int64) -> dict[str, int]:
        """What `kernels.tidy` dropped, by rule; no rule that was not asked for."""
        event = "one event per user, item and time"
        rules = {
            UNMATCHED: self.cancels,
            RETURNS: self.cancels,
            TAKEN_BACK: self.cancels,
            f"{event} (weights added)" if self.adds else f"{event} (the first stays)": True,
            f"weight >= {self.least:g}": self.least > 0,
            f"dedup = {self.dedup}": self.dedup != "none",
        }
        return {rule: n for (rule, asked), n in zip(rules.items(), lost.tolist(), strict=True) if asked}


def row_rules(data: DataConfig, has_metadata: Bools, weight: str) -> list[Rule]:
    """The rules that look at one event alone: their words, and what keeps the event."""
    since, until = instant("data.since", data.since), instant("data.until", data.until)
    rules: list[Rule] = []
    if data.missing_metadata == "drop":
        rules.append(("item has metadata", lambda rows: has_metadata[rows["item"]]))
    if since is not None:
        rules.append((f"timestamp >= {data.since}", lambda rows: rows["time"] >= since))
    if until is not None:
        rules.append((f"timestamp < {data.until}", lambda rows: rows["time"] < until))
    if data.returns != "keep" and not Tidying.of(data, weight).cancels:
        rules.append((RETURNS, lambda rows: rows["weight"] >= 0))
    if data.min_weight > 0 and weight != "quantity":
        rules.append((f"weight >= {data.min_weight:g}", lambda rows: rows["weight"] >= data.min_weight))
    return rules


def apply_filters(columns: Columns, rules: list[Rule], dropped: dict[str, int]) -> Columns:
    """The rows that every rule keeps; what each drops is added to `dropped`."""
    for rule, keeps in rules:
        mask = keeps(columns)
        if lost := len(mask) - int(np.count_nonzero(mask)):
            columns = {name: values[mask] for name, values in columns.items()}
            dropped[rule] += lost
    return columns
