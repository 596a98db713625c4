"""The reference engine; also what CI runs under Pillow-SIMD."""

import importlib.metadata

import numpy as np
from hypothesis import given
from PIL import Image

import golden
from lightning_augmix import apply_plan, sample_plan
from lightning_augmix.engines import pillow_engine
from lightning_augmix.operations import OPERATIONS
from reference import reference_augmix
from strategies import arrays, hyperparameters, keys


def expected(image, plan):
    return reference_augmix(Image.fromarray(image), plan.chains, plan.chain_weights, plan.mixing_weight)


def test_two_thousand_random_plans_give_the_oracles_bytes():
    rng = np.random.default_rng(0)
    names = set()
    for key in range(2000):
        height, width = (int(side) for side in rng.integers(1, 60, 2))
        shape = (height, width, 3) if key % 3 else (height, width)
        low, high = sorted(rng.integers(0, 257, 2))
        image = rng.integers(low, max(high, low + 1), shape).astype(np.uint8)
        plan = sample_plan(
            key,
            (height, width),
            severity=float(rng.choice([0.05, 1, 3, 10])),
            width=int(rng.integers(1, 5)),
            depth=int(rng.choice([-1, 1, 4])),
            augmentation_set=["all", "original"][key % 2],
        )
        names |= {name for chain in plan.chains for name, _ in chain}
        np.testing.assert_array_equal(apply_plan(image, plan, engine="pillow"), expected(image, plan))
    assert names == set(OPERATIONS)


@given(arrays(), keys, hyperparameters)
def test_any_image_and_plan_give_the_oracles_bytes(image, key, arguments):
    plan = sample_plan(key, image.shape[:2], **arguments)
    np.testing.assert_array_equal(apply_plan(image, plan, engine="pillow"), expected(image, plan))


def test_pillow_simd_differs_from_pillow_by_one_level_of_color_and_nothing_else():
    is_simd = bool(list(importlib.metadata.distributions(name="pillow-simd")))
    expected = np.load(golden.PATH)
    found = golden.outputs()
    assert found.keys() == set(expected.files)
    for case, output in found.items():
        difference = np.abs(output.astype(int) - expected[case])
        assert difference.max() <= (1 if is_simd and "RGB color" in case else 0), case


def test_the_output_is_writeable_and_its_own():
    images = np.full((1, 3, 4), 9, np.uint8)
    for severity in (0, 3):
        output = pillow_engine.apply(images, sample_plan([0], (3, 4), severity=severity))
        assert output.flags.writeable
        assert not np.shares_memory(output, images)
