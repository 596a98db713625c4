"""The reference engine: one image at a time, every operation by the Pillow function that defines it."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps

from lightning_augmix.mixing import mix
from lightning_augmix.plan import AugMixPlan, Chain

__all__ = ["apply"]


def apply(image: NDArray[np.uint8], plan: AugMixPlan) -> NDArray[np.uint8]:
    """Applies the plan of one image with Pillow or Pillow-SIMD.

    Args:
        image: uint8 ``[H, W]`` or ``[H, W, 3]``, C-contiguous.
        plan: The plan of one image of that size.

    Returns:
        The augmented image, a new array of the same shape.
    """
    if plan.mixing_weight == 0:
        return image.copy()
    original = Image.fromarray(image)
    chains = (np.asarray(_run(original, chain)) for chain in plan.chains)
    return mix(image, chains, plan.weights)


def _run(image: Image.Image, chain: Chain) -> Image.Image:
    for name, parameter in chain:
        image = _APPLY[name](image, parameter)
    return image


def _affine(image: Image.Image, *matrix: float) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix, resample=Image.Resampling.BILINEAR)


def _enhance(enhancer: Callable[[Image.Image], Any]) -> Callable[[Image.Image, Any], Image.Image]:
    def enhanced(image: Image.Image, factor: float) -> Image.Image:
        result: Image.Image = enhancer(image).enhance(factor)
        return result

    return enhanced


_ENHANCE = {
    "color": _enhance(ImageEnhance.Color),
    "contrast": _enhance(ImageEnhance.Contrast),
    "brightness": _enhance(ImageEnhance.Brightness),
    "sharpness": _enhance(ImageEnhance.Sharpness),
}

_APPLY: Mapping[str, Callable[[Image.Image, Any], Image.Image]] = {
    "autocontrast": lambda image, _: ImageOps.autocontrast(image),
    "equalize": lambda image, _: ImageOps.equalize(image),
    "posterize": lambda image, bits: ImageOps.posterize(image, bits),
    "solarize": lambda image, threshold: ImageOps.solarize(image, threshold),
    "rotate": lambda image, degrees: image.rotate(degrees, resample=Image.Resampling.BILINEAR),
    "shear_x": lambda image, factor: _affine(image, 1, factor, 0, 0, 1, 0),
    "shear_y": lambda image, factor: _affine(image, 1, 0, 0, factor, 1, 0),
    "translate_x": lambda image, pixels: _affine(image, 1, 0, pixels, 0, 1, 0),
    "translate_y": lambda image, pixels: _affine(image, 1, 0, 0, 0, 1, pixels),
    **_ENHANCE,
    **{f"{name}_original": enhance for name, enhance in _ENHANCE.items()},
}
