"""Memory for batches."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

__all__ = ["empty_batch"]


def empty_batch(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Returns a tensor without content.

    In a worker process it is in shared memory, as with torch's own collate function: the main process takes the batch
    without a copy.

    Args:
        shape: The shape.
        dtype: The dtype.
    """
    batch = torch.empty(0, dtype=dtype, device="cpu")  # whatever the default device
    if get_worker_info() is None:
        # NumPy asks Linux for huge pages, torch does not: a batch of views is filled four times as fast.
        memory = torch.from_numpy(np.empty(math.prod(shape) * dtype.itemsize, np.uint8))
        return batch.set_(memory.untyped_storage()).resize_(tuple(shape))
    storage = batch._typed_storage()._new_shared(math.prod(shape), device=batch.device)  # type: ignore[no-untyped-call]
    return batch.new(storage).resize_(tuple(shape))
