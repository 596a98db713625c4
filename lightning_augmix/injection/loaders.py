"""Augmented copies of datasets and loaders; the originals stay as they are."""

import copy
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _BaseDataLoaderIter

from lightning_augmix import unread
from lightning_augmix._checks import one_of
from lightning_augmix._device import PendingBatch
from lightning_augmix._errors import OnUnsupported, PlacementError
from lightning_augmix._views import check_views
from lightning_augmix.engines import select_engine
from lightning_augmix.injection import lookup
from lightning_augmix.injection.advice import write_instead
from lightning_augmix.injection.collate import CollateViews
from lightning_augmix.injection.collate_pending import CollatePending
from lightning_augmix.injection.decide import ImageKey, check_image_key, decide
from lightning_augmix.injection.guard import Guard, guarded
from lightning_augmix.injection.lightning_notes import keep_when_built_anew, separate_notes
from lightning_augmix.injection.rebuild import rebuild
from lightning_augmix.injection.survey import survey
from lightning_augmix.transform import AugmentAndMixTransform

__all__ = ["Injection", "augment_batch", "augment_dataloader", "augment_dataset", "clone_dataloader", "inject"]

_B = TypeVar("_B")
_D = TypeVar("_D")
_L = TypeVar("_L", bound="DataLoader[Any]")


@dataclass(frozen=True)
class Injection:
    """An augmented copy of a dataset, and what was done to get it.

    Attributes:
        dataset: The augmented copy.
        report: What was done, for people.
    """

    dataset: Any
    report: str


def augment_dataset(dataset: _D, transform: AugmentAndMixTransform, *, image_key: ImageKey | None = None) -> _D:
    """Returns a copy of a dataset whose images are augmented, for instance for a training loop without a Trainer.

    AugMix is inserted into the dataset's transforms directly before the step where the image stops being uint8: into
    a torchvision ``Compose``, ``v2.Compose`` or ``nn.Sequential``, nested as they may be, or before a single
    transform, in the attribute ``transform``, a joint ``transforms``, or another. ``Subset``, ``ConcatDataset``,
    ``ChainDataset``, ``StackDataset`` and wrappers that keep another dataset in an attribute are followed inwards.
    Where no transform shows such a step, AugMix is applied to each sample that the dataset returns, provided that one
    entry of it is an image and uint8. The first sample that a process makes is made twice more, to prove by experiment
    that AugMix reaches its image and nothing else. A dataset must not cache transformed samples.

    Data is shared, nothing is reloaded; the dataset given, its transforms and the datasets within it are not changed.

    Args:
        dataset: A map-style or iterable dataset.
        transform: The transform to insert.
        image_key: Applies AugMix to this field of each sample that the dataset returns, a key or position, instead of
            looking for its place in the transforms. The image may be uint8, or floating-point in [0, 1].

    Returns:
        The augmented copy, an instance of the type of ``dataset``.

    Raises:
        TypeError: If an argument has the wrong type.
        PlacementError: A ``ValueError``: AugMix cannot be placed for certain. The message shows the data that was seen
            and says what to write instead. The copy raises it too, for a sample that was made without AugMix, or is
            not what AugMix takes.

    Example:
        >>> from torchvision import transforms
        >>> from torchvision.datasets import FakeData
        >>> clean = FakeData(4, image_size=(3, 24, 32), transform=transforms.ToTensor())
        >>> augmented = augment_dataset(clean, AugmentAndMixTransform(augmentation_set="safe"))
        >>> [type(step).__name__ for step in augmented.transform.transforms]
        ['AugmentAndMixTransform', 'LookUp']
        >>> clean.transform
        ToTensor()
    """
    unread.was_read()
    augmented: _D = inject(dataset, transform, image_key=image_key).dataset
    return augmented


def augment_dataloader(
    loader: _L,
    transform: AugmentAndMixTransform,
    *,
    image_key: ImageKey | None = None,
    views: int = 0,
    on: Literal["workers", "device"] = "workers",
) -> _L:
    """Returns a copy of a loader whose images are augmented, for instance for a training loop without a Trainer.

    Args:
        loader: A ``DataLoader``; it is not changed, and worker processes it may have running are left alone.
        transform: The transform to insert, see :func:`augment_dataset`.
        image_key: See there.
        views: 0, or the number of augmented views of each image, see :class:`AugMixCallback`.
        on: Where images are augmented, see :class:`AugMixCallback`; for ``"device"``, call :func:`augment_batch` on
            each batch.

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
    views, on_device = check_views(views), one_of("on", on, ("workers", "device")) == "device"
    if isinstance(transform, AugmentAndMixTransform):
        transform = copy.copy(transform)
        transform.views, transform.on_device = views, on_device
    dataset = augment_dataset(loader.dataset, transform, image_key=image_key)
    clone = clone_dataloader(loader, dataset, views=views, on_device=on_device)
    keep_when_built_anew(clone)
    return clone


def augment_batch(batch: _B, device: torch.device | str | None = None) -> _B:
    """Augments the images of a batch from ``augment_dataloader(…, on="device")``, and does what was left after AugMix.

    Args:
        batch: The batch: any nesting of tuples, lists and dicts.
        device: Where to; ``None`` for the device where the images are, for instance by Fabric's loaders.

    Returns:
        The batch, on the device.

    Raises:
        TypeError: If the batch has no images that are still to be augmented.

    Example:
        >>> from torchvision import transforms
        >>> from torchvision.datasets import FakeData
        >>> clean = DataLoader(FakeData(4, image_size=(3, 24, 32), transform=transforms.ToTensor()), batch_size=2)
        >>> loader = augment_dataloader(clean, AugmentAndMixTransform(), on="device")
        >>> images, labels = augment_batch(next(iter(loader)), "cpu")
        >>> images.shape, images.dtype
        (torch.Size([2, 3, 24, 32]), torch.float32)
    """
    leaves, structure = tree_flatten(batch)
    if not any(isinstance(leaf, PendingBatch) for leaf in leaves):
        raise TypeError(
            'Expected argument `batch` to be one of a loader from `augment_dataloader(…, on="device")`, not yet '
            f"augmented; got {', '.join(type(leaf).__name__ for leaf in leaves) or 'nothing'}."
        )
    if device is not None:
        movable = torch.Tensor | PendingBatch
        leaves = [leaf.to(device, non_blocking=True) if isinstance(leaf, movable) else leaf for leaf in leaves]
    done = [leaf.finished() if isinstance(leaf, PendingBatch) else leaf for leaf in leaves]
    finished: _B = tree_unflatten(done, structure)
    return finished


def clone_dataloader(
    loader: _L, dataset: Any, *, views: int = 0, on_device: bool = False, on_unsupported: OnUnsupported = "raise"
) -> _L:
    """Returns a copy of a loader over another dataset, without any worker process of the original's.

    Args:
        loader: The loader to copy.
        dataset: The dataset of the copy, as long as the original's.
        views: Number of augmented views that it makes of each image.
        on_device: Whether it leaves images for the batch to augment.
        on_unsupported: Whether samples without views are an error, or a warning.

    Returns:
        The copy.

    Raises:
        PlacementError: If the loader holds an iterator that it made when it was constructed, or computes its dataset.
    """
    for name, value in vars(loader).items():
        if isinstance(value, _BaseDataLoaderIter) and name != "_iterator":
            raise PlacementError(
                f"{type(loader).__name__} started its workers when it was constructed (attribute `{name}`), so they "
                "would never see AugMix: use a plain DataLoader with persistent_workers=True."
            )
    clone = copy.copy(loader)
    separate_notes(clone)
    # DataLoader refuses assignment to `dataset` after construction, because of its sampler; the copy's is as long.
    clone.__dict__["dataset"] = dataset
    if clone.dataset is not dataset:
        raise PlacementError(
            f"`dataset` of {type(loader).__name__} is a property, so the loader would go on without AugMix: use a "
            "plain DataLoader."
        )
    clone._iterator = None
    # A loader that the user keeps in a CombinedLoader comes back as the clone it became.
    collate = loader.collate_fn
    if isinstance(collate, CollateViews | CollatePending):
        collate = collate.collate
    if on_device:
        if clone.batch_sampler is None:
            raise PlacementError(
                f'{type(loader).__name__} makes no batches (batch_size=None), and `on="device"` augments batches: '
                'use on="workers"'
            )
        clone.collate_fn = CollatePending(collate)
    elif views:
        takes_list = clone.batch_sampler is not None
        clone.collate_fn = CollateViews(collate, views, takes_list=takes_list, on_unsupported=on_unsupported)
    return clone


def inject(
    dataset: Any,
    transform: AugmentAndMixTransform,
    *,
    image_key: ImageKey | None = None,
    on_unsupported: OnUnsupported = "raise",
) -> Injection:
    """:func:`augment_dataset`, with a report.

    Args:
        dataset: See there.
        transform: See there.
        image_key: See there.
        on_unsupported: Whether the copy raises an error for a sample that was made without AugMix, or warns.

    Returns:
        The augmented copy and the report.

    Raises:
        PlacementError: See there.
    """
    if isinstance(dataset, DataLoader):
        raise TypeError("Expected argument `dataset` to be a dataset; got a DataLoader: use `augment_dataloader`.")
    if not isinstance(transform, AugmentAndMixTransform):
        raise TypeError(f"Expected argument `transform` to be an AugmentAndMixTransform; got {transform!r}.")
    image_key = check_image_key(image_key)
    select_engine(transform.engine).warm_up()
    lookup.warm_up()
    root = survey(dataset)
    decision = decide(root, image_key)
    try:
        if decision.refusal is not None:
            raise PlacementError(decision.refusal)
        guard = Guard("inserted" if decision.insertions else "applied", transform, image_key, str(root), on_unsupported)
        if decision.insertions:
            dataset = rebuild(decision, transform, lambda member: guarded(member, guard))
        return Injection(guarded(dataset, guard), decision.report(transform))
    except PlacementError as error:
        raise PlacementError(
            f"AugMix cannot be placed in {root.name}: {error}.\nThe data it saw:\n{root}\n{write_instead()}"
        ) from None
