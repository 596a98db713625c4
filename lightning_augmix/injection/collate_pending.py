"""Batches of images that are augmented on the device: 8 bits, and their keys."""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch.utils import _pytree as pytree
from torch.utils.data import default_collate
from torch.utils.data._utils.collate import collate, default_collate_fn_map

from lightning_augmix._batches import empty_batch
from lightning_augmix._device import Pending, PendingBatch
from lightning_augmix._errors import PlacementError
from lightning_augmix._randomness import RandomStates, generators_of
from lightning_augmix._views import copied, differ, inverted, leaves_and_structure
from lightning_augmix.engines.torch_engine import converted
from lightning_augmix.injection.entries import Entry

__all__ = ["CollatePending"]


class CollatePending:
    """Collates samples with the user's function, and their images as :class:`PendingBatch`.

    That the function stacks the images, and does nothing else with them, is found by trying, with images in 8 bits,
    their negatives, and converted ones: all else it would have to do to augmented ones.

    Args:
        function: The loader's function.
    """

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.collate = function
        self._places: dict[str, list[set[int]]] = {}  # in a batch, of each image of a sample, by the samples' structure

    def __call__(self, samples: Sequence[Any]) -> Any:
        """Makes a batch.

        Args:
            samples: The samples, each with an image that was left for the batch, or ``None`` for those that the dataset
                does not have.

        Raises:
            PlacementError: If the image of a sample was not left, those of the batch are not alike, or the function
                does more than to stack them.
        """
        flat = [leaves_and_structure(sample) for sample in samples if sample is not None]
        pending = [[entry for entry in entries if isinstance(entry, Pending)] for entries, _ in flat]
        if not all(pending):
            raise PlacementError(
                'With `on="device"`, a sample has lost the image that was left for the batch, because its dataset '
                "does not put what its transforms return into the tuple, list or dict as it is. Let the transforms "
                'do all that is done to the image, or use on="workers".'
            )
        if self.collate is default_collate:
            return collate(samples, collate_fn_map={**default_collate_fn_map, Pending: _batch})
        if not pending:
            return self.collate(samples)
        if len(set(map(len, pending))) != 1:
            raise self._error("gets samples with different numbers of them")
        batches = [_batch(images) for images in zip(*pending, strict=True)]
        structure = repr([structure for _, structure in flat])
        if structure not in self._places:
            self._places[structure] = self._tried(samples, batches)
        leaves, of_batch = leaves_and_structure(self.collate(_with_stand_ins(samples, _levels)))
        for batch, places in zip(batches, self._places[structure], strict=True):
            if not places <= _places_of(batch.levels, leaves):
                raise self._error("does not return them stacked, as they were, in every batch")
            for place in places:
                leaves[place] = batch
        return pytree.tree_unflatten(leaves, of_batch)

    def _tried(self, samples: Sequence[Any], batches: Sequence[PendingBatch]) -> list[set[int]]:
        """Where the function puts the images, from calls with the same random draws, which are given back."""
        states = RandomStates(generators_of(self.collate))
        seen = []
        for stand_in in (_levels, _negative, _finished):
            try:
                seen.append(leaves_and_structure(self.collate(copy.deepcopy(_with_stand_ins(samples, stand_in)))))
            except Exception as error:  # whatever the function raises for other images
                words = str(error).partition("\n")[0]
                raise self._error(f"raises {type(error).__name__} ({words}) for images in 8 bits") from error
            finally:
                states.restore()
        (leaves, structure), (negatives, of_negatives), (finished, of_finished) = seen
        if not structure == of_negatives == of_finished:
            raise self._error("returns batches whose structure depends on them")
        places = [
            _places_of(batch.levels, leaves)
            & _places_of(255 - batch.levels, negatives)
            & _places_of(converted(batch.levels.contiguous(), batch.table), finished)
            for batch in batches
        ]
        if not all(places):
            raise self._error("does not return them stacked, as they were")
        others = set(range(len(leaves))).difference(*places)
        for place in others:
            if not isinstance(leaves[place], _COMPARABLE):
                raise self._error(f"returns a {type(leaves[place]).__name__}, which may hold them")
            if differ(leaves[place], negatives[place]) or differ(leaves[place], finished[place]):
                raise self._error("returns something else that depends on them")
        return places

    def _error(self, seen: str) -> PlacementError:
        name = getattr(self.collate, "__qualname__", type(self.collate).__name__)
        return PlacementError(
            f'`on="device"` augments images after they are collated, and the collate function ({name}) {seen}, so that '
            'it may need them before: use on="workers", or let it stack the images alone.'
        )


_COMPARABLE = (torch.Tensor, np.ndarray, np.generic, PIL.Image.Image, str, bytes, int, float, complex, Path, type(None))


def _with_stand_ins(samples: Sequence[Any], stand_in: Callable[[Pending], Any]) -> list[Any]:
    filled = []
    for sample in samples:
        entries, structure = leaves_and_structure(sample)
        own = [stand_in(entry) if isinstance(entry, Pending) else entry for entry in entries]
        filled.append(pytree.tree_unflatten(own, structure))
    return filled


def _levels(pending: Pending) -> Any:
    [image] = pending.unconverted
    if pending.conversion is None:
        return copied(image)
    return _stacked([image])[0].contiguous().as_subclass(pending.conversion.made)


def _negative(pending: Pending) -> Any:
    return inverted(_levels(pending))


def _finished(pending: Pending) -> Any:
    levels = _levels(pending)
    if pending.conversion is None:
        return levels
    return converted(levels.as_subclass(torch.Tensor)[None], pending.conversion.table)[0].as_subclass(type(levels))


def _places_of(images: torch.Tensor, leaves: Sequence[Any]) -> set[int]:
    """Where a batch is these images, in the order of memory of a plain stack."""
    return {
        place
        for place, leaf in enumerate(leaves)
        if isinstance(leaf, torch.Tensor) and leaf.is_contiguous() and not differ(leaf, images)
    }


def _batch(pending: Sequence[Pending], *, collate_fn_map: Any = None) -> PendingBatch:
    tables = [None if each.conversion is None else each.conversion.table for each in pending]
    if any(not (table is tables[0] or _are_equal(table, tables[0])) for table in tables):
        raise PlacementError(
            'With `on="device"`, all images of a batch are converted in the same way, and those of this loader are '
            'not: its dataset holds several with transforms of their own, or changes theirs. Use on="workers".'
        )
    levels = _stacked([each.unconverted[0] for each in pending])
    keys = np.array([each.keys for each in pending], np.uint64).T
    return PendingBatch(levels, np.ascontiguousarray(keys), pending[0].settings, tables[0])


def _are_equal(table: torch.Tensor | None, other: torch.Tensor | None) -> bool:
    return table is not None and other is not None and table.dtype == other.dtype and torch.equal(table, other)


def _stacked(images: Sequence[Any]) -> torch.Tensor:
    kinds = sorted({f"a {Entry('', (), img)}" for img in images})
    if len(kinds) > 1:
        raise PlacementError(
            f"The images of a batch must be alike; got {' and '.join(kinds[:2])}: convert and resize them in the "
            "transforms, before AugMix."
        )
    if isinstance(images[0], torch.Tensor):
        batch = empty_batch((len(images), *images[0].shape), torch.uint8)
        for img, levels in zip(images, batch, strict=True):
            levels.copy_(img.as_subclass(torch.Tensor))
        return batch
    arrays = [np.asarray(img) for img in images]
    height, width, *channels = arrays[0].shape
    batch = empty_batch((len(images), height, width, *(channels or [1])), torch.uint8)
    for array, levels in zip(arrays, batch.numpy(), strict=True):
        levels[:] = array.reshape(levels.shape)
    return batch.permute(0, 3, 1, 2)
