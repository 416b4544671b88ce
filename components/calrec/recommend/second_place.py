"""What is finished of a batch in a second place, so that another machine goes on where a lost one stopped."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from calrec import artifacts
from calrec.artifacts import elsewhere, sealed
from calrec.storage.files import Remote
from calrec.system.printing import redact

PROGRESS = "progress.json"
"""Says what is finished; the last file to be copied, and the first to be fetched."""


class Copies:
    """Copies of a batch's finished files, by name below one folder.

    Args:
        remote: where to; None: nothing is copied.
        fingerprint: of the batch; two with different ones never meet.
    """

    def __init__(self, remote: Remote | None, fingerprint: Mapping[str, Any]):
        self._remote, self._folder = remote, f"batch-{artifacts.short_hash(fingerprint)}"
        self._due: dict[str, Path] = {}

    def fetch(self, out: Path) -> None:
        """Bring what another machine has finished; a folder with progress of its own is left as it is.

        Raises:
            OSError: the second place cannot be read; to begin anew could lose hours.
        """
        if self._remote is None or (out / PROGRESS).exists():
            return
        there = elsewhere.names(self._remote, self._folder)
        if f"{self._folder}/{PROGRESS}" not in there:
            return
        print(f"going on from {self._folder}, which another machine left", flush=True)
        for name in sorted(there, key=lambda name: Path(name).name != PROGRESS):
            sealed.replace(out / Path(name).name, partial(self._remote.get, name))

    def put(self, *paths: Path) -> None:
        """Copy finished files, and what could not be copied before; a failure is told and no reason to stop."""
        if self._remote is None:
            return
        self._due |= {path.name: path for path in paths}
        try:
            for name in sorted(self._due, key=lambda name: name == PROGRESS):
                self._remote.put(self._due[name], f"{self._folder}/{name}")
                del self._due[name]
        except Exception as error:  # whatever a client library raises: the batch must go on
            print(f"warning: {name} was not copied ({redact(str(error))}); the next part tries again", flush=True)

    def remove(self) -> None:
        """Delete them; a failure is told."""
        if self._remote is None:
            return
        try:
            elsewhere.delete(self._remote, elsewhere.names(self._remote, self._folder), PROGRESS)
        except Exception as error:
            print(f"warning: the copies in {self._folder} were not deleted ({redact(str(error))})", flush=True)
