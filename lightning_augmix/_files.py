"""Files that are whole or not there."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["whole_file"]


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Yields a path to write to, in the same folder, and then moves the file into place: it is complete or as before.

    Pipes and devices, such as ``/dev/stdout``, are written to directly.

    Args:
        path: Where the file goes; a link stays one.
    """
    is_device = os.path.abspath(path).startswith(("/dev/", "/proc/"))  # be it redirected to a file
    if is_device or (os.path.exists(path) and not os.path.isfile(path)):
        yield Path(path)
        return
    target = Path(os.path.realpath(path))
    part = target.with_name(f".{secrets.token_hex(8)}{target.suffix}")  # some writers add the suffix if it is missing
    try:
        yield part
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
