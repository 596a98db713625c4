"""AugMix applied to the samples that a dataset makes."""

import copy
import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from lightning_augmix._errors import PlacementError
from lightning_augmix.injection.decide import ImageKey
from lightning_augmix.injection.entries import Entry, candidates, is_other_picture
from lightning_augmix.transform import AugmentAndMixTransform

__all__ = ["augment_field", "augment_leaf", "field_of", "only_image", "position_of"]


def only_image(entries: Sequence[Entry]) -> Any:
    """The image of a sample, if there is one alone and it is still uint8.

    Args:
        entries: Those of the sample.

    Raises:
        PlacementError: If the sample has no image or several, or if the image is floating-point.
    """
    images = candidates(entries)
    if len(images) == 1:
        images += [entry for entry in entries if is_other_picture(entry, images[0])]
    if len(images) != 1:
        raise PlacementError(f"{len(images) or 'no'} entries of the sample may be images, and AugMix takes one")
    image = images[0].value
    if isinstance(image, torch.Tensor | np.ndarray) and image.dtype not in (torch.uint8, np.uint8):
        raise PlacementError(
            f"the image of the sample is {image.dtype}, and no transform that can be seen shows where it became so"
        )
    return image


def position_of(sample: Any, image: Any) -> int:
    """The position of an image among the leaves of a sample.

    Args:
        sample: Any nesting of tuples, lists and dicts.
        image: The image in it.

    Raises:
        PlacementError: If the image is within something else.
    """
    for position, leaf in enumerate(tree_leaves(sample)):
        if leaf is image:
            return position
    if isinstance(image, list | tuple):
        raise PlacementError("the images of a batch are a list, which has to be named")
    raise PlacementError("the image of the sample is neither in a tuple, nor in a list, nor in a dict")


def augment_leaf(sample: Any, position: int, transform: AugmentAndMixTransform) -> Any:
    """Returns a sample with its image augmented; the one given stays as it is.

    Args:
        sample: Any nesting of tuples, lists and dicts.
        position: The position of the image among its leaves.
        transform: AugMix.

    Raises:
        TypeError: If the image is of a kind AugMix does not take.
        ValueError: If its shape, mode or values are.
    """
    leaves, structure = tree_flatten(sample)
    leaves[position] = transform(leaves[position])
    return tree_unflatten(leaves, structure)


def field_of(sample: Any, image_key: ImageKey) -> Any:
    """The field of a sample that a key or position names.

    Args:
        sample: A dictionary, list, tuple or named tuple.
        image_key: The key or position.

    Raises:
        PlacementError: If the sample has no such field.
    """
    try:
        return sample[image_key]
    except (LookupError, TypeError):
        pass
    if isinstance(sample, Mapping):
        kind, keys = f"keys {list(sample)}", list(sample)
    else:
        kind, keys = (
            f"type {type(sample).__name__}",
            list(range(len(sample))) if isinstance(sample, list | tuple) else [],
        )
    images = [key for key in keys if Entry("", (str(key),), sample[key]).may_be_image]
    close = difflib.get_close_matches(str(image_key), [key for key in images if isinstance(key, str)], 1)
    meant = close or (images if len(images) == 1 else [])
    hint = f" (did you mean {meant[0]!r}?)" if meant else ""
    raise PlacementError(f"the sample has no field `image_key={image_key!r}`, it is of {kind}{hint}")


def augment_field(sample: Any, transform: AugmentAndMixTransform, image_key: ImageKey) -> Any:
    """Returns a sample with the image in one field augmented; the one given stays as it is.

    Args:
        sample: A dictionary, list, tuple or named tuple.
        transform: AugMix.
        image_key: The field's key or position; a list of images is augmented image by image.

    Raises:
        PlacementError: If the sample has no such field.
        TypeError: If the field is no image.
        ValueError: If the field is an image of a kind AugMix does not take, or the sample has what it would not fit.
    """
    field = field_of(sample, image_key)
    transform.check_inputs(tree_leaves(sample))
    changed: Any = list(sample) if isinstance(sample, tuple) else copy.copy(sample)
    is_list = isinstance(field, list | tuple) and not hasattr(field, "_fields")
    changed[image_key] = type(field)(map(transform, field)) if is_list else transform(field)
    if not isinstance(sample, tuple):
        return changed
    return type(sample)(*changed) if hasattr(sample, "_fields") else tuple(changed)
