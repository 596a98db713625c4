"""The reference engine: applies each operation with the Pillow function that defines it."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps

from lightning_augmix.plans.hyperparameters import Hyperparameters, validate
from lightning_augmix.plans.plan import AugMixPlan, Chain, draw_plan

__all__ = ["TAKES_TENSORS", "apply", "augment", "mix", "warm_up"]

TAKES_TENSORS = False


def warm_up(announce: Callable[[], None] = lambda: None) -> None:
    """Compiles the sampler, or loads its machine code from disk.

    Args:
        announce: Never called: this takes a second or two.
    """
    draw_plan(0, (1, 1), validate(3, 3, -1, 1.0, "all"))


def apply(images: NDArray[np.uint8], plan: AugMixPlan) -> NDArray[np.uint8]:
    """Applies a batch of plans, one to each image, with Pillow or Pillow-SIMD.

    Args:
        images: uint8 ``[N, H, W]``, ``[N, H, W, 3]``, or ``[N, H, W, 4]`` with padding; C-contiguous.
        plan: A batch of N plans for that size.

    Returns:
        The augmented images, a new array of the same shape.
    """
    augmented = images.copy()
    for image, target, one in zip(images, augmented, plan, strict=True):
        if one.mixing_weight != 0:
            original = _as_pil(image)
            chains = (np.asarray(_run(original, chain)) for chain in one.chains)
            # The results of the chains have no padding.
            colors = ... if image.ndim == 2 else np.s_[..., :3]
            target[colors] = mix(image[colors], chains, one.weights)
    return augmented


def augment(images: NDArray[np.uint8], keys: NDArray[np.uint64], hyperparameters: Hyperparameters) -> NDArray[np.uint8]:
    """Draws a plan for each image and applies it.

    Args:
        images: As for :func:`apply`.
        keys: uint64 ``[N]``.
        hyperparameters: Validated hyperparameters.

    Returns:
        As for :func:`apply`.
    """
    return apply(images, draw_plan(keys, images.shape[1:3], hyperparameters))


def mix(
    image: NDArray[np.uint8], chains: Iterable[NDArray[np.uint8]], weights: NDArray[np.float32]
) -> NDArray[np.uint8]:
    """Computes ``(1 − m)·image + m·Σ wᵢ·chainᵢ`` in float32, rounded to nearest (ties to even).

    Rounding, where other implementations truncate, keeps a constant image constant. Products and sums are evaluated in
    the order written, so that every engine can produce the same bytes.

    Args:
        image: uint8, any shape.
        chains: The image after each chain, uint8, of the same shape.
        weights: float32 ``[1 + number of chains]``: m, then w₁, w₂, …

    Returns:
        The mixed image, uint8, of the same shape.
    """
    mixing_weight, *chain_weights = weights
    mixed = np.zeros(image.shape, np.float32)
    for chain, weight in zip(chains, chain_weights, strict=True):
        mixed += weight * chain.astype(np.float32)
    mixed *= mixing_weight
    mixed += (np.float32(1) - mixing_weight) * image.astype(np.float32)
    return np.clip(np.rint(mixed, out=mixed), 0, 255, out=mixed).astype(np.uint8)


def _as_pil(image: NDArray[np.uint8]) -> Image.Image:
    if image.ndim == 3 and image.shape[2] == 4:
        return Image.frombytes("RGB", (image.shape[1], image.shape[0]), image, "raw", "RGBX")
    return Image.fromarray(image)


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
