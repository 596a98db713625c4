"""``augmix-train``: trains an image classifier with AugMix, configured by Hydra."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from lightning_augmix import __version__
from lightning_augmix._checks import integer, one_of
from lightning_augmix._text import printable
from lightning_augmix.commands import runs, sweeps
from lightning_augmix.commands.console import UsageError, build, hydra_command, log_through_hydra, usage_errors

if TYPE_CHECKING:
    import lightning.pytorch as pl
    from omegaconf import DictConfig

    from lightning_augmix.commands.data import ImageDataModule
    from lightning_augmix.robustness.published import CorruptedData

__all__ = ["main", "train"]

_OBJECTIVES = ("val_accuracy", "corrupted_accuracy")


def train(cfg: "DictConfig") -> float:
    """Trains and tests a classifier.

    Args:
        cfg: The composed configuration, see ``commands/configs/train.yaml``.

    Returns:
        The objective of sweeps, in [0, 1]: the accuracy of the last weights on the validation images, or on these with
        corruptions; NaN if nothing was validated.
    """
    # Imported here, so that `--help` is quick.
    import lightning.pytorch as pl
    from lightning.pytorch.utilities import rank_zero_info

    log_through_hydra()
    settings = _settings(cfg)
    before = runs.finished(settings)
    if before is not None:
        rank_zero_info(f"{sweeps.this_run()} came to its end before.")
        return before
    _check(cfg)
    started = time.monotonic()
    if sweeps.is_sweep():
        rank_zero_info(f"{sweeps.this_run()}{sweeps.expected_end()}.")
        runs.record(settings=settings, error="It was interrupted.")
        sweeps.leave_launcher()
    cfg.ckpt_path = runs.resumed(cfg.ckpt_path)
    classes = cfg.data.classes if cfg.ckpt_path is None else _resumed_classes(cfg)
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    data = build(cfg.data, classes=classes)
    corrupted = _corrupted_validation(data) if cfg.objective == "corrupted_accuracy" else None
    callbacks = [build(node) for node in [*(cfg.get("callbacks") or {}).values(), cfg.get("augmix")] if node]
    loggers = [build(node) for node in (cfg.get("logger") or {}).values() if node]
    model = build(cfg.model, num_classes=data.num_classes)
    trainer = build(cfg.trainer, callbacks=callbacks, logger=loggers)
    _check_launcher(trainer)
    _fit(trainer, model, data, cfg.ckpt_path)
    epochs = int(trainer.callback_metrics.get("epochs", 0))  # measuring replaces these metrics
    measures = _measured(trainer, model, data)
    objective = measures.get(f"{data.validated} accuracy", float("nan"))
    if corrupted is not None:
        measures["corrupted accuracy"] = objective = _corrupted_accuracy(cfg, model, data, corrupted)
    if trainer.is_global_zero:
        _print_table(cfg, trainer, epochs, measures)
        runs.record(measures, objective=objective, seconds=time.monotonic() - started)
    return objective


def _settings(cfg: "DictConfig") -> dict[str, Any]:
    """All that decides what a run does, by the names of groups."""
    settings: Any = OmegaConf.to_container(cfg, resolve=True)
    return {**settings, "version of lightning-augmix": __version__}


def _check(cfg: "DictConfig") -> None:
    """Rejects what the constructors accept but the fit would fail on."""
    with usage_errors():
        integer("trainer.max_epochs", cfg.trainer.max_epochs, at_least=0)
        integer("seed", cfg.seed, at_least=0)
        one_of("objective", cfg.objective, _OBJECTIVES)
    used = runs.used_by_another(HydraConfig.get().runtime.output_dir, cfg.ckpt_path)
    if used is not None:
        raise runs.UsedFolderError(used)
    if "augmix" in (cfg.get("callbacks") or {}):
        raise UsageError("callbacks=augmix is for your own applications; here, AugMix is the group augmix.")
    augmix = cfg.get("augmix") or {}
    if augmix.get("inject") is False:
        raise UsageError("augmix.inject=false is for code of your own, which places AugMix itself: leave it out.")
    if cfg.model.views != augmix.get("views", 0):
        raise UsageError(
            f"Expected model.views, with which the loss is JSDLoss, to be augmix.views ({augmix.get('views', 0)}), as "
            f"it is if left out; got {cfg.model.views}."
        )


def _check_launcher(trainer: "pl.Trainer") -> None:
    """Rejects processes that would be started with the command line of a sweep, and so run all of it."""
    from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

    launcher = trainer.strategy.launcher
    if (
        sweeps.is_sweep()
        and isinstance(launcher, _SubprocessScriptLauncher)
        and not launcher.cluster_environment.creates_processes_externally
    ):
        raise UsageError(
            "In a sweep, the processes of trainer.strategy=ddp would each run the whole sweep: use "
            "trainer.strategy=ddp_spawn."
        )


def _resumed_classes(cfg: "DictConfig") -> list[str] | None:
    """The classes of the checkpoint, which number the model's outputs; the model has to be the same."""
    from lightning_augmix.commands.checkpoints import read_checkpoint

    checkpoint = read_checkpoint(cfg.ckpt_path)
    classes: list[str] | None = checkpoint.data.get("classes")
    for key, given, found in (
        ("model.architecture", cfg.model.architecture, checkpoint.model.get("architecture")),
        ("data.classes", cfg.data.classes, classes),
    ):
        if None not in (given, found) and given != found:
            raise UsageError(f"Expected {key} to be that of {cfg.ckpt_path}, {found}, to resume from it; got {given}.")
    return classes


def _fit(trainer: "pl.Trainer", model: Any, data: "ImageDataModule", ckpt_path: str | None) -> None:
    from lightning.pytorch.trainer.states import TrainerStatus

    try:
        trainer.fit(model, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
    except SystemExit as stop:
        # Lightning ends the process itself, with exit status 1.
        if trainer.state.status == TrainerStatus.INTERRUPTED and isinstance(stop.__context__, KeyboardInterrupt):
            raise type(stop.__context__)(runs.how_to_go_on()) from None
        raise


def _measured(trainer: "pl.Trainer", model: Any, data: "ImageDataModule") -> dict[str, float]:
    """The accuracies of the last weights, by what they were measured on."""
    measures = {}
    for name, run, metric in (
        (f"{data.validated} accuracy", trainer.validate, "val_accuracy"),
        ("test accuracy", trainer.test if data.tested == "test" else None, "test_accuracy"),
    ):
        # No batches, no measures.
        for measured in run(model, datamodule=data, verbose=False) if run is not None else []:
            measures[name] = float(measured[metric])
    return measures


def _corrupted_validation(data: "ImageDataModule") -> "CorruptedData":
    """The validation images with corruptions: before the training, which would be lost if they cannot be had."""
    from lightning_augmix.robustness.computed import compute_corruptions, digest_of

    data.prepare_data()
    data.setup("validate")
    images: Any = data.validation_images()
    with usage_errors():
        digest = digest_of(images[number] for number in range(len(images)))
        return compute_corruptions(images, Path("data") / "corrupted" / f"validation-{digest[:16]}")


def _corrupted_accuracy(cfg: "DictConfig", model: Any, data: "ImageDataModule", corrupted: "CorruptedData") -> float:
    from lightning_augmix.robustness.evaluate import evaluate_robustness

    trainer = build({**cfg.trainer, "fast_dev_run": False, "limit_test_batches": None}, logger=False, callbacks=[])
    with usage_errors():
        report = evaluate_robustness(
            model,
            data.val_data,
            corrupted,
            data.corrupted_transform(),
            batch_size=data.hparams["batch_size"],
            num_workers=data.hparams["num_workers"],
            trainer=trainer,
        )
    return 1 - report.mean_corruption_error


def _print_table(cfg: "DictConfig", trainer: "pl.Trainer", epochs: int, measures: dict[str, float]) -> None:
    from rich.console import Console
    from rich.table import Table

    augmix: Any = cfg.get("augmix") or {}
    in_words = f"severity {augmix.severity:g}, set {augmix.augmentation_set}" if "severity" in augmix else "off"
    table = Table("data", "model", "AugMix", "epochs", *measures, title="The last weights", title_justify="left")
    shares = [f"{measure:.2%}" for measure in measures.values()]
    table.add_row(cfg.data.dataset, cfg.model.architecture, in_words, str(epochs), *shares)
    console = Console()
    console.print(table)
    savers: Any = trainer.checkpoint_callbacks
    for best in (saver for saver in savers if saver.monitor == "val_accuracy" and saver.best_model_score is not None):
        weights = printable(Path(best.best_model_path).name)
        figure = f"Highest validation accuracy: {best.best_model_score:.2%}, of the weights in {weights}"
        console.print(figure, highlight=False)
    folder = printable(HydraConfig.get().runtime.output_dir)
    console.print(f"Logs and checkpoints: {folder}", soft_wrap=True, markup=False)


main = hydra_command("augmix-train", "train", train)


if __name__ == "__main__":
    main()
