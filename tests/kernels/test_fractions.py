"""Sixteen bits of a fraction are enough for every difference of two levels."""

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from lightning_augmix.kernels import affine, pointwise
from lightning_augmix.kernels.fractions import UNCERTAIN, sixteenth_bits

rationals = st.fractions(0, 1, max_denominator=255).map(float)


@given(st.floats(0, 1, exclude_max=True) | rationals)
def test_sixteen_bits_of_a_fraction_are_enough(fraction):
    bits = sixteenth_bits(fraction, affine._MARGIN)
    differences = np.arange(-255, 256)
    if bits != UNCERTAIN:
        np.testing.assert_array_equal(differences * bits >> 16, np.floor(differences * fraction))


FIRST, SECOND = np.broadcast_arrays(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8)[:, None])


@example(0.0)
@example(1.0)
@example(2.0)
@example(float(np.nextafter(np.float32(1), np.float32(0))))
@example(float(np.nextafter(np.float32(1), np.float32(2))))
@given(st.floats(0, 2, width=32) | rationals | rationals.map(lambda fraction: fraction + 1))
def test_blends_of_all_pairs_of_levels_are_pillows(factor):
    first, second = FIRST.ravel(), SECOND.ravel()
    out = np.empty_like(first)
    pointwise._blend(first, second, np.float32(factor), pointwise._bits(np.float32(factor)), out)
    expected = Image.blend(Image.fromarray(SECOND), Image.fromarray(FIRST), factor)
    np.testing.assert_array_equal(out.reshape(256, 256), np.asarray(expected))


def test_few_factors_need_floating_point():
    factors = np.random.default_rng(0).uniform(0.1, 1.9, 10_000).astype(np.float32)
    assert np.mean([pointwise._bits(factor) == UNCERTAIN for factor in factors]) < 0.03
