import colorsys
import math
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image, ImageChops

from lightning_augmix.robustness.corruptions import moved
from lightning_augmix.robustness.perturbations import perturb
from lightning_augmix.robustness.sequences import PERTURBATIONS

HEIGHT, WIDTH = 27, 34
FRAMES = {"motion_blur": 21, "translate": 16}


def photograph(seed=0):
    """A smooth image of mean brightness, with some colours."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    waves = [90 + 60 * np.sin(x / 6 + seed), 110 + 50 * np.cos(y / 5 + x / 9), 130 + 40 * np.sin((x + y) / 7)]
    return np.stack(waves, -1).astype(np.uint8)


def frames(name, strengths="cifar", image=None, seed=1):
    return perturb(photograph() if image is None else image, name, strengths, np.random.SeedSequence(seed))


def about_the_centre(image, scale=1.0):
    """Pillow's affine map, from each pixel of the result to where it comes from."""
    middle_x, middle_y = image.width / 2, image.height / 2
    matrix = (1 / scale, 0, middle_x - middle_x / scale, 0, 1 / scale, middle_y - middle_y / scale)
    return np.asarray(image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR))


@pytest.mark.parametrize("name", PERTURBATIONS)
@pytest.mark.parametrize("strengths", ["cifar", "tiny_imagenet", "imagenet"])
def test_sequences_are_images_that_a_seed_decides(name, strengths):
    image = photograph()
    before = image.copy()
    found = frames(name, strengths, image)
    assert (found.dtype, found.shape[1:]) == (np.uint8, image.shape)
    if strengths == "cifar":
        assert len(found) == FRAMES.get(name, 31)
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(found, frames(name, strengths, image))
    is_random = name in ("gaussian_noise", "shot_noise", "snow")
    assert (found != frames(name, strengths, image, seed=2)).any() == is_random
    changes = [(one != other).any() for one, other in pairwise(found)]
    assert all(changes) or (name == "snow" and any(changes))
    gray = frames(name, strengths, image[..., 1])
    assert gray.shape == found.shape[:3]


@pytest.mark.parametrize(
    ("name", "strengths", "deviation"),
    [
        ("gaussian_noise", "cifar", lambda x: 0.02),
        ("gaussian_noise", "tiny_imagenet", lambda x: 0.025),
        ("gaussian_noise", "imagenet", lambda x: 0.03),
        ("shot_noise", "cifar", lambda x: (x / 700) ** 0.5),
        ("shot_noise", "tiny_imagenet", lambda x: (x / 500) ** 0.5),
        ("shot_noise", "imagenet", lambda x: (x / 300) ** 0.5),
    ],
)
def test_noise_is_anew_on_the_clean_image_in_each_frame(name, strengths, deviation):
    image = np.full((60, 70, 3), 128, np.uint8)
    found = frames(name, strengths, image)
    np.testing.assert_array_equal(found[0], image)
    noise = found[1:].astype(float) - 128 + 0.5  # levels are truncated
    assert noise.mean() == pytest.approx(0, abs=0.05)
    assert noise.std() == pytest.approx(255 * deviation(128 / 255), rel=0.03)
    assert np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1] == pytest.approx(0, abs=0.05)


def test_motion_blur_turns_by_half_a_circle():
    for number, frame in enumerate(frames("motion_blur")):
        blurred = moved(photograph() / 255, 6, 1.8, -180 + 9 * number)
        np.testing.assert_array_equal(frame, np.floor(255 * blurred))


def test_zoom_blur_is_the_mean_of_ever_more_zooms():
    image = Image.fromarray(photograph())
    zooms = [about_the_centre(image, 1 + 0.004 * number).astype(float) for number in range(31)]
    for number, frame in enumerate(frames("zoom_blur")):
        assert np.abs(frame - np.mean(zooms[: number + 1], axis=0)).max() <= 1.5


@pytest.mark.parametrize(("strengths", "step"), [("cifar", 0.015), ("imagenet", 0.02)])
def test_brightness_is_added_to_v_of_hsv(strengths, step):
    image = photograph()
    for number, frame in enumerate(frames("brightness", strengths)):
        for y, x in [(0, 0), (13, 20), (26, 33)]:
            hue, saturation, value = colorsys.rgb_to_hsv(*(image[y, x] / 255))
            rgb = colorsys.hsv_to_rgb(hue, saturation, min(max(value + step * (number - 15), 0), 1))
            assert np.abs(frame[y, x] - 255 * np.array(rgb)).max() < 1.01


@pytest.mark.parametrize(
    ("strengths", "pixels"),
    [("cifar", range(-7, 9)), ("tiny_imagenet", range(-15, 16)), ("imagenet", range(-20, 21))],
)
def test_translate_moves_by_whole_pixels(strengths, pixels):
    image, found = Image.fromarray(photograph()), frames("translate", strengths)
    for right, frame in zip(pixels, found, strict=True):
        expected = np.asarray(ImageChops.offset(image, right, 0)).copy()
        expected[:, :right] = 0 if right > 0 else expected[:, :right]
        if right < 0:
            expected[:, right:] = 0
        np.testing.assert_array_equal(frame, expected)


def test_rotate_turns_degree_by_degree():
    image = Image.fromarray(photograph())
    for number, frame in enumerate(frames("rotate")):
        expected = np.asarray(image.rotate(15 - number, Image.Resampling.BILINEAR)).astype(int)
        assert np.abs(frame - expected)[3:-3, 3:-3].max() <= 1


@pytest.mark.parametrize(("strengths", "least", "step"), [("cifar", 0.7, 0.02), ("imagenet", 0.4, 0.025)])
def test_scale_grows(strengths, least, step):
    image = Image.fromarray(photograph())
    for number, frame in enumerate(frames("scale", strengths)):
        expected = about_the_centre(image, least + step * number).astype(int)
        assert (np.abs(frame - expected).max(axis=2) <= 1).mean() > 0.97  # borders may fall either way


@pytest.mark.parametrize(("strengths", "step"), [("cifar", 0.75), ("imagenet", 1.0)])
def test_tilt_turns_the_image_in_space(strengths, step):
    image, distance = photograph(), math.hypot(WIDTH, HEIGHT)
    for number, frame in enumerate(frames("tilt", strengths)):
        angle = math.radians(step * (number - 15))
        # A point of the result is seen along a ray; where the ray meets the turned image is where it comes from.
        axis_x = np.array([math.cos(angle), -math.sin(angle) * math.sin(angle), math.cos(angle) * math.sin(angle)])
        axis_y = np.array([0, math.cos(angle), math.sin(angle)])
        normal = np.cross(axis_x, axis_y)
        away = np.array([-math.sin(angle), -math.sin(angle) * math.cos(angle), math.cos(angle) ** 2])
        centre = away + np.array([0, 0, distance])
        for y, x in [(13, 17), (8, 10), (18, 25)]:
            ray = np.array([x - WIDTH / 2, y - HEIGHT / 2, distance])
            met = ray * (centre @ normal) / (ray @ normal) - centre
            from_x, from_y = met @ axis_x + WIDTH / 2, met @ axis_y + HEIGHT / 2
            left, top = int(from_x), int(from_y)
            right, down = from_x - left, from_y - top
            square = image[top : top + 2, left : left + 2].astype(float)
            expected = (square[0] * (1 - down) + square[1] * down).T @ [1 - right, right]
            assert np.abs(frame[y, x] - expected).max() < 2.5


def test_snow_falls_in_turning_directions_on_a_whitened_image():
    image = np.full((40, 50, 3), (80, 120, 60), np.uint8)
    gray = image[0, 0] @ [0.299, 0.587, 0.114] / 255
    whitened = np.floor(255 * (0.85 * image[0, 0] / 255 + 0.15 * np.maximum(image[0, 0] / 255, 1.5 * gray + 0.5)))
    found = frames("snow", image=image)
    assert (found >= whitened).all()
    assert ((found == whitened).all(axis=3).mean(axis=(1, 2)) > 0.3).all()
    assert found.max() > whitened.max() + 50
