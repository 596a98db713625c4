import os

import pytest

from lightning_augmix.engines import numba_engine

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # or it asks the network for its newest release when it is imported


@pytest.fixture(autouse=True, scope="session")
def _compiled():
    numba_engine.warm_up()  # which takes longer than Hypothesis gives an example
