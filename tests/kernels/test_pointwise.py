"""Look-ups of levels, with and without the processor's byte permutations."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_augmix.kernels import pointwise


@given(st.integers(0, 200), st.integers(0, 2**32))
def test_every_level_is_looked_up_in_the_table_of_its_channel(pixels, seed):
    rng = np.random.default_rng(seed)
    image, table = rng.integers(0, 256, (pixels, 4), np.uint8), rng.integers(0, 256, (3, 256), np.uint8)
    out = np.empty(pixels, np.uint32)
    pointwise.map_channels(image.view(np.uint32).reshape(-1), table, out)
    found = out.view(np.uint8).reshape(-1, 4)
    for channel in range(3):
        np.testing.assert_array_equal(found[:, channel], table[channel][image[:, channel]])


@pytest.mark.parametrize("pixels", [1, 2, 255, 256, 257, 1000])
def test_autocontrast_sees_every_pixel(pixels):
    for place in (0, pixels // 2, pixels - 1):
        image = np.full((pixels, 4), 100, np.uint8)
        image[place, :3] = 90, 99, 110
        table = np.empty((3, 256), np.uint8)
        changes = pointwise.autocontrast_table(image.view(np.uint32).reshape(-1), table)
        assert changes == (pixels > 1)
        if changes:
            assert [table[c, level] for c, level in enumerate((90, 99, 100))] == [0, 0, 0]
            assert [table[c, level] for c, level in enumerate((100, 100, 110))] == [255, 255, 255]
