"""Batches of views: ``[(1 + views) · N, C, H, W]``, all clean images first, then all first views, and so on.

N is what the user's collate function leaves of the samples: it may drop some.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import PIL.Image
import torch
from torch.utils import _pytree as pytree
from torch.utils.data import default_collate
from torch.utils.data._utils.collate import collate, default_collate_fn_map

from lightning_augmix._errors import OnUnsupported, refuse
from lightning_augmix._images import may_be_image
from lightning_augmix._randomness import replays
from lightning_augmix._views import Views, differ, entries_of_views, inverted, leaves_and_structure

__all__ = ["CollateViews"]

_Path: TypeAlias = tuple[Any, ...]
_AreImages: TypeAlias = Callable[[Sequence[Any]], bool]
_Parts: TypeAlias = dict[_Path, Any]


class CollateViews:
    """Collates the samples of each view with the user's function, and joins the images of the batches.

    What follows from the images is found by trying; all else, targets for instance, is that of the clean batch. The
    random draws of the function (of torch's, NumPy's and Python's global generators) are the same for every view.

    Args:
        collate: The user's function.
        views: Number of augmented views, at least 1.
        takes_list: Whether it takes a list of samples, rather than a batch that the dataset made.
        on_unsupported: Whether samples without views are an error, or a warning.
    """

    def __init__(
        self, collate: Callable[[Any], Any], views: int, *, takes_list: bool, on_unsupported: OnUnsupported
    ) -> None:
        self.collate = collate
        self.views = views
        self.takes_list = takes_list
        self.on_unsupported = on_unsupported
        self._images: dict[frozenset[_Path], set[_Path]] = {}  # by the structure of the batch

    def __call__(self, samples: Any) -> Any:
        """Makes a batch.

        Args:
            samples: A list of samples, ``None`` for those that the dataset does not have, or a batch.

        Returns:
            The batch, its tensors of images ``[(1 + views) · N, …]``, its lists of images as much longer.

        Raises:
            PlacementError: If a sample came without views.
            TypeError: If the images of the batch cannot be told, are no tensors of N images, or are not as many for
                every view.
        """
        listed = samples if self.takes_list else [samples]
        flat = [leaves_and_structure(sample) for sample in listed]
        has_views = [any(isinstance(entry, Views) for entry in entries) for entries, _ in flat]
        if not all(has or sample is None for has, sample in zip(has_views, listed, strict=True)):
            refuse(
                "a sample has lost the views of its image, because its dataset does not put them into the tuple, list "
                "or dict as they are. Let the transforms do all that is done to the image, or leave out `views`.",
                self.on_unsupported,
            )
        if not any(has_views):
            return self.collate(samples)
        counts = {tuple(len(e.unconverted) if isinstance(e, Views) else 0 for e in entries) for entries, _ in flat}
        if self.collate is default_collate and len(counts) == 1 and set(*counts) <= {0, 1 + self.views}:
            return collate(samples, collate_fn_map={**default_collate_fn_map, Views: _collate_views})
        entries_of = [
            entries_of_views(entries) if has else [entries] for (entries, _), has in zip(flat, has_views, strict=True)
        ]
        samples_of = [
            [
                pytree.tree_unflatten(own[min(view, len(own) - 1)], structure)
                for own, (_, structure) in zip(entries_of, flat, strict=True)
            ]
            for view in range(1 + self.views)
        ]
        # Copied now, because the user's function may change a sample in place.
        copies = [[e if isinstance(e, Views) else copy.deepcopy(e) for e in entries] for entries, _ in flat]

        def with_other_images() -> list[Any]:
            return [
                pytree.tree_unflatten([_altered(e) if isinstance(e, Views) else e for e in entries], structure)
                for entries, (_, structure) in zip(copies, flat, strict=True)
            ]

        given = [entry.images[0] for entries, _ in flat for entry in entries if isinstance(entry, Views)]
        count = len(listed) if self.takes_list else None
        are_images = partial(_are_images, count=count, dimensions=max(map(_dimensions, given)))

        def collated(samples: list[Any]) -> tuple[Any, _Parts]:
            batch = self.collate(samples if self.takes_list else samples[0])
            return batch, dict(_parts(batch, are_images))

        clean, of_views, images = None, list[_Parts](), set[_Path]()
        for number in replays(2 + self.views):
            if number > self.views:
                images = self._images_among(of_views[0], lambda: collated(with_other_images())[1])
                continue
            batch, parts = collated(samples_of[number])
            clean = batch if number == 0 else clean
            of_views.append(parts)
            if _lengths(parts) != _lengths(of_views[0]):
                raise TypeError(
                    "With `views`, the collate function must return batches of one structure and length for every "
                    "view: if it drops samples, what it drops must not depend on the image."
                )
        if all(length == 0 for length in _lengths(of_views[0]).values()):
            return clean
        return _replaced(clean, _joined(of_views, images, count))

    def _images_among(self, parts: _Parts, with_other_images: Callable[[], _Parts]) -> set[_Path]:
        """Where other images make a difference; the views themselves may all be equal."""
        structure = frozenset(parts)
        if structure not in self._images:
            try:
                others = with_other_images()
            except Exception:  # whatever is raised, for instance by a function that drops all of them
                return set()
            if _lengths(others) != _lengths(parts):
                return set()
            images = {path for path in parts if _differ(parts[path], others[path])}
            if not images:
                return images
            self._images[structure] = images
        return self._images[structure]


def _collate_views(batch: list[Views], *, collate_fn_map: Any) -> Any:
    """Collates an entry that is an image in every sample, all clean ones first, as torch's own function does."""
    conversion = batch[0].conversion
    if conversion is not None and all(entry.conversion is conversion for entry in batch):
        together = conversion.batch(
            [image for views in zip(*(e.unconverted for e in batch), strict=True) for image in views]
        )
        if together is not None:
            return together
    images = [view for views in zip(*(entry.images for entry in batch), strict=True) for view in views]
    collated = collate(images, collate_fn_map=collate_fn_map)
    if not isinstance(collated, list):
        _check_batches([collated], len(batch))
    return collated


def _joined(of_views: list[_Parts], images: set[_Path], count: int | None) -> _Parts:
    clean = of_views[0]
    changed = {path for path in clean.keys() - images if any(_differ(clean[path], p[path]) for p in of_views[1:])}
    if not images | changed:
        raise TypeError(f"{_EXPECTED}; got a batch of {', '.join(type(part).__name__ for part in clean.values())}.")
    return {path: _concatenated([parts[path] for parts in of_views], count) for path in images | changed}


_EXPECTED = (
    "With `views`, the collate function must return the images as a tensor [N, C, H, W], or as a list of N images, "
    "within tuples, lists and dicts, and everything else alike for every view (without generators of its own)"
)


def _parts(batch: Any, are_images: _AreImages, path: _Path = ()) -> Iterator[tuple[_Path, Any]]:
    """What a batch consists of, a list of images as one part."""
    if isinstance(batch, Mapping):
        for key in batch:
            yield from _parts(batch[key], are_images, (*path, key))
    elif isinstance(batch, list | tuple) and not are_images(batch):
        for position, part in enumerate(batch):
            yield from _parts(part, are_images, (*path, position))
    else:
        yield path, batch


def _replaced(batch: Any, parts: Mapping[_Path, Any], path: _Path = ()) -> Any:
    if path in parts:
        return parts[path]
    if isinstance(batch, Mapping):
        changed: Any = copy.copy(batch)
        for key in batch:
            changed[key] = _replaced(batch[key], parts, (*path, key))
        return changed
    if isinstance(batch, list | tuple):
        entries = [_replaced(part, parts, (*path, position)) for position, part in enumerate(batch)]
        return type(batch)(*entries) if hasattr(batch, "_fields") else type(batch)(entries)
    return batch


def _are_images(part: Sequence[Any], count: int | None, dimensions: int) -> bool:
    """Whether a list is one of single images, of all samples or of those that were not dropped."""
    are_images = all(
        may_be_image(entry) and not (isinstance(entry, torch.Tensor) and (entry.ndim != 3 or len(entry) not in (1, 3)))
        for entry in part
    )
    if count is None or not are_images:
        return False
    # A batch has a dimension more than the images that it is made of.
    return len(part) == count or (0 < len(part) < count and max(map(_dimensions, part)) <= dimensions)


def _dimensions(image: Any) -> int:
    if isinstance(image, PIL.Image.Image):
        return 2 if len(image.getbands()) == 1 else 3
    return int(getattr(image, "ndim", 3))


def _lengths(parts: _Parts) -> dict[_Path, int | None]:
    """The number of samples in each part; ``None`` where it has no length."""
    return {path: _length(part) for path, part in parts.items()}


def _length(part: Any) -> int | None:
    if part is None:
        return 0
    return len(part) if isinstance(part, list | tuple) or getattr(part, "ndim", 0) > 0 else None


def _differ(first: Any, second: Any) -> bool:
    if isinstance(first, list | tuple):
        return any(differ(one, other) for one, other in zip(first, second, strict=True))
    return differ(first, second)


def _altered(views: Views) -> Any:
    """Another image in place of the views of one, the negative: a shift or a factor is what a function may remove."""
    negative = inverted(views.images[0])
    return views.images[-1] if negative is None else negative


def _concatenated(parts: list[Any], count: int | None) -> Any:
    first = parts[0]
    if isinstance(first, list | tuple):
        return type(first)(image for part in parts for image in part)
    _check_batches(parts, count)
    return torch.cat(parts)


def _check_batches(parts: list[Any], count: int | None) -> None:
    first = parts[0]
    is_batch = isinstance(first, torch.Tensor) and first.ndim == 4 and may_be_image(first)
    if not (is_batch and all(part.shape == first.shape for part in parts)):
        given = f"{first.dtype} tensor {list(first.shape)}" if isinstance(first, torch.Tensor) else type(first).__name__
        raise TypeError(f"{_EXPECTED}; got, for N = {count or 'any'}, a {given} that differs between the views.")
