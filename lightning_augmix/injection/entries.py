"""The entries of a sample: what they are, which may be images, and what lies over an image."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from numbers import Number
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import nn
from torchvision import tv_tensors

from lightning_augmix._images import may_be_image
from lightning_augmix._views import Views
from lightning_augmix.injection.copies import slots_of

__all__ = ["Entry", "describe_entries", "entries_of", "kind_of", "lies_over_image"]


@dataclass(frozen=True)
class Entry:
    """An entry of a sample.

    Attributes:
        path: How Python reaches it from the sample, for instance ``[1]['boxes']``.
        names: The keys and field names on the way.
        value: The tensor, array, image, list of numbers, or whatever it is; of views of an image, the first augmented.
    """

    path: str
    names: tuple[str, ...]
    value: Any

    @property
    def is_named_as_target(self) -> bool:
        """Whether its name says that it belongs to an image and is none."""
        return any(word in name.lower() for name in self.names for word in (*_OVER_IMAGE, "label", "target", "depth"))

    @property
    def may_be_image(self) -> bool:
        """Whether it may be the image that a model is trained on."""
        value = self.value
        images = value if isinstance(value, list | tuple) and value else [value]
        return not self.is_named_as_target and all(may_be_image(each) or _is_float_array(each) for each in images)

    @property
    def image_size(self) -> tuple[int, int] | None:
        """(height, width), if it may be an image."""
        value = self.value[0] if isinstance(self.value, list | tuple) and self.value else self.value
        if isinstance(value, PIL.Image.Image):
            return value.size[1], value.size[0]
        if isinstance(value, np.ndarray) and value.ndim >= 2:
            return value.shape[0], value.shape[1]
        if isinstance(value, torch.Tensor) and value.ndim >= 2:
            return value.shape[-2], value.shape[-1]
        return None

    def __str__(self) -> str:
        value = self.value
        if isinstance(value, torch.Tensor | np.ndarray):
            kind = type(value).__name__ if type(value) not in (torch.Tensor, np.ndarray) else None
            kind = kind or ("tensor" if isinstance(value, torch.Tensor) else "array")
            return f"{str(value.dtype).removeprefix('torch.')} {kind} {list(value.shape)}"
        if isinstance(value, PIL.Image.Image):
            return f"PIL image of mode {value.mode}, {value.size[1]}×{value.size[0]}"
        if isinstance(value, list | tuple):
            return f"{type(value).__name__} of {len(value)}"
        return type(value).__name__


_OVER_IMAGE = ("mask", "box", "keypoint", "segmentation", "landmark")
_PICTURES = (PIL.Image.Image, torch.Tensor, np.ndarray)
_SPATIAL = (tv_tensors.BoundingBoxes, tv_tensors.Mask, tv_tensors.KeyPoints)


def _is_float_array(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.ndim == 3 and np.issubdtype(value.dtype, np.floating)


def entries_of(sample: Any, count: int | None = None) -> list[Entry]:
    """The entries of a sample.

    Args:
        sample: Any nesting of mappings, sequences and objects with attributes.
        count: The number of samples in it, if it is a batch: lists of as many images are one entry.
    """
    return list(_entries(sample, count, "", (), frozenset()))


def _entries(
    value: Any, count: int | None, path: str, names: tuple[str, ...], within: frozenset[int]
) -> Iterator[Entry]:
    if isinstance(value, Views):
        value = value.images[1]
    parts = None if _is_leaf(value, count) or id(value) in within else _parts(value)
    if parts is None:
        yield Entry(path, names, value)
        return
    within |= {id(value)}
    for step, name, part in parts:
        yield from _entries(part, count, f"{path}{step}", (*names, name) if name else names, within)


_SCALARS = (int, float, str, bool, type(None))


def kind_of(value: Any) -> Any:
    """What a sample has in common with those of the same structure: types, keys, dtypes and numbers of dimensions.

    Args:
        value: A sample, or a part of one.

    Returns:
        What can be hashed.
    """
    cls = type(value)
    if cls in _SCALARS:
        return cls
    if cls is Views:
        return kind_of(value.images[1])
    if isinstance(value, torch.Tensor | np.ndarray):
        return cls, value.dtype, value.ndim
    if isinstance(value, tuple):
        return cls, tuple(map(kind_of, value))
    if isinstance(value, list):
        return cls, frozenset(map(kind_of, value))  # of any length
    if isinstance(value, Mapping):
        return cls, tuple((key, kind_of(value[key])) for key in value)
    return cls


def _is_leaf(value: Any, count: int | None) -> bool:
    if isinstance(value, list | tuple):
        return _is_numbers(value) or (bool(value) and len(value) == count and all(map(_is_single_image, value)))
    return isinstance(value, torch.Tensor | np.ndarray | PIL.Image.Image | str | bytes | Number | nn.Module | type)


def _is_single_image(value: Any) -> bool:
    # A tuple of batches, as many as a batch has samples, is no list of images.
    return may_be_image(value) and getattr(value, "ndim", 3) <= 3


def _is_numbers(value: Sequence[Any]) -> bool:
    return bool(value) and all(
        isinstance(each, Number) or (isinstance(each, list | tuple) and _is_numbers(each)) for each in value
    )


def _parts(value: Any) -> list[tuple[str, str, Any]] | None:
    if isinstance(value, Mapping):
        return [(f"[{key!r}]", str(key), value[key]) for key in value]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return [(f".{name}", name, getattr(value, name)) for name in value._fields]
    if isinstance(value, list | tuple):
        return [(f"[{position}]", "", part) for position, part in enumerate(value)]
    if is_dataclass(value) and not isinstance(value, type):
        return [(f".{field.name}", field.name, getattr(value, field.name)) for field in fields(value)]
    slots = [slot for base in type(value).__mro__ for slot in slots_of(base) if hasattr(value, slot)]
    attributes = {slot: getattr(value, slot) for slot in slots} | getattr(value, "__dict__", {})
    return [(f".{name}", name, part) for name, part in attributes.items()] or None


def describe_entries(entries: Sequence[Entry], reached: Collection[str] | None = None) -> str:
    """The entries of a sample, on a line each.

    Args:
        entries: The entries.
        reached: The paths of those that AugMix reaches; ``None`` where that is not known.
    """
    lines = []
    for entry in entries:
        mark = "  ← AugMix reaches this" if reached is not None and entry.path in reached else ""
        lines.append(f"  sample{entry.path}: {entry}{mark}")
    note = [] if reached is None or reached else ["  (AugMix reaches none of them)"]
    return "\n".join([*lines, *note])


def lies_over_image(entry: Entry, size: tuple[int, int] | None, count: int | None = None) -> bool:
    """Whether an entry is tied to places in an image: a mask, boxes, keypoints, or another picture of its size.

    Args:
        entry: An entry other than the image.
        size: (height, width) of the image, if it is known.
        count: The number of samples, if it is an entry of a batch: as many numbers are one for each, such as ids.
    """
    value = entry.value
    if isinstance(value, _SPATIAL):
        return True
    is_many = isinstance(value, PIL.Image.Image)
    if isinstance(value, list | tuple):
        is_many = len(value) != count or not all(isinstance(each, Number) for each in value)
    elif isinstance(value, torch.Tensor | np.ndarray):
        is_many = value.ndim > 0 and tuple(value.shape) != (count,)
    if is_many and any(word in name.lower() for name in entry.names for word in _OVER_IMAGE):
        return True
    if isinstance(value, np.ndarray) and value.ndim >= 2 and value.shape[-2:] == size:
        return True
    return size is not None and isinstance(value, _PICTURES) and entry.image_size == size
