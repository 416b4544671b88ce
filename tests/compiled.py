"""The pipelines of the sample run as YAML, compiled once a process: by tests, and by what runs without pytest."""

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

from calrec.config import runs
from pipelines.compiling import compile_pipeline


@functools.cache
def compiled(name: str) -> Path:
    """The YAML of a pipeline of PIPELINES, for reading."""
    return compile_pipeline(name, runs.sample(), _folder())


@functools.cache
def _folder() -> Path:
    folder = tempfile.mkdtemp(prefix="calrec-compiled-")
    atexit.register(shutil.rmtree, folder)
    return Path(folder)
