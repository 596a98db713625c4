"""Views of a training image for the consistency loss: the clean one, and independent augmentations of it.

Within a dataset the views of an image travel together as one opaque object, so that the image is decoded and cropped
once. The steps after AugMix are applied to each view, with the same random draws for every view.
"""

import copy
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
import PIL.Image
import PIL.ImageOps
import torch
from torch import nn
from torch.utils import _pytree as pytree

from lightning_augmix._checks import integer
from lightning_augmix._randomness import replays

__all__ = [
    "EachView",
    "Views",
    "check_views",
    "copied",
    "differ",
    "entries_of_views",
    "inverted",
    "joined",
    "leaves_and_structure",
]

_UNCHANGED = (
    "With `views`, the dataset must put what its transforms return into the sample unchanged: it holds all views of an "
    "image. Do everything else in the transforms that AugMix is inserted into, or in the collate function."
)


def check_views(views: Any) -> int:
    """Checks a number of augmented views.

    Args:
        views: What was given.

    Returns:
        The number.

    Raises:
        TypeError: If it is no integer.
        ValueError: If it is negative.
    """
    return integer("views", views, at_least=0, remedy="the paper has 2")


class Views:
    """The views of one image, or of what became of it; nothing but this package can look into it.

    Args:
        images: The clean view, then the augmented ones.
        conversion: What is still to be done to each of them: a function, with a method ``batch`` for many at once and
            the ``kind`` of what it makes.
    """

    __slots__ = ("conversion", "unconverted")

    def __init__(self, images: Sequence[Any], conversion: Any = None) -> None:
        self.unconverted = tuple(images)
        self.conversion = conversion

    @property
    def images(self) -> tuple[Any, ...]:
        """The images, converted anew each time."""
        return self.unconverted if self.conversion is None else tuple(map(self.conversion, self.unconverted))

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"`{name}` was asked of several views of an image. {_UNCHANGED}")


def _refuse(*_: Any) -> NoReturn:
    raise TypeError(_UNCHANGED)


# torchvision's v2 transforms flatten samples in this way, and hand on what they do not know without a word.
pytree.register_pytree_node(Views, _refuse, _refuse)


def leaves_and_structure(sample: Any) -> tuple[list[Any], pytree.TreeSpec]:
    """The entries of a sample, views of an image as one of them.

    Args:
        sample: Any nesting of tuples, lists and dicts.

    Returns:
        The entries, and what puts them together again by torch's ``tree_unflatten``.
    """
    return pytree.tree_flatten(sample, is_leaf=lambda entry: isinstance(entry, Views))


def entries_of_views(entries: Sequence[Any]) -> list[list[Any]]:
    """The entries of a sample for each view: its images, and all else, in copies that may be changed in place.

    Args:
        entries: The entries of a sample, views of an image among them.
    """
    images = [entry.images if isinstance(entry, Views) else None for entry in entries]
    count = max(len(views) for views in images if views is not None)
    copies = [
        copy.deepcopy([None if isinstance(entry, Views) else entry for entry in entries]) for _ in range(1, count)
    ]
    return [
        [own if views is None else views[view] for views, own in zip(images, others, strict=True)]
        for view, others in enumerate([entries, *copies])
    ]


def inverted(image: Any) -> Any:
    """The negative of an image; ``None`` for what is no image.

    Args:
        image: A PIL image, array or tensor.
    """
    if isinstance(image, PIL.Image.Image):
        return PIL.ImageOps.invert(image)
    if isinstance(image, torch.Tensor | np.ndarray):
        return (255 if image.dtype in (torch.uint8, np.uint8) else 1) - image
    return None


def copied(image: Any) -> Any:
    """A copy of an image, with memory of its own.

    Args:
        image: A PIL image, array or tensor.
    """
    return image.clone() if isinstance(image, torch.Tensor) else image.copy()


def differ(first: Any, second: Any) -> bool:
    """Whether two entries of samples or batches differ, missing values and what cannot be compared aside.

    Args:
        first: A tensor, array, image, or anything else.
        second: Another.
    """
    if first is second:
        return False
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        if first.shape != second.shape or first.dtype != second.dtype:
            return True
        return not torch.equal(first, second) and bool(((first != second) & ~(first.isnan() & second.isnan())).any())
    if isinstance(first, np.ndarray | PIL.Image.Image):
        arrays = np.asarray(first), np.asarray(second)
        return not np.array_equal(*arrays, equal_nan=arrays[0].dtype.kind in "fc")
    equals: Any = type(first).__eq__
    if equals is object.__eq__:  # an object is equal to itself alone then, not to its copy
        return type(first) is not type(second)
    try:
        return not bool(first == second) and bool(first == first)
    except (TypeError, ValueError, RuntimeError):
        return False


class EachView(nn.Module):
    """Applies a step to each view of an image, with the same random draws.

    Args:
        step: What torchvision's containers take as a step, or a container.
        draws: Whether it may draw random numbers.
        may_wait: Whether it is a conversion that may be done when the batch is made, see :class:`Views`.
    """

    def __init__(self, step: Any, *, draws: bool = True, may_wait: bool = False) -> None:
        super().__init__()
        self.step = step
        self.draws = draws
        self.may_wait = may_wait

    def forward(self, *inputs: Any) -> Any:
        """Applies the step to an image or a sample; one without views is passed to it directly.

        Raises:
            TypeError: If the step does not return its entries where it took them.
        """
        if len(inputs) == 1 and isinstance(inputs[0], Views):
            images = inputs[0].images
            if self.may_wait and (conversion := self.step.later(images)) is not None:
                # The clean image is the dataset's own, which may change or close it.
                return Views([copied(images[0]), *images[1:]], conversion)
            samples, is_image = [(image,) for image in images], [True]
        else:
            entries, structure = leaves_and_structure(inputs)
            is_image = [isinstance(entry, Views) for entry in entries]
            if not any(is_image):
                return self.step(*inputs)
            samples = [pytree.tree_unflatten(own, structure) for own in entries_of_views(entries)]
        # Random states are left alone where they do not matter: to set them back costs more than a small image's steps.
        order = replays(len(samples)) if self.draws else range(len(samples))
        made = [self.step(*samples[view]) for view in order]
        if is_image == [True] and all(isinstance(each, torch.Tensor | np.ndarray | PIL.Image.Image) for each in made):
            return Views(made)
        return joined(made, is_image)


def joined(samples: list[Any], is_image: list[bool]) -> Any:
    """One sample of several that differ in their images, which become :class:`Views`.

    Args:
        samples: The sample for each view, the clean one first.
        is_image: Which of the entries are images.

    Raises:
        TypeError: If other entries differ, or the numbers of entries do.
    """
    all_leaves, structures = zip(*map(pytree.tree_flatten, samples), strict=True)
    if len(all_leaves[0]) != len(is_image):
        raise TypeError(
            f"With `views`, the steps after AugMix must return as many entries as they take: they took "
            f"{len(is_image)} and returned {len(all_leaves[0])}."
        )
    for position, joins in enumerate(is_image):
        if not joins and any(differ(all_leaves[0][position], other[position]) for other in all_leaves[1:]):
            raise TypeError(
                "With `views`, the steps after AugMix must keep the entries of a sample in their order, and "
                f"draw from global generators only: entry {position} is not an image where they take it, and differs "
                "between the views where they return it."
            )
    entries = [
        Views(entries) if joins else entries[0]
        for entries, joins in zip(zip(*all_leaves, strict=True), is_image, strict=True)
    ]
    return pytree.tree_unflatten(entries, structures[0])
