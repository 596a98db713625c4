"""The 15 common corruptions of one image, at the strengths of CIFAR-10-C, Tiny ImageNet-C or ImageNet-C.

Source of definitions and constants: Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common
Corruptions and Perturbations", ICLR 2019, https://arxiv.org/abs/1903.12261, and the scripts that made the published
sets, https://github.com/hendrycks/robustness. ImageNet-C's corruptions, the frost photographs and the defocused disk
are those of ``imagecorruptions-imaug``.
"""

import math
from collections.abc import Callable, Mapping
from functools import cache
from importlib.resources import files
from io import BytesIO
from typing import Any

import cv2
import imagecorruptions
import numpy as np
from imagecorruptions.corruptions import disk
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter, map_coordinates, zoom

__all__ = ["Pixels", "brighter", "corrupt", "moved", "snowed", "snowflakes", "truncated", "zoomed"]

Pixels = NDArray[Any]  # float64 [H, W, 3] in [0, 1]

# The constants of severities 1 to 5, in the order of the arguments of the function `_<corruption>`.
_CIFAR: Mapping[str, tuple[Any, ...]] = {
    "gaussian_noise": (0.04, 0.06, 0.08, 0.09, 0.1),
    "shot_noise": (500, 250, 100, 75, 50),
    "impulse_noise": (0.01, 0.02, 0.03, 0.05, 0.07),
    "defocus_blur": ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
    "glass_blur": ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
    "motion_blur": ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
    "zoom_blur": (1.06, 1.11, 1.16, 1.21, 1.26),
    "snow": (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    ),
    "frost": ((1, 0.2, 0.2), (1, 0.3, 0.2), (0.9, 0.4, 0.2), (0.85, 0.4, 0.2), (0.75, 0.45, 0.2)),
    "fog": ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
    "brightness": (0.05, 0.1, 0.15, 0.2, 0.3),
    "contrast": (0.75, 0.5, 0.4, 0.3, 0.15),
    "elastic_transform": ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
    "pixelate": (0.95, 0.9, 0.85, 0.75, 0.65),
    "jpeg_compression": (80, 65, 58, 50, 40),
}
_TINY_IMAGENET: Mapping[str, tuple[Any, ...]] = {
    "gaussian_noise": (0.04, 0.08, 0.12, 0.15, 0.18),
    "shot_noise": (250, 100, 50, 30, 15),
    "impulse_noise": (0.01, 0.02, 0.05, 0.08, 0.14),
    "defocus_blur": ((0.5, 0.6), (1, 0.1), (1.5, 0.1), (2.5, 0.01), (3, 0.1)),
    "glass_blur": ((0.1, 1, 1), (0.5, 1, 1), (0.6, 1, 2), (0.7, 2, 1), (0.9, 2, 2)),
    "motion_blur": ((10, 1), (10, 1.5), (10, 2), (10, 2.5), (12, 3)),
    "zoom_blur": (1.06, 1.11, 1.16, 1.21, 1.26),
    "snow": (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.8),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.8),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.7),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.65),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.6),
    ),
    "frost": ((1, 0.3, 0.3), (0.9, 0.4, 0.3), (0.8, 0.45, 0.3), (0.75, 0.5, 0.3), (0.7, 0.55, 0.3)),
    "fog": ((0.4, 3), (0.7, 3), (1, 2.5), (1.5, 2), (2, 1.75)),
    "brightness": (0.1, 0.2, 0.3, 0.4, 0.5),
    "contrast": (0.4, 0.3, 0.2, 0.1, 0.05),
    "elastic_transform": ((0, 0, 0.08), (0.05, 0.3, 0.06), (0.1, 0.08, 0.06), (0.1, 0.03, 0.03), (0.16, 0.03, 0.02)),
    "pixelate": (0.9, 0.8, 0.7, 0.6, 0.5),
    "jpeg_compression": (65, 58, 50, 40, 25),
}
_CONSTANTS = {"cifar": _CIFAR, "tiny_imagenet": _TINY_IMAGENET}

_LEAST_SIDE = 32  # pixels: what CIFAR-10-C's constants are for, and the minimum of the library


def corrupt(
    image: NDArray[np.uint8], name: str, severity: int, strengths: str, seeds: np.random.SeedSequence
) -> NDArray[np.uint8]:
    """Corrupts an image.

    An image of less than 32×32 pixels is mirrored at the borders and cropped afterwards. A grayscale image is corrupted
    as RGB and its green channel kept, so that noise keeps its strength. For ``"imagenet"`` the library draws from
    NumPy's global random state, which this seeds.

    Args:
        image: uint8 ``[H, W, 3]`` or ``[H, W]``.
        name: The corruption, one of ``CORRUPTIONS``.
        severity: From 1 to 5.
        strengths: ``"cifar"``, ``"tiny_imagenet"`` or ``"imagenet"``.
        seeds: Seeds of the random choices, which depend on nothing else.

    Returns:
        The corrupted image, of the same shape.
    """
    cv2.setNumThreads(1)
    height, width = image.shape[:2]
    top, left = (max(0, _LEAST_SIDE - side + 1) // 2 for side in (height, width))
    bottom, right = (max(0, _LEAST_SIDE - side) // 2 for side in (height, width))
    rgb = image if image.ndim == 3 else np.stack([image] * 3, axis=-1)
    padded = np.pad(rgb, [(top, bottom), (left, right), (0, 0)], mode="symmetric")
    if strengths == "imagenet":
        corrupted = _by_library(padded, name, severity, seeds)
    else:
        constants = _CONSTANTS[strengths][name][severity - 1]
        arguments = constants if isinstance(constants, tuple) else (constants,)
        corrupted = truncated(_FUNCTIONS[name](padded / 255, np.random.default_rng(seeds), *arguments))
    cropped = corrupted[top : top + height, left : left + width]
    return cropped if image.ndim == 3 else cropped[..., 1]


def _by_library(image: NDArray[np.uint8], name: str, severity: int, seeds: np.random.SeedSequence) -> NDArray[np.uint8]:
    own, *state = seeds.generate_state(9)
    np.random.seed(state)
    seed = {"seed": int(own)} if name in ("impulse_noise", "glass_blur") else {}
    corrupted: NDArray[np.uint8] = imagecorruptions.corrupt(image, severity=severity, corruption_name=name, **seed)
    return corrupted


def truncated(x: Pixels) -> NDArray[np.uint8]:
    """Makes levels of pixels; they are not rounded: the published images are half a level darker."""
    return (255 * x.clip(0, 1)).astype(np.uint8)


def _gaussian_noise(x: Pixels, random: np.random.Generator, deviation: float) -> Pixels:
    return x + random.normal(scale=deviation, size=x.shape)


def _shot_noise(x: Pixels, random: np.random.Generator, photons: float) -> Pixels:
    return random.poisson(x * photons) / photons


def _impulse_noise(x: Pixels, random: np.random.Generator, share: float) -> Pixels:
    is_hit = random.random(x.shape) < share
    return np.where(is_hit, random.integers(2, size=x.shape), x)


def _defocus_blur(x: Pixels, random: np.random.Generator, radius: float, alias_blur: float) -> Pixels:
    return cv2.filter2D(x, -1, disk(radius, alias_blur))


def _glass_blur(x: Pixels, random: np.random.Generator, sigma: float, reach: int, iterations: int) -> Pixels:
    height, width = x.shape[:2]
    blurred = truncated(gaussian_filter(x, (sigma, sigma, 0), mode="nearest")) / 255
    rows, columns = np.mgrid[height - reach : reach : -1, width - reach : reach : -1]
    pixels = (width * rows + columns).ravel().tolist()
    source = list(range(height * width))
    for _ in range(iterations):
        down, right = random.integers(-reach, reach, (2, *rows.shape))
        others = (width * (rows + down) + columns + right).ravel().tolist()
        for pixel, other in zip(pixels, others, strict=True):
            source[pixel] = source[other]  # the authors' script means to swap them, but copies one to the other
    shuffled = blurred.reshape(-1, 3)[source].reshape(x.shape)
    return gaussian_filter(shuffled, (sigma, sigma, 0), mode="nearest")


def _motion_blur(x: Pixels, random: np.random.Generator, radius: int, sigma: float) -> Pixels:
    return moved(x, radius, sigma, random.uniform(-45, 45))


def moved(x: Pixels, radius: int, sigma: float, angle: float) -> Pixels:
    """Blurs in one direction, ``angle`` in degrees, with one side of a Gaussian, like ImageMagick's motion blur."""
    steps, angle = np.arange(2 * radius + 1), math.radians(angle)
    weights = np.exp(-((steps / sigma) ** 2) / 2)
    down, right = (np.ceil(steps * part - 0.5).astype(int) for part in (math.sin(angle), math.cos(angle)))
    height, width = x.shape[:2]
    rows = (np.arange(height) + down[:, None]).clip(0, height - 1)
    columns = (np.arange(width) + right[:, None]).clip(0, width - 1)
    blurred = np.zeros_like(x)
    for weight, row, column in zip(weights / weights.sum(), rows, columns, strict=True):
        blurred += weight * x[row[:, None], column]
    return blurred


def _zoom_blur(x: Pixels, random: np.random.Generator, end: float) -> Pixels:
    zooms = [zoomed(x, factor) for factor in np.arange(1, end, 0.01)]
    return (x + np.sum(zooms, axis=0)) / (1 + len(zooms))


def zoomed(x: Pixels, factor: float) -> Pixels:
    """Enlarges the centre of an image to the size of the image."""
    part = _centre(x, math.ceil(x.shape[0] / factor), math.ceil(x.shape[1] / factor))
    return _centre(zoom(part, (factor, factor, 1)[: x.ndim], order=1), *x.shape[:2])


def _centre(x: Pixels, height: int, width: int) -> Pixels:
    top, left = (x.shape[0] - height) // 2, (x.shape[1] - width) // 2
    return x[top : top + height, left : left + width]


def _snow(
    x: Pixels,
    random: np.random.Generator,
    mean: float,
    deviation: float,
    factor: float,
    threshold: float,
    radius: int,
    sigma: float,
    weight: float,
) -> Pixels:
    flakes = snowflakes(x, random, mean, deviation, factor, threshold)
    return snowed(x, moved(flakes, radius, sigma, random.uniform(-135, -45)), weight)


def snowflakes(
    x: Pixels, random: np.random.Generator, mean: float, deviation: float, factor: float, threshold: float
) -> Pixels:
    """Draws flakes ``[H, W]``, of the size of the image ``x``."""
    flakes = zoomed(random.normal(mean, deviation, x.shape[:2]), factor)
    return truncated(np.where(flakes < threshold, 0, flakes)) / 255


def snowed(x: Pixels, flakes: Pixels, weight: float) -> Pixels:
    """Whitens an image, by ``1 - weight``, and adds flakes ``[H, W]`` twice."""
    gray, flakes = (x @ (0.299, 0.587, 0.114))[..., None], flakes[..., None]
    return weight * x + (1 - weight) * np.maximum(x, 1.5 * gray + 0.5) + flakes + np.rot90(flakes, 2)


def _frost(x: Pixels, random: np.random.Generator, weight: float, frost_weight: float, scale: float) -> Pixels:
    photographs = _frost_photographs(scale, *x.shape[:2])
    photograph = photographs[random.integers(len(photographs))]
    top, left = random.integers(np.subtract(photograph.shape[:2], x.shape[:2]))
    return weight * x + frost_weight / 255 * photograph[top : top + x.shape[0], left : left + x.shape[1]]


@cache
def _frost_photographs(scale: float, height: int, width: int) -> list[NDArray[Any]]:
    """Five photographs of frost, enlarged where an image of this size has no room in them."""
    photographs = []
    for name in ("frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg"):  # as the authors: not the sixth
        with (files("imagecorruptions") / "frost" / name).open("rb") as file:
            photograph = np.asarray(Image.open(file).convert("RGB"))
        least = max((height + 1) / photograph.shape[0], (width + 1) / photograph.shape[1])
        photographs.append(cv2.resize(photograph, None, fx=max(scale, least), fy=max(scale, least)))
    return photographs


def _fog(x: Pixels, random: np.random.Generator, amount: float, decay: float) -> Pixels:
    height, width = x.shape[:2]
    clouds = _plasma_fractal(2 ** math.ceil(math.log2(max(height, width))), decay, random)[:height, :width, None]
    return (x + amount * clouds) * x.max() / (x.max() + amount)


def _plasma_fractal(side: int, decay: float, random: np.random.Generator) -> Pixels:
    """Draws heights ``[side, side]`` in [0, 1], on a torus: the diamond-square algorithm; the side is a power of 2."""
    heights, wibble, step = np.zeros((side, side)), 100.0, side
    while step > 1:
        half = step // 2
        corners, middles = heights[::step, ::step], heights[half::step, half::step]
        between = corners + np.roll(corners, -1, 0)
        middles[:] = (between + np.roll(between, -1, 1)) / 4
        middles += wibble * random.uniform(-wibble, wibble, middles.shape)
        for axis, edges in ((1, heights[::step, half::step]), (0, heights[half::step, ::step])):
            edges[:] = (corners + np.roll(corners, -1, axis) + middles + np.roll(middles, 1, 1 - axis)) / 4
            edges += wibble * random.uniform(-wibble, wibble, edges.shape)
        step, wibble = half, wibble / decay
    heights -= heights.min()
    return heights / heights.max()


def _brightness(x: Pixels, random: np.random.Generator, amount: float) -> Pixels:
    return brighter(x, amount)


def brighter(x: Pixels, amount: float) -> Pixels:
    """Adds to V of HSV, in which the three channels are linear."""
    value = x.max(axis=2, keepdims=True)
    changed = (value + amount).clip(0, 1)
    return np.where(value > 0, x * changed / np.where(value > 0, value, 1), changed)


def _contrast(x: Pixels, random: np.random.Generator, factor: float) -> Pixels:
    mean = x.mean(axis=(0, 1))
    return (x - mean) * factor + mean


def _elastic_transform(x: Pixels, random: np.random.Generator, alpha: float, sigma: float, affine: float) -> Pixels:
    """Moves three points by up to ``affine``, then each pixel by smooth noise; all in shares of the shorter side."""
    height, width = x.shape[:2]
    side = min(height, width)
    points = np.array([width // 2, height // 2]) + side // 3 * np.array([[1, 1], [1, -1], [-1, -1]])
    moved = points + random.uniform(-affine * side, affine * side, points.shape)
    matrix = cv2.getAffineTransform(points.astype(np.float32), moved.astype(np.float32))
    x = cv2.warpAffine(x, matrix, (width, height), borderMode=cv2.BORDER_REFLECT_101)
    right, down = (
        alpha * side * gaussian_filter(random.uniform(-1, 1, (height, width)), sigma * side, mode="reflect", truncate=3)
        for _ in range(2)
    )
    rows, columns = np.mgrid[:height, :width]
    at = (rows + down, columns + right)
    return np.stack([map_coordinates(x[..., channel], at, order=1, mode="reflect") for channel in range(3)], axis=-1)


def _pixelate(x: Pixels, random: np.random.Generator, share: float) -> Pixels:
    height, width = x.shape[:2]
    small = Image.fromarray(truncated(x)).resize((int(width * share), int(height * share)), Image.Resampling.BOX)
    return np.asarray(small.resize((width, height), Image.Resampling.BOX)) / 255


def _jpeg_compression(x: Pixels, random: np.random.Generator, quality: int) -> Pixels:
    file = BytesIO()
    Image.fromarray(truncated(x)).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file)) / 255


_FUNCTIONS: Mapping[str, Callable[..., Pixels]] = {
    "gaussian_noise": _gaussian_noise,
    "shot_noise": _shot_noise,
    "impulse_noise": _impulse_noise,
    "defocus_blur": _defocus_blur,
    "glass_blur": _glass_blur,
    "motion_blur": _motion_blur,
    "zoom_blur": _zoom_blur,
    "snow": _snow,
    "frost": _frost,
    "fog": _fog,
    "brightness": _brightness,
    "contrast": _contrast,
    "elastic_transform": _elastic_transform,
    "pixelate": _pixelate,
    "jpeg_compression": _jpeg_compression,
}
