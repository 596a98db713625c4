"""Tells loggers the hyperparameters: beside the user's own, never in their place, and never at the price of the fit.

Most loggers are given ``augmix/severity`` and so on at the start of the first epoch, after what Lightning and the
user's ``on_train_start`` log, because some, such as MLflow, keep the first value of a name and refuse any other.

``CSVLogger`` and ``TensorBoardLogger`` keep what they are given in hparams.yaml, and
``load_from_checkpoint(hparams_file=…)`` passes all of that to modules that take ``**kwargs``: there the hyperparameters
go into augmix.yaml beside it.

TensorBoard shows only the hyperparameters that are logged first to a run: there they join the user's.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
from lightning.pytorch.core.saving import save_hparams_to_yaml
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn
from numpy.typing import NDArray

from lightning_augmix.injection.replacement import Replacement

__all__ = ["Notice", "log_figure", "log_picture"]


class Notice:
    """What one logger is told in one fit.

    Args:
        logger: The logger.
        settings: The hyperparameters.
        until: Undoes everything at the end of the fit.
    """

    def __init__(self, logger: Logger, settings: dict[str, Any], until: ExitStack) -> None:
        self._logger, self._settings = logger, settings
        self._named = {f"augmix/{name}": value for name, value in settings.items()}
        self._is_tensorboard = _is_a("TensorBoardLogger", logger)
        self._has_joined = False
        if self._is_tensorboard:
            until.callback(Replacement(logger, "_sanitize_params", self._join).put_back)

    def _join(self, sanitize: Callable[[dict[str, Any]], dict[str, Any]], params: dict[str, Any]) -> dict[str, Any]:
        self._has_joined = True
        return sanitize({**self._named, **params})

    def give(self) -> None:
        """Tells the logger, or warns that it refuses."""
        try:
            if self._is_tensorboard or _is_a("CSVLogger", self._logger):
                self._write()
            else:
                self._logger.log_hyperparams(self._named)
            if self._is_tensorboard and not self._has_joined:
                self._logger.log_hyperparams({})
        except Exception as error:
            rank_zero_warn(
                f"{type(self._logger).__name__} did not take AugMix's hyperparameters, and training goes on without "
                f"them there: {type(error).__name__}: {error} Where a run keeps what it was told before, log to a new "
                "one."
            )

    @rank_zero_only
    def _write(self) -> None:
        save_hparams_to_yaml(f"{self._logger.log_dir}/augmix.yaml", self._settings)


def log_figure(logger: Logger, name: str, value: float, step: int) -> None:
    """Logs a number, or warns that the logger refuses it.

    Args:
        logger: The logger.
        name: The name in the logger.
        value: The number.
        step: The step of the training.
    """
    with _refusal_is_a_warning(logger, name):
        logger.log_metrics({name: value}, step)


def log_picture(logger: Logger, name: str, levels: NDArray[np.uint8], step: int) -> None:
    """Logs a picture, or warns that the logger refuses it; ``CSVLogger``, which holds figures alone, is left out.

    Args:
        logger: The logger.
        name: The name in the logger.
        levels: uint8 ``[H, W, 3]``.
        step: The step of the training.
    """
    run: Any = logger
    with _refusal_is_a_warning(logger, name):
        if _is_a("TensorBoardLogger", logger):
            run.experiment.add_image(name, levels, step, dataformats="HWC")
        elif _is_a("MLFlowLogger", logger):
            run.experiment.log_image(run.run_id, levels, f"{name}.png")
        elif _is_a("WandbLogger", logger):
            run.log_image(name, [levels], step)
        elif not _is_a("CSVLogger", logger):
            raise TypeError("pictures go to the loggers of TensorBoard, MLflow and W&B.")


@contextmanager
def _refusal_is_a_warning(logger: Logger, name: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        rank_zero_warn(f"{type(logger).__name__} did not take {name}: {type(error).__name__}: {error}")


def _is_a(kind: str, logger: Logger) -> bool:
    # `pytorch_lightning`, which may be absent, has loggers of its own.
    packages = ("lightning.pytorch.loggers", "pytorch_lightning.loggers")
    return any(isinstance(logger, getattr(sys.modules[name], kind)) for name in packages if name in sys.modules)
