import os

import pytest
from hypothesis import settings

from lightning_augmix.engines import numba_engine

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # or it asks the network for its newest release when it is imported

# Tests run side by side, with worker processes: what takes long is no failure.
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")


@pytest.fixture(autouse=True, scope="session")
def _compiled():
    numba_engine.warm_up()
