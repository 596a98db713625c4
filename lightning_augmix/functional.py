"""AugMix as functions: draw and apply, or apply a given plan."""

from collections.abc import Sequence
from typing import Any, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray

from lightning_augmix._compiling import runs_as_it_is
from lightning_augmix._images import Pixels, as_pixels
from lightning_augmix.engines import Engine, select_engine
from lightning_augmix.operations import AugmentationSet
from lightning_augmix.plans.audit import StandIn
from lightning_augmix.plans.hyperparameters import Hyperparameters, validate
from lightning_augmix.plans.keys import GeneratorKeys, fold_in
from lightning_augmix.plans.plan import AugMixPlan

__all__ = ["apply_plan", "augmented_by_keys", "augmix_image", "augmix_with_keys"]

_T = TypeVar("_T")
_MASK = 2**64 - 1


@runs_as_it_is
def augmix_image(
    img: _T,
    severity: float = 3,
    width: int = 3,
    depth: int = -1,
    alpha: float = 1.0,
    augmentation_set: AugmentationSet = "all",
    *,
    engine: str = "auto",
    generator: torch.Generator | None = None,
) -> _T:
    """Augments an image, or each image of a batch independently, with AugMix.

    ``width`` chains of random operations run in parallel on the image. Their results are mixed with random weights,
    and the mixture is mixed with the image. Source: Hendrycks et al., "AugMix: A Simple Data Processing Method to
    Improve Robustness and Uncertainty", ICLR 2020, https://arxiv.org/abs/1912.02781.

    Args:
        img: A PIL image of mode ``RGB`` or ``L``; a uint8 array ``[H, W]``, ``[H, W, 1]`` or ``[H, W, 3]``; a tensor
            or ``tv_tensors.Image`` ``[C, H, W]`` or a batch ``[N, C, H, W]``, with C of 1 or 3, of dtype uint8, or
            floating-point with values in [0, 1] (rounded to 256 levels). It is not modified.
        severity: See :class:`~lightning_augmix.AugmentAndMixTransform`.
        width: See there.
        depth: See there.
        alpha: See there.
        augmentation_set: See there.
        engine: See there.
        generator: The source of randomness; ``None`` for torch's default generator.

    Returns:
        The augmented image, of the type, dtype, shape and device of ``img``.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of range, or the mode, shape or values of ``img`` are not supported.

    Example:
        >>> image = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
        >>> augmix_image(image, severity=3, augmentation_set="safe").shape
        (24, 32, 3)
    """
    hyperparameters = validate(severity, width, depth, alpha, augmentation_set)
    if not isinstance(generator, torch.Generator | None):
        raise TypeError(f"Expected argument `generator` to be a torch.Generator or None; got {generator!r}.")
    return augmix_with_keys(img, [GeneratorKeys(generator).draw()], hyperparameters, engine)[0]


def augmix_with_keys(img: _T, keys: Sequence[int | StandIn], hyperparameters: Hyperparameters, engine: str) -> list[_T]:
    """Augments an image, or each image of a batch on its own, once for each key, as a pure function of the key.

    Args:
        img: As for :func:`augmix_image`.
        keys: 64-bit integers, into which the positions of a batch's images are folded; or what takes the place of the
            only key in an experiment, for the image itself or a changed one.
        hyperparameters: Validated hyperparameters.
        engine: As for :func:`augmix_image`.

    Returns:
        For each key the augmented image, of the type, dtype, shape and device of ``img``.
    """
    selected = select_engine(engine, img.device if isinstance(img, torch.Tensor) else None)
    pixels = as_pixels(img, on_device=selected.TAKES_TENSORS)
    levels = pixels.levels
    if keys[0] is StandIn.NEGATIVE:
        return [pixels.restore(255 - levels)]
    if keys[0] is StandIn.NEIGHBOUR:
        return [pixels.restore(levels ^ 1)]
    if isinstance(keys[0], StandIn) or hyperparameters.severity == 0:
        return [pixels.copy() for _ in keys]
    of_images = [key & _MASK for key in cast("Sequence[int]", keys)]
    if pixels.is_batch:
        of_images = [fold_in(key, position) for key in of_images for position in range(len(levels))]
    several = np.array(of_images, np.uint64).reshape(len(keys), len(levels))
    return augmented_by_keys(pixels, several, hyperparameters, selected)


def augmented_by_keys(
    pixels: Pixels[_T], keys: NDArray[np.uint64], hyperparameters: Hyperparameters, engine: Engine
) -> list[_T]:
    """Augments N images once for each of V rows of keys.

    Args:
        pixels: The images, as ``engine`` takes them.
        keys: uint64 ``[V, N]``.
        hyperparameters: Validated hyperparameters.
        engine: The engine.

    Returns:
        The images, V times.
    """
    levels = pixels.levels
    if len(keys) > 1:
        join: Any = torch.cat if isinstance(levels, torch.Tensor) else np.concatenate
        levels = join([levels] * len(keys))
    augmented = engine.augment(levels, keys.reshape(-1), hyperparameters)
    return [pixels.restore(each) for each in augmented.reshape(len(keys), *pixels.levels.shape)]


@runs_as_it_is
def apply_plan(img: _T, plan: AugMixPlan, engine: str = "auto") -> _T:
    """Applies a plan; deterministic, with the same bytes from every engine.

    Args:
        img: As for :func:`augmix_image`, of the size the plan was drawn for. A batch of plans needs a batch of equally
            many images.
        plan: The plan of one image, or of a batch.
        engine: As for :func:`augmix_image`.

    Returns:
        The augmented image, of the type, dtype, shape and device of ``img``.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If image and plan do not match, or there is no such engine.

    Example:
        >>> from lightning_augmix import sample_plan
        >>> image = np.full((2, 3), 128, np.uint8)
        >>> apply_plan(image, sample_plan(1, (2, 3), augmentation_set=["autocontrast"]))
        array([[128, 128, 128],
               [128, 128, 128]], dtype=uint8)
    """
    if not isinstance(plan, AugMixPlan):
        raise TypeError(f"Expected argument `plan` to be an AugMixPlan, from `sample_plan`; got {type(plan).__name__}.")
    selected = select_engine(engine, img.device if isinstance(img, torch.Tensor) else None)
    pixels = as_pixels(img, on_device=selected.TAKES_TENSORS)
    if plan.image_size != pixels.image_size:
        raise ValueError(
            f"Expected argument `plan` to be drawn for the size of `img`, (height, width) = {pixels.image_size}; got a "
            f"plan for {plan.image_size} (pass `image_size={pixels.image_size}` to `sample_plan`)."
        )
    given = len(plan) if plan.is_batch else None
    expected = len(pixels.levels) if pixels.is_batch else None
    if given != expected:
        one, many = "the plan of one image", "a batch of {} plans"
        raise ValueError(
            f"Expected argument `plan` to be {one if expected is None else many.format(expected)}, like `img`; got "
            f"{one if given is None else many.format(given)} (a batch of plans comes from an array of keys)."
        )
    return pixels.restore(selected.apply(pixels.levels, plan.as_batch()))
