"""Functions that Numba compiles on their first call and caches on disk."""

import hashlib
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import numba
from numba.core import event
from numba.core.caching import FunctionCache, IndexDataCacheFile
from numba.core.dispatcher import Dispatcher

__all__ = ["IS_COMPILED", "announcing", "compiled"]

#: Whether functions are compiled: interpreted, as with NUMBA_DISABLE_JIT=1, integers do not wrap around.
IS_COMPILED = not numba.config.DISABLE_JIT  # type: ignore[attr-defined]


def _sources() -> str:
    """A digest of everything that the machine code depends on."""
    kernels = Path(__file__).parent
    files = [*sorted(kernels.glob("*.py")), kernels.with_name("operations.py")]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


_SOURCES = _sources()


class _DamagedError(Exception):
    """A file is not as it was written."""


class _CheckedFile(IndexDataCacheFile):
    """Numba's files, each with a digest of its content at the end, after what Numba reads."""

    def _load_index(self) -> Any:
        if os.path.exists(self._index_path):
            _verify(self._index_path)
        return super()._load_index()

    def _load_data(self, name: str) -> Any:
        _verify(self._data_path(name))
        return super()._load_data(name)

    @contextmanager
    def _open_for_write(self, filepath: str) -> Iterator[IO[bytes]]:
        content = BytesIO()
        yield content
        with super()._open_for_write(filepath) as file:
            file.write(content.getvalue() + _digest(content.getvalue()))


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def _verify(path: str) -> None:
    content, digest = (content := Path(path).read_bytes())[:-32], content[-32:]
    if _digest(content) != digest:
        raise _DamagedError(f"{path} is damaged")


class _Cache(FunctionCache):
    """Numba's cache of a function, without which the function is compiled: what is wrong with it is a warning."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        # Numba checks only the function's own file, and so would reuse machine code that contains old kernels.
        self._cache_file = _CheckedFile(self._cache_path, f"{self._impl.filename_base}.checked", _SOURCES)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except Exception as error:  # unpickling raises many kinds
            _warn("read", self._cache_path, error)
            with suppress(OSError):
                os.unlink(self._cache_file._index_path)  # or it could not be written anew either
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except Exception as error:
            _warn("written", self._cache_path, error)
            self.disable()


def _warn(what: str, folder: str, error: Exception) -> None:
    if not _warned:
        _warned.append(what)
        warnings.warn(
            f"Machine code in {folder} could not be {what} ({error or type(error).__name__}): it is compiled anew. If "
            "this happens again, set NUMBA_CACHE_DIR to a folder that can be written to.",
            RuntimeWarning,
            stacklevel=2,
        )


_warned: list[str] = []  # one warning for all functions


def compiled(function: Callable[..., Any]) -> Any:
    """Compiles a function on its first call, without the GIL; other processes load the machine code from disk.

    Args:
        function: A function in Numba's subset of Python.

    Returns:
        The compiled function, called like the original.
    """
    dispatcher: Any = numba.njit(nogil=True, error_model="numpy")(function)
    if isinstance(dispatcher, Dispatcher):  # a plain function where NUMBA_DISABLE_JIT is set
        with suppress(RuntimeError):  # no place for the cache: a read-only installation and no home folder
            vars(dispatcher)["_cache"] = _Cache(function)
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
