"""The records of operations as numbers, for compiled functions."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lightning_augmix.operations import OPERATIONS, Operation

__all__ = ["NO_OPERATION", "sampling_table"]

#: Fills a plan's operations after the end of a chain.
NO_OPERATION = -1

# Columns of the table, and codes for the records' strings.
CODE, LAW, SCALE, OFFSET, SIGNED, INTEGER, EXTENT = range(7)
LEVEL, ENHANCEMENT = 1, 2
BY_WIDTH, BY_HEIGHT = 1, 2
_LAWS = {"none": 0, "level": LEVEL, "enhancement": ENHANCEMENT}
_EXTENTS = {None: 0, "width": BY_WIDTH, "height": BY_HEIGHT}


def sampling_table(operations: Sequence[Operation]) -> NDArray[np.float64]:
    """Converts records of operations to numbers, for :func:`~lightning_augmix.kernels.sampling.draw`.

    Args:
        operations: Members of :data:`~lightning_augmix.operations.OPERATIONS`.

    Returns:
        A read-only float64 array of shape ``[len(operations), 7]``.
    """
    codes = {name: code for code, name in enumerate(OPERATIONS)}
    rows = [
        (codes[o.name], _LAWS[o.law], o.scale, o.offset, o.signed, o.integer, _EXTENTS[o.extent]) for o in operations
    ]
    table = np.array(rows, dtype=np.float64)
    table.flags.writeable = False
    return table
