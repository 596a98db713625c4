"""``augmix-evaluate``: the robustness of classifiers that ``augmix-train`` trained, side by side."""

import os
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from lightning_augmix._checks import boolean, integer, one_of
from lightning_augmix._text import printable
from lightning_augmix.commands.console import UsageError, build, hydra_command, log_through_hydra, usage_errors

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from lightning_augmix.commands.checkpoints import Checkpoint
    from lightning_augmix.commands.data import ImageDataModule
    from lightning_augmix.robustness.published import CorruptedData
    from lightning_augmix.robustness.report import RobustnessReport
    from lightning_augmix.robustness.sequences import PerturbedData

__all__ = ["evaluate", "main"]

_LONGEST = 255  # bytes of a file name, on most file systems


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
    from rich.text import Text

    from lightning_augmix.commands.checkpoints import read_checkpoint
    from lightning_augmix.robustness.charts import draw_errors, draw_reliability
    from lightning_augmix.robustness.published import STRENGTHS

    log_through_hydra()
    ckpt_path = OmegaConf.select(cfg, "ckpt_path")  # None where it was not given
    paths = list(ckpt_path) if OmegaConf.is_list(ckpt_path) else [ckpt_path]
    checkpoints = [read_checkpoint(path) for path in paths or [paths]]
    given = list(cfg.names) if OmegaConf.is_list(cfg.names) else [cfg.names]
    names = [printable(str(name)) for name in (map(_name, paths) if cfg.names is None else given)]
    for key in ("corruptions", "cache", "sequences"):
        if not isinstance(cfg[key], str) and (key, cfg[key]) != ("sequences", None):
            raise UsageError(f"Expected {key} to be a folder; got {cfg[key]!r}.")
    with usage_errors():
        boolean("download", cfg.download)
        one_of("strengths", cfg.strengths, ["auto", *STRENGTHS])
        integer("seed", cfg.seed, at_least=0)
        for key in ("processes", "limit"):
            if cfg[key] is not None:
                integer(key, cfg[key], at_least=1)
    if any("/" in name for name in names):
        raise UsageError(f"Expected names to be file names, without slashes; got {names}.")
    if any(len(f"{name}.json".encode()) > _LONGEST for name in names):
        raise UsageError(
            f"Expected names to be file names, of at most {_LONGEST - len('.json')} bytes; got "
            f"{max(names, key=len)[:40]!r}… (pass names=[…])."
        )
    if len(set(names)) != len(paths):
        raise UsageError(
            f"Expected names to have a unique name for each of the {len(paths)} checkpoints; got {names} (pass "
            "names=[…])."
        )
    if len(checkpoints) > 1:  # which opens their test images
        with usage_errors():
            _check_images(names, cfg, [_data_of(cfg, checkpoint) for checkpoint in checkpoints])
    build(cfg.trainer)  # what it refuses is told before the corruptions are computed
    folder = Path(HydraConfig.get().runtime.output_dir)
    is_first = getattr(rank_zero_only, "rank", 0) == 0
    console, reports = Console(quiet=not is_first), []
    for name, checkpoint in zip(names, checkpoints, strict=True):
        report = _evaluated(cfg, name, checkpoint)
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
    console.print(Text(printable(f"Reports and charts: {folder}")), soft_wrap=True)
    return reports[-1].mean_corruption_error


def _name(path: str) -> str:
    """The folder of the run that wrote a checkpoint."""
    parents = [parent.name for parent in Path(os.path.abspath(path)).parents if parent.name != "checkpoints"]
    return parents[0] or Path(path).stem


def _check_images(names: list[str], cfg: "DictConfig", opened: "list[ImageDataModule]") -> None:
    """Refuses checkpoints that would be measured on different images."""
    from lightning_augmix.robustness.report import check_alike

    facts: list[dict[str, Any]] = []
    for data in opened:
        data.setup("test")
        facts.append({"data": _data_name(cfg, data, data.test_data), "images": len(data.test_data)})
    settings = [_settings(cfg, data) for data in opened]
    check_alike(list(zip(names, facts, [{}] * len(names), strict=True)))
    if any(each != settings[0] for each in settings):  # otherwise the images are the same, and need not be read
        facts = [{"digest of clean images": _digest(cfg, data)} for data in opened]
        check_alike(list(zip(names, facts, settings, strict=True)))


def _settings(cfg: "DictConfig", data: "ImageDataModule") -> dict[str, Any]:
    """What decides which the clean images are."""
    keys = ["root", "classes"]
    if data.tested == "held-out":
        keys.append("seed")
    if cfg.corruptions == "computed":
        keys += ["image_size", "crop"]
    return {f"data.{key}": data.hparams[key] for key in keys}


def _digest(cfg: "DictConfig", data: "ImageDataModule") -> str:
    """Digests the clean images before corruption; as they are stored, if the corruptions have a size of their own."""
    from lightning_augmix.robustness.computed import digest_of

    images: Any = data.test_images() if cfg.corruptions == "computed" else data.stored_images()
    return digest_of(images[index] for index in range(len(images)))[:16]


def _data_name(cfg: "DictConfig", data: "ImageDataModule", images: Any) -> str:
    from lightning_augmix.robustness.evaluate import name_of

    name: str = data.hparams["dataset"]
    if name != "image_folder":
        return name
    # Published corruptions have a size of their own.
    size = f" at {data.hparams['image_size']} pixels" if cfg.corruptions == "computed" else ""
    return name_of(images).replace("ClassFolders", name) + size


def _data_of(cfg: "DictConfig", checkpoint: "Checkpoint") -> "ImageDataModule":
    from lightning_augmix.commands.data import ImageDataModule

    given = {key: value for key, value in cfg.data.items() if value is not None}
    if checkpoint.data.get("dataset") == "image_folder":
        given.setdefault("crop", checkpoint.data.get("crop", "resized"))  # as checkpoints of earlier versions have it
    if given.get("download") and "root" not in given:
        raise UsageError("Expected data.root with data.download=true, the folder to download to; got none.")
    with usage_errors():
        return ImageDataModule(**{**checkpoint.data, "download": False, **given})


def _evaluated(cfg: "DictConfig", name: str, checkpoint: "Checkpoint") -> "RobustnessReport":
    from lightning_augmix.robustness.evaluate import evaluate_robustness

    data, model = _data_of(cfg, checkpoint), checkpoint.classifier()
    data.setup("test")
    if data.num_classes != model.hparams["num_classes"]:
        raise UsageError(
            f"{checkpoint.path} knows {model.hparams['num_classes']} classes, its data have {data.num_classes}."
        )
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
            data_name=_data_name(cfg, data, data.test_data),
            augmentation_set=checkpoint.augmentation_set,
            sequences=_sequences(cfg, data),
            limit=cfg.limit,
        )
    except (ValueError, ImportError) as error:
        raise UsageError(str(error)) from error


def _corrupted(cfg: "DictConfig", data: "ImageDataModule") -> "CorruptedData":
    from lightning_augmix.robustness.computed import compute_corruptions
    from lightning_augmix.robustness.published import open_corruptions

    if cfg.corruptions != "computed":
        opened = open_corruptions(cfg.corruptions, download=cfg.download)
        opened.digest = _digest(cfg, data)
        return opened
    images, name = _to_corrupt(cfg, data), data.hparams["dataset"]
    folder = Path(cfg.cache) / (name if cfg.limit is None else f"{name}-limit-{cfg.limit}")
    return compute_corruptions(images, folder, strengths=cfg.strengths, seed=cfg.seed, processes=cfg.processes)


def _to_corrupt(cfg: "DictConfig", data: "ImageDataModule") -> Any:
    from lightning_augmix.robustness.classes import stratified_part

    images = data.test_images()
    return images if cfg.limit is None else stratified_part(images, cfg.limit)


def _sequences(cfg: "DictConfig", data: "ImageDataModule") -> "PerturbedData | None":
    from lightning_augmix.robustness.sequences import compute_perturbations, open_perturbations

    if cfg.sequences == "computed":
        return compute_perturbations(_to_corrupt(cfg, data), strengths=cfg.strengths, seed=cfg.seed)
    return None if cfg.sequences is None else open_perturbations(cfg.sequences)


def _comparison(reports: "list[RobustnessReport]") -> Any:
    """A row for each classifier, with the mean and standard deviation of its runs."""
    from rich.table import Table
    from rich.text import Text

    from lightning_augmix.robustness.report import check_comparable, runs_of_each

    check_comparable(reports)
    has_flips = all(report.flip_rates for report in reports)
    table = Table(
        title=f"Error{', flips' if has_flips else ''} and RMS calibration error in %",
        title_justify="left",
        caption=Text(f"Measured on {reports[0].measured_on}."),
        caption_justify="left",
    )
    columns = ["", "error, clean", "corrupted", "excess", "RMS, clean", "corrupted"]
    for column in [*columns, *(["flips"] if has_flips else [])]:
        table.add_column(column, justify="right" if column else "left")
    for name, runs in runs_of_each(reports):
        measures = [
            [run.clean_error for run in runs],
            [run.mean_corruption_error for run in runs],
            [run.excess_error for run in runs],
            [run.clean.rms_error for run in runs],
            [run.corrupted.rms_error for run in runs],
            *([[run.mean_flip_rate for run in runs]] if has_flips else []),
        ]
        table.add_row(Text(printable(name)), *map(_percent, measures))
    return table


def _percent(shares: list[float]) -> str:
    mean = f"{100 * fmean(shares):.2f}"
    return mean if len(shares) == 1 else f"{mean} ± {100 * stdev(shares):.2f}"


main = hydra_command("augmix-evaluate", "evaluate", evaluate)


if __name__ == "__main__":
    main()
