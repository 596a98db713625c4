"""Functions that Numba compiles on their first call and caches on disk."""

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
    """A digest of everything that the machine code depends on."""
    kernels = Path(__file__).parent
    files = [*sorted(kernels.glob("*.py")), kernels.with_name("operations.py")]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


_SOURCES = _sources()


def compiled(function: Callable[..., Any]) -> Any:
    """Compiles a function on its first call, without the GIL; other processes load the machine code from disk.

    Args:
        function: A function in Numba's subset of Python.

    Returns:
        The compiled function, called like the original.
    """
    try:
        dispatcher: Any = numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError:  # no place for the cache: a read-only installation and no home folder
        return numba.njit(nogil=True, error_model="numpy")(function)
    if isinstance(dispatcher, Dispatcher):  # a plain function where NUMBA_DISABLE_JIT is set
        # Numba checks only the function's own file, and so would reuse machine code that contains old kernels.
        vars(dispatcher)["_cache"]._cache_file._source_stamp = _SOURCES
    return dispatcher


@contextmanager
def announcing(announce: Callable[[], None]) -> Iterator[None]:
    """Announces the first compilation inside the context; loading from disk is not announced.

    Args:
        announce: Called before that compilation, if there is one.
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
        """Does nothing."""
