"""The epoch that a fit begins or resumes with: the number of passes over the data before it.

Lightning's counters alone do not tell it. ``trainer.current_epoch`` is too low while a checkpoint is being resumed,
which is when workers start to load, and with ``max_steps`` also later; the counts of the whole fit drift over several
resumes; and a checkpoint may be written while the last batch of an epoch is in work. So checkpoints hold the pass that
was in work, and the counts of batches tell only whether it goes on.
"""

from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl

__all__ = ["CHECKPOINT_KEY", "Pass", "batches_trained_on", "first_epoch"]

#: Where in a checkpoint the pass is.
CHECKPOINT_KEY = "lightning_augmix"


@dataclass(frozen=True)
class Pass:
    """A pass over the data, as checkpoints hold it.

    Attributes:
        epoch: Its number, from 0.
        batches_before: How many batches the fit had trained on when the pass began or was resumed.
    """

    epoch: int
    batches_before: int


def first_epoch(trainer: pl.Trainer, resumed: Pass | None) -> int:
    """The epoch that a fit begins or resumes with.

    Args:
        trainer: The Trainer, whose loops have loaded the checkpoint if there is one.
        resumed: The pass that the checkpoint was written in; ``None`` if there is none, or it was written without
            AugMix.
    """
    loop = trainer.fit_loop
    epochs: Any = loop.epoch_progress
    if resumed is None:
        is_in_epoch = epochs.total.started > epochs.total.processed
        return int(epochs.current.processed) + int(loop.restarting and is_in_epoch and _has_ended(trainer))
    # Lightning takes a pass as ended, too, whose first batch was in work, where its counts of epochs have drifted.
    has_batch = batches_trained_on(trainer) > resumed.batches_before
    return resumed.epoch + int(has_batch and (not loop.restarting or _has_ended(trainer)))


def batches_trained_on(trainer: pl.Trainer) -> int:
    """How many batches a fit has trained on, over all resumes; a batch in work is none.

    Args:
        trainer: The Trainer.
    """
    batches: Any = trainer.fit_loop.epoch_loop.batch_progress
    return int(batches.total.processed)


def _has_ended(trainer: pl.Trainer) -> bool:
    """Whether the batches of the epoch that Lightning restarts in were all trained on."""
    batches: Any = trainer.fit_loop.epoch_loop.batch_progress
    now, ever = batches.current, batches.total
    # As Lightning tells a checkpoint of `on_train_batch_end`, after which it goes on with the next batch.
    is_at_batch_end = ever.ready == ever.started == ever.processed == ever.completed + 1
    if trainer.num_training_batches == float("inf"):  # not known before the loaders are made
        is_completed = now.ready == now.started == now.processed == now.completed
        return bool(batches.is_last_batch and (is_completed or is_at_batch_end))
    return bool(now.completed + is_at_batch_end >= trainer.num_training_batches)
