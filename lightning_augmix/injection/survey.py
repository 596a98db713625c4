"""Looks at a dataset once: the datasets it holds, their transforms, and what these show of the image."""

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch.utils.data import ChainDataset, ConcatDataset, Dataset, StackDataset, TensorDataset
from torchvision.datasets.vision import StandardTransform

from lightning_augmix._images import may_be_image
from lightning_augmix.injection.pipeline import (
    Place,
    changes_dtype,
    describe,
    find_place,
    has_augmix,
    leaves,
    returns_to_uint8,
    takes_or_returns_uint8,
)

__all__ = ["Node", "Pipeline", "survey"]


@dataclass(frozen=True, eq=False)
class Pipeline:
    """The transforms in an attribute of a dataset, which its images may pass through.

    Attributes:
        attribute: The name.
        transform: What the attribute holds.
        is_plain: Whether it is a plain attribute, rather than a property or a slot.
    """

    attribute: str
    transform: Any
    is_plain: bool

    @cached_property
    def place(self) -> Place | None:
        """Where AugMix belongs in it, see :func:`~lightning_augmix.injection.pipeline.find_place`."""
        return find_place(self.transform)

    @cached_property
    def returns_to_uint8(self) -> bool:
        """Whether a step makes the image uint8 again, whatever it was before."""
        return returns_to_uint8(self.transform)

    @cached_property
    def is_reached_as_uint8(self) -> bool:
        """Whether a step shows that the image is uint8 there, whatever datasets within did to it."""
        return takes_or_returns_uint8(self.transform)

    @cached_property
    def has_augmix(self) -> bool:
        """Whether a step applies AugMix, of whatever library."""
        return has_augmix(self.transform)


@dataclass(frozen=True, eq=False)
class Node:
    """A dataset, as a survey finds it.

    Attributes:
        dataset: The dataset.
        pipelines: Its transforms that its images may pass through, by attribute.
        named: The attributes that transform images by their names; whether they show how.
        held: The datasets it holds: by attribute, or by position or key in its ``datasets``.
        is_collection: Whether they are the members of a ``ConcatDataset``, ``ChainDataset`` or ``StackDataset``.
        is_repeated: Whether it is within itself; the survey goes no further there.
    """

    dataset: Any
    pipelines: Mapping[str, Pipeline]
    named: Mapping[str, bool]
    held: Mapping[Any, "Node"]
    is_collection: bool
    is_repeated: bool = False

    @property
    def name(self) -> str:
        """The name of the dataset's type."""
        return type(self.dataset).__name__

    @property
    def attributes(self) -> Mapping[str, Any]:
        """Its plain attributes."""
        return _attributes(self.dataset)

    @cached_property
    def may_hold_images(self) -> bool:
        """Whether, as a member of a ``StackDataset``, it may be the one of the images."""
        if isinstance(self.dataset, TensorDataset):
            return any(may_be_image(tensor[0]) for tensor in self.dataset.tensors if len(tensor))
        return isinstance(self.dataset, Dataset) or (len(self.dataset) > 0 and may_be_image(self.dataset[0]))

    def walk(self, depth: int = 0) -> Iterator[tuple[int, "Node"]]:
        """This node and those within it, from the outermost inwards, with their depth."""
        yield depth, self
        for held in self.held.values():
            if not held.is_repeated:
                yield from held.walk(depth + 1)

    def __str__(self) -> str:
        lines = []
        for depth, node in self.walk():
            shown = [f"{node.name}.{name}: {describe(p.transform)}" for name, p in node.pipelines.items()]
            lines += [f"{'  ' * (depth + 1)}{line}" for line in shown or [node.name]]
        return "\n".join(lines)


def survey(dataset: Any) -> Node:
    """Looks at a dataset and at those it holds; nothing is loaded.

    Args:
        dataset: Anything that a loader takes as a dataset.

    Returns:
        The dataset's node; a dataset in several places is one node.
    """
    nodes: dict[int, Node] = {}

    def look(dataset: Any, within: tuple[int, ...]) -> Node:
        if id(dataset) in within:
            return Node(dataset, {}, {}, {}, is_collection=False, is_repeated=True)
        if id(dataset) not in nodes:
            own = _attributes(dataset)
            is_collection = isinstance(dataset, ConcatDataset | ChainDataset | StackDataset) and isinstance(
                dataset.datasets, list | tuple | dict
            )
            if is_collection:
                members = dataset.datasets
                inner = dict(members if isinstance(members, dict) else enumerate(members))
            else:
                inner = {name: value for name, value in own.items() if isinstance(value, Dataset)}
            held = {name: look(value, (*within, id(dataset))) for name, value in inner.items()}
            pipelines = _pipelines(dataset, own)
            nodes[id(dataset)] = Node(dataset, pipelines, _named(own), held, is_collection)
        return nodes[id(dataset)]

    return look(dataset, ())


def _attributes(dataset: Any) -> dict[str, Any]:
    return vars(dataset) if hasattr(dataset, "__dict__") else {}


#: In the names of attributes, what is not the training image's.
_OTHERS = {"target", "label", "labels", "mask", "masks", "seg", "gt", "depth", "val", "test", "eval", "valid"}


def _is_of_images(attribute: str) -> bool:
    return not _OTHERS & set(attribute.lower().split("_"))


_ABSENT = object()


def _pipelines(dataset: Any, own: Mapping[str, Any]) -> dict[str, Pipeline]:
    """``transform``, ``transforms``, and what is like torchvision's under another name.

    Looked up without `getattr`, because wrappers may hand on the attributes of another dataset.
    """
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
        # A property may only return a plain attribute.
        if not any(value is plain for other, plain in own.items() if other != name and plain is not None):
            found[name] = value
    for name, value in own.items():
        if _is_of_images(name) and (changes_dtype(value) or has_augmix(value)):
            found[name] = value

    def is_plain(name: str) -> bool:
        return not inspect.isdatadescriptor(inspect.getattr_static(type(dataset), name, None))

    return {name: Pipeline(name, value, is_plain(name)) for name, value in found.items()}


def _named(own: Mapping[str, Any]) -> dict[str, bool]:
    return {
        name: all(type(step).__module__.startswith("torchvision.") for step in leaves(value))
        for name, value in own.items()
        if name.lower().endswith(("transform", "transforms"))
        and _is_of_images(name)
        and callable(value)
        and not isinstance(value, StandardTransform)
    }
