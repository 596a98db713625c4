"""The compiled engine gives the bytes of the reference, and keeps its machine code."""

import mmap
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import lightning_augmix
from engine_contract import EngineContract, random_image
from lightning_augmix import AugmentAndMixTransform
from lightning_augmix.engines import numba_engine
from lightning_augmix.kernels import affine


class TestNumba(EngineContract):
    engine = "numba"


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


@pytest.mark.slow
def test_memory_stays_flat():
    transform = AugmentAndMixTransform(engine="numba")
    image = Image.fromarray(random_image(np.random.default_rng(0), 31, 44, is_gray=False))

    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE

    for _ in range(5000):
        transform(image)
    before = resident()
    for _ in range(100_000):
        transform(image)
    assert resident() - before < 5 * 2**20
