"""Batches of images that are augmented on the device: 8 bits, and their keys."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import default_collate
from torch.utils.data._utils.collate import collate, default_collate_fn_map

from lightning_augmix._batches import empty_batch
from lightning_augmix._device import Pending, PendingBatch
from lightning_augmix._errors import PlacementError
from lightning_augmix._views import leaves_and_structure
from lightning_augmix.injection.entries import Entry

__all__ = ["CollatePending"]


class CollatePending:
    """Collates samples as torch's own function does, and their images as :class:`PendingBatch`.

    Args:
        function: The loader's function.

    Raises:
        PlacementError: If that is not torch's own: what another does to images it has to do to augmented ones.
    """

    def __init__(self, function: Callable[[Any], Any]) -> None:
        if function is not default_collate:
            name = getattr(function, "__qualname__", type(function).__name__)
            raise PlacementError(
                f'`on="device"` augments images after they are collated, and the loader has a collate function of its '
                f'own ({name}), which may need them before: use on="workers", or torch\'s default_collate'
            )
        self.collate = function

    def __call__(self, samples: Sequence[Any]) -> Any:
        """Makes a batch.

        Args:
            samples: The samples, each with an image that was left for the batch.

        Raises:
            PlacementError: If the image of a sample was not left, or those of the batch are not alike.
        """
        for sample in samples:
            if not any(isinstance(entry, Pending) for entry in leaves_and_structure(sample)[0]):
                raise PlacementError(
                    'With `on="device"`, a sample has lost the image that was left for the batch, because its dataset '
                    "does not put what its transforms return into the tuple, list or dict as it is. Let the transforms "
                    'do all that is done to the image, or use on="workers".'
                )
        return collate(samples, collate_fn_map={**default_collate_fn_map, Pending: _batch})


def _batch(pending: list[Pending], *, collate_fn_map: Any) -> PendingBatch:
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
