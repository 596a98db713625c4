"""The Lightning callback: augments the training loaders of a fit, and nothing else.

Why it wraps methods of the Trainer's parts for the duration of a fit rather than acting in a hook: no hook lies between
the making of the training loaders and the start of their workers. At ``setup`` and ``on_fit_start`` the loaders do not
exist yet (or, with ``estimated_stepping_batches`` and the tuner, exist already at the latter); at ``on_train_start``
worker processes hold their copies of the dataset, and persistent ones never replace them; with
``reload_dataloaders_every_n_epochs`` the loaders are recreated between two epochs, with no hook in between.

``trainer.fit_loop.setup_data`` makes the training loaders, and no others (``trainer.training`` does not tell them
apart: the batch size finder has it true while it makes validation loaders). Within it, Lightning hands each loader to
``trainer.strategy.process_dataloader``, after it has put in its samplers and before it iterates: there they are
augmented.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Literal, get_args

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from lightning_augmix import unread
from lightning_augmix._checks import boolean, integer, one_of
from lightning_augmix._errors import OnUnsupported
from lightning_augmix._views import check_views
from lightning_augmix.engines import select_engine
from lightning_augmix.injection.decide import ImageKey, check_image_key
from lightning_augmix.injection.epochs import CHECKPOINT_KEY, Pass
from lightning_augmix.injection.session import Session
from lightning_augmix.losses import JSDLoss
from lightning_augmix.operations import AugmentationSet
from lightning_augmix.plans.schedule import Schedule
from lightning_augmix.transform import AugmentAndMixTransform

__all__ = ["AugMixCallback"]


class AugMixCallback(pl.Callback):
    """Makes the training loaders of a fit yield images augmented with AugMix.

    Validation, test and prediction loaders stay unchanged, even over the same dataset. AugMix goes into the dataset's
    transforms directly before the step where the image stops being uint8. The user's datasets, transforms and loaders
    are never changed: Lightning receives augmented copies, visible at ``trainer.train_dataloader``, and everything is
    undone when the fit ends or fails. At the first sample that each process makes of each training dataset, an
    experiment shows which entry of the sample AugMix reaches: the sample is made with the identity and with the
    negative of the image in AugMix's place. Unless exactly the image differs, the fit fails before its first step, with
    a message that shows the sample and says what to write. Iterable datasets cannot make a sample twice: for them the
    callback checks that AugMix was called.

    Source: Hendrycks et al., "AugMix", ICLR 2020, https://arxiv.org/abs/1912.02781.

    Args:
        severity: Upper bound of the intensity of the operations, a real number in [0, 10]; 0 leaves images unchanged.
        width: Number of chains, at least 1.
        depth: Operations per chain, at least 1, or −1 to draw 1, 2 or 3 for each chain.
        alpha: Parameter of the Dirichlet distribution of the chain weights and of the Beta distribution of the
            mixing weight, above 0. 1 makes both uniform; larger values favour equal weights.
        augmentation_set: ``"all"``, ``"safe"`` (no overlap with the corruptions of CIFAR-C and ImageNet-C),
            ``"original"``, ``"photometric"`` (moves no pixels), or a sequence of operation names or operations.
        engine: ``"numba"``, ``"pillow"``, ``"torch"``, ``"triton"`` (for tensors on CUDA devices), or ``"auto"``:
            ``numba``, and for tensors on a CUDA device, where they stay, ``triton``, or ``torch`` where it does not
            work. All produce the same bytes.
        views: Number of augmented views of each training image that come with the clean one, for :class:`JSDLoss`; the
            paper uses 2, and 0 turns it off. The images of a batch of N samples are ``[(1 + views) · N, C, H, W]``: all
            clean ones first, then all first views, and so on; everything else is the same as without views. An image is
            loaded and cropped once, and its views see the same random draws (of torch's, NumPy's and Python's global
            generators) in the steps after AugMix and in the collate function. The dataset must put what its transforms
            return into the sample unchanged.
        seed: With an integer, the augmentation of sample i in epoch e is a pure function of (seed, e, i): the same
            for any number and kind of worker processes, for any number of ranks, and after a resume. With ``None``,
            it follows torch's default generator and the rank.
        image_key: Applies AugMix to this field of each training sample, a key or position, instead of looking for its
            place in the transforms. The image may be uint8, or floating-point in [0, 1].
        inject: With ``False`` nothing is inserted: put the attribute ``transform`` into your training data yourself,
            wherever the image is still uint8. Seeds, ranks and the checks work the same.
        on: Where images are augmented: by the ``"workers"`` of the loader, one by one, or on the ``"device"`` of the
            model, by the batch, with the same result. Workers then deliver images in 8 bits, and what converts them
            (``ToTensor``, ``Normalize``, …) is done on the device, before ``on_after_batch_transfer``. The collate
            function must just stack the images, and nothing but conversions may come after AugMix. In YAML, write
            ``"on": device``, in quotes.
        warmup_epochs: Number of epochs in which the severity rises to its value, in equal steps.
        milestones: Severities from epochs on, counted from 0, such as ``{30: 5}``, in place of ``severity``.
        clean_epochs: Number of epochs at the end without AugMix; the Trainer needs ``max_epochs``. Where the severity
            follows the epochs, the one that holds is logged as ``augmix/current_severity``.
        log_images: Number of training images to log beside their originals when the fit starts, to loggers that take
            pictures (TensorBoard, MLflow, W&B); 0 for none. Iterable datasets are not read twice for it.
        on_unsupported: What happens if AugMix cannot be placed for certain or did not reach an image: ``"raise"`` ends
            the fit with a message that says what to write instead, ``"warn"`` warns and goes on without AugMix
            (with ``views``, the loss then gets clean images alone, which ``JSDLoss`` takes after ``eval()`` only).

    Attributes:
        transform: The transform that is copied into each training pipeline, or that you place with ``inject=False``.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of range; within a fit, if a Trainer has two AugMix callbacks, if AugMix
            cannot be placed for certain, or if a sample was made without it.
        RuntimeError: Within a fit, if the Trainer got the callback after its ``setup``, or another Trainer uses it.

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
        views: int = 0,
        seed: int | None = None,
        image_key: ImageKey | None = None,
        inject: bool = True,
        on: Literal["workers", "device"] = "workers",
        warmup_epochs: int = 0,
        milestones: Mapping[int, float] | None = None,
        clean_epochs: int = 0,
        log_images: int = 0,
        on_unsupported: OnUnsupported = "raise",
    ) -> None:
        self.views = check_views(views)
        self.seed = None if seed is None else integer("seed", seed, remedy="leave it out for None")
        self.image_key = check_image_key(image_key)
        self.inject = boolean("inject", inject)
        self.on: Literal["workers", "device"] = one_of("on", on, ("workers", "device"))
        self.schedule = Schedule(warmup_epochs, milestones or {}, clean_epochs)
        if self.schedule and severity == 0:
            raise ValueError(
                "Expected argument `severity` to be above 0 with `warmup_epochs`, `milestones` or `clean_epochs`; got "
                "0: to begin without AugMix, use a milestone, such as {0: 0, 10: 3}."
            )
        self.log_images = integer("log_images", log_images, at_least=0)
        self.on_unsupported: OnUnsupported = one_of("on_unsupported", on_unsupported, get_args(OnUnsupported))
        of_placing = {
            "image_key": (image_key, None),
            "views": (views, 0),
            "on": (on, "workers"),
            "log_images": (log_images, 0),
        }
        for name, (given, without) in of_placing.items():
            if not inject and given != without:
                or_key = "" if name == "image_key" else ", or name the image with `image_key`"
                raise ValueError(
                    f"Expected argument `{name}` to be {without!r} with `inject=False`, which leaves the placing to "
                    f"you; got {given!r}: leave out one of the two{or_key}."
                )
        self.transform = AugmentAndMixTransform(severity, width, depth, alpha, augmentation_set, engine=engine)
        self.transform.on_unsupported = self.on_unsupported
        self._session: Session | None = None
        self._pass: Pass | None = None
        self._told: set[str] = set()

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Starts to augment the training loaders that the Trainer makes."""
        if stage != "fit":
            return
        unread.was_read()
        # A fit in which another callback's `on_exception` raised ended without a word to this one.
        self._undo()
        if sum(isinstance(callback, AugMixCallback) for callback in trainer.callbacks) > 1:  # type: ignore[attr-defined]
            raise ValueError(
                "Expected one AugMixCallback in the Trainer's `callbacks`; got several, and applying AugMix twice is "
                "not AugMix: remove all but one."
            )
        message = "AugMix compiles its operations, once on this machine: some 15 seconds."
        select_engine(self.transform.engine).warm_up(lambda: rank_zero_info(message))
        self._session, self._pass = Session(trainer, self), None

    def __getstate__(self) -> dict[str, Any]:
        # A copy, made in the middle of a fit, takes no part in it.
        return {**vars(self), "_session": None}

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the augmentation, as checkpoints hold it."""
        return {
            **self.transform.hyperparameters.arguments(),
            "views": self.views,
            "seed": self.seed,
            **self.schedule.arguments(),
        }

    # Not by `state_dict`, which would make Lightning refuse a second AugMixCallback in words of its own.
    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Writes down what decides the augmentation, and the pass over the data."""
        checkpoint["callbacks"][self.state_key] = self.settings
        if self._session is not None:
            self._pass = self._session.current_pass
        if self._pass is not None:
            checkpoint[CHECKPOINT_KEY] = asdict(self._pass)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Warns if a fit goes on with other hyperparameters than it began with; its own hold."""
        if self._session is None:
            return
        if CHECKPOINT_KEY in checkpoint:
            self._session.resumed = Pass(**checkpoint[CHECKPOINT_KEY])
        before, now = checkpoint["callbacks"].get(self.state_key), self.settings
        if before is None:
            rank_zero_warn("The checkpoint was written without AugMixCallback: training goes on with AugMix from here.")
            return
        changes = [
            f"{name} from {before.get(name)!r} to {now.get(name)!r}"
            for name in {**before, **now}
            if before.get(name) != now.get(name)
        ]
        if changes:
            rank_zero_warn(f"Training goes on with other augmentation than the checkpoint's: {', '.join(changes)}.")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Checks that every training loader is augmented, and loads for the epoch a resumed run begins with."""
        session = self._session_of(trainer)
        session.check_loaders()
        session.check_hooks(pl_module)
        session.check_epoch()
        session.telling.start(pl_module)
        if self.views and not any(isinstance(module, JSDLoss) for module in pl_module.modules()):
            self.tell(
                f"Batches have {1 + self.views} images for each target, all clean ones first, and "
                f"{type(pl_module).__name__} has no JSDLoss, the loss for them. If it does not split the batch itself, "
                f"use JSDLoss(views={self.views}) in place of CrossEntropyLoss."
            )

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Tells loggers the hyperparameters, and workers the epoch; Lightning iterates over the loaders after this."""
        session = self._session_of(trainer)
        session.advance_epoch()
        session.telling.start_epoch()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Checks that the first batch of the epoch was made with AugMix."""
        # With `training_step(self, dataloader_iter)` there is no batch before the step.
        if batch is not None:
            self._session_of(trainer).check_batch()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Checks the same where the step itself fetched the batch, and measures the step."""
        session = self._session_of(trainer)
        session.check_batch()
        session.telling.end_step()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Tells how many images were augmented."""
        self._session_of(trainer).telling.end()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Undoes everything at the end of a fit."""
        if stage == "fit":
            self._undo()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Undoes everything when a fit fails or is interrupted."""
        self._undo()

    def _session_of(self, trainer: pl.Trainer) -> Session:
        if self._session is None or self._session.trainer is not trainer:
            raise RuntimeError(
                "AugMixCallback does not augment this fit: it was added after `setup`, or another Trainer uses it at "
                "the same time. Give each Trainer an AugMixCallback of its own, in `Trainer(callbacks=[…])`."
            )
        return self._session

    def tell(self, report: str) -> None:
        """Logs what was done to the data, once.

        Args:
            report: What was done.
        """
        if report not in self._told:
            rank_zero_info(report)
            self._told.add(report)

    def _undo(self) -> None:
        if self._session is not None:
            # Checkpoints are written after the fit, too, for instance because it failed.
            self._pass = self._session.current_pass
            self._session.undo()
            self._session = None
