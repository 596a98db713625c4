"""Datasets that answer for their samples: each has been through AugMix, once."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeAlias, TypeVar

import numpy as np
import PIL.Image
import torch
from torch.utils._pytree import tree_leaves
from torch.utils.data import Dataset

from lightning_augmix._errors import OnUnsupported, PlacementError, refuse
from lightning_augmix._images import may_be_image
from lightning_augmix.injection.copies import OURS, copy_dataset
from lightning_augmix.plans.keys import KeySource
from lightning_augmix.transform import AugmentAndMixTransform

__all__ = [
    "BY_HAND",
    "Announced",
    "Augmented",
    "ImageKey",
    "SampleMaker",
    "answering",
    "augment_field",
    "augment_sample",
    "check_image_key",
]

_D = TypeVar("_D")

#: Where the image is in a sample: the key in a dictionary, or the position in a tuple or list.
ImageKey: TypeAlias = int | str


def check_image_key(image_key: Any) -> None:
    """Refuses what is no key or position.

    Args:
        image_key: What was given.

    Raises:
        TypeError: If it is neither a string, nor an integer, nor ``None``.
    """
    if not isinstance(image_key, int | str | None) or isinstance(image_key, bool):
        raise TypeError(
            "Expected argument `image_key` to be the key (a string) or position (an integer) of the image in a "
            f"sample, or None; got {image_key!r}."
        )


def augment_sample(sample: Any, transform: AugmentAndMixTransform) -> Any:
    """Augments the image of a sample, if there is one alone and it is still uint8.

    Args:
        sample: Any nesting of tuples, lists and dicts.
        transform: The transform to apply.

    Returns:
        The sample with its image augmented; the one given stays as it is.

    Raises:
        PlacementError: If the sample has no image or several, or if the image is floating-point.
        ValueError: If the image is of a kind AugMix does not take.
    """
    images = [entry for entry in tree_leaves(sample) if may_be_image(entry) or _is_float_array(entry)]
    if len(images) != 1:
        raise PlacementError(f"{len(images) or 'no'} entries of the sample may be images, and AugMix takes one")
    image = images[0]
    if not isinstance(image, PIL.Image.Image) and image.dtype not in (torch.uint8, np.uint8):
        raise PlacementError(
            f"the image of the sample is {image.dtype}, and no transform that can be seen shows where it became so"
        )
    return transform(sample)


def _is_float_array(entry: Any) -> bool:
    return isinstance(entry, np.ndarray) and entry.ndim == 3 and np.issubdtype(entry.dtype, np.floating)


def augment_field(sample: Any, transform: AugmentAndMixTransform, image_key: ImageKey) -> Any:
    """Augments the image in one field of a sample.

    Args:
        sample: A dictionary, list, tuple or named tuple.
        transform: The transform to apply.
        image_key: The field's key or position.

    Returns:
        The sample with the field augmented; the one given stays as it is.

    Raises:
        PlacementError: If the sample has no such field.
        TypeError: If the field is no image.
        ValueError: If the field is an image of a kind AugMix does not take.
    """
    try:
        field = sample[image_key]
    except (LookupError, TypeError):
        kind = f"keys {list(sample)}" if isinstance(sample, dict) else f"type {type(sample).__name__}"
        raise PlacementError(f"the sample has no field `image_key={image_key!r}`, it is of {kind}") from None
    transform.check_inputs(tree_leaves(sample))
    changed: Any = list(sample) if isinstance(sample, tuple) else copy.copy(sample)
    changed[image_key] = transform(field)
    if not isinstance(sample, tuple):
        return changed
    return type(sample)(*changed) if hasattr(sample, "_fields") else tuple(changed)


class SampleMaker(Protocol):
    """Stands between a dataset and what it makes its samples with."""

    @property
    def keys(self) -> KeySource:
        """Is told which sample is being made."""

    def make(self, index: Any, load: Callable[[], Any]) -> Any:
        """Makes the sample of an index; ``None`` for the next of an iterable dataset."""


@dataclass(frozen=True)
class Announced:
    """Sees to it that each sample is augmented by the AugMix that the user put in by hand.

    Attributes:
        keys: The keys of that AugMix.
        on_unsupported: Whether a sample that was made without it is an error or a warning.
    """

    keys: KeySource
    on_unsupported: OnUnsupported

    def make(self, index: Any, load: Callable[[], Any]) -> Any:
        """Makes the sample of an index.

        Args:
            index: The index that the loader asks the dataset for; iterable datasets have none, and may read ahead.
            load: Makes the sample in the dataset's own way.

        Returns:
            The sample.

        Raises:
            PlacementError: If it was made without AugMix.
        """
        with self.keys.sample(index) as made:
            sample = load()
            if index is not None and made.drawn == 0:
                refuse(f"a sample was made without it. {BY_HAND}", self.on_unsupported)
            return sample


#: What `inject=False` asks of the user.
BY_HAND = (
    "With `inject=False` the callback's `transform` is yours to apply: put the object itself (`callback.transform`) "
    "into the transforms of all training data, or leave out `inject=False`."
)


@dataclass(frozen=True)
class Augmented:
    """Sees to it that each sample is augmented.

    Attributes:
        transform: The AugMix that is in the dataset's transforms, or that is applied to the samples.
        apply: Applies it to a sample; ``None`` if it is in the dataset's transforms.
        remedy: What to write instead where it cannot be applied for certain.
        on_unsupported: Whether that is an error, or a warning and the sample stays as it is.
    """

    transform: AugmentAndMixTransform
    apply: Callable[[Any, AugmentAndMixTransform], Any] | None
    remedy: str
    on_unsupported: OnUnsupported

    @property
    def keys(self) -> KeySource:
        """Is told which sample is being made."""
        return self.transform.keys

    def make(self, index: Any, load: Callable[[], Any], drawn: int | None = None) -> Any:
        """Makes the sample of an index.

        Args:
            index: The index that the loader asks the dataset for.
            load: Makes the sample in the dataset's own way.
            drawn: Keys that had been drawn before the dataset could begin; ``None`` for those drawn now.

        Returns:
            The sample, augmented.

        Raises:
            PlacementError: If it is not certain that the image was augmented once.
        """
        drawn = self.keys.drawn if drawn is None else drawn
        with self.keys.sample(index) as made:
            sample = load()
            try:
                if made.foreign:
                    raise PlacementError("the dataset applies AugMix itself, and applying it twice is not AugMix")
                if self.apply is not None:
                    return self.apply(sample, self.transform)
                # Not `made.drawn`: the dataset may transform in a thread of its own.
                if self.keys.drawn == drawn:
                    raise PlacementError(
                        "a sample was made without it, because the dataset does not call the transform it holds (it "
                        "may keep a reference to the original, or a cache of transformed samples)"
                    )
            except (TypeError, ValueError) as error:
                cause = None if isinstance(error, PlacementError) else error
                refuse(f"{str(error).removesuffix('.')}.\n{self.remedy}", self.on_unsupported, cause)
            return sample


def answering(dataset: _D, maker: SampleMaker) -> _D:
    """Returns a copy of a dataset that makes its samples through a :class:`SampleMaker`.

    It is an instance of the dataset's type, of a subclass made for it, because the loader, a ``worker_init_fn`` and
    the user's own code have to find in it what they find in the dataset.

    Args:
        dataset: A map-style or iterable dataset.
        maker: What its samples are made through.

    Returns:
        The copy.

    Raises:
        PlacementError: If the type does not allow it.
    """
    copied = copy_dataset(dataset, _answering)
    vars(copied)[_MAKER] = maker
    return copied


_MAKER = f"{OURS}sample_maker"


def _answering(cls: Any) -> dict[str, Any]:
    has_getitem = getattr(cls, "__getitem__", None) not in (None, Dataset.__getitem__)

    def load(self: Any, index: Any) -> Any:
        return cls.__getitem__(self, index) if has_getitem else cls.__getitems__(self, [index])[0]

    # A dataset may answer for one sample with others of its own, for instance where a file cannot be read.

    def __getitem__(self: Any, index: Any) -> Any:  # noqa: N807
        maker = vars(self)[_MAKER]
        if maker.keys.is_making_sample():
            return load(self, index)
        return maker.make(index, partial(load, self, index))

    def __getitems__(self: Any, indices: Any) -> Any:  # noqa: N807
        if vars(self)[_MAKER].keys.is_making_sample():
            return cls.__getitems__(self, indices)
        return [self[index] for index in indices]

    def __iter__(self: Any) -> Any:  # noqa: N807
        maker = vars(self)[_MAKER]
        # An iterable dataset may read ahead, and may make several samples of one image: one key by the first sample.
        make = partial(maker.make, drawn=maker.keys.drawn) if isinstance(maker, Augmented) else maker.make
        iterator = cls.__iter__(self)
        while True:
            try:
                sample = make(None, partial(next, iterator))
            except StopIteration:
                return
            yield sample

    methods = {"__getitem__": __getitem__, "__getitems__": __getitems__, "__iter__": __iter__}
    return {name: method for name, method in methods.items() if name == "__getitem__" or hasattr(cls, name)}
