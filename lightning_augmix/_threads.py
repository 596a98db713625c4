"""Work on the parts of a batch, in threads: compiled functions leave the GIL alone."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

__all__ = ["in_parts"]


def in_parts(function: Callable[[slice], None], number: int, threads: int) -> None:
    """Calls a function for the parts of a batch, each in a thread of its own.

    Args:
        function: Gets the place of a part.
        number: The length of the batch.
        threads: The number of parts; below 2, this thread does it all.
    """
    if threads <= 1:
        function(slice(None))
        return
    parts = [slice(number * thread // threads, number * (thread + 1) // threads) for thread in range(threads)]
    # A pool that outlived the call would be unusable in a forked process: fork does not copy threads.
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(function, parts))
