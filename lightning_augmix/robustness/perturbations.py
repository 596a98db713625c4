"""Sequences of ever further perturbations of one image, at the strengths of CIFAR-10-P, Tiny ImageNet-P or ImageNet-P.

Source of definitions and constants: Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common
Corruptions and Perturbations", ICLR 2019, https://arxiv.org/abs/1903.12261, and the scripts that made the published
sets, https://github.com/hendrycks/robustness.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms.v2 import InterpolationMode, functional

from lightning_augmix.robustness.corruptions import Pixels, brighter, moved, snowed, snowflakes, truncated

__all__ = ["perturb"]

_CENTRED = range(-15, 16)  # the numbers of 31 frames

# The arguments of the function `_<perturbation>`.
_CIFAR: Mapping[str, tuple[Any, ...]] = {
    "gaussian_noise": (0.02,),
    "shot_noise": (700,),
    "motion_blur": (6, 1.8, range(-180, 1, 9)),
    "zoom_blur": (),
    "snow": (0.3, 2, 10, 2),
    "brightness": (0.015,),
    "translate": (range(-7, 9),),
    "rotate": (),
    "tilt": (0.75,),
    "scale": (0.7, 1.3),
}
_TINY_IMAGENET: Mapping[str, tuple[Any, ...]] = {
    **_CIFAR,
    "gaussian_noise": (0.025,),
    "shot_noise": (500,),
    "motion_blur": (14, 3, range(-150, 1, 5)),
    "snow": (0.28, 2, 10, 2.5),
    "brightness": (0.02,),
    "translate": (_CENTRED,),
    "tilt": (1,),
    "scale": (0.4, 1.15),
}
_IMAGENET: Mapping[str, tuple[Any, ...]] = {
    **_TINY_IMAGENET,
    "gaussian_noise": (0.03,),
    "shot_noise": (300,),
    "motion_blur": (10, 3, range(-120, 1, 4)),
    "snow": (0.3, 3, 14, 4),
    "translate": (range(-20, 21),),
}
_CONSTANTS = {"cifar": _CIFAR, "tiny_imagenet": _TINY_IMAGENET, "imagenet": _IMAGENET}


def perturb(image: NDArray[np.uint8], name: str, strengths: str, seeds: np.random.SeedSequence) -> NDArray[np.uint8]:
    """Makes a sequence of perturbations of an image.

    What comes in from outside the image is black. A grayscale image is perturbed as RGB and its green channel kept.

    Args:
        image: uint8 ``[H, W, 3]`` or ``[H, W]``.
        name: The perturbation, one of ``PERTURBATIONS``.
        strengths: ``"cifar"``, ``"tiny_imagenet"`` or ``"imagenet"``.
        seeds: Seeds of the random choices, which depend on nothing else.

    Returns:
        The frames, uint8 ``[F, H, W, 3]`` or ``[F, H, W]``. In sequences of noise, the first is the image.
    """
    cv2.setNumThreads(1)
    rgb = image if image.ndim == 3 else np.stack([image] * 3, axis=-1)
    frames = _FUNCTIONS[name](rgb / 255, np.random.default_rng(seeds), *_CONSTANTS[strengths][name])
    sequence: NDArray[np.uint8] = np.stack([frame if frame.dtype == np.uint8 else truncated(frame) for frame in frames])
    return sequence if image.ndim == 3 else sequence[..., 1]


def _levels(x: Pixels) -> NDArray[np.uint8]:
    levels: NDArray[np.uint8] = np.rint(255 * x).astype(np.uint8)
    return levels


def _gaussian_noise(x: Pixels, random: np.random.Generator, deviation: float) -> Iterator[Pixels]:
    yield _levels(x)
    yield from (x + random.normal(scale=deviation, size=x.shape) for _ in range(30))


def _shot_noise(x: Pixels, random: np.random.Generator, photons: float) -> Iterator[Pixels]:
    yield _levels(x)
    yield from (random.poisson(x * photons) / photons for _ in range(30))


def _motion_blur(
    x: Pixels, random: np.random.Generator, radius: int, sigma: float, angles: Iterable[float]
) -> Iterator[Pixels]:
    return (moved(x, radius, sigma, angle) for angle in angles)


def _zoom_blur(x: Pixels, random: np.random.Generator) -> Iterator[Pixels]:
    yield _levels(x)
    total = x
    for number in range(1, 31):
        total = total + _placed(x, scale=1 + 0.004 * number) / 255
        yield total / (number + 1)


def _snow(
    x: Pixels, random: np.random.Generator, deviation: float, factor: float, radius: int, sigma: float
) -> Iterator[Pixels]:
    flakes = snowflakes(x, random, 0.05, deviation, factor, 0.5)
    return (snowed(x, moved(flakes, radius, sigma, angle), 0.85) for angle in range(-150, -29, 4))


def _brightness(x: Pixels, random: np.random.Generator, step: float) -> Iterator[Pixels]:
    return (brighter(x, step * number) for number in _CENTRED)


def _translate(x: Pixels, random: np.random.Generator, pixels: Iterable[int]) -> Iterator[Pixels]:
    return (_placed(x, right=number, interpolation=InterpolationMode.NEAREST) for number in pixels)


def _rotate(x: Pixels, random: np.random.Generator) -> Iterator[Pixels]:
    return (_placed(x, angle=angle) for angle in _CENTRED)


def _scale(x: Pixels, random: np.random.Generator, least: float, greatest: float) -> Iterator[Pixels]:
    return (_placed(x, scale=float(scale)) for scale in np.linspace(least, greatest, len(_CENTRED)))


def _placed(
    x: Pixels,
    *,
    angle: float = 0,
    right: int = 0,
    scale: float = 1,
    interpolation: InterpolationMode = InterpolationMode.BILINEAR,
) -> NDArray[np.uint8]:
    """Turns, moves and scales an image about its centre."""
    image = Image.fromarray(_levels(x))
    return np.asarray(functional.affine(image, angle, [right, 0], scale, [0, 0], interpolation))


def _tilt(x: Pixels, random: np.random.Generator, degrees: float) -> Iterator[Pixels]:
    image = _levels(x)
    size = image.shape[1::-1]
    return (cv2.warpPerspective(image, _tilting(math.radians(degrees * number), *size), size) for number in _CENTRED)


def _tilting(angle: float, width: int, height: int) -> NDArray[np.float64]:
    """The homography of an image that is turned about both its axes, seen from as far as its diagonal is long."""
    cosine, sine, distance = math.cos(angle), math.sin(angle), math.hypot(width, height)
    about_x = np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]])
    about_y = np.array([[cosine, 0, -sine], [0, 1, 0], [sine, 0, cosine]])
    from_centre = np.array([[1, 0, -width / 2], [0, 1, -height / 2], [0, 0, 1]])
    camera = np.array([[distance, 0, width / 2], [0, distance, height / 2], [0, 0, 1]])
    homography: NDArray[np.float64] = about_x @ about_y @ from_centre
    homography[2, 2] += distance
    return camera @ homography


_FUNCTIONS: Mapping[str, Callable[..., Iterable[Pixels]]] = {
    "gaussian_noise": _gaussian_noise,
    "shot_noise": _shot_noise,
    "motion_blur": _motion_blur,
    "zoom_blur": _zoom_blur,
    "snow": _snow,
    "brightness": _brightness,
    "translate": _translate,
    "rotate": _rotate,
    "tilt": _tilt,
    "scale": _scale,
}
