"""A copy of a folder of checkpoints in another place, kept up in one background thread while the training goes on."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from calrec.finetune.saved import STATE, DamagedError
from calrec.storage.files import Remote


class Mirror:
    """Copies folders to PREFIX/ITEM/FILE; an item's state.json goes last and is deleted first, so it marks a whole one.

    Args:
        remote: where to; None: nothing is copied.
        prefix: of all names; two runs with different prefixes never meet.
        folder: the local folder.
        items: the items of the local folder in the order in which they are to be copied.
        note: called with the text of a failed upload.
    """

    def __init__(
        self,
        remote: Remote | None,
        prefix: str,
        folder: Path,
        items: Callable[[], list[str]],
        note: Callable[[str], None],
    ) -> None:
        self.remote, self._prefix, self._folder, self._items, self._note = remote, prefix, folder, items, note
        self._copied: set[str] = set()
        self._busy = ""
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(1, "checkpoint-upload")

    def listed(self) -> set[str]:
        """The whole items there."""
        self._copied = {name.split("/")[0] for name in self._names() if name.endswith(f"/{STATE}")}
        return set(self._copied)

    def download(self, item: str, folder: Path) -> None:
        """One item into a new folder; whether it is whole must still be verified.

        Raises:
            DamagedError: it is not there.
        """
        names = [name for name in self._names() if name.startswith(f"{item}/")]
        if self.remote is None or not names:
            raise DamagedError(f"{item} has no remote copy")
        folder.mkdir(parents=True)
        for name in names:
            self.remote.get(f"{self._prefix}/{name}", folder / name.split("/")[1])

    def start(self) -> None:
        """Copy what is missing and delete what the local folder no longer has, in the background."""
        if self.remote:
            self._thread.submit(self._run)

    def wait(self) -> None:
        """Return when all that was started has ended."""
        if self.remote:
            self._thread.submit(lambda: None).result()

    def forget(self, item: str) -> None:
        """The local item is another one now."""
        with self._lock:
            self._copied.discard(item)

    @contextmanager
    def idle(self, item: str) -> Iterator[bool]:
        """Whether the item is not being copied; its upload does not begin inside the `with`."""
        with self._lock:
            yield self._busy != item

    def remove(self) -> None:
        """Delete everything of this run; a failure is noted."""
        if self.remote:
            self._thread.submit(self._clear, set()).result()

    def _run(self) -> None:
        try:
            while item := self._next():
                self._copy(item)
        except Exception as error:  # whatever a client library raises: training must go on
            self._note(f"{self._busy} was not copied to the remote folder ({error}); the next checkpoint tries again")
        else:
            here = set(self._items())
            if any(item.startswith("step") for item in here & self._copied):  # never the last one
                self._clear(here)
        finally:
            self._busy = ""

    def _next(self) -> str:
        with self._lock:
            self._busy = next((item for item in self._items() if item not in self._copied), "")
            return self._busy

    def _copy(self, item: str) -> None:
        assert self.remote
        for path in sorted((self._folder / item).iterdir(), key=lambda path: path.name == STATE):
            self.remote.put(path, f"{self._prefix}/{item}/{path.name}")
        self._copied.add(item)

    def _clear(self, kept: set[str]) -> None:
        """Delete all other items: steps before the best weights that they name, state.json first."""
        try:
            for name in sorted(self._names(), key=lambda n: (not n.startswith("step"), not n.endswith(STATE))):
                item = name.split("/")[0]
                if item not in kept and self.remote:
                    self._copied.discard(item)
                    self.remote.delete(f"{self._prefix}/{name}")
        except Exception as error:
            self._note(f"old checkpoints in the remote folder were not deleted ({error})")

    def _names(self) -> list[str]:
        start = f"{self._prefix}/"
        return [n.removeprefix(start) for n in self.remote.names() if n.startswith(start)] if self.remote else []
