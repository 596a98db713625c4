"""What holds for every engine: a class of tests, of which each engine has a subclass."""

import multiprocessing
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from PIL import Image

from lightning_augmix import AugMixPlan, apply_plan, sample_plan
from lightning_augmix.engines import select_engine
from lightning_augmix.operations import OPERATIONS
from lightning_augmix.plans.hyperparameters import validate
from reference import reference_augmix
from strategies import arrays, hyperparameters, keys
from toy import augmented_bytes


def random_image(rng, height, width, is_gray):
    """Noise, constants, two levels, or smooth as photographs are."""
    shape = (height, width) if is_gray else (height, width, 3)
    kind = rng.integers(4)
    if kind == 0:
        return rng.integers(0, 256, shape, dtype=np.uint8)
    if kind == 1:
        return np.full(shape, rng.integers(0, 256), np.uint8)
    if kind == 2:
        return rng.choice(rng.integers(0, 256, 2).astype(np.uint8), shape)
    y, x = np.mgrid[:height, :width]
    waves = (np.sin(x / 17 + rng.random()) + np.cos(y / 23) + 2) * 64
    return (waves if is_gray else np.stack([waves, waves / 2 + 20, 255 - waves], -1)).astype(np.uint8)


def by_the_oracle(image, plan):
    return reference_augmix(Image.fromarray(image), plan.chains, plan.chain_weights, plan.mixing_weight)


# The subclasses run the same tests.
for_each_engine = settings(suppress_health_check=[HealthCheck.differing_executors])
_HOSTILE = np.array([np.nan, np.inf, -np.inf, 1e9, -1e9, -1, 0.5, 8, 9, 256, 257, -0.0, 1e-300, 0.3, -31, 30])


def hostile_arrays(rng, image_size):
    """Arrays of a plan, about half of them valid; the rest with gaps, odd parameters, weights, or no chains."""
    width, depth = int(rng.integers(0, 4)) if rng.random() < 0.1 else int(rng.integers(1, 4)), int(rng.integers(1, 4))
    drawn = sample_plan(int(rng.integers(2**60)), image_size, 10, max(1, width), depth, augmentation_set="all")
    contents = [array[:width].copy() for array in (drawn.operations, drawn.parameters)]
    contents.append(drawn.weights[: 1 + width].copy())
    for array in contents:
        if array.size and rng.random() < 0.2:
            at = tuple(int(rng.integers(side)) for side in array.shape)
            odd = rng.choice(_HOSTILE)
            array[at] = int(rng.integers(-3, 20)) if array.dtype == np.int8 else np.clip(odd, -1e30, 1e30)
    return contents


class EngineContract:
    """Subclasses set ``engine`` to the name of theirs."""

    engine: str

    # ---- Bytes --------------------------------------------------------------------------------------------------

    def check_random_plans(self, count, largest=(300, 400)):
        rng = np.random.default_rng(0)
        names = set()
        for key in range(count):
            height, width = (int(rng.integers(1, side + 1)) for side in (largest if key % 20 == 0 else (60, 60)))
            image = random_image(rng, height, width, is_gray=key % 4 == 0)
            plan = sample_plan(
                key,
                (height, width),
                severity=float(rng.choice([0.05, 1, 3, 10])),
                width=int(rng.integers(1, 5)),
                depth=int(rng.choice([-1, 1, 4])),
                augmentation_set=str(rng.choice(["all", "safe", "original", "photometric"])),
            )
            names |= {name for chain in plan.chains for name, _ in chain}
            np.testing.assert_array_equal(apply_plan(image, plan, self.engine), by_the_oracle(image, plan))
        assert names == set(OPERATIONS)

    def test_a_thousand_random_plans_give_the_oracles_bytes(self):
        self.check_random_plans(1000)

    @pytest.mark.slow
    def test_twenty_thousand_random_plans_give_the_oracles_bytes(self):
        self.check_random_plans(20_000)

    @for_each_engine
    @given(image=arrays(), key=keys, arguments=hyperparameters)
    def test_any_image_and_plan_give_the_oracles_bytes(self, image, key, arguments):
        plan = sample_plan(key, image.shape[:2], **arguments)
        np.testing.assert_array_equal(apply_plan(image, plan, self.engine), by_the_oracle(image, plan))

    @pytest.mark.parametrize("name", OPERATIONS)
    @pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (2, 3), (40, 31)])
    def test_each_operation_at_its_limits(self, name, size):
        code, operation = list(OPERATIONS).index(name), OPERATIONS[name]
        low, high = operation.limits(size)
        for parameter in (low, high, (low + high) / 2):
            content = np.trunc(parameter) if operation.integer else parameter
            plan = AugMixPlan(
                size, np.array([[code]], np.int8), np.array([[content]], float), np.array([0.75, 1], np.float32)
            )
            for is_gray in (False, True):
                image = random_image(np.random.default_rng(code), *size, is_gray)
                np.testing.assert_array_equal(apply_plan(image, plan, self.engine), by_the_oracle(image, plan))

    @pytest.mark.parametrize("shape", [(5, 6, 7), (5, 6, 7, 3), (5, 6, 7, 4)])
    def test_drawing_and_applying_in_one_call_is_drawing_and_then_applying(self, shape):
        images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        images.flags.writeable = False
        some, engine = np.arange(5, dtype=np.uint64), select_engine(self.engine)
        plans = sample_plan(some, (6, 7), 10)
        colors = np.s_[..., :3] if len(shape) == 4 else ...
        expected = [by_the_oracle(image[colors], plan) for image, plan in zip(images, plans, strict=True)]
        for outcome in (engine.augment(images, some, validate(10, 3, -1, 1.0, "all")), engine.apply(images, plans)):
            assert outcome.shape == shape
            np.testing.assert_array_equal(outcome[colors], expected)

    @for_each_engine
    @given(image=arrays(), key=keys)
    def test_severity_zero_returns_the_image(self, image, key):
        plan = sample_plan(key, image.shape[:2], severity=0)
        np.testing.assert_array_equal(apply_plan(image, plan, self.engine), image)

    @for_each_engine
    @given(image=arrays(), key=keys, arguments=hyperparameters)
    def test_a_constant_image_stays_constant_under_operations_that_leave_it_alone(self, image, key, arguments):
        image = np.full_like(image, image.flat[0])
        arguments = {**arguments, "augmentation_set": ["autocontrast", "equalize", "sharpness"]}
        plan = sample_plan(key, image.shape[:2], **arguments)
        np.testing.assert_array_equal(apply_plan(image, plan, self.engine), image)

    @pytest.mark.parametrize("shape", [(70_000, 2), (2, 70_000)])
    def test_the_longest_sides(self, shape):
        image = np.random.default_rng(3).integers(0, 256, (*shape, 3), dtype=np.uint8)
        plan = sample_plan(3, shape, 3, 1, 2, augmentation_set=["rotate", "shear_x", "shear_y"])
        np.testing.assert_array_equal(apply_plan(image, plan, self.engine), by_the_oracle(image, plan))

    # ---- Purity -------------------------------------------------------------------------------------------------

    @for_each_engine
    @given(image=arrays(), key=keys, arguments=hyperparameters)
    def test_images_are_not_written_to_and_results_are_new(self, image, key, arguments):
        before, plan = image.copy(), sample_plan(key, image.shape[:2], **arguments)
        first = apply_plan(image, plan, self.engine)
        assert first.flags.writeable
        assert not np.shares_memory(first, image)
        np.testing.assert_array_equal(image, before)
        np.testing.assert_array_equal(apply_plan(image, plan, self.engine), first)

    def test_an_empty_batch(self):
        engine = select_engine(self.engine)
        images = np.empty((0, 4, 5, 3), np.uint8)
        keys_of_none = np.empty(0, np.uint64)
        assert engine.apply(images, sample_plan([], (4, 5))).shape == images.shape
        assert engine.augment(images, keys_of_none, validate(3, 3, -1, 1.0, "all")).shape == images.shape

    # ---- Refusals -----------------------------------------------------------------------------------------------

    def check_hostile_plans(self, count):
        rng, accepted = np.random.default_rng(5), 0
        for _ in range(count):
            size = (int(rng.integers(1, 12)), int(rng.integers(1, 12)))
            try:
                plan = AugMixPlan(size, *hostile_arrays(rng, size))
            except ValueError:
                continue
            accepted += 1
            image = random_image(rng, *size, is_gray=bool(rng.integers(2)))
            np.testing.assert_array_equal(apply_plan(image, plan, self.engine), by_the_oracle(image, plan))
        assert 0.2 * count < accepted < 0.9 * count

    def test_hostile_plans_are_refused_or_give_the_oracles_bytes(self):
        self.check_hostile_plans(1000)

    @pytest.mark.slow
    def test_twenty_thousand_hostile_plans_are_refused_or_give_the_oracles_bytes(self):
        self.check_hostile_plans(20_000)

    def test_arrays_that_are_written_to_afterwards_do_not_change_a_plan(self):
        size, image = (9, 8), random_image(np.random.default_rng(0), 9, 8, is_gray=False)
        content = (np.array([[4]], np.int8), np.array([[7.0]]), np.array([1, 1], np.float32))
        plan = AugMixPlan(size, *content)
        expected = by_the_oracle(image, plan)
        for array, value in zip(content, (100, 1e9, np.nan), strict=True):
            array[...] = value
        np.testing.assert_array_equal(apply_plan(image, plan, self.engine), expected)
        for array in (plan.operations, plan.parameters, plan.weights):
            with pytest.raises(ValueError, match="WRITEABLE"):
                array.flags.writeable = True

    # ---- Threads and processes ----------------------------------------------------------------------------------

    def test_threads_do_not_share_their_memory(self):
        images = [random_image(np.random.default_rng(k), 40 + k, 50, is_gray=False) for k in range(8)]
        plans = [sample_plan(k, (40 + k, 50), 10) for k in range(8)]
        expected = [by_the_oracle(image, plan) for image, plan in zip(images, plans, strict=True)]
        with ThreadPoolExecutor(4) as pool:
            for _ in range(10):
                outcomes = pool.map(apply_plan, images, plans, [self.engine] * 8)
                for outcome, right in zip(outcomes, expected, strict=True):
                    np.testing.assert_array_equal(outcome, right)

    @pytest.mark.parametrize("threads", [1, 3])
    def test_a_batch_has_the_same_bytes_with_any_number_of_threads(self, threads):
        images = np.random.default_rng(0).integers(0, 256, (21, 320, 330), dtype=np.uint8)  # worth threads
        plans = sample_plan(np.arange(21, dtype=np.uint64), (320, 330), 10, augmentation_set="safe")
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            applied = select_engine(self.engine).apply(images, plans)
        finally:
            torch.set_num_threads(before)
        for number in (0, 7, 20):
            np.testing.assert_array_equal(applied[number], by_the_oracle(images[number], plans[number]))

    @pytest.mark.slow
    @pytest.mark.parametrize("context", ["fork", "spawn", "forkserver"])
    def test_processes_give_the_same_bytes(self, context):
        with multiprocessing.get_context(context).Pool(2) as pool:
            images = pool.starmap_async(augmented_bytes, [(seed, self.engine) for seed in range(4)]).get(timeout=100)
        assert images == [augmented_bytes(seed, "pillow") for seed in range(4)]
