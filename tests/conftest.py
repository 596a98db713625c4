import pytest

from lightning_augmix.engines import numba


@pytest.fixture(autouse=True, scope="session")
def _compiled():
    numba.prepare()  # which takes longer than Hypothesis gives an example
