"""Checkpoints of an interrupted stage: written aside, hashed and renamed, so that there is always a whole one.

FOLDER/step-00000200/ holds weights, optimizer and so on, FOLDER/best-00000100/ the best weights so far. A name with
.partial is being written, one with .old being replaced. Only one process may use a folder: rank 0.
"""

import json
import math
import re
import shutil
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from calrec.artifacts import sealed
from calrec.finetune import saved
from calrec.finetune.mirror import Mirror
from calrec.finetune.record import Record
from calrec.finetune.saved import DamagedError
from calrec.storage.files import Remote, sync

_ITEM = re.compile(r"(step|best)-\d{8,}")


@dataclass
class Progress:
    """The small explicit part of the trainer's state."""

    step: int = 0
    """Steps done; the order of the rows is a function of the configuration, so this is the data position too."""
    best_step: int = 0
    best_score: float = math.inf
    """Of the best validation; less is better, and inf is none yet."""
    worse: int = 0
    """Validations since the best one."""
    precision: str = ""
    """Of the matrix products, which stays when a stage goes on elsewhere: fp32 or bf16."""
    record: Record = field(default_factory=Record)
    """Its rows and sums up to this step."""


class Checkpoints:
    """The newest checkpoints of one stage and its best weights, and a copy of both in a remote folder if there is one.

    Args:
        folder: where they lie; nothing else may lie there.
        identity: settings and digests of the inputs, nested; a checkpoint with another identity is never continued.
        keep: newest checkpoints that are kept.
        remote: where they are copied to in the background, below the first digits of the identity's hash.
    """

    def __init__(self, folder: Path, identity: dict[str, Any], keep: int = 2, remote: Remote | None = None) -> None:
        self.folder = folder
        self.keep = keep
        self.identity: dict[str, Any] = json.loads(json.dumps(identity))  # as it is read back: lists for tuples
        self.notes: list[str] = []
        """What a reader of the manifest should know: failed uploads, damaged checkpoints that were skipped."""
        self._mirror = Mirror(remote, sealed.digest(self.identity)[:12], folder, self._items, self._note)

    def save(self, tensors: dict[str, dict[str, Tensor]], progress: Progress) -> None:
        """Write a checkpoint, remove those older than the `keep` newest, and copy it in the background.

        Raises:
            OSError: it could not be written; the message names the last good one.
        """
        self._put(f"step-{progress.step:08d}", tensors, progress)

    def save_best(self, weights: dict[str, Tensor], step: int) -> None:
        """Write the best weights so far; older ones stay while a kept checkpoint names them. Errors as save()."""
        self._put(_best(step), {"weights": weights}, Progress(step))

    def load(self) -> tuple[dict[str, dict[str, Tensor]], Progress] | None:
        """The newest whole checkpoint of this run, local or remote, on the CPU; None: there is none, start anew.

        Raises:
            ValueError: the folder holds something of another run, or every checkpoint is damaged.
            OSError: the remote folder cannot be read; going on without it could lose what it holds.
        """
        self._recover()
        self._refuse_others()
        damaged = []
        there = {name for name in {*self._items(), *self._mirror.list_items()} if name.startswith("step")}
        for name in sorted(there, key=_number, reverse=True):
            try:
                return self._load(name)
            except DamagedError as error:
                damaged.append(str(error))
                self._note(f"checkpoint {name} is skipped: {error}")
        if damaged:
            remedy = "put one of them back from a copy, or remove the folder and its remote copy to start anew"
            raise ValueError(f"{self.folder}: every checkpoint is damaged: {'; '.join(damaged)}; {remedy}")
        return None

    def load_best(self, step: int) -> dict[str, Tensor]:
        """The best weights, which were saved at `step`.

        Raises:
            ValueError: they are missing or damaged, and so is their remote copy.
        """
        try:
            return saved.load_tensors(self.folder / _best(step), self._whole(_best(step)))["weights"]
        except DamagedError as error:
            raise ValueError(f"the best weights are lost: {error}; remove {self.folder} and train anew") from error

    def wait(self) -> None:
        """Return when every upload is done or has failed."""
        self._mirror.wait()

    def remove(self) -> None:
        """The stage is done and its model is written: delete all that lies here and the remote copy of this run."""
        self.wait()
        self._recover()
        for name in reversed(self._items()):
            self._discard(name)
        with suppress(OSError):  # not there, or something foreign was put into it
            self.folder.rmdir()
        self._mirror.remove()

    def _put(self, name: str, tensors: dict[str, dict[str, Tensor]], progress: Progress) -> None:
        part = self.folder / f"{name}.partial"
        said = asdict(progress) | {"best_score": progress.best_score if progress.best_score < math.inf else None}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._recover()
            saved.write(part, tensors, self.identity, said)
            self._install(part, name)
            self._mirror.forget(name)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(part, ignore_errors=True)
            steps = [_number(item) for item in self._items() if item.startswith("step")]
            good = f"step {steps[0]} is the last good checkpoint" if steps else "there is no checkpoint before it"
            remedy = "free or mend this disk and run the same command again to go on"
            raise OSError(f"{self.folder / name} could not be written: {error}; {good}; {remedy}") from error
        self._tidy(name)
        self._mirror.start()

    def _install(self, part: Path, name: str) -> None:
        final, old = self.folder / name, self.folder / f"{name}.old"
        if final.exists():
            self.wait()  # it may be on its way to the remote folder
        sealed.swap(part, final, old)
        sync(self.folder.parent)
        shutil.rmtree(old, ignore_errors=True)

    def _recover(self) -> None:
        """Put away what a killed process left half done."""
        for old in self.folder.glob("*.old"):
            sealed.restore(old.with_suffix(""), old)
        for rest in [*self.folder.glob("*.old"), *self.folder.glob("*.partial")]:
            shutil.rmtree(rest, ignore_errors=True)

    def _tidy(self, newest: str) -> None:
        """Remove what nothing needs; what is newer than `newest` is damaged, or of a run that was resumed before it."""
        items = [item for item in self._items() if _number(item) <= _number(newest)]
        steps = [item for item in items if item.startswith("step")][: self.keep]
        kept = {*steps, *[item for item in items if item.startswith("best")][:1]}
        for step in steps:
            with suppress(DamagedError):
                kept.add(_named(saved.read_state(self.folder / step, self.identity)))
        for item in reversed(self._items()):
            if item not in kept:
                self._discard(item)

    def _discard(self, name: str) -> None:
        part = self.folder / f"{name}.partial"
        with self._mirror.idle(name) as idle:
            if idle:  # else the next save discards it
                (self.folder / name).rename(part)
        shutil.rmtree(part, ignore_errors=True)

    def _items(self) -> list[str]:
        """What lies here: first the best weights, then the checkpoints that name them, each from the newest on."""
        found = [path.name for path in self.folder.glob("*-*") if _ITEM.fullmatch(path.name)]
        return sorted(found, key=lambda name: (name.startswith("step"), -_number(name)))

    def _refuse_others(self) -> None:
        for path in self.folder.glob("[!.]*"):
            if _ITEM.fullmatch(path.name):
                with suppress(DamagedError):
                    saved.read_state(path, self.identity)
            elif path.name != "lost+found":  # root's folder on a fresh volume
                raise ValueError(f"{path} is no checkpoint of this program; choose another --out or remove the folder")

    def _load(self, name: str) -> tuple[dict[str, dict[str, Tensor]], Progress]:
        state = self._whole(name)
        if best := _named(state):
            self._whole(best)
        said = dict(state["progress"])
        said["best_score"] = math.inf if said["best_score"] is None else said["best_score"]
        said["record"] = Record(**said.get("record", {}))  # checkpoints of before had none
        progress = Progress(**said)
        return saved.load_tensors(self.folder / name, state), progress

    def _whole(self, name: str) -> dict[str, Any]:
        """The state of an item whose files are as they were written; a local one that is not is downloaded."""
        try:
            return self._verified(self.folder / name)
        except DamagedError as local:
            part = self.folder / f"{name}.partial"
            if not self._mirror.remote:
                raise
            self._recover()
            try:
                self._mirror.download(name, part)
                state = self._verified(part)
            except DamagedError as error:
                self._mirror.forget(name)
                here = f"{local}; " if (self.folder / name).exists() else ""
                raise DamagedError(f"{here}remote copy: {error}") from error
            if (self.folder / name).exists():
                self._note(f"{local}; its remote copy is taken")
            self._install(part, name)
            return state

    def _verified(self, folder: Path) -> dict[str, Any]:
        state = saved.read_state(folder, self.identity)
        saved.verify(folder, state)
        return state

    def _note(self, text: str) -> None:
        print(f"checkpoint: warning: {text}", file=sys.stderr, flush=True)
        self.notes.append(text)


def _number(item: str) -> int:
    return int(item.partition("-")[2])


def _best(step: int) -> str:
    return f"best-{step:08d}"


def _named(state: dict[str, Any]) -> str:
    """The best weights that a checkpoint names; empty before the first validation."""
    progress = state["progress"]
    return _best(progress["best_step"]) if progress["best_step"] or progress["best_score"] is not None else ""
