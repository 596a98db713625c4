"""Memory for batches."""

import pytest
import torch
from torch.utils.data import DataLoader, get_worker_info

from lightning_augmix._batches import empty_batch


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(0, 3, 4, 5), (2, 3, 5, 7)])
@pytest.mark.parametrize("workers", [0, 1])
def test_memory_of_a_batch(shape, dtype, workers):
    def made(_):
        assert (get_worker_info() is None) == (workers == 0)
        batch = empty_batch(shape, dtype)
        assert batch.is_shared() == (workers > 0)
        return batch.fill_(3)

    (batch,) = DataLoader([0], collate_fn=made, num_workers=workers)
    assert batch.dtype == dtype
    assert batch.is_contiguous()
    assert torch.equal(batch, torch.full(shape, 3, dtype=dtype))
