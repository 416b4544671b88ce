"""Loops that Python would be slow at, as machine code."""

from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np
from numpy.typing import NDArray

Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """Machine code at the first call, kept on disk for later processes; runs without the interpreter's lock."""
    try:
        return numba.njit(cache=True, nogil=True)(function)  # type: ignore[no-any-return]
    except RuntimeError:  # neither the package nor the home can be written: compiled anew in each process
        return numba.njit(nogil=True)(function)  # type: ignore[no-any-return]
