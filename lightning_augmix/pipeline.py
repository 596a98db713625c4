"""Where in a transform pipeline AugMix belongs: as late as possible while the image is still uint8."""

import copy
from collections.abc import Iterator
from enum import Enum, auto
from typing import Any, TypeAlias

import torch
from torch import nn
from torchvision import transforms as v1
from torchvision import tv_tensors
from torchvision.transforms import v2

from lightning_augmix.transform import AugmentAndMixTransform

__all__ = ["PlacementError", "describe", "insert", "is_opaque"]

#: Positions from the outermost container down to a step; empty for a pipeline that is no container.
_Path: TypeAlias = tuple[int, ...]


class PlacementError(ValueError):
    """AugMix cannot be placed for certain; the message says what was seen and what to write instead."""


class _Kind(Enum):
    BARRIER = auto()  # the image stops being uint8 here
    RETURN = auto()  # the image is uint8 behind this, whatever it was before
    CONVERSION = auto()  # changes the container of the pixels and nothing else
    KNOWN = auto()  # leaves the image uint8
    OPAQUE = auto()  # may do anything


_BARRIERS = (v1.ToTensor, v2.ToTensor, v1.Normalize, v2.Normalize)
_DTYPE_CHANGES = (v1.ConvertImageDtype, v2.ConvertImageDtype, v2.ToDtype)
_CONVERSIONS = (v1.PILToTensor, v2.PILToTensor, v2.ToImage, v2.ToPureTensor)
_RANDOM_CONTAINERS = (v1.RandomApply, v1.RandomChoice, v1.RandomOrder, v2.RandomApply, v2.RandomChoice, v2.RandomOrder)
_OPAQUE = (v1.Lambda, v2.Lambda, v1.LinearTransformation, v2.LinearTransformation, v2.GaussianNoise)


def insert(pipeline: Any, augmix: AugmentAndMixTransform, *, at_end: bool) -> Any:
    """Returns a copy of a pipeline with AugMix in its place; the pipeline and its containers stay as they are.

    The place is directly before the step where the image stops being uint8 for good (``ToTensor``,
    ``ConvertImageDtype``, ``ToDtype`` to a floating-point type, ``Normalize``), and before the pure conversions
    (``PILToTensor``, ``ToImage``, ``ToPureTensor``) that stand right before that step.

    Args:
        pipeline: ``Compose``, ``v2.Compose`` or ``nn.Sequential``, nested as they may be, or a single transform.
        augmix: The transform to insert.
        at_end: What to do where the image stays uint8: append AugMix, or decline.

    Returns:
        The new pipeline, or ``None`` where the image stays uint8 and ``at_end`` is false.

    Raises:
        PlacementError: If the pipeline has AugMix already, if the step where the image stops being uint8 is one of
            several that are chosen at random, or if at the end of the pipeline the image may be anything.

    Example:
        >>> pipeline = v1.Compose([v1.CenterCrop(8), v1.PILToTensor(), v1.ConvertImageDtype(torch.float32)])
        >>> [type(step).__name__ for step in insert(pipeline, AugmentAndMixTransform(), at_end=False).transforms]
        ['CenterCrop', 'AugmentAndMixTransform', 'PILToTensor', 'ConvertImageDtype']
    """
    steps = list(_steps(pipeline))
    kinds = [_kind(step) for _, step in steps]
    position = _last_uint8(kinds)
    if position == len(steps) and not at_end:
        return None
    if position == len(steps) and _Kind.OPAQUE in kinds:
        opaque = describe(steps[kinds.index(_Kind.OPAQUE)][1])
        raise PlacementError(f"no step shows where the image becomes floating-point, and {opaque} may do anything")
    for _, step in steps[: position + 1]:
        if isinstance(step, _RANDOM_CONTAINERS) and _holds_barrier(step):
            raise PlacementError(f"{describe(step)} decides at random whether the image becomes floating-point")
    while position > 0 and kinds[position - 1] is _Kind.CONVERSION:
        position -= 1
    if position < len(steps):
        path = steps[position][0]
    elif steps:
        path = _after(steps[-1][0])
    else:
        path = (0,)
    return _inserted(pipeline, path, augmix)


def is_opaque(pipeline: Any) -> bool:
    """Whether a pipeline may hand on something else than a uint8 image without showing where it stops being one."""
    return _Kind.OPAQUE in {_kind(step) for _, step in _steps(pipeline)}


def describe(pipeline: Any) -> str:
    """A pipeline on one line.

    Example:
        >>> describe(v1.Compose([v1.CenterCrop(8), v1.Compose([v1.ToTensor()])]))
        'Compose(CenterCrop(size=(8, 8)), Compose(ToTensor()))'
    """
    children = _children(pipeline)
    if children is None:
        return " ".join(repr(pipeline).split())
    return f"{type(pipeline).__name__}({', '.join(describe(child) for child in children)})"


def _last_uint8(kinds: list[_Kind]) -> int:
    """The position of the step at which the image stops being uint8 for good, or the number of steps."""
    returned = max((position for position, kind in enumerate(kinds) if kind is _Kind.RETURN), default=0)
    return kinds.index(_Kind.BARRIER, returned) if _Kind.BARRIER in kinds[returned:] else len(kinds)


def _kind(step: Any) -> _Kind:
    if isinstance(step, AugmentAndMixTransform | v1.AugMix | v2.AugMix):
        raise PlacementError("it has AugMix already, and applying it twice is not AugMix: remove one of the two")
    if isinstance(step, _BARRIERS):
        return _Kind.BARRIER
    if isinstance(step, v1.ToPILImage | v2.ToPILImage):
        return _Kind.RETURN
    if isinstance(step, _DTYPE_CHANGES):
        return _Kind.BARRIER if _makes_floating(step) else _Kind.RETURN if step.dtype == torch.uint8 else _Kind.KNOWN
    if isinstance(step, _CONVERSIONS):
        return _Kind.CONVERSION
    if isinstance(step, _RANDOM_CONTAINERS):
        choices = [_kind(leaf) for choice in step.transforms for _, leaf in _steps(choice)]
        return _Kind.OPAQUE if set(choices) & {_Kind.OPAQUE, _Kind.BARRIER} else _Kind.KNOWN
    module = type(step).__module__
    # The presets that come with torchvision's weights resize, convert and normalise in a single step.
    known = module.startswith("torchvision.transforms.") and not module.endswith("_presets")
    return _Kind.KNOWN if known and not isinstance(step, _OPAQUE) else _Kind.OPAQUE


def _makes_floating(step: Any) -> bool:
    dtype = step.dtype
    if not isinstance(dtype, dict):
        return bool(dtype.is_floating_point)
    kinds = [tv_tensors.Image] if tv_tensors.Image in dtype else [torch.Tensor, "others"]
    return any(dtype.get(kind) is not None and dtype[kind].is_floating_point for kind in kinds)


def _holds_barrier(step: Any) -> bool:
    return any(
        _holds_barrier(leaf) if isinstance(leaf, _RANDOM_CONTAINERS) else _kind(leaf) is _Kind.BARRIER
        for choice in step.transforms
        for _, leaf in _steps(choice)
    )


def _children(step: Any) -> list[Any] | None:
    """The steps of a container, or ``None``; a subclass that changes how it is called is no container."""
    if isinstance(step, v1.Compose) and type(step).__call__ is v1.Compose.__call__:
        return list(step.transforms)
    if isinstance(step, v2.Compose) and type(step).forward is v2.Compose.forward:
        return list(step.transforms)
    if isinstance(step, nn.Sequential) and type(step).forward is nn.Sequential.forward:
        return list(step)
    return None


def _steps(pipeline: Any, path: _Path = ()) -> Iterator[tuple[_Path, Any]]:
    children = _children(pipeline)
    if children is None:
        yield path, pipeline
    else:
        for position, child in enumerate(children):
            yield from _steps(child, (*path, position))


def _after(path: _Path) -> _Path:
    return (*path[:-1], path[-1] + 1) if path else (1,)


def _inserted(pipeline: Any, path: _Path, augmix: AugmentAndMixTransform) -> Any:
    children = _children(pipeline)
    if children is None:
        steps = [pipeline]
        steps.insert(path[0] if path else 0, augmix)
        return v2.Compose(steps) if isinstance(pipeline, v2.Transform) else v1.Compose(steps)
    position, *rest = path
    if rest:
        children[position] = _inserted(children[position], tuple(rest), augmix)
    else:
        children.insert(position, augmix)
    container = copy.copy(pipeline)
    if isinstance(container, nn.Sequential):
        container.__dict__["_modules"] = {str(number): child for number, child in enumerate(children)}
    else:
        container.transforms = children
    return container
