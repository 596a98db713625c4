"""The choice of an engine; what holds for each is in ``engine_contract.py``."""

import pytest

from lightning_augmix.engines import select_engine


def test_an_unknown_engine_is_an_error_that_names_those_there_are():
    for name in ("cuda", ["pillow"]):
        with pytest.raises(
            ValueError,
            match=r"`engine` to be one of: auto, numba, pillow, torch, triton; got .*(cuda|pillow).*use 'auto'",
        ):
            select_engine(name)
