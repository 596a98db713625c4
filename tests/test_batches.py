"""Memory for batches."""

import pytest
import torch
from torch.utils.data import DataLoader, get_worker_info

from lightning_augmix._batches import empty_batch


class Made:
    """A collate function that makes a batch."""

    def __init__(self, shape, dtype):
        self.shape = shape
        self.dtype = dtype

    def __call__(self, samples):
        batch = empty_batch(self.shape, self.dtype)
        assert batch.is_shared() == (get_worker_info() is not None)
        return batch.fill_(3)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(0, 3, 4, 5), (2, 3, 5, 7)])
@pytest.mark.parametrize("workers", [0, 1])
def test_memory_of_a_batch(shape, dtype, workers):
    (batch,) = DataLoader([0], collate_fn=Made(shape, dtype), num_workers=workers)
    assert batch.dtype == dtype
    assert batch.is_contiguous()
    assert torch.equal(batch, torch.full(shape, 3, dtype=dtype))


def test_it_is_on_the_cpu_whatever_the_default_device():
    with torch.device("meta"):
        batch = empty_batch((2, 3), torch.float32)
    assert batch.device.type == "cpu"
