"""Where in a transform pipeline AugMix belongs: as late as possible while the image is still uint8."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

import torch
from torch import nn
from torchvision import transforms as v1
from torchvision import tv_tensors
from torchvision.transforms import v2

from lightning_augmix._errors import PlacementError
from lightning_augmix._views import EachView
from lightning_augmix.injection.lookup import BY_LEVEL, Later, LookUp, by_level, has_hooks, is_by_level
from lightning_augmix.transform import AugmentAndMixTransform

__all__ = [
    "Place",
    "after_augmix",
    "changes_dtype",
    "describe",
    "find_place",
    "has_augmix",
    "insert",
    "leaves",
    "returns_to_uint8",
    "takes_or_returns_uint8",
]


class _Kind(Enum):
    BARRIER = auto()  # the image stops being uint8 here
    RETURN = auto()  # the image is uint8 after this, whatever it was before
    CONVERSION = auto()  # changes the container of the pixels and nothing else
    OTHER = auto()


_BARRIERS = (v1.ToTensor, v2.ToTensor, v1.Normalize, v2.Normalize)
_DTYPE_CHANGES = (v1.ConvertImageDtype, v2.ConvertImageDtype, v2.ToDtype)
_CONVERSIONS = (v1.PILToTensor, v2.PILToTensor, v2.ToImage, v2.ToPureTensor)
_OF_PIL_IMAGES = (v1.ToTensor, v2.ToTensor, v1.PILToTensor, v2.PILToTensor)
_WITHOUT_DRAWS = {*BY_LEVEL, LookUp}
_RANDOM_CONTAINERS = (v1.RandomApply, v1.RandomChoice, v1.RandomOrder, v2.RandomApply, v2.RandomChoice, v2.RandomOrder)


@dataclass(frozen=True)
class Place:
    """Where in a pipeline AugMix belongs.

    Attributes:
        path: The position in each container, from the outermost down; empty for a pipeline that is no container.
        only_normalizes: Whether what follows is ``Normalize``, so that some step before it left uint8 already.
    """

    path: tuple[int, ...]
    only_normalizes: bool


def find_place(pipeline: Any) -> Place | None:
    """Finds the step before which AugMix belongs.

    It is the one where the image stops being uint8 for good (``ToTensor``, ``ConvertImageDtype``, ``ToDtype`` to a
    floating-point type, ``Normalize``), or the first of the pure conversions (``PILToTensor``, ``ToImage``,
    ``ToPureTensor``) that stand right before it.

    Args:
        pipeline: ``Compose``, ``v2.Compose`` or ``nn.Sequential``, nested as they may be, or a single transform.

    Returns:
        The place, or ``None`` where no step shows that the image stops being uint8.

    Raises:
        PlacementError: If the step is one of several that are chosen at random.

    Example:
        >>> find_place(v1.Compose([v1.CenterCrop(8), v1.PILToTensor(), v1.ConvertImageDtype(torch.float32)])).path
        (1,)
    """
    steps = list(_steps(pipeline))
    kinds = [_kind(step) for _, step in steps]
    returned = max((position for position, (_, step) in enumerate(steps) if _takes_or_returns_uint8(step)), default=0)
    position = kinds.index(_Kind.BARRIER, returned) if _Kind.BARRIER in kinds[returned:] else len(steps)
    for _, step in steps[: position + 1]:
        if isinstance(step, _RANDOM_CONTAINERS) and _Kind.BARRIER in map(_kind, leaves(step)):
            raise PlacementError(f"{describe(step)} decides at random whether the image becomes floating-point")
    if position == len(steps):
        return None
    barrier = steps[position][1]
    while position > 0 and kinds[position - 1] is _Kind.CONVERSION:
        position -= 1
    return Place(steps[position][0], isinstance(barrier, v1.Normalize | v2.Normalize))


def insert(pipeline: Any, place: Place, augmix: AugmentAndMixTransform) -> Any:
    """Returns a copy of a pipeline with AugMix in its place; the pipeline and its containers stay as they are.

    What converts the image right after it, such as ``ToTensor`` and ``Normalize``, is done in one pass, with the same
    result.

    Args:
        pipeline: The pipeline.
        place: Where :func:`find_place` found that AugMix belongs.
        augmix: The transform to insert.

    Example:
        >>> pipeline = v1.Compose([v1.CenterCrop(8), v1.Compose([v1.ToTensor()])])
        >>> insert(pipeline, find_place(pipeline), AugmentAndMixTransform()).transforms[1].transforms[1]
        LookUp(ToTensor())
    """
    return _inserted(pipeline, place.path, augmix)


def changes_dtype(pipeline: Any) -> bool:
    """Whether a step, perhaps one of several that are chosen at random, makes the image floating-point or uint8."""
    return any(_kind(leaf) in (_Kind.BARRIER, _Kind.RETURN) for leaf in leaves(pipeline))


def returns_to_uint8(pipeline: Any) -> bool:
    """Whether a step makes the image uint8 again, whatever it was before."""
    return any(_kind(step) is _Kind.RETURN for _, step in _steps(pipeline))


def takes_or_returns_uint8(pipeline: Any) -> bool:
    """Whether a step makes the image uint8 again, or shows by what it takes that something before it did."""
    return any(_takes_or_returns_uint8(step) for _, step in _steps(pipeline))


def has_augmix(pipeline: Any) -> bool:
    """Whether a pipeline has a step that applies AugMix, of whatever library."""
    return any(
        isinstance(leaf, AugmentAndMixTransform) or (callable(leaf) and "augmix" in type(leaf).__name__.lower())
        for leaf in leaves(pipeline)
    )


def describe(pipeline: Any) -> str:
    """A pipeline on one line.

    Example:
        >>> describe(v1.Compose([v1.CenterCrop(8), v1.Compose([v1.ToTensor()])]))
        'Compose(CenterCrop(size=(8, 8)), Compose(ToTensor()))'
    """
    if isinstance(pipeline, EachView | Later):
        return f"{type(pipeline).__name__}({describe(pipeline.step)})"
    if isinstance(pipeline, LookUp):
        return ", ".join(map(describe, pipeline.steps))
    children = _children(pipeline)
    if children is None:
        return " ".join(repr(pipeline).split())
    return f"{type(pipeline).__name__}({', '.join(describe(child) for child in children)})"


def _takes_or_returns_uint8(step: Any) -> bool:
    return isinstance(step, _OF_PIL_IMAGES) or _kind(step) is _Kind.RETURN


def _kind(step: Any) -> _Kind:
    if isinstance(step, _BARRIERS):
        return _Kind.BARRIER
    if isinstance(step, v1.ToPILImage | v2.ToPILImage):
        return _Kind.RETURN
    if isinstance(step, _DTYPE_CHANGES):
        dtypes = _image_dtypes(step)
        if any(dtype.is_floating_point for dtype in dtypes):
            return _Kind.BARRIER
        return _Kind.RETURN if torch.uint8 in dtypes else _Kind.OTHER
    return _Kind.CONVERSION if isinstance(step, _CONVERSIONS) else _Kind.OTHER


def _image_dtypes(step: Any) -> list[torch.dtype]:
    """The dtypes that an image may have after the step, as far as it changes them."""
    dtype = step.dtype
    if not isinstance(dtype, dict):
        return [dtype]
    kinds = [tv_tensors.Image] if tv_tensors.Image in dtype else [torch.Tensor, "others"]
    return [dtype[kind] for kind in kinds if dtype.get(kind) is not None]


def _children(step: Any) -> list[Any] | None:
    """The steps of a container, or ``None``; a subclass that changes how it is called is no container."""
    if isinstance(step, v1.Compose) and type(step).__call__ is v1.Compose.__call__:
        return list(step.transforms)
    if isinstance(step, nn.Module) and type(step).__call__ is not nn.Module.__call__:
        return None
    if isinstance(step, v2.Compose) and type(step).forward is v2.Compose.forward:
        return list(step.transforms)
    if isinstance(step, nn.Sequential) and type(step).forward is nn.Sequential.forward:
        return list(step)
    return None


def _steps(pipeline: Any, path: tuple[int, ...] = ()) -> Iterator[tuple[tuple[int, ...], Any]]:
    children = _children(pipeline)
    if children is None:
        yield path, pipeline
    else:
        for position, child in enumerate(children):
            yield from _steps(child, (*path, position))


def leaves(pipeline: Any) -> Iterator[Any]:
    """Every step, also of the containers that choose at random.

    Args:
        pipeline: A pipeline or a single transform.
    """
    for _, step in _steps(pipeline):
        if isinstance(step, _RANDOM_CONTAINERS):
            for choice in step.transforms:
                yield from leaves(choice)
        else:
            yield step


def _inserted(pipeline: Any, path: tuple[int, ...], augmix: AugmentAndMixTransform) -> Any:
    children = _children(pipeline)
    if children is None:
        container = v2.Compose if isinstance(pipeline, v2.Transform) else v1.Compose
        return container([augmix, *_after(augmix, pipeline, _in_one_pass(pipeline, [pipeline]))])
    position, *path_within = path
    before, after = children[:position], children[position:]
    if path_within:
        before.append(_inserted(after.pop(0), tuple(path_within), augmix))
    else:
        before.append(augmix)
        after = _in_one_pass(pipeline, after)
    return _container(pipeline, before + _after(augmix, pipeline, after))


def _in_one_pass(pipeline: Any, steps: list[Any]) -> list[Any]:
    """The steps after AugMix, of which the first may be done together."""
    count = by_level(steps)
    if count == 0:
        return steps
    # Not a copy of the pipeline's container, whose hooks are called by the copy around all steps.
    container = v2.Compose if isinstance(pipeline, v2.Transform | nn.Sequential) else v1.Compose
    return [LookUp(steps[:count], container), *steps[count:]]


def _after(augmix: AugmentAndMixTransform, pipeline: Any, steps: list[Any]) -> list[Any]:
    """The steps after AugMix, as they take what it returns."""
    if not steps or not (augmix.views or augmix.on_device):
        return steps
    return [after_augmix(augmix, steps[0] if len(steps) == 1 else _container(pipeline, steps))]


def after_augmix(augmix: AugmentAndMixTransform, pipeline: Any) -> Any:
    """What stands after AugMix, as it takes what AugMix returns: views, or images that are left for the batch.

    Args:
        augmix: AugMix.
        pipeline: A pipeline or a single transform.

    Raises:
        PlacementError: If what is left for the batch is more than a conversion.
    """
    if not augmix.on_device:
        return EachView(pipeline, draws=_may_draw(pipeline), may_wait=isinstance(pipeline, LookUp))
    steps = [step for leaf in leaves(pipeline) for step in (leaf.steps if isinstance(leaf, LookUp) else [leaf])]
    for step in steps:
        if not is_by_level(step):
            raise PlacementError(
                f'{describe(step)} comes after AugMix, and with `on="device"` only conversions can (ToTensor, ToImage, '
                'ToDtype, ConvertImageDtype, Normalize, ToPureTensor): put it before them, or use on="workers"'
            )
    return Later(LookUp(steps, v2.Compose if isinstance(pipeline, v2.Transform) else v1.Compose))


def _may_draw(step: Any) -> bool:
    """Whether a step may draw random numbers: all but those of torchvision that are known not to, without hooks."""
    if has_hooks(step):
        return True
    if type(step) in (v1.Compose, v2.Compose, nn.Sequential):
        return any(map(_may_draw, _children(step) or ()))
    return type(step) not in _WITHOUT_DRAWS


def _container(like: Any, children: list[Any]) -> Any:
    container = copy.copy(like)
    if isinstance(container, nn.Sequential):
        container.__dict__["_modules"] = {str(number): child for number, child in enumerate(children)}
    else:
        container.transforms = children
    return container
