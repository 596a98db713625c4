"""``augmix-preview``: pictures of what AugMix does to a photograph, or to the images of a training dataset."""

import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from lightning_augmix._checks import integer
from lightning_augmix.commands.console import UsageError, build, hydra_command, log_through_hydra, usage_errors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.figure import Figure
    from omegaconf import DictConfig

    from lightning_augmix.transform import AugmentAndMixTransform

__all__ = ["main", "preview"]


def preview(cfg: "DictConfig") -> None:
    """Draws, and writes each picture as PNG and SVG.

    Args:
        cfg: The composed configuration, see ``configs/preview.yaml``.
    """
    # Imported here, so that `--help` is quick.
    from lightning_augmix._figures import save_figure
    from lightning_augmix.callback import AugMixCallback

    log_through_hydra()
    _check(cfg)
    callback = build(cfg.augmix) if cfg.augmix else None
    if not isinstance(callback, AugMixCallback):
        raise UsageError("augmix=off has nothing to draw: use augmix=default, safe or jsd.")
    is_of_data = cfg.get("data") is not None or cfg["from"] is not None
    pictures = _of_data(cfg, callback) if is_of_data else _of_photograph(cfg, callback.transform)
    folder = Path(HydraConfig.get().runtime.output_dir)
    for name, figure in pictures:
        for ending in ("png", "svg"):
            save_figure(figure, folder / f"{name}.{ending}")
            print(folder / f"{name}.{ending}")


def _check(cfg: "DictConfig") -> None:
    given = [name for name in ("image", "data", "from") if cfg.get(name) is not None]
    if len(given) > 1:
        raise UsageError(f"Expected one of image, data and from; got {' and '.join(given)}: leave out all but one.")
    for name in ("severities", "widths"):
        if not OmegaConf.is_list(cfg[name]) or not cfg[name]:
            raise UsageError(f"Expected argument `{name}` to be a list of numbers, such as [1,3]; got {cfg[name]}.")
    with usage_errors():
        integer("size", cfg.size, at_least=1)
        integer("images", cfg.images, at_least=1)
        integer("seed", cfg.seed, at_least=0)


def _of_photograph(cfg: "DictConfig", transform: "AugmentAndMixTransform") -> "Iterator[tuple[str, Figure]]":
    from lightning_augmix.pictures import draw_grid, draw_plan_steps
    from lightning_augmix.plans.plan import sample_plan

    image = _photograph(cfg.image, cfg.size)
    arguments = transform.hyperparameters.arguments()
    plan = sample_plan(cfg.seed, (image.height, image.width), **arguments)
    print(plan)
    yield "augmix", draw_plan_steps(image, plan)
    others = {name: arguments[name] for name in ("depth", "alpha", "augmentation_set")}
    with usage_errors():
        grid = draw_grid(image, cfg.seed, severities=cfg.severities, widths=cfg.widths, hyperparameters=others)
    grid.suptitle(", ".join(f"{name}={value!r}" for name, value in others.items()), fontsize=9)
    yield "grid", grid


def _photograph(path: str | None, size: int) -> Any:
    from PIL import Image, ImageOps

    if path is None:
        from sklearn.datasets import load_sample_image

        image = Image.fromarray(load_sample_image("flower.jpg"))
    else:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
            image = image if image.mode == "L" else image.convert("RGB")
    share = size / min(image.size)
    return image if share >= 1 else image.resize([round(share * side) for side in image.size], Image.Resampling.LANCZOS)


def _of_data(cfg: "DictConfig", callback: Any) -> "Iterator[tuple[str, Figure]]":
    import lightning.pytorch as pl

    from lightning_augmix.injection.pairs import pairs
    from lightning_augmix.pictures import draw_pairs

    data = _named(cfg["from"]) if cfg.get("data") is None else build(cfg.data)
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    dataset = _training_dataset(data)
    clean, augmented = pairs(dataset, callback.transform, cfg.images, image_key=callback.image_key)
    figure = draw_pairs(clean, augmented)
    figure.suptitle(str(callback.transform.hyperparameters), fontsize=9)
    yield "batch", figure


def _named(place: str) -> Any:
    module, separator, name = str(place).partition(":")
    if not separator or not module or not name:
        raise UsageError(f"Expected argument `from` to be module:name, such as your.module:train_data; got {place}.")
    sys.path.insert(0, "")  # as `python -m` does
    found = getattr(import_module(module), name, None)
    if found is None:
        raise UsageError(f"Expected argument `from` to be module:name; {module} has no {name}.")
    is_data = any(hasattr(found, name) for name in ("__getitem__", "__iter__", "train_dataloader"))
    return found() if isinstance(found, type) or not is_data else found


def _training_dataset(data: Any) -> Any:
    """The dataset itself, that of a loader, or of the first loader that a data module or module makes."""
    from torch.utils._pytree import tree_leaves
    from torch.utils.data import DataLoader

    if hasattr(data, "train_dataloader"):
        data.prepare_data()
        if hasattr(data, "setup"):
            data.setup("fit")
        data = data.train_dataloader()
    loader = next((each for each in tree_leaves(data) if isinstance(each, DataLoader)), None)
    return data if loader is None else loader.dataset


main = hydra_command("augmix-preview", "preview", preview)


if __name__ == "__main__":
    main()
