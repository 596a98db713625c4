"""``augmix-evaluate``: the robustness of classifiers that ``augmix-train`` trained, side by side."""

import os
import zipfile
from pathlib import Path
from pickle import UnpicklingError
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from lightning_augmix._checks import integer
from lightning_augmix.commands.console import UsageError, build, hydra_command, log_through_hydra, usage_errors

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from lightning_augmix.commands.data import ImageDataModule
    from lightning_augmix.robustness.published import CorruptedData
    from lightning_augmix.robustness.report import RobustnessReport

__all__ = ["evaluate", "main"]


def evaluate(cfg: "DictConfig") -> float:
    """Measures one or more classifiers, prints tables, and writes reports and charts.

    Args:
        cfg: The composed configuration, see ``configs/evaluate.yaml``.

    Returns:
        The mean corruption error of the last classifier, in [0, 1].
    """
    # Imported here, so that `--help` is quick.
    from lightning.pytorch.utilities import rank_zero_only
    from rich.console import Console

    from lightning_augmix.robustness.charts import draw_errors, draw_reliability

    log_through_hydra()
    ckpt_path = OmegaConf.select(cfg, "ckpt_path")  # None where it was not given
    paths = list(ckpt_path) if OmegaConf.is_list(ckpt_path) else [ckpt_path]
    for path in paths or [paths]:
        if not isinstance(path, str) or not zipfile.is_zipfile(path):
            raise UsageError(
                "Expected ckpt_path to be a checkpoint file of augmix-train (outputs/…/checkpoints/last.ckpt), or a "
                f"list of them; got {path!r}."
            )
    given = list(cfg.names) if OmegaConf.is_list(cfg.names) else [cfg.names]
    names = [_name(path) for path in paths] if cfg.names is None else [str(name) for name in given]
    for key in ("corruptions", "cache"):
        if not isinstance(cfg[key], str):
            raise UsageError(f"Expected {key} to be a folder; got {cfg[key]!r}.")
    with usage_errors():
        integer("seed", cfg.seed, at_least=0)
        if cfg.processes is not None:
            integer("processes", cfg.processes, at_least=1)
    if any("/" in name for name in names):
        raise UsageError(f"Expected names to be file names, without slashes; got {names}.")
    if len(set(names)) != len(paths):
        raise UsageError(
            f"Expected names to have a unique name for each of the {len(paths)} checkpoints; got {names} (pass "
            "names=[…])."
        )
    folder = Path(HydraConfig.get().runtime.output_dir)
    is_first = getattr(rank_zero_only, "rank", 0) == 0
    console, reports = Console(quiet=not is_first), []
    for name, path in zip(names, paths, strict=True):
        report = _evaluated(cfg, name, path)
        console.print(report)
        reports.append(report)
        if is_first:
            report.save(folder / f"{name}.json")
            report.save_csv(folder / f"{name}.csv")
    if len(reports) > 1:
        console.print(_comparison(reports))
    if is_first:
        draw_errors(reports, folder / "errors.png")
        draw_reliability(reports, folder / "reliability.png")
    console.print(f"Reports and charts: {folder}", soft_wrap=True, markup=False)
    return reports[-1].mean_corruption_error


def _name(path: str) -> str:
    """The folder of the run that wrote a checkpoint."""
    parents = [parent.name for parent in Path(os.path.abspath(path)).parents if parent.name != "checkpoints"]
    return parents[0] or Path(path).stem


def _evaluated(cfg: "DictConfig", name: str, path: str) -> "RobustnessReport":
    import torch

    from lightning_augmix.commands.data import ImageDataModule
    from lightning_augmix.commands.model import Classifier
    from lightning_augmix.robustness.evaluate import evaluate_robustness

    given = {key: value for key, value in cfg.data.items() if value is not None}
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)["callbacks"].get("AugMixCallback")
        model = Classifier.load_from_checkpoint(path, map_location="cpu")
        data = ImageDataModule.load_from_checkpoint(path, **given)
    except (LookupError, TypeError, ValueError, RuntimeError, AttributeError, UnpicklingError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"{path} is not a checkpoint of augmix-train that fits these overrides ({reason}).") from error
    data.setup("test")
    try:
        return evaluate_robustness(
            model,
            data.test_data,
            _corrupted(cfg, data),
            data.corrupted_transform(),
            batch_size=data.hparams["batch_size"],
            num_workers=data.hparams["num_workers"],
            trainer=build(cfg.trainer),
            name=name,
            augmentation_set=None if state is None else state["augmentation_set"],
        )
    except (ValueError, ImportError) as error:
        raise UsageError(str(error)) from error


def _corrupted(cfg: "DictConfig", data: "ImageDataModule") -> "CorruptedData":
    from lightning_augmix.robustness.computed import compute_corruptions
    from lightning_augmix.robustness.published import open_corruptions

    if cfg.corruptions != "computed":
        return open_corruptions(cfg.corruptions)
    folder = Path(cfg.cache) / data.hparams["dataset"]
    return compute_corruptions(data.test_images(), folder, seed=cfg.seed, processes=cfg.processes)


def _comparison(reports: "list[RobustnessReport]") -> Any:
    """A row for each classifier, with the mean and standard deviation of its runs."""
    from rich.markup import escape
    from rich.table import Table

    from lightning_augmix.robustness.report import runs_of_each

    table = Table(title="Error and RMS calibration error in %", title_justify="left")
    for column in ("", "error, clean", "corrupted", "RMS, clean", "corrupted"):
        table.add_column(column, justify="right" if column else "left")
    for name, runs in runs_of_each(reports):
        measures = (
            [run.clean_error for run in runs],
            [run.mean_corruption_error for run in runs],
            [run.clean.rms_error for run in runs],
            [run.corrupted.rms_error for run in runs],
        )
        table.add_row(escape(name), *map(_percent, measures))
    return table


def _percent(shares: list[float]) -> str:
    mean = f"{100 * fmean(shares):.2f}"
    return mean if len(shares) == 1 else f"{mean} ± {100 * stdev(shares):.2f}"


main = hydra_command("augmix-evaluate", "evaluate", evaluate)


if __name__ == "__main__":
    main()
