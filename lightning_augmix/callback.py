"""The Lightning callback: augments the training loaders of a fit, and nothing else.

Why it wraps methods of the Trainer's parts for the duration of a fit rather than acting in a hook: no hook lies between
the making of the training loaders and the start of their workers. At ``setup`` and ``on_fit_start`` the loaders do not
exist yet (or, with ``estimated_stepping_batches`` and the tuner, exist already at the latter); at ``on_train_start``
worker processes hold their copies of the dataset, and persistent ones keep them for ever; with
``reload_dataloaders_every_n_epochs`` the loaders are made anew between two epochs, with no hook in between.

``trainer.fit_loop.setup_data`` makes the training loaders, and no others (``trainer.training`` does not tell them
apart: the batch size finder has it true while it makes validation loaders). Within it, Lightning hands each loader to
``trainer.strategy.process_dataloader``, after it has put in its samplers and before it iterates: there they are
augmented.
"""

import copy
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from numbers import Integral
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities import CombinedLoader, rank_zero_info
from torch.utils.data import DataLoader, IterableDataset

from lightning_augmix.dataset_copy import index_dataset
from lightning_augmix.injection import clone_dataloader, inject
from lightning_augmix.keys import RunKeys
from lightning_augmix.operations import AugmentationSet
from lightning_augmix.pipeline import PlacementError
from lightning_augmix.transform import AugmentAndMixTransform

__all__ = ["AugMixCallback"]


class AugMixCallback(pl.Callback):
    """Makes the training loaders of a fit yield images augmented with AugMix.

    Validation, test and prediction loaders stay as they are, also over the same dataset. AugMix goes into the
    dataset's transforms directly before the step where the image stops being uint8. The user's datasets, transforms
    and loaders are never changed: Lightning is given augmented copies, visible at ``trainer.train_dataloader``, and
    everything is undone when the fit ends or fails. Where AugMix cannot be placed for certain, the fit fails before
    its first batch.

    Source: Hendrycks et al., "AugMix", ICLR 2020, https://arxiv.org/abs/1912.02781.

    Args:
        severity: Upper bound of the intensity of the operations, a real number in [0, 10]; 0 leaves images as they
            are.
        width: Number of chains, at least 1.
        depth: Operations per chain, at least 1, or −1 to draw 1, 2 or 3 for each chain.
        alpha: Parameter of the Dirichlet distribution of the chain weights and of the Beta distribution of the
            mixing weight, above 0; 1 makes both uniform, larger values concentrate them around equal shares.
        augmentation_set: ``"all"``, ``"safe"`` (no overlap with the corruptions of CIFAR-C and ImageNet-C),
            ``"original"``, ``"photometric"`` (moves no pixel), or a sequence of operation names or operations.
        engine: What applies the operations: ``"pillow"``, or ``"auto"`` for the fastest. All give the same bytes.
        seed: With an integer, the augmentation of sample i in epoch e is a pure function of (seed, e, i): the same
            for any number and kind of worker processes, for any number of ranks, and after a resume. With ``None``,
            it follows torch's default generator and the rank.

    Attributes:
        transform: The transform of which each training pipeline gets a copy.
        seed: The seed.

    Raises:
        TypeError: If an argument is of a kind not named above.
        ValueError: If an argument is out of its range; within a fit, if a Trainer has two AugMix callbacks or
            AugMix cannot be placed for certain.
        RuntimeError: Within a fit, if the first batch was made without AugMix.

    Example:
        >>> trainer = pl.Trainer(
        ...     callbacks=[AugMixCallback(severity=3, augmentation_set="safe", seed=0)],
        ...     accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        ... )
    """

    def __init__(
        self,
        severity: float = 3,
        width: int = 3,
        depth: int = -1,
        alpha: float = 1.0,
        augmentation_set: AugmentationSet = "all",
        *,
        engine: str = "auto",
        seed: int | None = None,
    ) -> None:
        if seed is not None and (isinstance(seed, bool) or not isinstance(seed, Integral)):
            raise TypeError(f"Expected argument `seed` to be an integer or None; got {seed!r} (leave it out for None).")
        self.transform = AugmentAndMixTransform(severity, width, depth, alpha, augmentation_set, engine=engine)
        self.seed = None if seed is None else int(seed)
        self._fit: _Fit | None = None
        self._told: set[str] = set()

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Starts to augment the training loaders that the Trainer makes."""
        if stage != "fit":
            return
        # A fit in which another callback's `on_exception` raised ended without a word to this one.
        self._undo()
        if sum(isinstance(callback, AugMixCallback) for callback in trainer.callbacks) > 1:  # type: ignore[attr-defined]
            raise ValueError(
                "Expected one AugMixCallback in the Trainer's `callbacks`; got several, and applying AugMix twice is "
                "not AugMix: remove all but one."
            )
        hyperparameters = self.transform.hyperparameters.arguments()
        for logger in trainer.loggers:
            logger.log_hyperparams({"augmix": {**hyperparameters, "engine": self.transform.engine, "seed": self.seed}})
        self._fit = _Fit(trainer, self.transform, self.seed, self._tell)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Checks that every training loader is augmented, and loads for the epoch a resumed run begins with."""
        if self._fit is not None:
            self._fit.check_loaders(trainer)
            self._fit.check_epoch(trainer)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Tells worker processes the epoch; Lightning iterates over the loaders after this."""
        if self._fit is not None:
            self._fit.advance_epoch()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Checks that the first batch of the epoch was made with AugMix."""
        # With `training_step(self, dataloader_iter)` there is no batch before the step.
        if self._fit is not None and batch is not None:
            self._fit.check_batch()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Checks the same where the step itself fetched the batch."""
        if self._fit is not None:
            self._fit.check_batch()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Undoes everything at the end of a fit."""
        if stage == "fit":
            self._undo()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Undoes everything when a fit fails or is interrupted."""
        self._undo()

    def _tell(self, report: str) -> None:
        if report not in self._told:
            rank_zero_info(f"AugMix was inserted into the training data, {report}")
            self._told.add(report)

    def _undo(self) -> None:
        if self._fit is not None:
            self._fit.undo()
            self._fit = None


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


class _Fit:
    """What the callback does to one fit, from its setup until it is undone."""

    def __init__(
        self, trainer: pl.Trainer, transform: AugmentAndMixTransform, seed: int | None, tell: Callable[[str], None]
    ) -> None:
        self.keys = RunKeys(seed, trainer.global_rank)
        self._transform = copy.copy(transform)
        self._transform.keys = self.keys
        self._tell = tell
        # (clone, original loader, augmented dataset). The clones weakly: loaders that Lightning has replaced must end,
        # and with them their worker processes.
        self._clones: list[tuple[weakref.ref[DataLoader[Any]], DataLoader[Any], Any]] = []
        self._has_loaders = False
        self._has_batch = False  # in this pass over the data
        self._trainer = trainer
        self._replaced = ExitStack()
        loop = trainer.fit_loop
        self._replaced.enter_context(_replaced(loop, "setup_data", partial(self._setup_data, loop.setup_data)))

    def _setup_data(self, setup_data: Callable[[], None]) -> None:
        strategy = self._trainer.strategy
        process = partial(self._process_dataloader, strategy.process_dataloader)
        with _replaced(strategy, "process_dataloader", process):
            setup_data()

    def _process_dataloader(self, process: Callable[[object], object], dataloader: object) -> object:
        if self._has_loaders:
            self.advance_epoch()
        else:
            self.keys.epoch = _first_epoch(self._trainer)
            self._has_loaders = True
        return process(self._augmented(dataloader))

    def _augmented(self, loader: object) -> object:
        if not isinstance(loader, DataLoader):
            raise PlacementError(
                f"AugMix cannot be placed in a training loader of type {type(loader).__name__}, whose dataset cannot "
                "be reached: use a DataLoader, or put AugmentAndMixTransform into its transforms yourself and train "
                "without AugMixCallback."
            )
        injection = inject(loader.dataset, self._transform)
        dataset = injection.dataset
        if self.keys.seed is not None:
            if isinstance(dataset, IterableDataset):
                raise PlacementError(
                    f"`seed={self.keys.seed}` makes the augmentation of a sample depend on its index, and an iterable "
                    f"dataset ({type(dataset).__name__}) has none: leave `seed=None` and seed with "
                    "`seed_everything(…, workers=True)`."
                )
            dataset = index_dataset(dataset)
        clone = clone_dataloader(loader, dataset)
        self._clones.append((weakref.ref(clone), loader, dataset))
        self._tell(injection.report)
        return clone

    def check_loaders(self, trainer: pl.Trainer) -> None:
        augmented = [dataset for _, _, dataset in self._clones]
        for loader in CombinedLoader(trainer.train_dataloader).flattened:
            # By the dataset, because strategies may wrap the loader.
            if not any(getattr(loader, "dataset", None) is dataset for dataset in augmented):
                raise PlacementError(
                    f"A training loader ({type(loader).__name__}) was made before AugMix could augment it: do not use "
                    "`trainer.estimated_stepping_batches` in a `setup` that runs before AugMixCallback's (use it in "
                    "`configure_optimizers`)."
                )

    def check_epoch(self, trainer: pl.Trainer) -> None:
        epoch = _first_epoch(trainer)
        if self.keys.seed is not None and self.keys.epoch != epoch:
            # The loaders were made in `configure_optimizers`, before the checkpoint told the epoch, and workers may
            # have loaded for the wrong one: iterate anew, as Lightning does at the start of every later epoch.
            self.keys.epoch = epoch
            assert trainer.fit_loop._data_fetcher is not None
            iter(trainer.fit_loop._data_fetcher)

    def advance_epoch(self) -> None:
        # By the batches seen, because Lightning's own counts differ in resumed runs: `current_epoch` lags behind with
        # `max_steps`, and a pass over no batches counts as processed.
        if self._has_batch:
            self.keys.epoch += 1
            self.keys.used = False
            self._has_batch = False
            # Those of replaced loaders hold on to datasets, which `train_dataloader` may load anew for every loader.
            self._clones = [entry for entry in self._clones if entry[0]() is not None]

    def check_batch(self) -> None:
        if self._has_batch:
            return
        self._has_batch = True
        if not self.keys.used:
            raise RuntimeError(
                "AugMix was inserted, but a batch was made without it: the dataset does not call the "
                "transform it holds (it may keep a reference to the original, or a cache of transformed images). Put "
                "AugmentAndMixTransform where the images are made, and train without AugMixCallback."
            )

    def undo(self) -> None:
        self._replaced.close()
        originals = {id(clone()): original for clone, original, _ in self._clones if clone() is not None}
        combined = self._trainer.fit_loop._combined_loader
        if combined is not None:
            # It may be the user's own, and `trainer.validate(dataloaders=trainer.train_dataloader)` must be clean.
            combined.flattened = [originals.get(id(loader), loader) for loader in combined.flattened]
        for reference, original, _ in self._clones:
            clone = reference()
            if clone is not None:
                clone.__dict__["dataset"] = original.dataset
                clone._iterator = None


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
