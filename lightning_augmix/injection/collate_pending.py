"""Batches of images that are augmented on the device: 8 bits, and their keys."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree
from torch.utils.data import default_collate
from torch.utils.data._utils.collate import collate, default_collate_fn_map

from lightning_augmix._batches import empty_batch
from lightning_augmix._device import Pending, PendingBatch
from lightning_augmix._errors import PlacementError
from lightning_augmix._randomness import RandomStates
from lightning_augmix._views import copied, differ, inverted, leaves_and_structure
from lightning_augmix.injection.entries import Entry

__all__ = ["CollatePending"]


class CollatePending:
    """Collates samples with the user's function, and their images as :class:`PendingBatch`.

    That the function stacks the images, and does nothing else with them, is found by trying: all else it would have to
    do to augmented ones.

    Args:
        function: The loader's function.
    """

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.collate = function
        self._places: dict[str, list[set[int]]] = {}  # of each image of a sample, by the structure of the batch

    def __call__(self, samples: Sequence[Any]) -> Any:
        """Makes a batch.

        Args:
            samples: The samples, each with an image that was left for the batch, or ``None`` for those that the dataset
                does not have.

        Raises:
            PlacementError: If the image of a sample was not left, those of the batch are not alike, or the function
                does more than to stack them.
        """
        pending = [_pending_of(sample) for sample in samples if sample is not None]
        if not all(pending):
            raise PlacementError(
                'With `on="device"`, a sample has lost the image that was left for the batch, because its dataset '
                "does not put what its transforms return into the tuple, list or dict as it is. Let the transforms "
                'do all that is done to the image, or use on="workers".'
            )
        if self.collate is default_collate:
            return collate(samples, collate_fn_map={**default_collate_fn_map, Pending: _batch})
        if len(set(map(len, pending))) != 1:
            raise self._error()
        return self._by_the_users_function(samples, [_batch(images) for images in zip(*pending, strict=True)])

    def _by_the_users_function(self, samples: Sequence[Any], batches: list[PendingBatch]) -> Any:
        states = RandomStates()
        leaves, structure = leaves_and_structure(self.collate(_with_stand_ins(samples, negative=False)))
        if repr(structure) not in self._places:
            after = RandomStates()
            states.restore()
            try:
                others, other_structure = leaves_and_structure(self.collate(_with_stand_ins(samples, negative=True)))
            except Exception as error:  # whatever the function raises for other images
                raise self._error() from error
            after.restore()
            places = [_places_of(batch.levels, leaves) & _places_of(255 - batch.levels, others) for batch in batches]
            is_image = set[int]().union(*places)
            if other_structure != structure or any(
                place not in is_image and differ(leaf, other)
                for place, (leaf, other) in enumerate(zip(leaves, others, strict=True))
            ):
                raise self._error()
            self._places[repr(structure)] = places
        for batch, of_batch in zip(batches, self._places[repr(structure)], strict=True):
            if not of_batch or not of_batch <= _places_of(batch.levels, leaves):
                raise self._error()
            for place in of_batch:
                leaves[place] = batch
        return pytree.tree_unflatten(leaves, structure)

    def _error(self) -> PlacementError:
        name = getattr(self.collate, "__qualname__", type(self.collate).__name__)
        return PlacementError(
            f'`on="device"` augments images after they are collated, and the loader\'s collate function ({name}) does '
            'more with them than to stack them: use on="workers", or do that in `on_after_batch_transfer`.'
        )


def _pending_of(sample: Any) -> list[Pending]:
    return [entry for entry in leaves_and_structure(sample)[0] if isinstance(entry, Pending)]


def _with_stand_ins(samples: Sequence[Any], *, negative: bool) -> list[Any]:
    """Copies of samples, which may be changed in place, with images in 8 bits."""
    filled = []
    for sample in samples:
        entries, structure = leaves_and_structure(sample)
        own = [_stand_in(e, negative=negative) if isinstance(e, Pending) else copy.deepcopy(e) for e in entries]
        filled.append(pytree.tree_unflatten(own, structure))
    return filled


def _stand_in(pending: Pending, *, negative: bool) -> Any:
    [image] = pending.unconverted
    if pending.conversion is not None:
        image = _stacked([image])[0].as_subclass(pending.conversion.made)
    return inverted(image) if negative else copied(image)


def _places_of(levels: torch.Tensor, leaves: Sequence[Any]) -> set[int]:
    return {place for place, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor) and not differ(leaf, levels)}


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
