"""The compiled engine gives the bytes of the reference, and keeps its machine code."""

import multiprocessing
import os
import resource
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import lightning_augmix
from lightning_augmix import AugmentAndMixTransform, apply_plan, sample_plan
from lightning_augmix.engines import numba_engine, pillow_engine
from lightning_augmix.kernels import affine
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


def check_random_plans(count, largest):
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
        np.testing.assert_array_equal(apply_plan(image, plan, "numba"), apply_plan(image, plan, "pillow"))
    assert names == set(OPERATIONS)


def test_a_thousand_random_plans_give_the_bytes_of_pillow():
    check_random_plans(1000, largest=(300, 400))


@pytest.mark.slow
def test_twenty_thousand_random_plans_give_the_bytes_of_pillow():
    check_random_plans(20_000, largest=(300, 400))


@given(arrays(), keys, hyperparameters)
def test_any_image_and_plan_give_the_oracles_bytes(image, key, arguments):
    plan = sample_plan(key, image.shape[:2], **arguments)
    expected = reference_augmix(Image.fromarray(image), plan.chains, plan.chain_weights, plan.mixing_weight)
    np.testing.assert_array_equal(apply_plan(image, plan, "numba"), expected)


@given(st.floats(0, 1, exclude_max=True) | st.fractions(0, 1, max_denominator=255).map(float))
def test_sixteen_bits_of_a_fraction_are_enough(fraction):
    bits = affine._sixteenth_bits(fraction)
    differences = np.arange(-255, 256)
    if bits >= 0:
        np.testing.assert_array_equal(differences * bits >> 16, np.floor(differences * fraction))


def run_kernel(kernel, image, parameter):
    packed = numba_engine._packed(image[None])
    out = np.empty_like(packed)
    kernel(packed[0], image.shape[1], parameter, out[0])
    return numba_engine._unpacked(out, image[None].shape)[0]


@pytest.mark.parametrize("name", ["shear_x", "shear_y"])
@pytest.mark.parametrize("factor", [0.125, -0.25, 0.3, -0.3, 1e-9, 0.0, 1 / 3, 0.05])
def test_shears_whose_fractions_are_exact(name, factor):
    image = random_image(np.random.default_rng(1), 41, 50, is_gray=False)
    matrix = (1, factor, 0, 0, 1, 0) if name == "shear_x" else (1, 0, 0, factor, 1, 0)
    expected = Image.fromarray(image).transform((50, 41), Image.AFFINE, matrix, resample=Image.BILINEAR)
    np.testing.assert_array_equal(run_kernel(getattr(affine, name), image, factor), np.asarray(expected))


@pytest.mark.parametrize("degrees", range(-30, 31))
def test_every_angle(degrees):
    image = random_image(np.random.default_rng(degrees + 30), 33, 47, is_gray=False)
    expected = Image.fromarray(image).rotate(degrees, resample=Image.BILINEAR)
    np.testing.assert_array_equal(run_kernel(affine.rotate, image, degrees), np.asarray(expected))


@pytest.mark.parametrize("shape", [(5, 6, 7), (5, 6, 7, 3), (5, 6, 7, 4)])
def test_drawing_and_applying_in_one_call_is_drawing_and_then_applying(shape):
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    images.flags.writeable = False
    some = np.arange(5, dtype=np.uint64)
    hyperparameters = validate(10, 3, -1, 1.0, "all")
    expected = pillow_engine.augment(images, some, hyperparameters)
    for outcome in (
        numba_engine.augment(images, some, hyperparameters),
        numba_engine.apply(images, sample_plan(some, (6, 7), 10)),
    ):
        assert outcome.flags.writeable
        assert outcome.shape == shape
        colors = np.s_[..., :3] if len(shape) == 4 else ...
        np.testing.assert_array_equal(outcome[colors], expected[colors])


@pytest.mark.parametrize("threads", [1, 3])
def test_a_batch_shared_out_among_threads_has_the_same_bytes(threads, monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (7, 11, 13, 3), dtype=np.uint8)
    some, hyperparameters = np.arange(7, dtype=np.uint64), validate(10, 3, -1, 1.0, "all")
    monkeypatch.setattr(numba_engine, "_WORTH_THREADS", 0)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        drawn = numba_engine.augment(images, some, hyperparameters)
        applied = numba_engine.apply(images, sample_plan(some, (11, 13), 10))
    finally:
        torch.set_num_threads(before)
    expected = pillow_engine.augment(images, some, hyperparameters)
    np.testing.assert_array_equal(drawn, expected)
    np.testing.assert_array_equal(applied, expected)


def test_threads_do_not_share_their_memory():
    images = [random_image(np.random.default_rng(k), 40 + k, 50, is_gray=False) for k in range(8)]
    plans = [sample_plan(k, (40 + k, 50), 10) for k in range(8)]
    expected = [apply_plan(image, plan, "pillow") for image, plan in zip(images, plans, strict=True)]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(20):
            for outcome, right in zip(pool.map(apply_plan, images, plans, ["numba"] * 8), expected, strict=True):
                np.testing.assert_array_equal(outcome, right)


@pytest.mark.slow
@pytest.mark.parametrize("context", ["fork", "spawn", "forkserver"])
def test_processes_give_the_same_bytes(context):
    with multiprocessing.get_context(context).Pool(2) as pool:
        images = pool.map_async(augmented_bytes, range(4)).get(timeout=100)
    assert images == [augmented_bytes(seed) for seed in range(4)]


READY = """
import sys
import numpy as np, torch
from PIL import Image
import lightning_augmix
from lightning_augmix import AugmentAndMixTransform, apply_plan, augmix_image, sample_plan
from lightning_augmix.kernels.jit import announcing
from lightning_augmix.engines import numba_engine
from lightning_augmix.kernels import chains
assert not chains.augment.signatures
announced = []
numba_engine.warm_up(lambda: announced.append("while warming up"))
rgb, gray = np.zeros((4, 5, 3), np.uint8), np.zeros((4, 5), np.uint8)
with announcing(lambda: announced.append("later")):
    for image in (rgb, gray, Image.fromarray(rgb), Image.fromarray(gray), torch.zeros(2, 3, 4, 5), rgb[::-1]):
        augmix_image(image)
    apply_plan(rgb, sample_plan(0, (4, 5)))
print(announced)
"""


@pytest.mark.slow
def test_processes_that_start_at_once_compile_and_later_ones_load(tmp_path):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-W", "ignore", "-c", READY]

    def outputs(count):
        running = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(count)]
        return [process.communicate()[0].strip() for process in running]

    assert outputs(2) == ["['while warming up']"] * 2
    assert outputs(2) == ["[]"] * 2


@pytest.mark.slow
def test_machine_code_of_other_sources_is_not_taken(tmp_path):
    package = tmp_path / "lightning_augmix"
    shutil.copytree(Path(lightning_augmix.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    program = (
        "from lightning_augmix import apply_plan, sample_plan; import numpy as np\n"
        "plan = sample_plan(1, (30, 4), 10, 1, 1, augmentation_set=['translate_y'])\n"
        "print(apply_plan(np.full((30, 4), 200, np.uint8), plan, 'numba').tolist())"
    )
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": str(tmp_path)}

    def outcome():
        command = [sys.executable, "-W", "ignore", "-c", program]
        return subprocess.run(command, env=environment, cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    before = outcome()
    kernels = package / "kernels" / "affine.py"
    kernels.write_text(kernels.read_text().replace("out[i] = _u32(0)\n", "out[i] = _u32(0x7F)\n"))
    assert outcome() != before


@pytest.mark.parametrize("shape", [(70_000, 2), (2, 70_000)])
def test_sides_beyond_the_fixed_point_numbers(shape):
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    plan = sample_plan(3, shape, 10, 1, 1, augmentation_set=["rotate"])
    np.testing.assert_array_equal(apply_plan(image, plan, "numba"), apply_plan(image, plan, "pillow"))


@pytest.mark.slow
def test_memory_stays_flat():
    transform = AugmentAndMixTransform(engine="numba")
    image = Image.fromarray(random_image(np.random.default_rng(0), 31, 44, is_gray=False))

    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    for _ in range(5000):
        transform(image)
    before = resident()
    for _ in range(100_000):
        transform(image)
    assert resident() - before < 5 * 2**20
