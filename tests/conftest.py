import pytest

from lightning_augmix.engines import numba_engine


@pytest.fixture(autouse=True, scope="session")
def _compiled():
    numba_engine.warm_up()  # which takes longer than Hypothesis gives an example
