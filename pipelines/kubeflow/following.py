"""Follow a run until it ends: a table that is redrawn on a terminal, else a line per change."""

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TextIO

from pipelines.kubeflow.connection import Kubeflow
from pipelines.kubeflow.steps import DONE, Specification, Step, from_cache, moment, seconds, steps

POLL_S = 5.0


@dataclass
class View:
    """What a person sees of a run."""

    stream: TextIO
    specification: Specification
    _states: dict[str, str] = field(default_factory=dict)
    _drawn: int = 0

    def show(self, run: Any) -> None:
        """Show the run as it is now."""
        found = steps(run, self.specification)
        if self.stream.isatty():
            self._redraw(found)
        else:
            self._changes(found)

    def say(self, text: str) -> None:
        """A line that stays, above the table."""
        self._clear()
        print(text, file=self.stream, flush=True)

    def _clear(self) -> None:
        if self._drawn:
            self.stream.write(f"\x1b[{self._drawn}A\x1b[J")
        self._drawn = 0

    def _redraw(self, found: list[Step]) -> None:
        columns, rows = shutil.get_terminal_size()
        lines = table(found)
        if len(lines) > rows - 2:  # what is drawn must not scroll: it could not be cleared
            lines = [f"… {len(lines) - rows + 3} more above", *lines[3 - rows :]]
        self._clear()
        self.stream.write("".join(f"{line[: columns - 1]}\n" for line in lines))
        self.stream.flush()
        self._drawn = len(lines)

    def _changes(self, found: list[Step]) -> None:
        width = max((2 * step.depth + len(step.name) for step in found), default=0)
        now = datetime.now(UTC)
        for step in found:
            before = self._states.get(step.key)
            if step.state == before or (step.state == "pending" and before is None):
                continue
            self._states[step.key] = step.state
            change = f"{before} → {step.state}" if before else step.state
            name = f"{'  ' * step.depth}{step.name}"
            took = seconds(step.started, step.ended, now) if step.ended else ""
            print(
                f"{time.strftime('%H:%M:%S')}  {name:{width}}  {change}  {took}".rstrip(), file=self.stream, flush=True
            )


def table(found: list[Step]) -> list[str]:
    """A line for each step: name, state, duration."""
    now = datetime.now(UTC)
    names = [f"{'  ' * step.depth}{step.name}" for step in found]
    width = max(map(len, names), default=0)
    return [
        f"{name:{width}}  {step.state:9}  {seconds(step.started, step.ended, now)}".rstrip()
        for name, step in zip(names, found, strict=True)
    ]


def runs_table(runs: Sequence[Any]) -> list[str]:
    """A line for each run: id, state, age, duration, name."""
    now = datetime.now(UTC)
    lines = [f"{'RUN':36}  {'STATE':9}  {'AGE':>9}  {'DURATION':>9}  NAME"]
    for run in runs:
        made, ended = moment(run.created_at), moment(run.finished_at)
        ages = f"{seconds(made, None, now):>9}  {seconds(made, ended, now):>9}"
        lines.append(f"{run.run_id:36}  {(run.state or 'pending').lower():9}  {ages}  {run.display_name}")
    return lines if runs else ["no runs yet; calrec submit starts one"]


def follow(
    kubeflow: Kubeflow, run_id: str, view: View, until: float | None = None, sleep: Callable[[float], None] = time.sleep
) -> Any:
    """Show a run until it has ended, or until a time of `time.monotonic()`; returns the run as it was seen last."""
    kubeflow.say, said = view.say, kubeflow.say
    try:
        while True:
            run = kubeflow.ask(lambda: kubeflow.runs.run_service_get_run(run_id), f"look at run {run_id}")
            view.show(run)
            if run.state in DONE or (until is not None and time.monotonic() >= until):
                return run
            sleep(POLL_S if until is None else max(0.0, min(POLL_S, until - time.monotonic())))
    finally:
        kubeflow.say = said


def outcome(run: Any, specification: Specification) -> list[str]:
    """How a run ended; of one that failed the steps, their errors and how to see their logs."""
    took = seconds(moment(run.created_at), moment(run.finished_at), datetime.now(UTC))
    lines = [f"{run.display_name}: {(run.state or 'pending').lower()}, {took}"]
    if run.error and run.error.message:
        lines.append(f"  {run.error.message}")
    cached = from_cache(run)
    if cached:
        lines.append(f"  {cached} {'step' if cached == 1 else 'steps'} cached: outputs of an earlier run")
    for step in failed_steps(run, specification):
        lines.append(f"  {step.name} failed{f': {step.error}' if step.error else ''}")
        lines.append(f"    calrec logs {run.run_id} '{step.name}'")
    return lines


def failed_steps(run: Any, specification: Specification) -> list[Step]:
    """The steps that failed themselves, not the loops and sub-pipelines around them."""
    found = steps(run, specification)
    leaves = [step for step in found if step.state == "failed" and not step.group]
    return leaves or [step for step in found if step.state == "failed"]
