"""What is kept of a training that is interrupted."""

from pathlib import Path

import lightning.pytorch as pl

__all__ = ["SaveWhenInterrupted"]


class SaveWhenInterrupted(pl.Callback):
    """Writes ``last.ckpt`` when training is interrupted or asked to end, with which it can be resumed.

    Args:
        dirpath: The folder of the checkpoints.
    """

    def __init__(self, dirpath: str) -> None:
        self.path = Path(dirpath) / "last.ckpt"

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Writes the checkpoint, unless nothing was trained yet."""
        if isinstance(exception, KeyboardInterrupt | SystemExit) and trainer.training and trainer.global_step:
            trainer.save_checkpoint(self.path)
