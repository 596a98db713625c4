"""What the callback does to one fit: augments the training loaders that it makes, checks them, and undoes it all."""

import copy
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import DataLoader, IterableDataset

from lightning_augmix._errors import OnUnsupported, PlacementError
from lightning_augmix.injection.loaders import clone_dataloader, inject
from lightning_augmix.injection.samples import BY_HAND, Announced, ImageKey, answering
from lightning_augmix.injection.views import AugMixViews
from lightning_augmix.plans.keys import WITHOUT_SEED, RunKeys
from lightning_augmix.transform import AugmentAndMixTransform

__all__ = ["Fit"]


def _first_epoch(trainer: pl.Trainer) -> int:
    """The number of whole passes over the data before the one that a fit begins or resumes with.

    ``trainer.current_epoch`` is behind while a checkpoint is being resumed, which is when workers start to load, and
    with ``max_steps`` also later. Where the checkpoint was written after the last batch of an epoch and before its
    end, so is the count of processed epochs, until ``FitLoop.reset`` or a pass over no batches makes up for it.
    """
    loop = trainer.fit_loop
    current: Any = loop.epoch_progress.current
    total: Any = loop.epoch_progress.total
    has_all_batches = loop.restarting and loop.epoch_loop.batch_progress.is_last_batch
    return int(current.processed) + (has_all_batches and total.started > total.processed)


@dataclass(frozen=True)
class _Clone:
    """A loader that Lightning was given in place of the user's.

    Attributes:
        loader: It is held weakly: loaders that Lightning has replaced must end, and with them their worker processes.
        original: The user's loader.
        dataset: The augmented dataset.
        keys: The keys of its AugMix.
    """

    loader: weakref.ref[DataLoader[Any]]
    original: DataLoader[Any]
    dataset: Any
    keys: RunKeys


class Fit:
    """What the callback does to one fit, from its setup until it is undone.

    Args:
        trainer: The Trainer.
        transform: The callback's transform: copies of it are inserted, or it stands in the user's data.
        seed: The callback's seed.
        inject: Whether copies are inserted.
        views: Number of augmented views of each image; 0 for images that are augmented themselves.
        image_key: The callback's image_key.
        on_unsupported: What happens to loaders that cannot be augmented.
        tell: Is given the report of every insertion.

    Attributes:
        trainer: The Trainer.
    """

    def __init__(
        self,
        trainer: pl.Trainer,
        transform: AugmentAndMixTransform,
        *,
        seed: int | None,
        inject: bool,
        views: int,
        image_key: ImageKey | None,
        on_unsupported: OnUnsupported,
        tell: Callable[[str], None],
    ) -> None:
        self.trainer = trainer
        self._keys = RunKeys(seed, trainer.global_rank)
        self._transform = transform
        self._inject = inject
        self._views = views
        self._image_key = image_key
        self._on_unsupported = on_unsupported
        self._tell = tell
        self._clones: list[_Clone] = []
        self._left_out = False  # a loader, because it cannot be augmented
        self._position = 0  # of the next loader, among those that are made together
        self._has_loaders = False
        self._has_batch = False  # in this pass over the data
        self._is_over = False
        self._to_undo = ExitStack()
        loop = trainer.fit_loop
        self._to_undo.enter_context(_replaced(loop, "setup_data", partial(self._setup_data, loop.setup_data)))
        if not inject:
            self._keys.only_within_samples = True
            self._to_undo.callback(setattr, transform, "keys", transform.keys)
            transform.keys = self._keys

    def _setup_data(self, setup_data: Callable[[], None]) -> None:
        if self._is_over:  # and somebody else, who wrapped this, has put it back
            return setup_data()
        strategy = self.trainer.strategy
        process = partial(self._process_dataloader, strategy.process_dataloader)
        self._position = 0
        with _replaced(strategy, "process_dataloader", process):
            setup_data()
        return None

    def _process_dataloader(self, process: Callable[[object], object], dataloader: object) -> object:
        if self._has_loaders:
            self.advance_epoch()
        else:
            self._keys.epoch = _first_epoch(self.trainer)
            self._has_loaders = True
        try:
            dataloader = self._augmented(dataloader)
        except PlacementError as error:
            self._left_out = True
            self._refuse(str(error))
        self._position += 1
        return process(dataloader)

    def _augmented(self, loader: object) -> object:
        if not isinstance(loader, DataLoader):
            if not self._inject:
                self._keys.only_within_samples = False
                return loader
            raise PlacementError(
                f"AugMix cannot be placed in a training loader of type {type(loader).__name__}, whose dataset cannot "
                "be reached: use a DataLoader, or put the callback's `transform` into its transforms yourself and pass "
                '`inject=False`; `on_unsupported="warn"` trains without AugMix.'
            )
        # A `CombinedLoader` that the user keeps comes back with the clones that Lightning has put into it.
        original = next((clone.original for clone in self._clones if clone.dataset is loader.dataset), loader)
        if self._keys.seed is not None:
            self._check_for_seed(loader, original.dataset)
        keys = self._keys
        if self._inject:
            keys = keys.for_loader(self._position)
            transform = AugMixViews(self._transform, self._views) if self._views else copy.copy(self._transform)
            transform.keys = keys
            injection = inject(
                original.dataset, transform, image_key=self._image_key, on_unsupported=self._on_unsupported
            )
            dataset = injection.dataset
            self._tell(injection.report)
        else:
            dataset = answering(original.dataset, Announced(keys, self._on_unsupported))
        clone = clone_dataloader(loader, dataset, views=self._views, on_unsupported=self._on_unsupported)
        self._clones.append(_Clone(weakref.ref(clone), original, dataset, keys))
        return clone

    def _check_for_seed(self, loader: DataLoader[Any], dataset: Any) -> None:
        seed = f"`seed={self._keys.seed}`"
        if isinstance(dataset, IterableDataset):
            raise PlacementError(
                f"{seed} makes the augmentation of a sample depend on its index, and an iterable dataset "
                f"({type(dataset).__name__}) has none: {WITHOUT_SEED}."
            )
        if loader.num_workers > 0 and type(loader).__iter__ is not DataLoader.__iter__:
            raise PlacementError(
                f"{seed} needs worker processes that load one epoch after the other, and a {type(loader).__name__}, "
                "which has an `__iter__` of its own, may have them load ahead: use a DataLoader with "
                f"`persistent_workers=True`, or {WITHOUT_SEED}."
            )
        try:
            len(loader)
        except TypeError:
            raise PlacementError(
                f"{seed} makes the augmentation of a sample depend on the epoch, and the sampler "
                f"({type(loader.sampler).__name__}) has no length, so epochs may never end: "
                f"{WITHOUT_SEED}."
            ) from None

    def _refuse(self, message: str) -> None:
        if self._on_unsupported == "raise":
            raise PlacementError(message)
        rank_zero_warn(f"Training goes on without AugMix, at least in part. {message}")

    def check_loaders(self) -> None:
        """Refuses training loaders that were made before the callback could augment them."""
        combined = self.trainer.fit_loop._combined_loader
        if combined is None or self._left_out or not self._inject:
            return
        augmented = [clone.dataset for clone in self._clones]
        for loader in combined.flattened:
            # By the dataset, because strategies may wrap the loader.
            if not any(getattr(loader, "dataset", None) is dataset for dataset in augmented):
                self._left_out = True
                self._refuse(
                    f"A training loader ({type(loader).__name__}) was made before AugMix could augment it: do not use "
                    "`trainer.estimated_stepping_batches` in a `setup` that runs before AugMixCallback's (use it in "
                    "`configure_optimizers`)."
                )

    def check_epoch(self) -> None:
        """Loads for the epoch that a resumed run begins with."""
        epoch = _first_epoch(self.trainer)
        if self._keys.seed is not None and self._keys.epoch != epoch:
            # The loaders were made in `configure_optimizers`, before the checkpoint told the epoch, and workers may
            # have loaded for the wrong one: iterate anew, as Lightning does at the start of every later epoch.
            self._keys.epoch = epoch
            assert self.trainer.fit_loop._data_fetcher is not None
            iter(self.trainer.fit_loop._data_fetcher)

    def advance_epoch(self) -> None:
        """Goes on to the next epoch, if batches of this one were seen."""
        # By the batches seen, because Lightning's own counts differ in resumed runs: `current_epoch` lags behind with
        # `max_steps`, and a pass over no batches counts as processed.
        if self._has_batch:
            self._keys.epoch += 1
            self._has_batch = False
            # Those of replaced loaders hold on to datasets, which `train_dataloader` may load anew for every loader.
            self._clones = [clone for clone in self._clones if clone.loader() is not None]

    def check_batch(self) -> None:
        """Refuses the first batch of an epoch if no image was augmented since that of the epoch before."""
        if self._has_batch:
            return
        self._has_batch = True
        all_keys = [clone.keys for clone in self._clones if clone.loader() is not None]
        if not all_keys and not self._left_out:
            all_keys = [self._keys]
        if all(keys.used for keys in all_keys):
            # Not at the start of the epoch: loaders that never end have its images made before.
            for keys in all_keys:
                keys.used = False
            return
        if self._inject:
            self._refuse(
                "AugMix was inserted, but a batch was made without it: where no other message says why, the loader "
                "does not take its samples from its dataset. Put the callback's `transform` where the images are "
                "made, and pass `inject=False`."
            )
        else:
            self._refuse(f"A batch was made without AugMix. {BY_HAND}")

    def undo(self) -> None:
        """Gives everything back as it was."""
        self._is_over = True
        self._to_undo.close()
        clones = [(clone.loader(), clone.original) for clone in self._clones]
        originals = {id(loader): original for loader, original in clones if loader is not None}
        combined = self.trainer.fit_loop._combined_loader
        if combined is not None:
            # It may be the user's own, and `trainer.validate(dataloaders=trainer.train_dataloader)` must be clean.
            combined.flattened = [originals.get(id(loader), loader) for loader in combined.flattened]
        for loader, original in clones:
            if loader is not None:
                loader.__dict__["dataset"] = original.dataset
                loader.collate_fn = original.collate_fn
                loader._iterator = None


@contextmanager
def _replaced(owner: Any, name: str, method: Callable[..., Any]) -> Iterator[None]:
    """Replaces a method of one object, not of its class, unless somebody has replaced it again by the end."""
    before = vars(owner).get(name)
    setattr(owner, name, method)
    try:
        yield
    finally:
        if vars(owner).get(name) is method:
            if before is None:
                delattr(owner, name)
            else:
                setattr(owner, name, before)
