"""``augmix-train``: trains an image classifier with AugMix, configured by Hydra."""

import zipfile
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig

from lightning_augmix._checks import integer
from lightning_augmix.commands.console import UsageError, build, hydra_command, log_through_hydra, usage_errors

if TYPE_CHECKING:
    from omegaconf import DictConfig

__all__ = ["main", "train"]


def train(cfg: "DictConfig") -> float:
    """Trains and tests a classifier.

    Args:
        cfg: The composed configuration, see ``configs/train.yaml``.

    Returns:
        The accuracy on the clean test images, in [0, 1], which Hydra's sweepers optimise.
    """
    # Imported here, so that `--help` is quick.
    import lightning.pytorch as pl
    from lightning.pytorch.loggers import CSVLogger

    log_through_hydra()
    _check(cfg)
    pl.seed_everything(cfg.seed, workers=True)
    data = build(cfg.data)
    callbacks = [build(callback) for callback in cfg.callbacks.values()]
    callbacks.append(build(cfg.augmix))
    model = build(cfg.model, num_classes=data.num_classes)
    logger = CSVLogger(HydraConfig.get().runtime.output_dir, name="logs", version="")
    trainer = build(cfg.trainer, callbacks=callbacks, logger=logger)
    trainer.fit(model, datamodule=data, ckpt_path=cfg.ckpt_path)
    (measured,) = trainer.test(model, datamodule=data, verbose=False)
    if trainer.is_global_zero:
        _print_table(cfg, trainer.callback_metrics["test_accuracy"].item(), trainer.current_epoch)
    return float(measured["test_accuracy"])


def _check(cfg: "DictConfig") -> None:
    """Rejects what the constructors accept but the fit would fail on."""
    with usage_errors():
        integer("trainer.max_epochs", cfg.trainer.max_epochs, at_least=0)
        integer("seed", cfg.seed, at_least=0)
    if cfg.ckpt_path is not None and not zipfile.is_zipfile(cfg.ckpt_path):
        raise UsageError(f"Expected ckpt_path to be the path of a checkpoint file; got {cfg.ckpt_path!r}.")
    if "augmix" in cfg.callbacks:
        raise UsageError("callbacks=augmix is for your own applications; here, AugMix is the group augmix.")


def _print_table(cfg: "DictConfig", accuracy: float, epochs: int) -> None:
    from rich.console import Console
    from rich.table import Table

    is_on = "severity" in cfg.augmix
    augmix = f"severity {cfg.augmix.severity:g}, set {cfg.augmix.augmentation_set}" if is_on else "off"
    table = Table(title="Clean accuracy", title_justify="left")
    for column in ("data", "model", "AugMix", "epochs", "test accuracy"):
        table.add_column(column)
    table.add_row(cfg.data.dataset, cfg.model.architecture, augmix, str(epochs), f"{accuracy:.2%}")
    console = Console()
    console.print(table)
    console.print(f"Logs and checkpoints: {HydraConfig.get().runtime.output_dir}", soft_wrap=True, markup=False)


main = hydra_command("augmix-train", "train", train)


if __name__ == "__main__":
    main()
