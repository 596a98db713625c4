"""Functions that Numba compiles when they are first called, and keeps on disk.

Numba compiles a function anew when its own file has changed, not that of a function it calls: after a change in a
kernel, remove ``__pycache__``. (Installing the package renews all its files.)
"""

from collections.abc import Callable
from typing import Any

import numba

__all__ = ["compiled"]


def compiled(function: Callable[..., Any]) -> Any:
    """Compiles a function on its first call, without the GIL; other processes load the machine code from disk.

    Args:
        function: A function in Numba's subset of Python.

    Returns:
        The function, to be called as before.
    """
    try:
        return numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError:  # nowhere to keep machine code: a read-only installation and no home folder
        return numba.njit(nogil=True, error_model="numpy")(function)
