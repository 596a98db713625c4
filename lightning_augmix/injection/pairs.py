"""Training images without and with AugMix, from the same random draws: for pictures."""

import copy
from itertools import islice
from typing import Any

import numpy as np
from torch.utils.data import IterableDataset

from lightning_augmix._errors import PlacementError
from lightning_augmix._randomness import RandomStates, generators_of
from lightning_augmix.injection.decide import ImageKey
from lightning_augmix.injection.entries import candidates, describe_entries, entries_of
from lightning_augmix.injection.loaders import inject
from lightning_augmix.injection.samples import field_of
from lightning_augmix.plans.hyperparameters import Hyperparameters
from lightning_augmix.transform import AugmentAndMixTransform

__all__ = ["pairs"]


def pairs(
    dataset: Any, transform: AugmentAndMixTransform, count: int, *, image_key: ImageKey | None = None
) -> tuple[list[Any], list[Any]]:
    """Makes images of a training dataset without and with AugMix, evenly spaced over it, or of an iterable the first.

    Random generators are left as they were.

    Args:
        dataset: See :func:`~lightning_augmix.augment_dataset`.
        transform: See there.
        count: Number of images, at least 1; fewer if there are fewer.
        image_key: See there.

    Returns:
        The clean images, and the augmented ones.

    Raises:
        PlacementError: See there.
    """
    states = RandomStates(generators_of(dataset))
    try:
        # Severity 0 changes nothing, and draws the same keys.
        clean = _images(dataset, _with(transform, transform.hyperparameters.with_severity(0.0)), count, image_key)
        states.restore()
        augmented = _images(dataset, _with(transform, transform.hyperparameters), count, image_key)
    finally:
        states.restore()
    return clean, augmented


def _with(transform: AugmentAndMixTransform, hyperparameters: Hyperparameters) -> AugmentAndMixTransform:
    changed = copy.copy(transform)
    changed.hyperparameters, changed.views, changed.on_device = hyperparameters, 0, False
    return changed


def _images(dataset: Any, transform: AugmentAndMixTransform, count: int, image_key: ImageKey | None) -> list[Any]:
    augmented = inject(dataset, transform, image_key=image_key).dataset
    if isinstance(augmented, IterableDataset):
        samples = list(islice(augmented, count))
    else:
        indices = np.linspace(0, len(augmented) - 1, min(count, len(augmented)))
        samples = [augmented[int(index)] for index in indices]
    return [_image(sample, image_key) for sample in samples if sample is not None]


def _image(sample: Any, image_key: ImageKey | None) -> Any:
    if image_key is not None:
        return field_of(sample, image_key)
    entries = entries_of(sample)
    pictures = candidates(entries)
    if not pictures:
        raise PlacementError(f"No entry of the sample is a picture:\n{describe_entries(entries)}")
    return pictures[0].value
