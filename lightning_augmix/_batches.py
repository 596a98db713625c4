"""Memory for batches."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

__all__ = ["empty_batch"]


def empty_batch(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Returns a tensor without content, in a worker process in shared memory, as torch's own collate function does.

    From there, the main process takes a batch without a copy.

    Args:
        shape: The shape.
        dtype: The dtype.
    """
    batch = torch.empty(0, dtype=dtype, device="cpu")
    if get_worker_info() is not None:
        storage = batch._typed_storage()._new_shared(math.prod(shape), device=batch.device)  # type: ignore[no-untyped-call]
        batch = batch.new(storage)
    return batch.resize_(tuple(shape))
