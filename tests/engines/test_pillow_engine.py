"""The reference engine; also what CI runs under Pillow-SIMD."""

import importlib.metadata

import numpy as np

import golden
from engine_contract import EngineContract


class TestPillow(EngineContract):
    engine = "pillow"


def test_pillow_simd_differs_from_pillow_by_one_level_of_color_and_nothing_else():
    is_simd = bool(list(importlib.metadata.distributions(name="pillow-simd")))
    expected = np.load(golden.PATH)
    found = golden.outputs()
    assert found.keys() == set(expected.files)
    for case, output in found.items():
        difference = np.abs(output.astype(int) - expected[case])
        assert difference.max() <= (1 if is_simd and "RGB color" in case else 0), case
