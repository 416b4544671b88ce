"""What a stage leaves for the report: its learning curves and what it cost, interruptions included."""

from collections.abc import Mapping
from dataclasses import dataclass, field

_POINTS = 1000  # of training in a record; a checkpoint carries them


@dataclass
class Record:
    """Part of the trainer's state, so that a stage that goes on from a checkpoint goes on with its record too.

    What is done after the newest checkpoint and lost with a killed process is in none of the numbers.
    """

    curves: list[dict[str, float]] = field(default_factory=list)
    """{step, loss, …} of every `every`-th step, and {step, valid_nig, …} of each validation, in their order."""
    every: int = 1
    """Doubles as often as the points of training become too many."""
    seconds: float = 0.0
    """Of training, validations and checkpoints included; not of loading the model."""
    tokens: int = 0
    """That all processes read to train; validation is not counted."""
    peak_memory_bytes: int = 0
    """Most that the first process took, see :func:`calrec.model.device.peak_memory`."""

    def step(self, step: int, metrics: Mapping[str, float], tokens: int) -> None:
        """Count a step of all processes, and keep its metrics if it is one of those that are kept."""
        self.tokens += tokens
        if step % self.every:
            return
        self.curves.append({"step": step, **metrics})
        if sum("loss" in row for row in self.curves) > _POINTS:
            self.every *= 2
            self.curves = [row for row in self.curves if "loss" not in row or row["step"] % self.every == 0]

    def validation(self, step: int, values: Mapping[str, float]) -> None:
        """Keep a validation."""
        self.curves.append({"step": step, **values})

    @property
    def cost(self) -> dict[str, float]:
        """What the stage took; nothing when it has no step."""
        if not self.tokens:
            return {}
        return {
            "seconds": round(self.seconds, 3),
            "tokens": self.tokens,
            "peak_memory_bytes": self.peak_memory_bytes,
        }
