"""Gives numba the machine code that the build of the image made; numba imports it by NUMBA_CACHE_LOCATOR_CLASSES.

numba keeps code only in a folder that can be written, and an image cannot. So what the image brings for a module is
copied to NUMBA_CACHE_DIR at the module's import; what it does not bring is compiled and kept there as ever.
"""

import contextlib
import shutil
import tempfile
from pathlib import Path

from numba.core.caching import UserProvidedCacheLocator

CODE = Path(__file__).parent / "code"


class Locator(UserProvidedCacheLocator):
    """The folder of a module below NUMBA_CACHE_DIR, filled from the image."""

    def ensure_cache_path(self) -> None:
        """Copy the module's code unless it is there; of several processes the first one does."""
        kept = Path(self.get_cache_path())
        brought = CODE / kept.name
        if brought.exists() and not kept.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=kept.parent, ignore_cleanup_errors=True) as aside:
                shutil.copytree(brought, Path(aside) / kept.name, copy_function=shutil.copyfile)
                with contextlib.suppress(OSError):  # another process was faster
                    (Path(aside) / kept.name).rename(kept)
        super().ensure_cache_path()
