"""What is kept of a training: the best weights, and the last when it is interrupted."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ModelCheckpoint

__all__ = ["BestCheckpoint", "SaveWhenInterrupted"]


class BestCheckpoint(ModelCheckpoint):
    """Lightning's ModelCheckpoint, which knows the best weights of a resumed run also after its folder was moved."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over the best score, if the file with these weights is in the folder."""
        best = Path(self.dirpath or "") / Path(state_dict.get("best_model_path") or "none").name
        if best.is_file():
            path, score = str(best), state_dict.get("best_model_score")
            moved = {"dirpath": self.dirpath, "best_model_path": path, "kth_best_model_path": path}
            state_dict = {**state_dict, **moved, "best_k_models": {path: score}}
        super().load_state_dict(state_dict)


class SaveWhenInterrupted(pl.Callback):
    """Writes ``last.ckpt`` when training is interrupted or asked to end, with which it can be resumed.

    Args:
        dirpath: The folder of the checkpoints.
    """

    def __init__(self, dirpath: str) -> None:
        self.path = Path(dirpath) / "last.ckpt"

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Writes the checkpoint, unless nothing was trained yet."""
        is_fitting = trainer.training or (trainer.validating and trainer.state.fn == "fit")
        if not (isinstance(exception, KeyboardInterrupt | SystemExit) and is_fitting and trainer.global_step):
            return
        if trainer.validating:
            # Lightning would resume with the batches that are left. As if it was in the first one, it takes all.
            progress = trainer.fit_loop.epoch_loop.val_loop.batch_progress
            progress.reset()
            progress.increment_ready()
            progress.increment_started()
        trainer.save_checkpoint(self.path)
