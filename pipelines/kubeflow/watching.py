"""Stay with a run: follow it, ask what Ctrl-C means, and say how it ended or how to look again."""

import contextlib
import os
import select
import signal
import socket
import sys
from collections.abc import Iterator
from typing import Any

from pipelines.kubeflow.connection import Kubeflow, RefusedError, UnreachableError
from pipelines.kubeflow.following import View, follow, outcome
from pipelines.kubeflow.logs import last_words
from pipelines.kubeflow.steps import DONE, Specification

SUCCEEDED, FAILED, CANCELED, TIMEOUT, INTERRUPTED, TERMINATED = 0, 1, 3, 4, 130, 143


class _TerminatedError(KeyboardInterrupt):
    """SIGTERM."""


def watch(kubeflow: Kubeflow, run_id: str, specification: Specification, until: float | None = None) -> int:
    """Follow a run to its end or until a time of `time.monotonic()`; gives the exit code.

    On Ctrl-C a person is asked whether the run goes on or is terminated; without one it goes on.
    """
    view = View(sys.stdout, specification)
    with _sigterm():
        try:
            try:
                return _ended(kubeflow, follow(kubeflow, run_id, view, until), specification)
            except KeyboardInterrupt as interrupt:
                if isinstance(interrupt, _TerminatedError) or not _asked_to_terminate():
                    raise
                _terminate(kubeflow, run_id)
                return _ended(kubeflow, follow(kubeflow, run_id, view), specification)
        except KeyboardInterrupt as interrupt:
            _say_that_it_goes_on(run_id)
            return TERMINATED if isinstance(interrupt, _TerminatedError) else INTERRUPTED
        except (RefusedError, UnreachableError):
            _say_that_it_goes_on(run_id)
            raise


def _ended(kubeflow: Kubeflow, run: Any, specification: Specification) -> int:
    if run.state not in DONE:
        print("calrec: time is up", file=sys.stderr)
        _say_that_it_goes_on(run.run_id)
        return TIMEOUT
    print("\n".join(ending(kubeflow, run, specification)), flush=True)
    return {"SUCCEEDED": SUCCEEDED, "FAILED": FAILED}.get(run.state, CANCELED)


def ending(kubeflow: Kubeflow, run: Any, specification: Specification) -> list[str]:
    """How a run stands, why steps failed as far as it can be known, and its page in MLflow."""
    lines = outcome(run, specification)
    if run.state == "FAILED":
        lines += [f"  {line}" for line in last_words(run.run_id, specification, kubeflow.namespace)]
    link = mlflow_link(run.run_id)
    return [*lines, f"MLflow page {link}"] if link else lines


def _asked_to_terminate() -> bool:
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    print("\nleave it running or terminate it? [l/t] ", end="", flush=True)
    with _waking() as signals:
        select.select([sys.stdin, signals], [], [])
    return sys.stdin.readline().strip().lower().startswith("t")


@contextlib.contextmanager
def _waking() -> Iterator[socket.socket]:
    """A socket that a signal makes readable: `input` waits on when one comes between its prompt and its read."""
    here, there = socket.socketpair()
    there.setblocking(False)
    with here, there:
        old = signal.set_wakeup_fd(there.fileno())
        try:
            yield here
        finally:
            signal.set_wakeup_fd(old)


def _terminate(kubeflow: Kubeflow, run_id: str) -> None:
    try:
        kubeflow.ask(lambda: kubeflow.runs.run_service_terminate_run(run_id), f"terminate run {run_id}")
    except RefusedError as error:  # it may have ended in the meantime
        print(f"calrec: {error}", file=sys.stderr)


def _say_that_it_goes_on(run_id: str) -> None:
    print(f"calrec: the run goes on; see calrec status {run_id}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _sigterm() -> Iterator[None]:
    def leave(*_: Any) -> None:
        raise _TerminatedError

    old = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, old)


def mlflow_link(run_id: str) -> str:
    """Address of the MLflow run of a pipeline run; empty while there is none, without a server, or if it fails."""
    uri = os.environ.get("MLFLOW_TRACKING_URI", "").rstrip("/")
    if not uri.startswith("http"):
        return ""
    with contextlib.suppress(Exception):  # a link is no reason to fail
        from calrec.tracking import runs as tracking

        client = tracking.client()
        found = client.get_experiment_by_name(os.environ.get("MLFLOW_EXPERIMENT_NAME", tracking.EXPERIMENT))
        experiment = os.environ.get("MLFLOW_EXPERIMENT_ID") or found.experiment_id
        runs = client.search_runs([experiment], f"tags.`kfp.run_id` = '{run_id}'", max_results=1)
        return (
            f"{uri}/#/experiments/{experiment}/runs/{runs[0].info.run_id}?workflowType=machine_learning" if runs else ""
        )
    return ""
