"""Functions that Numba compiles when they are first called, and keeps on disk."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numba
from numba.core import event
from numba.core.dispatcher import Dispatcher

__all__ = ["announcing", "compiled"]


def _sources() -> str:
    """A digest of all that goes into machine code."""
    kernels = Path(__file__).parent
    files = [*sorted(kernels.glob("*.py")), kernels.with_name("operations.py")]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


_SOURCES = _sources()


def compiled(function: Callable[..., Any]) -> Any:
    """Compiles a function on its first call, without the GIL; other processes load the machine code from disk.

    Args:
        function: A function in Numba's subset of Python.

    Returns:
        The function, to be called as before.
    """
    try:
        dispatcher: Any = numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError:  # nowhere to keep machine code: a read-only installation and no home folder
        return numba.njit(nogil=True, error_model="numpy")(function)
    if isinstance(dispatcher, Dispatcher):  # a plain function where NUMBA_DISABLE_JIT is set
        # Numba looks at the function's own file, and so would keep machine code with old kernels in it.
        vars(dispatcher)["_cache"]._cache_file._source_stamp = _SOURCES
    return dispatcher


@contextmanager
def announcing(announce: Callable[[], None]) -> Iterator[None]:
    """Within it, the first compilation is announced; what is loaded from disk is not.

    Args:
        announce: Is called before it, if there is any.
    """
    with event.install_listener("numba:compile", _First(announce)):
        yield


class _First(event.Listener):
    def __init__(self, announce: Callable[[], None]) -> None:
        self._announce: Callable[[], None] | None = announce

    def on_start(self, event: Any) -> None:
        announce, self._announce = self._announce, None
        if announce is not None:
            announce()

    def on_end(self, event: Any) -> None:
        """Nothing is to be said."""
