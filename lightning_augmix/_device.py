"""AugMix on the device: images that are augmented, and converted, by the batch, after they were moved there."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, cast

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_augmix._errors import PlacementError
from lightning_augmix._images import as_pixels
from lightning_augmix._views import Views
from lightning_augmix.engines import Engine, select_engine
from lightning_augmix.engines.torch_engine import converted
from lightning_augmix.functional import augmented_by_keys
from lightning_augmix.plans.hyperparameters import Hyperparameters

__all__ = ["Pending", "PendingBatch", "Settings", "augmented_batch", "check_for_device"]


@dataclass(frozen=True)
class Settings:
    """How the images of a batch are augmented.

    Attributes:
        hyperparameters, engine, views: See :class:`~lightning_augmix.AugmentAndMixTransform`.
    """

    hyperparameters: Hyperparameters
    engine: str
    views: int


class Pending(Views):
    """An image that is augmented with its batch; nothing but this package can look into it.

    Args:
        image: The image, as it comes to AugMix.
        keys: A key for each augmentation of it.
        settings: How it is augmented.
        conversion: What is to be done to it after that; it has a ``table``.
    """

    __slots__ = ("keys", "settings")

    def __init__(self, image: Any, keys: Sequence[int], settings: Settings, conversion: Any = None) -> None:
        super().__init__([image], conversion)
        self.keys = tuple(keys)
        self.settings = settings


def check_for_device(img: Any) -> None:
    """Refuses what is no single image of 8 bits.

    Args:
        img: The image, as it comes to AugMix.

    Raises:
        TypeError, ValueError: See :func:`~lightning_augmix._images.as_pixels`.
        PlacementError: If it is a batch, or floating-point.
    """
    if isinstance(img, PIL.Image.Image) and img.mode in ("RGB", "L"):
        return
    pixels = as_pixels(img, on_device=True)  # without a copy
    if pixels.is_batch or getattr(img, "dtype", np.uint8) not in (torch.uint8, np.uint8):
        given = f"a {type(img).__name__} {list(img.shape)} of dtype {img.dtype}"
        raise PlacementError(f'`on="device"` takes single images of 8 bits; got {given}: use on="workers"')


class PendingBatch:
    """A batch of images in 8 bits that is to be augmented and converted; Lightning would look into a dataclass.

    Args:
        levels: uint8 ``[N, C, H, W]``.
        keys: uint64 ``[V, N]``.
        settings: How the images are augmented.
        table: What becomes of each level of each channel, ``[C, 256]``; ``None`` if the images stay uint8.
    """

    def __init__(self, levels: Tensor, keys: NDArray[np.uint64], settings: Settings, table: Tensor | None) -> None:
        self.levels, self.keys, self.settings, self.table = levels, keys, settings, table

    def _with(self, change: Callable[[Tensor], Tensor]) -> "PendingBatch":
        table = None if self.table is None else change(self.table)
        return PendingBatch(change(self.levels), self.keys, self.settings, table)

    def pin_memory(self) -> "PendingBatch":
        """Returns the batch in pinned memory; torch's loaders call this."""
        return self._with(lambda tensor: tensor.pin_memory())

    def to(self, device: torch.device | str, **others: Any) -> "PendingBatch":
        """Returns the batch on a device; Lightning and Fabric call this.

        Args:
            device: The device.
            **others: As for ``torch.Tensor.to``.
        """
        return self._with(lambda tensor: tensor.to(device, **others))

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(
            f"`{name}` was asked of a batch that is still to be augmented: call `augment_batch(batch, device)` first."
        )

    def finished(self) -> Tensor:
        """Augments and converts the images, where they are.

        Returns:
            ``[N, C, H, W]``, or with views ``[(1 + views) · N, C, H, W]``, all clean images first.
        """
        engine = select_engine(self.settings.engine, self.levels.device)
        levels = self.levels.contiguous()
        images = augmented_batch(levels, self.keys, self.settings.hyperparameters, engine, self.table)
        return torch.cat([converted(levels, self.table), images]) if self.settings.views else images


def augmented_batch(
    levels: Tensor, keys: NDArray[np.uint64], hyperparameters: Hyperparameters, engine: Engine, table: Tensor | None
) -> Tensor:
    """Augments and converts images, where they are if the engine can do that.

    Args:
        levels: uint8 ``[N, C, H, W]``.
        keys: uint64 ``[V, N]``.
        hyperparameters: Validated hyperparameters.
        engine: The engine.
        table: What becomes of each level of each channel, ``[C, 256]``; ``None`` to leave the images uint8.

    Returns:
        ``[V · N, C, H, W]``, with V of 1 in the memory format of ``levels``.
    """
    if not engine.TAKES_TENSORS:
        augmented = augmented_by_keys(as_pixels(levels), keys, hyperparameters, engine)
        return converted(torch.cat(augmented), table)
    several = levels.repeat(len(keys), 1, 1, 1) if len(keys) > 1 else levels
    images: Tensor = cast("Any", engine).augment(several, keys.reshape(-1), hyperparameters, table)
    return images
