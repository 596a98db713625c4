"""Hypothesis strategies for images, hyperparameters and keys."""

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lightning_augmix import augmentation_sets
from lightning_augmix.operations import OPERATIONS

keys = st.integers(0, 2**64 - 1)

#: (height, width), never square but for a single pixel.
sizes = st.one_of(
    st.just((1, 1)), st.tuples(st.integers(1, 24), st.integers(1, 24)).filter(lambda size: size[0] != size[1])
)


@st.composite
def arrays(draw, channels=None):
    """uint8 arrays [H, W] or [H, W, 3]: noise, constants, two levels, saturated."""
    height, width = draw(sizes)
    depth = draw(st.sampled_from([(), (3,)])) if channels is None else channels
    shape = (height, width, *depth)
    low, high = sorted(draw(st.tuples(st.integers(0, 255), st.integers(0, 255))))
    elements = draw(st.sampled_from([st.integers(0, 255), st.sampled_from([low, high]), st.just(low), st.just(255)]))
    return draw(hnp.arrays(np.uint8, shape, elements=elements))


augmentation_set = st.one_of(
    st.sampled_from(sorted(augmentation_sets)),
    st.lists(st.sampled_from(sorted(OPERATIONS)), min_size=1, max_size=4),
)

hyperparameters = st.fixed_dictionaries(
    {
        "severity": st.one_of(st.sampled_from([0, 0.05, 0.1, 1, 3, 10]), st.floats(0, 10)),
        "width": st.integers(1, 5),
        "depth": st.sampled_from([-1, 1, 2, 5]),
        "alpha": st.sampled_from([0.01, 0.3, 1.0, 1, 7.5, 1e6]),
        "augmentation_set": augmentation_set,
    }
)
