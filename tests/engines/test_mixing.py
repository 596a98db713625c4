from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_augmix.engines.pillow_engine import mix
from strategies import arrays

unit = st.floats(0, 1, width=32)


def weights_of(mixing_weight, shares):
    shares = np.array(shares, np.float64) + 1e-3
    return np.concatenate([[mixing_weight], shares / shares.sum()]).astype(np.float32)


@given(arrays(), unit, st.lists(unit, min_size=1, max_size=5))
def test_chains_that_change_nothing_leave_the_image(image, mixing_weight, shares):
    weights = weights_of(mixing_weight, shares)
    np.testing.assert_array_equal(mix(image, [image] * len(shares), weights), image)


@given(arrays(), arrays())
def test_mixing_weight_zero_leaves_the_image_and_one_gives_the_chain(image, other):
    chain = np.resize(other, image.shape)
    np.testing.assert_array_equal(mix(image, [chain], np.array([0, 1], np.float32)), image)
    np.testing.assert_array_equal(mix(image, [chain], np.array([1, 1], np.float32)), chain)


@given(st.integers(0, 255), st.lists(st.integers(0, 255), min_size=3, max_size=3), unit, st.tuples(unit, unit, unit))
def test_the_mixture_is_the_nearest_level_of_the_exact_value(level, chain_levels, mixing_weight, shares):
    weights = weights_of(mixing_weight, shares)
    image = np.full((2, 3), level, np.uint8)
    mixed = mix(image, [np.full((2, 3), value, np.uint8) for value in chain_levels], weights)
    m, *w = (Fraction(float(weight)) for weight in weights)
    exact = (1 - m) * level + m * sum(share * value for share, value in zip(w, chain_levels, strict=True))
    assert abs(exact - int(mixed[0, 0])) <= Fraction(1, 2) + Fraction(1, 2000)
    assert (mixed == mixed[0, 0]).all()


def test_inputs_are_not_written_to_and_the_output_is_new():
    image = np.full((2, 3), 7, np.uint8)
    image.flags.writeable = False
    mixed = mix(image, [image], np.array([0.5, 1], np.float32))
    assert mixed.dtype == np.uint8
    assert not np.shares_memory(mixed, image)


def test_as_many_weights_as_chains():
    with pytest.raises(ValueError, match="zip"):
        mix(np.zeros((1, 2), np.uint8), [], np.array([0.5, 1], np.float32))
