"""Versions of a category of a test's own, and what the registry has of them."""

import dataclasses
from pathlib import Path

from calrec.promote.version import example
from calrec.tracking import promotion, registry, runs
from tests.versions import RETRIEVE, Judged


@dataclasses.dataclass(frozen=True)
class Versions:
    """Makes versions of a category that differ in how many items they list."""

    made: Judged
    target: str
    root: Path

    def folder(self, k: int = RETRIEVE.k) -> Path:
        out = self.root / str(k) / "version"
        if out.exists():
            return out
        return self.made.version(out, self.target, dataclasses.replace(RETRIEVE, k=k))

    def settle(self, k: int = RETRIEVE.k, promote: bool = True, rival: str | None = None, state: str = "s") -> str:
        with runs.step("promote", self.target):
            return promotion.register_version(self.folder(k), example(self.made.index), state, rival, promote)


def numbers(target: str) -> tuple[int | None, int | None]:
    champion, newest = registry.champion(target), registry.newest(target)
    return champion and champion.number, newest and newest.number
