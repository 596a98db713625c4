"""What holds for every engine."""

import numpy as np
import pytest
from hypothesis import given

from lightning_augmix import apply_plan, sample_plan
from lightning_augmix.engines import select_engine
from strategies import arrays, hyperparameters, keys

engines = pytest.mark.parametrize("engine", ["numba", "pillow"])


@engines
@given(image=arrays(), key=keys)
def test_severity_zero_returns_the_image(engine, image, key):
    np.testing.assert_array_equal(apply_plan(image, sample_plan(key, image.shape[:2], severity=0), engine), image)


@engines
@given(image=arrays(), key=keys, arguments=hyperparameters)
def test_a_constant_image_stays_constant_under_operations_that_leave_it_alone(engine, image, key, arguments):
    image = np.full_like(image, image.flat[0])
    arguments = {**arguments, "augmentation_set": ["autocontrast", "equalize", "sharpness"]}
    np.testing.assert_array_equal(apply_plan(image, sample_plan(key, image.shape[:2], **arguments), engine), image)


def test_an_unknown_engine_is_an_error_that_names_those_there_are():
    for name in ("cuda", ["pillow"]):
        with pytest.raises(
            ValueError, match=r"`engine` to be one of: auto, numba, pillow; got .*(cuda|pillow).*use 'auto'"
        ):
            select_engine(name)
