"""How far a step is: lines for a person, and a bar below them in a terminal or a notebook."""

import sys
import time
from collections.abc import Callable
from typing import Any

REPORT_SECONDS = 5.0
_DELAY_S = 3  # a shorter piece of work shows no bar


class Progress:
    """Prints a line at most every 5 s: `generate books: 1,200/50,000 users, 85.3 users/s, ETA 9 min 34 s`.

    Args:
        name: what the line begins with.
        total: users of the whole output; 0 when it is not known.
        done: users of earlier sessions; the rate is that of this one.
        clock: seconds that only rise.
    """

    def __init__(self, name: str, total: int, done: int = 0, clock: Callable[[], float] = time.monotonic):
        self._name, self._total, self._clock = name, total, clock
        self._first = self._done = done
        self._begun = self._printed = clock()
        self._bar = bar(name, total, done, "users")
        if done:
            print(f"{name}: going on after {done:,} users", flush=True)

    def add(self, users: int) -> None:
        """Count users that are done."""
        self._done += users
        if self._bar is not None:
            self._bar.update(users)
        if self._bar is None and self._clock() - self._printed >= REPORT_SECONDS:
            self._printed = self._clock()
            print(f"{self._line()}{self._eta()}", flush=True)

    def end(self) -> None:
        """Print what was done and how long this session took; the bar goes."""
        if self._bar is not None:
            self._bar.close()
        print(f"{self._line()}, took {duration(self.seconds)}", flush=True)

    @property
    def seconds(self) -> float:
        """Since this session began."""
        return self._clock() - self._begun

    @property
    def rate(self) -> float:
        """Users per second of this session."""
        return (self._done - self._first) / max(self.seconds, 1e-9)

    def _line(self) -> str:
        of = f"/{self._total:,}" if self._total else ""
        return f"{self._name}: {self._done:,}{of} users, {self.rate:,.1f} users/s"

    def _eta(self) -> str:
        left = self._total - self._done
        return f", ETA {duration(left / self.rate)}" if left >= 0 and self.rate else ""


def bar(name: str, total: int, done: int, unit: str) -> Any | None:
    """A tqdm bar on stderr, which disappears when it is closed; None where nobody looks, such as in a pod's log.

    Args:
        name: what stands before it.
        total: how many there are; 0 when it is not known.
        done: how many are done.
        unit: what they are.
    """
    if not sys.stderr.isatty() and "ipykernel" not in sys.modules:
        return None
    from tqdm import tqdm  # type: ignore[import-untyped]

    return tqdm(total=total or None, initial=done, desc=name, unit=unit, leave=False, delay=_DELAY_S)


def duration(seconds: float) -> str:
    """Seconds for a person: `34 s`, `9 min 34 s`, `2 h 5 min`, `3 d 4 h`."""
    whole = round(seconds)
    for unit, size, part, below in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // below} {part}"
    return f"{whole} s"
