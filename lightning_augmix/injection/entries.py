"""The entries of a sample: what they are, which may be images, and what lies over an image."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from numbers import Number
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import nn
from torchvision import tv_tensors

from lightning_augmix._images import SPATIAL_TARGETS, may_be_image
from lightning_augmix._views import Views
from lightning_augmix.injection.copies import slots_of

__all__ = [
    "Entry",
    "candidates",
    "coordinates_over_image",
    "describe_entries",
    "entries_of",
    "is_other_picture",
    "kind_of",
    "lies_over_image",
]


@dataclass(frozen=True, eq=False)
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
    def words(self) -> set[str]:
        """The words in the keys and field names on the way, in lower case."""
        return _words(self.names)

    @property
    def may_be_image(self) -> bool:
        """Whether it may be the image that a model is trained on, by what it is and by its names."""
        value = self.value
        images = value if isinstance(value, list | tuple) and value else [value]
        is_picture = all(may_be_image(each) or _is_float_array(each) for each in images)
        return is_picture and not self.words & _OVER_IMAGE

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


_WORD = re.compile("[A-Z]*[a-z]+|[A-Z]+")
_MASKS = {"mask", "masks", "segmask", "segmasks"}
_BOXES = {"box", "boxes", "bbox", "bboxes", "bndbox", "gtbox", "gtboxes"}
_PLACES = {"keypoint", "keypoints", "landmark", "landmarks", "polygon", "polygons", "segmentation", "segmentations"}
_OVER_IMAGE = {*_MASKS, *_BOXES, *_PLACES, "segm", "seg"}
#: Of several pictures, those are not the image whose names have these words.
_TARGETS = {"depth", "label", "labels", "target", "targets"}
_PICTURES = (PIL.Image.Image, torch.Tensor, np.ndarray)


def _words(names: Sequence[str]) -> set[str]:
    return {word.lower() for name in names for word in _WORD.findall(name)}


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
        value = value.unconverted[-1]
    parts = None if _is_leaf(value, count) or id(value) in within else _parts(value)
    if parts is None:
        yield Entry(path, names, value)
        return
    within |= {id(value)}
    for step, name, part in parts:
        yield from _entries(part, count, f"{path}{step}", (*names, name) if name else names, within)


_SCALARS = (int, float, str, bool, type(None))


def kind_of(value: Any, within: frozenset[int] = frozenset()) -> Any:
    """What a sample has in common with those of the same structure: types, keys, dtypes and numbers of dimensions.

    Args:
        value: A sample, or a part of one.
        within: The identities of what holds it; objects may hold each other.

    Returns:
        What can be hashed.
    """
    cls = type(value)
    if cls in _SCALARS:
        return None  # numbers and names differ from sample to sample
    if issubclass(cls, Views):
        return kind_of(value.unconverted[-1], within) if value.conversion is None else value.conversion.kind
    if isinstance(value, torch.Tensor | np.ndarray):
        return cls, value.dtype, value.ndim
    parts = None if _is_leaf(value, None) or id(value) in within else _parts(value)
    if parts is None:
        return cls
    kinds = [(step, kind_of(part, within | {id(value)})) for step, _, part in parts]
    if isinstance(value, list):
        return cls, frozenset(kind for _, kind in kinds)  # of any length
    return cls, tuple((step, kind) for step, kind in kinds if kind is not None)


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


def candidates(entries: Sequence[Entry]) -> list[Entry]:
    """The entries of a sample that may be the image.

    Args:
        entries: Those of the sample.
    """
    pictures = [entry for entry in entries if entry.may_be_image]
    named_otherwise = [entry for entry in pictures if not entry.words & _TARGETS]
    return named_otherwise if len(pictures) > 1 and named_otherwise else pictures


def is_other_picture(entry: Entry, image: Entry) -> bool:
    """Whether an entry may be the image too, although AugMix does not take its like: of 16 bits, or ``[H, W]`` floats.

    Args:
        entry: An entry that has no name of what lies over an image.
        image: The image.
    """
    value = entry.value
    if entry is image or entry.words & (_OVER_IMAGE | _TARGETS) or isinstance(value, tv_tensors.TVTensor):
        return False
    if isinstance(value, PIL.Image.Image):
        return value.mode.startswith(("I", "F")) and entry.image_size == image.image_size
    if not isinstance(value, torch.Tensor | np.ndarray) or entry.image_size is None:
        return False
    kind = str(value.dtype).removeprefix("torch.")
    return kind.startswith(("float", "int16", "uint16", "bfloat")) and entry.image_size == image.image_size


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
    if isinstance(value, SPATIAL_TARGETS):
        return True
    named = entry.words & _OVER_IMAGE
    dimensions = getattr(value, "ndim", 0)
    is_flat = dimensions == 1
    if isinstance(value, list | tuple):
        is_flat = all(isinstance(each, Number) for each in value)
    # One number for each sample of a batch is none of these, nor is a mask of tokens.
    is_one_each = is_flat and len(value) == count
    is_of_tokens = is_flat and named <= _MASKS and "rle" not in entry.words
    is_many = dimensions > 0 or isinstance(value, list | tuple | PIL.Image.Image)
    if named and is_many and not is_one_each and not is_of_tokens:
        return True
    if size is None or not isinstance(value, _PICTURES):
        return False
    if isinstance(value, PIL.Image.Image):
        return entry.image_size == size
    # Whichever dimension has the channels.
    return dimensions >= 2 and size in (tuple(value.shape[-2:]), tuple(value.shape[:2]))


def coordinates_over_image(entries: Sequence[Entry]) -> Entry | None:
    """The first of several numbers that stand one by one under a name of what lies over an image.

    Args:
        entries: Those of a sample, without the image.
    """
    numbers = [
        entry
        for entry in entries
        if _words(entry.names[:-1]) & (_BOXES | _PLACES)
        and (isinstance(entry.value, Number) or (isinstance(entry.value, str) and _is_number(entry.value)))
    ]
    return numbers[0] if len(numbers) > 1 else None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
