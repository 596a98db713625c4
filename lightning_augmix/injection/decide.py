"""Decides where AugMix goes: a pure function of what a survey found."""

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import Any, TypeAlias

from torch.utils.data import ChainDataset, ConcatDataset, StackDataset

from lightning_augmix._checks import is_boolean
from lightning_augmix._errors import PlacementError
from lightning_augmix.injection.copies import OURS
from lightning_augmix.injection.pipeline import describe, insert
from lightning_augmix.injection.survey import Node, Pipeline
from lightning_augmix.transform import AugmentAndMixTransform

__all__ = ["Decision", "ImageKey", "check_image_key", "decide"]

#: Where the image is in a sample: the key in a dictionary, or the position in a tuple or list.
ImageKey: TypeAlias = int | str


def check_image_key(image_key: Any) -> ImageKey | None:
    """Checks a key or position of the image.

    Args:
        image_key: What was given.

    Returns:
        The key, the position as Python's integer, or ``None``.

    Raises:
        TypeError: If it is neither a string, nor an integer, nor ``None``.
    """
    if is_boolean(image_key) or not isinstance(image_key, Integral | str | None):
        raise TypeError(
            "Expected argument `image_key` to be the key (a string) or position (an integer) of the image in a "
            f"sample, or None; got {image_key!r}."
        )
    return int(image_key) if isinstance(image_key, Integral) else image_key


@dataclass(frozen=True)
class Decision:
    """Where AugMix goes in a dataset.

    Attributes:
        root: What the survey found.
        insertions: The transforms that it goes into, each with the dataset that has them; empty where it is applied to
            the samples instead.
        on_the_way: The datasets that hold one of these.
        image_key: The field of the samples that it is applied to; ``None`` for their only image.
        refusal: Why it goes nowhere; ``None`` where it has a place.
    """

    root: Node
    insertions: Mapping[Node, Pipeline]
    on_the_way: frozenset[Node]
    image_key: ImageKey | None = None
    refusal: str | None = None

    def inserted(self, node: Node, transform: AugmentAndMixTransform) -> Any:
        """The transforms of a dataset with AugMix among them.

        Args:
            node: One of those with an insertion.
            transform: AugMix.
        """
        pipeline = self.insertions[node]
        assert pipeline.place is not None
        return insert(pipeline.transform, pipeline.place, transform)

    def report(self, transform: AugmentAndMixTransform) -> str:
        """What is done, for people.

        Args:
            transform: AugMix.
        """
        if self.image_key is not None:
            return f"AugMix is applied to the field {self.image_key!r} of the samples of {self.root.name}"
        if not self.insertions:
            return (
                f"AugMix is applied to the samples of {self.root.name}: no transform shows that their image stops "
                "being uint8"
            )
        return "\n".join(
            f"AugMix was inserted into {node.name}.{pipeline.attribute}\n"
            f"  before: {describe(pipeline.transform)}\n"
            f"  after:  {describe(self.inserted(node, transform))}"
            for node, pipeline in self.insertions.items()
        )


def decide(root: Node, image_key: ImageKey | None = None) -> Decision:
    """Decides where AugMix goes.

    The first step that leaves uint8 is in the innermost transforms that have one, unless the image is uint8 again
    further out. Where no transform shows such a step, AugMix is applied to the samples.

    Args:
        root: What the survey found.
        image_key: Applies AugMix to this field of the samples instead.
    """
    search = _Search({}, {}, set())
    try:
        _check_without_augmix(root)
        if image_key is None:
            search.sources(root)
    except PlacementError as error:
        return Decision(root, {}, frozenset(), image_key, refusal=str(error))
    return Decision(root, search.insertions, frozenset(search.on_the_way), image_key)


def _check_without_augmix(root: Node) -> None:
    for depth, node in root.walk():
        is_augmented_within = depth > 0 and any(name.startswith(OURS) for name in node.attributes)
        if "augmix" in node.name.lower() or is_augmented_within:
            raise PlacementError(f"{node.name} applies AugMix itself, and applying it twice is not AugMix")
        for attribute, pipeline in node.pipelines.items():
            if pipeline.has_augmix:
                raise PlacementError(f"{node.name}.{attribute} has AugMix already, and applying it twice is not AugMix")


#: Under these names wrappers keep the dataset that their own images come from.
_SOURCES = {"dataset", "subset", "base", "ds"}


@dataclass(frozen=True)
class _Search:
    """Looks for the datasets whose images stop being uint8 in transforms that can be seen."""

    found: dict[Node, frozenset[Node]]
    insertions: dict[Node, Pipeline]
    on_the_way: set[Node]

    def sources(self, node: Node) -> frozenset[Node]:
        """Those of them that the images of a dataset come from; none where nothing can be seen."""
        if node not in self.found:
            if any(pipeline.is_reached_as_uint8 for pipeline in node.pipelines.values()):
                self.found[node] = self._own(node)
            else:
                self.found[node] = self._within(node) or self._own(node)
        return self.found[node]

    def _within(self, node: Node) -> frozenset[Node]:
        sources = {name: self.sources(held) for name, held in node.held.items()}
        placed = [found for found in sources.values() if found]
        if not placed:
            return frozenset()
        left_out = [node.held[name] for name, found in sources.items() if not found]
        if left_out and not (isinstance(node.dataset, StackDataset) and not any(m.may_hold_images for m in left_out)):
            raise PlacementError(f"it is clear for some of the datasets in {node.name} only")
        together = frozenset().union(*placed)
        # One dataset in two attributes is one source.
        if any(found != together for found in placed) and not isinstance(node.dataset, ConcatDataset | ChainDataset):
            raise PlacementError(f"several of the datasets in {node.name} show where an image becomes floating-point")
        if not (node.is_collection or node.held.keys() <= _SOURCES) and _may_transform_own_images(node):
            names = ", ".join(f"`{name}`" for name in node.held)
            raise PlacementError(
                f"both {node.name} and the dataset in its attribute {names} have transforms, and its images may come "
                f"from either (from that one, if the attribute is one of {', '.join(sorted(_SOURCES))})"
            )
        self.on_the_way.add(node)
        return together

    def _own(self, node: Node) -> frozenset[Node]:
        with_place = {name: pipeline for name, pipeline in node.pipelines.items() if pipeline.place is not None}
        if len(with_place) > 1:
            # `to_tensor` beside `normalize`: what is normalised is floating-point already.
            converting = {name: p for name, p in with_place.items() if p.place and not p.place.only_normalizes}
            with_place = converting or with_place
        if not with_place:
            return frozenset()
        possible = [name for name, p in node.pipelines.items() if name in with_place or p.returns_to_uint8]
        if len(possible) > 1:
            attributes = " and ".join(f"`{attribute}`" for attribute in possible)
            raise PlacementError(
                f"{attributes} of {node.name} show where the image becomes floating-point or uint8, and its images may "
                "pass through one or another, in any order"
            )
        [(attribute, pipeline)] = with_place.items()
        opaque = [name for name, shows in node.named.items() if name != attribute and not shows]
        if "transform" in attribute and opaque:
            raise PlacementError(
                f"`{attribute}` of {node.name} shows where something becomes floating-point, but not whether that is "
                f"the image, which may pass through `{opaque[0]}` instead"
            )
        if not pipeline.is_plain:
            raise PlacementError(f"{node.name}.{attribute} is a property or a slot, not a plain attribute")
        self.insertions[node] = pipeline
        return frozenset([node])


def _may_transform_own_images(node: Node) -> bool:
    places = {name: pipeline.place for name, pipeline in node.pipelines.items() if pipeline.place is not None}
    return any(name not in places or not places[name].only_normalizes for name in {*places, *node.named})
