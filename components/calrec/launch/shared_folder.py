"""The folder through which a step and its training processes talk: a local one, or one of a bucket."""

import os
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from calrec import artifacts
from calrec.artifacts import MANIFEST, elsewhere, sealed
from calrec.storage import uris
from calrec.storage.files import private

INTERRUPTED = os.EX_TEMPFAIL
"""Exit code of a training that wrote a checkpoint and stopped: the same command goes on from there."""
JOB = "job.json"
"""What is to be done."""
ERROR = "error"
"""The first error of a process that trains."""
STOPPED = "interrupted"
"""There when the processes wrote a checkpoint and stopped."""
RESULT = "result"
"""The model, when it has to travel."""


class TrainingError(ChildProcessError):
    """Processes that train failed.

    Attributes:
        why: the first error of one of them, as `ValueError: text`; empty when they were killed.
    """

    def __init__(self, message: str, why: str):
        super().__init__(message)
        self.why = why


class SharedFolder:
    """Texts, and whole folders of steps, by name in one shared folder."""

    def __init__(self, uri: str):
        self.uri = uri.rstrip("/")
        self._files = uris.folder(self.uri)

    def has(self, name: str) -> bool:
        """Whether a text, or a whole folder of a step, is there."""
        return not {name, f"{name}/{MANIFEST}"}.isdisjoint(self._files.names())

    def read(self, name: str) -> str:
        """A text; empty when it is not there."""
        if not self.has(name):
            return ""
        with tempfile.TemporaryDirectory(prefix="calrec-") as folder:
            path = Path(folder) / "text"
            self._files.get(name, path)
            return path.read_text()

    def write(self, name: str, text: str) -> None:
        """Put a text there, in the place of an older one."""
        with tempfile.TemporaryDirectory(prefix="calrec-") as folder:
            path = Path(folder) / "text"
            path.write_text(text)
            self._files.put(path, name)

    def upload(self, folder: Path, name: str) -> None:
        """Put a step's folder there, its manifest last; one that is there already is left as it is."""
        if self.has(name):
            return
        elsewhere.upload(self._files, name, sealed.files(folder), MANIFEST)

    def publish(self, folder: Path, name: str) -> None:
        """Put a batch there for readers of tables: what is no part gets a name with _, the manifest comes last."""
        if self.has(f"{name}/_{MANIFEST}"):
            return
        files = {file if file.startswith("part-") else f"_{file}": path for file, path in sealed.files(folder).items()}
        elsewhere.upload(self._files, name, files, f"_{MANIFEST}")

    def download(self, name: str, out: Path, kind: str = "model") -> None:
        """Get a step's folder, which holds this kind of things.

        Raises:
            FileNotFoundError: it is not there, or not whole.
            ValueError: it holds another kind, or a file is not as it was written.
        """
        if not self.has(name):
            raise FileNotFoundError(f"{self.uri}/{name}: no {MANIFEST} there; was the folder emptied meanwhile?")
        with artifacts.writing(out, kind) as part:
            elsewhere.download(self._files, name, part)
            try:
                artifacts.read_verified(part, kind)
            except ValueError as error:
                raise ValueError(f"{self.uri}/{name} is damaged: {error}; remove it there first") from None

    def fetch(self, names: Sequence[str], local_rank: int) -> Path:
        """Folders on this machine's disk: the machine's first process gets them, the others wait for it."""
        here = private(artifacts.short_hash(self.uri))
        for name in names:
            if local_rank == 0 and not (here / name).exists():
                self.download(name, here / name, kind=name)
            while not (here / name).exists():
                time.sleep(0.2)
        return here

    def remove(self, *names: str) -> None:
        """Delete texts and folders; without a name all that is there."""
        found = [file for file in self._files.names() if not names or file.split("/")[0] in names]
        elsewhere.delete(self._files, found, MANIFEST)


def publish(folder: Path, destination: str, target: str) -> None:
    """Copy a batch to `destination` as a partition of one table, and then name it in `target=…/_latest`.

    A partition is target=TARGET/date=TODAY/content=HASH, as pyarrow, Spark and BigQuery read them; files whose names
    begin with _ are no data to them. Without a destination nothing is done.
    """
    if not destination:
        return
    shared, digest = SharedFolder(f"{destination.rstrip('/')}/target={target}"), artifacts.read_manifest(folder).digest
    where = f"date={datetime.now(UTC):%Y-%m-%d}/content={digest}"
    shared.publish(folder, where)
    shared.write("_latest", where)
    print(f"recommend {target}: copied to {shared.uri}/{where}", flush=True)
