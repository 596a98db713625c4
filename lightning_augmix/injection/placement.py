"""Which of a dataset's transforms AugMix goes into, however datasets are nested."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

from torch.utils.data import ChainDataset, ConcatDataset, Dataset, StackDataset, TensorDataset
from torchvision.datasets.vision import StandardTransform

from lightning_augmix._errors import PlacementError
from lightning_augmix._images import may_be_image
from lightning_augmix.injection.copies import copy_dataset
from lightning_augmix.injection.pipeline import (
    Place,
    changes_dtype,
    describe,
    find_place,
    has_augmix,
    insert,
    leaves,
    returns_to_uint8,
    takes_or_gives_uint8,
)
from lightning_augmix.injection.views import AugMixViews, EachView
from lightning_augmix.transform import AugmentAndMixTransform

__all__ = ["Injector", "check_without_augmix", "outline"]


def check_without_augmix(dataset: Any) -> None:
    """Refuses a dataset that applies AugMix already, as far as its transforms show.

    Args:
        dataset: The dataset, with those it holds.

    Raises:
        PlacementError: If one of its transforms is AugMix.
    """
    for _, inner in _walk(dataset):
        if "augmix" in type(inner).__name__.lower():
            raise PlacementError(f"{type(inner).__name__} applies AugMix itself, and applying it twice is not AugMix")
        for attribute, pipeline in _pipelines(inner).items():
            if has_augmix(pipeline):
                raise PlacementError(
                    f"{type(inner).__name__}.{attribute} has AugMix already, and applying it twice is not AugMix"
                )


def outline(dataset: Any) -> str:
    """A dataset, those it holds and their transforms, on a line each.

    Args:
        dataset: The dataset.
    """
    lines = []
    for depth, inner in _walk(dataset):
        name = type(inner).__name__
        pipelines = _pipelines(inner).items()
        own = [f"{name}.{attribute}: {describe(pipeline)}" for attribute, pipeline in pipelines] or [name]
        lines += [f"{'  ' * (depth + 1)}{line}" for line in own]
    return "\n".join(lines)


class Injector:
    """Copies the datasets from the outermost down to those whose transforms change.

    Args:
        transform: The transform to insert.
        answer: Makes a copy of a dataset that answers for its samples.

    Attributes:
        report: The pipelines before and after, one entry for each that was changed.
    """

    def __init__(self, transform: AugmentAndMixTransform, answer: Callable[[Any], Any]) -> None:
        self._transform = transform
        self._answer = answer
        self.report: list[str] = []
        self._copies: dict[int, Any] = {}

    def place(self, dataset: Any) -> Any:
        """Returns an augmented copy, or ``None`` where no transform shows that images stop being uint8.

        Args:
            dataset: The dataset.

        Raises:
            PlacementError: If several places are possible.
        """
        # A dataset that stands twice in a ConcatDataset stays one dataset.
        if id(dataset) not in self._copies:
            self._copies[id(dataset)] = None  # for datasets that refer to each other
            self._copies[id(dataset)] = self._placed(dataset)
        return self._copies[id(dataset)]

    def _placed(self, dataset: Any) -> Any:
        # The first step that leaves uint8 is in the innermost pipeline that has one, unless the image is uint8 again.
        if any(takes_or_gives_uint8(pipeline) for pipeline in _pipelines(dataset).values()):
            return self._place_own(dataset)
        copied = self._place_within(dataset)
        return self._place_own(dataset) if copied is None else copied

    def _place_within(self, dataset: Any) -> Any:
        inner = _inner_datasets(dataset)
        copies, sources = {}, 0
        for name, child in inner.items():
            insertions = len(self.report)
            copied = self.place(child)
            if copied is not None:
                copies[name] = copied
                sources += len(self.report) > insertions
        if not copies:
            return None
        kind = type(dataset).__name__
        left_out = [child for name, child in inner.items() if name not in copies]
        if left_out and not (isinstance(dataset, StackDataset) and not any(map(_may_give_images, left_out))):
            raise PlacementError(f"it is clear for some of the datasets in {kind} only")
        if sources > 1 and not isinstance(dataset, ConcatDataset | ChainDataset):
            raise PlacementError(f"several of the datasets in {kind} show where an image becomes floating-point")
        if not (_has_members(dataset) or inner.keys() <= _SOURCES) and _may_transform_own_images(dataset):
            names = ", ".join(f"`{name}`" for name in inner)
            raise PlacementError(
                f"both {kind} and the dataset in its attribute {names} have transforms, and its images may come from "
                f"either (from that one, if the attribute is one of {', '.join(sorted(_SOURCES))})"
            )
        augmented = copy_dataset(dataset)
        if isinstance(dataset, ChainDataset):
            # Each answers for its own samples: those of the others would hide that one ignores its transform.
            copies = {name: self._answer(copied) for name, copied in copies.items()}
        if _has_members(dataset):
            members = {**inner, **copies}
            vars(augmented)["datasets"] = members if isinstance(dataset.datasets, dict) else list(members.values())
        else:
            vars(augmented).update(copies)
        if isinstance(self._transform, AugMixViews):
            for name in {*_pipelines(dataset), *_transform_attributes(dataset)} & vars(dataset).keys():
                vars(augmented)[name] = EachView(vars(dataset)[name])
        return augmented

    def _place_own(self, dataset: Any) -> Any:
        places = _places(dataset)
        if len(places) > 1:
            # `to_tensor` beside `normalize`: what is normalised is floating-point already.
            places = {name: place for name, place in places.items() if not place.only_normalizes} or places
        if not places:
            return None
        name = type(dataset).__name__
        pipelines = _pipelines(dataset)
        possible = [other for other in pipelines if other in places or returns_to_uint8(pipelines[other])]
        if len(possible) > 1:
            attributes = " and ".join(f"`{attribute}`" for attribute in possible)
            raise PlacementError(
                f"{attributes} of {name} show where the image becomes floating-point or uint8, and its images may pass "
                "through one or another, in any order"
            )
        [(attribute, place)] = places.items()
        hidden = [
            other for other in _transform_attributes(dataset) if other != attribute and not _shows(vars(dataset)[other])
        ]
        if "transform" in attribute and hidden:
            raise PlacementError(
                f"`{attribute}` of {name} shows where something becomes floating-point, but not whether that is the "
                f"image, which may pass through `{hidden[0]}` instead"
            )
        before = getattr(dataset, attribute)
        after = insert(before, place, self._transform)
        self.report.append(
            f"AugMix was inserted into {name}.{attribute}\n  before: {describe(before)}\n  after:  {describe(after)}"
        )
        if inspect.isdatadescriptor(inspect.getattr_static(type(dataset), attribute, None)):
            raise PlacementError(f"{name}.{attribute} is a property or a slot, not a plain attribute")
        augmented = copy_dataset(dataset)
        vars(augmented)[attribute] = after
        both = vars(dataset).get("transforms")
        if attribute == "transform" and isinstance(both, StandardTransform) and both.transform is before:
            vars(augmented)["transforms"] = StandardTransform(after, both.target_transform)
        return augmented


#: Under these names wrappers keep the dataset that their own images come from.
_SOURCES = {"dataset", "subset", "base", "ds"}

#: In the names of attributes, what is not the training image's.
_OTHERS = {"target", "label", "labels", "mask", "masks", "seg", "gt", "depth", "val", "test", "eval", "valid"}


def _is_of_images(attribute: str) -> bool:
    return not _OTHERS & set(attribute.lower().split("_"))


def _transform_attributes(dataset: Any) -> list[str]:
    """The attributes that by their names transform images, and are set."""
    attributes = vars(dataset) if hasattr(dataset, "__dict__") else {}
    return [
        name
        for name, value in attributes.items()
        if name.lower().endswith(("transform", "transforms"))
        and _is_of_images(name)
        and callable(value)
        and not isinstance(value, StandardTransform)
    ]


def _may_transform_own_images(dataset: Any) -> bool:
    shown = {name for name, place in _places(dataset).items() if place.only_normalizes}
    return any(name not in shown for name in {*_places(dataset), *_transform_attributes(dataset)})


def _may_give_images(member: Any) -> bool:
    """Whether a member of a StackDataset may be one of images."""
    if isinstance(member, TensorDataset):
        return any(may_be_image(tensor[0]) for tensor in member.tensors if len(tensor))
    return isinstance(member, Dataset) or (len(member) > 0 and may_be_image(member[0]))


def _shows(pipeline: Any) -> bool:
    """Whether every step of a pipeline is torchvision's, so that it shows what happens to the image."""
    return all(type(step).__module__.startswith("torchvision.") for step in leaves(pipeline))


def _has_members(dataset: Any) -> bool:
    return isinstance(dataset, ConcatDataset | ChainDataset | StackDataset) and isinstance(
        dataset.datasets, list | tuple | dict
    )


def _inner_datasets(dataset: Any) -> dict[Any, Any]:
    """The datasets that one holds, by attribute, or by position or key in its ``datasets``."""
    if _has_members(dataset):
        return dict(dataset.datasets if isinstance(dataset.datasets, dict) else enumerate(dataset.datasets))
    attributes = vars(dataset) if hasattr(dataset, "__dict__") else {}
    return {name: inner for name, inner in attributes.items() if isinstance(inner, Dataset)}


def _pipelines(dataset: Any) -> dict[str, Any]:
    """The transforms of a dataset's images by attribute: ``transform``, ``transforms``, and what is like torchvision's.

    Looked up without `getattr`, because wrappers may hand on the attributes of another dataset.
    """
    attributes = vars(dataset) if hasattr(dataset, "__dict__") else {}
    found: dict[str, Any] = {}
    for name in ("transform", "transforms"):
        static = inspect.getattr_static(dataset, name, _ABSENT)
        # VisionDataset's StandardTransform repeats `transform`.
        if static is _ABSENT or isinstance(static, StandardTransform) or (found and static is None):
            continue
        try:
            value = getattr(dataset, name)
        except Exception:  # a property that is not for this dataset
            continue
        # A property that gives a plain attribute stands for it.
        if not any(value is plain for other, plain in attributes.items() if other != name and plain is not None):
            found[name] = value
    for name, value in attributes.items():
        if _is_of_images(name) and (changes_dtype(value) or has_augmix(value)):
            found[name] = value
    return found


_ABSENT = object()


def _places(dataset: Any) -> dict[str, Place]:
    places = {name: find_place(pipeline) for name, pipeline in _pipelines(dataset).items()}
    return {name: place for name, place in places.items() if place is not None}


def _walk(dataset: Any, depth: int = 0, within: tuple[Any, ...] = ()) -> Iterator[tuple[int, Any]]:
    """A dataset and those it holds, with their depth."""
    yield depth, dataset
    for inner in _inner_datasets(dataset).values():
        if not any(inner is outer for outer in (*within, dataset)):
            yield from _walk(inner, depth + 1, (*within, dataset))
