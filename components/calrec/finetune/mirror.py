"""A copy of a folder of checkpoints in another place, kept up in one background thread while the training goes on."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from calrec.artifacts import elsewhere, sealed
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

    def list_items(self) -> set[str]:
        """The whole items there."""
        self._copied = {path.parent.name for path in self._there() if path.name == STATE}
        return set(self._copied)

    def download(self, item: str, folder: Path) -> None:
        """One item into a new folder; whether it is whole must still be verified.

        Raises:
            DamagedError: it is not there.
        """
        if self.remote is None or not elsewhere.download(self.remote, f"{self._prefix}/{item}", folder):
            raise DamagedError(f"{item} has no remote copy")

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
        elsewhere.upload(self.remote, f"{self._prefix}/{item}", sealed.files(self._folder / item), STATE)
        self._copied.add(item)

    def _clear(self, kept: set[str]) -> None:
        """Delete all other items: steps before the best weights that they name, state.json first."""
        assert self.remote
        try:
            self._copied &= kept
            left = [str(path) for path in self._there() if path.parent.name not in kept]
            elsewhere.delete(self.remote, sorted(left, reverse=True), STATE)
        except Exception as error:
            self._note(f"old checkpoints in the remote folder were not deleted ({error})")

    def _there(self) -> list[Path]:
        return [Path(name) for name in elsewhere.names(self.remote, self._prefix)] if self.remote else []
