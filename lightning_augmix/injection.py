"""Augmented copies of datasets and loaders; the originals stay as they are."""

import copy
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeVar

from torch.utils.data import ChainDataset, ConcatDataset, DataLoader, Dataset
from torch.utils.data.dataloader import _BaseDataLoaderIter
from torchvision.datasets import VisionDataset
from torchvision.datasets.vision import StandardTransform

from lightning_augmix.dataset_copy import copy_dataset
from lightning_augmix.pipeline import PlacementError, describe, insert, is_opaque
from lightning_augmix.plan import draw_plan
from lightning_augmix.transform import AugmentAndMixTransform

__all__ = ["Injection", "augment_dataloader", "augment_dataset", "clone_dataloader", "inject"]

_D = TypeVar("_D")
_L = TypeVar("_L", bound="DataLoader[Any]")


@dataclass(frozen=True)
class Injection:
    """An augmented copy of a dataset, and what was done to get it.

    Attributes:
        dataset: The augmented copy.
        report: The pipelines before and after, for people.
    """

    dataset: Any
    report: str


def augment_dataset(dataset: _D, transform: AugmentAndMixTransform) -> _D:
    """Returns a copy of a dataset whose images are augmented, for instance for a training loop without a Trainer.

    AugMix is inserted into the dataset's ``transform`` (or a ``VisionDataset``'s joint ``transforms``) directly
    before the step where the image stops being uint8. ``Subset``, ``ConcatDataset``, ``ChainDataset`` and wrappers
    that keep another dataset in an attribute are followed inwards. Data is shared, nothing is reloaded; the dataset
    given, its transforms and the datasets within it are not changed. A dataset must not cache transformed samples.

    Args:
        dataset: A dataset whose transforms are a torchvision ``Compose``, ``v2.Compose`` or ``nn.Sequential``,
            nested as they may be, a single transform, or ``None``.
        transform: The transform to insert.

    Returns:
        The augmented copy, of the type of ``dataset``.

    Raises:
        TypeError: If ``dataset`` is a loader, or ``transform`` not an AugmentAndMixTransform.
        PlacementError: A ``ValueError``: AugMix cannot be placed for certain. The message shows the pipeline that
            was seen and says what to write instead.

    Example:
        >>> from torchvision import transforms
        >>> from torchvision.datasets import FakeData
        >>> clean = FakeData(4, image_size=(3, 24, 32), transform=transforms.ToTensor())
        >>> augmented = augment_dataset(clean, AugmentAndMixTransform(augmentation_set="safe"))
        >>> [type(step).__name__ for step in augmented.transform.transforms]
        ['AugmentAndMixTransform', 'ToTensor']
        >>> clean.transform
        ToTensor()
    """
    augmented: _D = inject(dataset, transform).dataset
    return augmented


def augment_dataloader(loader: _L, transform: AugmentAndMixTransform) -> _L:
    """Returns a copy of a loader whose images are augmented, for instance for a training loop without a Trainer.

    Args:
        loader: A ``DataLoader``; it is not changed, and worker processes it may have running are left alone.
        transform: The transform to insert, see :func:`augment_dataset`.

    Returns:
        The copy, of the type of ``loader``. It shares the sampler, the collate function and all settings.

    Raises:
        TypeError: If ``loader`` is not a ``DataLoader``.
        PlacementError: A ``ValueError``: see :func:`augment_dataset`; also if the loader started its workers when it
            was constructed, and so would go on without AugMix.
    """
    if not isinstance(loader, DataLoader):
        raise TypeError(
            f"Expected argument `loader` to be a torch.utils.data.DataLoader; got {type(loader).__name__}, whose "
            "dataset cannot be reached: put AugmentAndMixTransform into its transforms yourself."
        )
    return clone_dataloader(loader, augment_dataset(loader.dataset, transform))


def clone_dataloader(loader: _L, dataset: Any) -> _L:
    """Returns a copy of a loader over another dataset, without any worker process of the original's.

    Args:
        loader: The loader to copy.
        dataset: The dataset of the copy, as long as the original's.

    Returns:
        The copy.

    Raises:
        PlacementError: If the loader holds an iterator that it made when it was constructed.
    """
    for name, value in vars(loader).items():
        if isinstance(value, _BaseDataLoaderIter) and name != "_iterator":
            raise PlacementError(
                f"{type(loader).__name__} started its workers when it was constructed (attribute `{name}`), so they "
                "would never see AugMix: use a plain DataLoader with persistent_workers=True."
            )
    clone = copy.copy(loader)
    # DataLoader refuses assignment to `dataset` after construction, because of its sampler; the copy's is as long.
    clone.__dict__["dataset"] = dataset
    clone._iterator = None
    return clone


def inject(dataset: Any, transform: AugmentAndMixTransform) -> Injection:
    """:func:`augment_dataset`, with a report.

    Args:
        dataset: See there.
        transform: See there.

    Returns:
        The augmented copy and the pipelines before and after.

    Raises:
        PlacementError: See there.
    """
    if isinstance(dataset, DataLoader):
        raise TypeError("Expected argument `dataset` to be a dataset; got a DataLoader: use `augment_dataloader`.")
    if not isinstance(transform, AugmentAndMixTransform):
        raise TypeError(f"Expected argument `transform` to be an AugmentAndMixTransform; got {transform!r}.")
    draw_plan(0, (1, 1), transform.hyperparameters)  # compiles the sampler here, and not in every worker process
    injector = _Injector(transform)
    try:
        augmented = injector.place(dataset, at_end=False)
        if augmented is None:
            augmented = injector.place(dataset, at_end=True)
        if augmented is None:
            raise PlacementError("no dataset that it is known to read has an attribute `transform` or `transforms`")
    except PlacementError as error:
        raise PlacementError(
            f"AugMix cannot be placed in {type(dataset).__name__}: {error}.\nThe pipeline it saw:\n"
            + "\n".join(_outline(dataset))
            + "\nWrite instead a `transforms.Compose` or `v2.Compose` of torchvision's transforms, in the dataset's "
            "attribute `transform`, that shows where the image becomes floating-point, for instance "
            "Compose([…, ToTensor(), Normalize(…)]); or put AugmentAndMixTransform(…) into your own pipeline, where "
            "the image is still uint8, and train without AugMixCallback."
        ) from None
    return Injection(augmented, "\n".join(injector.report))


class _Injector:
    """Copies the datasets from the outermost down to those whose pipelines change."""

    def __init__(self, transform: AugmentAndMixTransform) -> None:
        self.transform = transform
        self.report: list[str] = []
        self._copies: dict[tuple[int, bool], Any] = {}

    def place(self, dataset: Any, at_end: bool) -> Any:
        """Returns an augmented copy, or ``None`` where images stay uint8 (at_end: where there is no pipeline)."""
        # A dataset that stands twice in a ConcatDataset stays one dataset.
        known = (id(dataset), at_end)
        if known not in self._copies:
            # The first step that leaves uint8 is in the innermost pipeline that has one; the end is the outermost's.
            first, second = (self._place_own, self._place_within) if at_end else (self._place_within, self._place_own)
            copied = first(dataset, at_end)
            self._copies[known] = second(dataset, at_end) if copied is None else copied
        return self._copies[known]

    def _place_within(self, dataset: Any, at_end: bool) -> Any:
        inner = _inner_datasets(dataset)
        placed = {name: [self.place(child, at_end) for child in children] for name, children in inner.items()}
        outcomes = [copied is not None for copies in placed.values() for copied in copies]
        if not any(outcomes):
            return None
        if not all(outcomes):
            raise PlacementError(f"it is clear for some of the datasets in {type(dataset).__name__} only")
        if inner.keys() - {"dataset", "datasets"} and self._has_own_place(dataset):
            names = ", ".join(f"`{name}`" for name in inner)
            raise PlacementError(
                f"both {type(dataset).__name__} and the dataset in its attribute {names} show where the image becomes "
                "floating-point, and its images may come from either (from that one, if the attribute is `dataset`)"
            )
        copied = copy_dataset(dataset)
        for name, copies in placed.items():
            vars(copied)[name] = copies if name == "datasets" else copies[0]
        return copied

    def _has_own_place(self, dataset: Any) -> bool:
        attribute = _pipeline_attribute(dataset)
        pipeline = None if attribute is None else getattr(dataset, attribute)
        return pipeline is not None and insert(pipeline, self.transform, at_end=False) is not None

    def _place_own(self, dataset: Any, at_end: bool) -> Any:
        attribute = _pipeline_attribute(dataset)
        if attribute is None:
            return None
        before = getattr(dataset, attribute)
        if before is None and not at_end:
            return None
        if at_end and any(is_opaque(pipeline) for pipeline in _inner_pipelines(dataset)):
            raise PlacementError("no step shows where the image becomes floating-point, and one may do anything")
        after = self.transform if before is None else insert(before, self.transform, at_end=at_end)
        if after is None:
            return None
        self.report.append(
            f"{type(dataset).__name__}.{attribute}\n  before: {describe(before)}\n  after:  {describe(after)}"
        )
        if inspect.isdatadescriptor(inspect.getattr_static(type(dataset), attribute, None)):
            raise PlacementError(f"{type(dataset).__name__}.{attribute} is a property or a slot, not a plain attribute")
        augmented = copy_dataset(dataset)
        vars(augmented)[attribute] = after
        if attribute == "transform" and isinstance(dataset, VisionDataset):
            augmented.transforms = StandardTransform(after, dataset.target_transform)
        return augmented


def _inner_datasets(dataset: Any) -> dict[str, list[Any]]:
    """The datasets that one holds, by attribute."""
    if isinstance(dataset, ConcatDataset | ChainDataset) and isinstance(dataset.datasets, list | tuple):
        return {"datasets": list(dataset.datasets)}
    attributes = vars(dataset) if hasattr(dataset, "__dict__") else {}
    return {name: [inner] for name, inner in attributes.items() if isinstance(inner, Dataset)}


def _pipeline_attribute(dataset: Any) -> str | None:
    """The attribute with the transforms: the object's own, or its class's; wrappers may hand on another dataset's."""
    own, joint = (inspect.getattr_static(dataset, name, _ABSENT) for name in ("transform", "transforms"))
    if not isinstance(own, _Absent | None) or isinstance(joint, _Absent | None | StandardTransform):
        return None if isinstance(own, _Absent) else "transform"
    return "transforms"


class _Absent:
    """For attributes that may be ``None``."""


_ABSENT = _Absent()


def _inner_pipelines(dataset: Any) -> Iterator[Any]:
    for inner in chain.from_iterable(_inner_datasets(dataset).values()):
        yield from _inner_pipelines(inner)
        attribute = _pipeline_attribute(inner)
        if attribute is not None and getattr(inner, attribute) is not None:
            yield getattr(inner, attribute)


def _outline(dataset: Any, indent: str = "  ") -> Iterator[str]:
    attribute = _pipeline_attribute(dataset)
    name = type(dataset).__name__
    yield (
        f"{indent}{name}"
        if attribute is None
        else f"{indent}{name}.{attribute}: {describe(getattr(dataset, attribute))}"
    )
    for inner in chain.from_iterable(_inner_datasets(dataset).values()):
        yield from _outline(inner, indent + "  ")
