"""What the callback does to one fit: augments the training loaders that it makes, checks them, and undoes it all."""

import copy
import weakref
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch.utils._pytree import tree_map_only
from torch.utils.data import DataLoader, IterableDataset

from lightning_augmix._device import PendingBatch
from lightning_augmix._errors import PlacementError
from lightning_augmix.injection.advice import BY_HAND
from lightning_augmix.injection.epochs import Pass, batches_trained_on, first_epoch
from lightning_augmix.injection.guard import Guard, guarded
from lightning_augmix.injection.loaders import clone_dataloader, inject
from lightning_augmix.injection.replacement import Replacement
from lightning_augmix.injection.settings import Settings
from lightning_augmix.injection.survey import survey
from lightning_augmix.injection.telling import Telling
from lightning_augmix.plans.keys import WITHOUT_SEED, RunKeys

__all__ = ["Session"]


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


class Session:
    """What the callback does to one fit, from its setup until it is undone.

    Args:
        trainer: The Trainer.
        callback: The callback.

    Attributes:
        trainer: See above.
        resumed: The pass over the data that the fit resumes, if it does.
        telling: Tells of the fit.
    """

    def __init__(self, trainer: pl.Trainer, callback: Settings) -> None:
        self.trainer = trainer
        self.resumed: Pass | None = None
        self._callback = callback
        self._callbacks = list(trainer.callbacks)  # type: ignore[attr-defined]
        self._keys = RunKeys(callback.seed, trainer.global_rank, _severities(trainer, callback))
        self._clones: list[_Clone] = []
        self._left_out = False  # a loader, because it cannot be augmented
        self._position = 0  # of the next loader, among those that are made together
        self._has_loaders = False
        self._has_started = False
        self._has_batch = False  # in this pass over the data
        self._batches_before = 0  # this pass
        self._is_over = False
        self._to_undo = ExitStack()
        self._replace(self._to_undo, trainer, "_run_stage", self._run_stage)
        self._replace(self._to_undo, trainer.fit_loop, "setup_data", self._setup_data)
        if callback.on == "device":
            self._replace(self._to_undo, trainer.strategy, "batch_to_device", self._batch_to_device)
        self.telling = Telling(trainer, callback, self._keys, self._loaders, self._to_undo)
        if not callback.inject:
            self._keys.strict = True
            self._to_undo.callback(setattr, callback.transform, "keys", callback.transform.keys)
            callback.transform.keys = self._keys

    @staticmethod
    def _replace(until: ExitStack, owner: Any, name: str, method: Callable[..., Any]) -> None:
        until.callback(Replacement(owner, name, method).put_back)

    def _run_stage(self, run_stage: Callable[[], Any]) -> Any:
        # Not by the callback's own hooks alone: another callback's `on_exception` may raise before it.
        try:
            return run_stage()
        finally:
            self.undo()

    def _setup_data(self, setup_data: Callable[[], None]) -> None:
        if not self._is_over and self._is_removed():
            rank_zero_warn("AugMixCallback was removed from the Trainer's callbacks: training goes on without AugMix.")
            self.undo()
        if self._is_over:  # and somebody else, who wrapped this, has put it back
            return setup_data()
        self._position = 0
        with ExitStack() as until:
            self._replace(until, self.trainer.strategy, "process_dataloader", self._process_dataloader)
            setup_data()
        return None

    def _is_removed(self) -> bool:
        # Lightning's tuner puts other callbacks in the place of all.
        callbacks = self.trainer.callbacks  # type: ignore[attr-defined]
        is_of_the_fit = any(callback in self._callbacks for callback in callbacks) or not self._callbacks
        return self._has_started and self._callback not in callbacks and is_of_the_fit

    def _process_dataloader(self, process: Callable[[object], object], dataloader: object) -> object:
        if self._has_loaders:
            self.advance_epoch()
        else:
            self._keys.epoch = first_epoch(self.trainer, self.resumed)
            self._has_loaders = True
        try:
            dataloader = self._augmented(dataloader)
        except PlacementError as error:
            self._left_out = True
            self._refuse(str(error))
        self._position += 1
        return process(dataloader)

    def _augmented(self, loader: object) -> object:
        callback, keys = self._callback, self._keys
        if not isinstance(loader, DataLoader):
            return self._opaque(loader)
        # A `CombinedLoader` that the user keeps comes back with the clones that Lightning has put into it.
        original = next((clone.original for clone in self._clones if clone.dataset is loader.dataset), loader)
        if keys.follow_epochs:
            self._check_for_epochs(loader, original.dataset)
        if callback.inject:
            keys = keys.for_loader(self._position)
            transform = copy.copy(callback.transform)
            transform.keys, transform.views, transform.on_device = keys, callback.views, callback.on == "device"
            injection = inject(
                original.dataset,
                transform,
                image_key=callback.image_key,
                on_unsupported=callback.on_unsupported,
            )
            dataset = injection.dataset
            callback.tell(injection.report)
        else:
            seen = str(survey(original.dataset))
            guard = Guard("by hand", callback.transform, seen=seen, on_unsupported=callback.on_unsupported)
            dataset = guarded(original.dataset, guard)
        clone = clone_dataloader(
            loader,
            dataset,
            views=callback.views,
            on_device=callback.on == "device",
            on_unsupported=callback.on_unsupported,
        )
        self._clones.append(_Clone(weakref.ref(clone), original, dataset, keys))
        return clone

    def _opaque(self, loader: object) -> object:
        kind = type(loader).__name__
        if self._callback.inject:
            raise PlacementError(
                f"AugMix cannot be placed in a training loader of type {kind}, whose dataset cannot be reached: use a "
                "DataLoader, or put the callback's `transform` into its transforms yourself and pass `inject=False`; "
                '`on_unsupported="warn"` trains without AugMix.'
            )
        if self._keys.seed is not None:
            raise PlacementError(
                f"`seed={self._keys.seed}` makes the augmentation of a sample depend on its index, which a training "
                f"loader of type {kind} hides: use a DataLoader, or {WITHOUT_SEED}."
            )
        self._keys.strict = False
        return loader

    def _check_for_epochs(self, loader: DataLoader[Any], dataset: Any) -> None:
        """Refuses loaders whose samples have no index, or no certain epoch, if the augmentation depends on them."""
        seed = self._keys.seed
        what = "a severity that follows the epochs" if seed is None else f"`seed={seed}`"
        remedy = "leave out the schedule" if seed is None else WITHOUT_SEED
        if seed is not None and isinstance(dataset, IterableDataset):
            raise PlacementError(
                f"{what} makes the augmentation of a sample depend on its index, and an iterable dataset "
                f"({type(dataset).__name__}) has none: {remedy}."
            )
        if loader.num_workers > 0 and type(loader).__iter__ is not DataLoader.__iter__:
            raise PlacementError(
                f"{what} needs worker processes that load one epoch after the other, and a {type(loader).__name__}, "
                "which has an `__iter__` of its own, may have them load ahead: use a DataLoader with "
                f"`persistent_workers=True`, or {remedy}."
            )
        try:
            len(loader)
        except TypeError:
            kind = type(dataset if isinstance(dataset, IterableDataset) else loader.sampler).__name__
            if seed is None:
                rank_zero_warn(
                    f"The severity follows the epochs, which do not end if {kind}, without a length, does not."
                )
                return
            raise PlacementError(
                f"{what} makes the augmentation of a sample depend on the epoch, and the sampler ({kind}) has no "
                f"length, so epochs may never end: {remedy}."
            ) from None

    def _batch_to_device(
        self, to_device: Callable[..., Any], batch: Any, device: torch.device | None = None, **others: Any
    ) -> Any:
        device = device or self.trainer.strategy.root_device

        def finished(pending: PendingBatch) -> Any:
            # Lightning has converted the rest of the batch to the precision before.
            return self.trainer.precision_plugin.convert_input(pending.to(device, non_blocking=True).finished())

        return to_device(tree_map_only(PendingBatch, finished, batch), device, **others)

    def check_hooks(self, pl_module: pl.LightningModule) -> None:
        """Refuses hooks that would see images before they are augmented on the device.

        Args:
            pl_module: The module that is trained.
        """
        if self._callback.on != "device":
            return
        for owner in (pl_module, getattr(self.trainer, "datamodule", None)):
            # By name, because the module may be of the other package of Lightning.
            hook = getattr(owner, "on_before_batch_transfer", None)
            if hook is not None and getattr(hook, "__qualname__", "") != "DataHooks.on_before_batch_transfer":
                raise PlacementError(
                    f'{type(owner).__name__} has an `on_before_batch_transfer`, which `on="device"` would show images '
                    'that are not augmented yet: use `on_after_batch_transfer`, or on="workers".'
                )
        if is_param_in_hook_signature(pl_module.training_step, "dataloader_iter", explicit=True):
            raise PlacementError(
                f"The `training_step` of {type(pl_module).__name__} takes a `dataloader_iter`, whose batches "
                '`on="device"` cannot augment: use on="workers".'
            )

    def _refuse(self, message: str) -> None:
        if self._callback.on_unsupported == "raise":
            raise PlacementError(message)
        rank_zero_warn(f"Training goes on without AugMix, at least in part. {message}")

    @property
    def current_pass(self) -> Pass | None:
        """The pass over the data that is in work, for checkpoints."""
        if not self._has_started:  # but runs the sanity check, and may not know yet what the checkpoint says
            return self.resumed
        return Pass(self._keys.epoch, self._batches_before)

    def check_loaders(self) -> None:
        """Refuses training loaders that were made before the callback could augment them."""
        self._has_started = True
        combined = self.trainer.fit_loop._combined_loader
        if combined is None or self._left_out or not self._callback.inject:
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
        epoch = first_epoch(self.trainer, self.resumed)
        self._batches_before = batches_trained_on(self.trainer)
        if self._keys.epoch == epoch:
            return
        self._keys.epoch = epoch
        if self._keys.follow_epochs:
            # The loaders were made in `configure_optimizers`, before the checkpoint told the epoch, and workers may
            # have loaded for the wrong one: iterate anew, as Lightning does at the start of every later epoch.
            assert self.trainer.fit_loop._data_fetcher is not None
            iter(self.trainer.fit_loop._data_fetcher)

    def _loaders(self) -> list[DataLoader[Any]]:
        """The user's loaders in whose place the augmented ones are."""
        return [clone.original for clone in self._clones if clone.loader() is not None]

    def advance_epoch(self) -> None:
        """Goes on to the next epoch, if batches of this one were seen."""
        # By the batches seen, because Lightning's own counts differ in resumed runs: `current_epoch` lags behind with
        # `max_steps`, and a pass over no batches counts as processed.
        if self._has_batch:
            self._keys.epoch += 1
            self._has_batch = False
            self._batches_before = batches_trained_on(self.trainer)
            # Those of replaced loaders hold on to datasets, which `train_dataloader` may load anew for every loader.
            self._clones = [clone for clone in self._clones if clone.loader() is not None]

    def check_batch(self) -> None:
        """Refuses the first batch of an epoch if no image was augmented since that of the epoch before."""
        if self._has_batch:
            return
        self._has_batch = True
        audits = [clone.keys.audit for clone in self._clones if clone.loader() is not None]
        if not audits and not self._left_out:
            audits = [self._keys.audit]
        if all(audit.used for audit in audits):
            # Not at the start of the epoch: loaders that never end have its images made before.
            for audit in audits:
                audit.used = False
            return
        if self._callback.inject:
            self._refuse(
                "AugMix was inserted, but a batch was made without it: where no other message says why, the loader "
                "does not take its samples from its dataset. Put the callback's `transform` where the images are "
                "made, and pass `inject=False`."
            )
        else:
            self._refuse(f"A batch was made without AugMix. {BY_HAND}")

    def undo(self) -> None:
        """Puts everything back as it was."""
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


def _severities(trainer: pl.Trainer, callback: Settings) -> Callable[[int], float] | None:
    """The severity in an epoch, if it follows the epochs."""
    schedule, base = callback.schedule, callback.transform.hyperparameters.severity
    if not schedule:
        return None
    limit = trainer.max_epochs if trainer.max_epochs is not None and trainer.max_epochs >= 0 else None
    if trainer.fast_dev_run:  # type: ignore[attr-defined]
        limit = None
    elif schedule.clean_epochs and (limit is None or limit <= schedule.clean_epochs):
        raise ValueError(
            f"Expected argument `clean_epochs` to be below the Trainer's `max_epochs`; got {schedule.clean_epochs} and "
            f"max_epochs={trainer.max_epochs}: set `max_epochs`, or leave out `clean_epochs`."
        )
    return partial(schedule.severity, base, max_epochs=limit)
