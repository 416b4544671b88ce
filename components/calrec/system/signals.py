"""Signals that wait while something must not be cut in two."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What asks a process to end: Ctrl-C, a cluster, a closed terminal."""


@contextmanager
def hold_signals() -> Iterator[None]:
    """Let a signal that asks to end wait until the block is done; the handler that was there then gets it.

    A write to a database that is left in the middle keeps it locked for whatever this process still has to say.
    """
    if threading.current_thread() is not threading.main_thread():  # Python runs handlers in the main thread alone
        yield
        return
    waiting: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        waiting.append(number)

    old = {number: signal.signal(number, note) for number in ENDING if callable(signal.getsignal(number))}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
        for first in waiting[:1]:
            signal.raise_signal(first)
