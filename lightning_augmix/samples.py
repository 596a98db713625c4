"""Datasets that answer for their samples: each has been through AugMix, once."""

import copy
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Literal, Protocol, TypeAlias, TypeVar

import numpy as np
import PIL.Image
import torch
from torch.utils._pytree import tree_leaves

from lightning_augmix.dataset_copy import copy_dataset
from lightning_augmix.keys import KeySource
from lightning_augmix.pipeline import PlacementError
from lightning_augmix.transform import AugmentAndMixTransform, may_be_image

__all__ = [
    "Announced",
    "Augmented",
    "ImageKey",
    "OnUnsupported",
    "SampleMaker",
    "answering",
    "augment_field",
    "augment_sample",
    "check_image_key",
]

_D = TypeVar("_D")

#: Where the image is in a sample: the key in a dictionary, or the position in a tuple or list.
ImageKey: TypeAlias = int | str

#: What happens where AugMix cannot be placed for certain.
OnUnsupported: TypeAlias = Literal["raise", "warn"]


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
    images = [entry for entry in tree_leaves(sample) if may_be_image(entry)]
    if len(images) != 1:
        raise PlacementError(f"{len(images) or 'no'} entries of the sample may be images, and AugMix takes one")
    image = images[0]
    if not isinstance(image, PIL.Image.Image) and image.dtype not in (torch.uint8, np.uint8):
        raise PlacementError(
            f"the image of the sample is {image.dtype}, and no transform that can be seen shows where it became so"
        )
    return transform(sample)


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

    def make(self, index: Any, load: Callable[[], Any]) -> Any:
        """Makes the sample of an index."""

    def iterate(self, start: Callable[[], Iterator[Any]]) -> Iterator[Any]:
        """Makes the samples of an iterable dataset."""


@dataclass
class Announced:
    """Announces the index of each sample to the keys of AugMix.

    Attributes:
        keys: The keys.
    """

    keys: KeySource

    def make(self, index: Any, load: Callable[[], Any]) -> Any:
        """Makes the sample of an index."""
        if self.keys.is_making_sample():
            return load()
        with self.keys.sample(index):
            return load()

    def iterate(self, start: Callable[[], Iterator[Any]]) -> Iterator[Any]:
        """Makes the samples of an iterable dataset, which have no index."""
        return start()


@dataclass
class Augmented:
    """Sees to it that each sample is augmented, once.

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

    def make(self, index: Any, load: Callable[[], Any]) -> Any:
        """Makes the sample of an index.

        Args:
            index: The index that the loader asks the dataset for.
            load: Makes the sample in the dataset's own way.

        Returns:
            The sample, augmented.

        Raises:
            PlacementError: If it is not certain that the image was augmented once.
        """
        keys = self.transform.keys
        # A dataset may answer for one sample with another of its own, for instance where a file cannot be read.
        return load() if keys.is_making_sample() else self._checked(index, load, keys.drawn)

    def iterate(self, start: Callable[[], Iterator[Any]]) -> Iterator[Any]:
        """Makes the samples of an iterable dataset.

        It may have read ahead, and may make several samples of one image, so one key has to be drawn by the first.

        Args:
            start: Makes the dataset's own iterator.

        Yields:
            The samples, augmented.

        Raises:
            PlacementError: If it is not certain that the images were augmented once.
        """
        drawn = self.transform.keys.drawn
        iterator = start()
        while True:
            try:
                sample = self._checked(None, partial(next, iterator), drawn)
            except StopIteration:
                return
            yield sample

    def _checked(self, index: Any, load: Callable[[], Any], drawn: int) -> Any:
        keys = self.transform.keys
        with keys.sample(index) as made:
            sample = load()
            try:
                if made.foreign:
                    raise PlacementError("the dataset applies AugMix itself, and applying it twice is not AugMix")
                if self.apply is not None:
                    return self.apply(sample, self.transform)
                # Not `made.drawn`: the dataset may transform in a thread of its own.
                if keys.drawn == drawn:
                    raise PlacementError(
                        "a sample was made without it, because the dataset does not call the transform it holds (it "
                        "may keep a reference to the original, or a cache of transformed samples)"
                    )
            except (TypeError, ValueError) as error:
                self._refuse(error)
            return sample

    def _refuse(self, error: Exception) -> None:
        message = f"AugMix was not applied: {str(error).removesuffix('.')}.\n{self.remedy}"
        if self.on_unsupported == "raise":
            raise PlacementError(message) from (None if isinstance(error, PlacementError) else error)
        warnings.warn(message, stacklevel=2)


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
    copied = copy_dataset(dataset)
    vars(copied)[_MAKER] = maker
    cls: Any = type(dataset)
    copied.__class__ = _answering_class(cls)
    return copied


_MAKER = "_augmix_sample_maker"


@cache
def _answering_class(cls: Any) -> Any:
    def __getitem__(self: Any, index: Any) -> Any:  # noqa: N807
        return vars(self)[_MAKER].make(index, partial(cls.__getitem__, self, index))

    def __iter__(self: Any) -> Any:  # noqa: N807
        return vars(self)[_MAKER].iterate(partial(cls.__iter__, self))

    def __reduce_ex__(self: Any, protocol: Any) -> Any:  # noqa: N807
        # The type made here cannot be imported by a worker process; the dataset's own can, in its own way.
        plain = copy_dataset(self)
        plain.__class__ = cls
        return answering, (plain, vars(plain).pop(_MAKER))

    # `__getitems__` would make several samples in one call; loaders take None for a dataset that has none.
    namespace: dict[str, Any] = {"__getitem__": __getitem__, "__getitems__": None, "__reduce_ex__": __reduce_ex__}
    if hasattr(cls, "__iter__"):
        namespace["__iter__"] = __iter__
    namespace |= {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__slots__": ()}
    return type(cls.__name__, (cls,), namespace)
