"""What a fit tells, beside what was done to its data: hyperparameters, images, figures and advice."""

import copy
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch.nn.parameter import is_lazy
from torch.utils.data import DataLoader, IterableDataset

from lightning_augmix._loggers import Notice, log_figure, log_picture
from lightning_augmix.engines import select_engine
from lightning_augmix.injection.pairs import pairs
from lightning_augmix.injection.settings import Settings
from lightning_augmix.injection.waiting import Loading, Waiting, advice, processors_of_rank
from lightning_augmix.pictures import tiled_pairs
from lightning_augmix.plans.audit import Tally
from lightning_augmix.plans.keys import RunKeys

__all__ = ["Telling"]

_SMALL = 1_000_000  # parameters
_SHORT = 20  # epochs


class Telling:
    """Tells loggers and people of one fit.

    Args:
        trainer: The Trainer.
        callback: The callback.
        keys: The keys of the fit.
        loaders: Returns the user's training loaders, those that are a ``DataLoader``.
        until: Undoes everything at the end of the fit.
    """

    def __init__(
        self,
        trainer: pl.Trainer,
        callback: Settings,
        keys: RunKeys,
        loaders: Callable[[], Sequence[DataLoader[Any]]],
        until: ExitStack,
    ) -> None:
        self._trainer, self._callback, self._keys, self._until = trainer, callback, keys, until
        self._loaders = loaders
        settings = {**callback.settings, "engine": callback.transform.engine}
        self._notices = [Notice(logger, settings, until) for logger in trainer.loggers]
        self._waiting: Waiting | None = None

    def start(self, pl_module: pl.LightningModule) -> None:
        """Logs images, if that was asked for, says what AugMix may cost, and measures steps from here on.

        Args:
            pl_module: The module that is trained.
        """
        if self._callback.log_images and self._is_run and self._trainer.is_global_zero and (loaders := self._loaders()):
            self._log_images(loaders[0].dataset)
        self._tell_of_regularisation(pl_module)
        self._waiting = Waiting(self._trainer.fit_loop.epoch_loop, self._tally, self._device, self._until)

    def start_epoch(self) -> None:
        """Tells the loggers the hyperparameters, once, after what others log before."""
        while self._notices:
            self._notices.pop(0).give()
        if self._waiting is not None:
            self._waiting.start_epoch()
        severity = self._keys.severity
        if severity is not None:
            self._log_figure("augmix/current_severity", severity)

    def end_step(self) -> None:
        """Measures a step, and tells of what it waited for after enough of them."""
        if self._waiting is not None and self._waiting.end_step():
            self._tell_of_waiting(self._waiting)

    def end(self) -> None:
        """Tells how many images were augmented, and what a short training waited for."""
        if self._waiting is not None:
            self._tell_of_waiting(self._waiting)
        if self._is_run and self._callback.schedule.clean_epochs and self._keys.severity != 0:
            rank_zero_warn(
                f"The training ended before the last clean_epochs={self._callback.schedule.clean_epochs} of "
                f"max_epochs={self._trainer.max_epochs}: all of it had AugMix."
            )
        ranks = self._trainer.world_size
        of_process = f" in this process, one of {ranks}," if ranks > 1 else ""
        rank_zero_info(f"AugMix augmented {self._tally.images:,} images{of_process} with the engine {self._engine}.")

    def _log_images(self, dataset: Any) -> None:
        if isinstance(dataset, IterableDataset):
            rank_zero_warn("No training images are logged: an iterable dataset can be read but once.")
            return
        transform = copy.copy(self._callback.transform)
        transform.keys = self._keys.for_pictures()
        try:
            both = pairs(dataset, transform, self._callback.log_images, image_key=self._callback.image_key)
            picture = tiled_pairs(*both)
        except Exception as error:  # training can do without
            rank_zero_warn(f"No training images are logged: {type(error).__name__}: {error}")
            return
        for logger in self._trainer.loggers:
            log_picture(logger, "augmix/images", picture, self._trainer.global_step)

    def _tell_of_regularisation(self, pl_module: pl.LightningModule) -> None:
        parameters = sum(p.numel() for p in pl_module.parameters() if p.requires_grad and not is_lazy(p))
        if type(self._trainer.strategy).__name__.startswith(("FSDP", "DeepSpeed", "ModelParallel")):
            parameters = 0  # these are a part of them
        epochs = self._trainer.max_epochs or 0
        reasons = [f"small models (this one trains {parameters:,} parameters)"] if 0 < parameters < _SMALL else []
        reasons += [f"short trainings (this one has max_epochs={epochs})"] if 0 < epochs < _SHORT else []
        if reasons and self._callback.transform.hyperparameters.severity > 0:
            self._callback.tell(f"AugMix is a regulariser: {' and '.join(reasons)} can lose accuracy on clean images.")

    def _log_figure(self, name: str, value: float) -> None:
        for logger in self._trainer.loggers:
            log_figure(logger, name, value, self._trainer.global_step)

    def _tell_of_waiting(self, waiting: Waiting) -> None:
        self._waiting = None
        if waiting.fraction is None:
            return
        self._log_figure("augmix/data_wait_fraction", waiting.fraction)
        loaders = self._loaders()
        if not loaders:
            return
        callback, trainer = self._callback, self._trainer
        # An iterable dataset repeats itself in each worker, unless it shares itself out.
        may_have_more = len(loaders) == 1 and not isinstance(loaders[0].dataset, IterableDataset)
        loading = Loading(
            sum(loader.num_workers for loader in loaders),
            processors_of_rank(max(1, trainer.world_size // trainer.num_nodes)) if may_have_more else 0,
            self._engine,
            may_leave_to_device=callback.inject and callback.on == "workers" and self._device.type != "cpu",
        )
        told = advice(waiting, loading)
        if told is not None:
            callback.tell(told)

    @property
    def _is_run(self) -> bool:
        return not self._trainer.fast_dev_run  # type: ignore[attr-defined]

    @property
    def _tally(self) -> Tally:
        assert self._keys.audit.tally is not None
        return self._keys.audit.tally

    @property
    def _device(self) -> torch.device:
        return self._trainer.strategy.root_device

    @property
    def _engine(self) -> str:
        """The name of the engine that augments."""
        device = self._device if self._callback.on == "device" else None
        module: Any = select_engine(self._callback.transform.engine, device)
        return str(module.__name__).rpartition(".")[2].removesuffix("_engine")
