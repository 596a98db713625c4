"""``augmix-bench``: what AugMix costs on this machine, as a table, JSON and a chart."""

import json
import math
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from lightning_augmix._checks import integer, number
from lightning_augmix.commands.console import UsageError, hydra_command, usage_errors

if TYPE_CHECKING:
    from omegaconf import DictConfig
    from rich.console import Console

    from lightning_augmix.commands.benchmark import Timing

__all__ = ["bench", "main"]

_LOADER = "JPEG loader, 224×224"


def bench(cfg: "DictConfig") -> None:
    """Measures, prints tables, and writes ``bench.json`` and ``bench.png``.

    Args:
        cfg: The composed configuration, see ``configs/bench.yaml``.
    """
    # Imported here, so that `--help` is quick.
    import torch
    from rich.console import Console
    from rich.progress import Progress

    from lightning_augmix.commands import benchmark
    from lightning_augmix.engines import select_engine

    _check(cfg)
    try:
        images = benchmark.photographs(cfg.folder)
    except (ValueError, OSError) as error:
        raise UsageError(str(error)) from error
    console = Console()
    console.print("Preparing: compiling AugMix's operations, once on this machine.")
    select_engine("numba").warm_up()
    torch.set_num_threads(1)  # as in the worker processes of a loader
    with tempfile.TemporaryDirectory() as scratch, Progress(console=console, transient=True) as progress:
        parts = {
            **{f"{size}×{size}": benchmark.transform_times(images, size, cfg.seconds) for size in cfg.sizes},
            "operations": benchmark.operation_times(images, 224, cfg.seconds / 10),
            _LOADER: benchmark.load_times(images, Path(scratch), cfg.workers, cfg.seconds),
            "JPEG loader, 32×32": benchmark.load_times(images, Path(scratch), cfg.workers, cfg.seconds, side=32),
        }
        results: dict[str, list[Timing]] = {}
        task = progress.add_task("", total=len(parts))
        for part, rounds in parts.items():
            progress.update(task, description=f"Measuring {part}")
            for timings in rounds:
                results[part] = timings
            progress.advance(task)
    _print(console, results)
    folder = Path(HydraConfig.get().runtime.output_dir)
    times = {part: {timing.name: timing.milliseconds for timing in timings} for part, timings in results.items()}
    (folder / "bench.json").write_text(json.dumps({"milliseconds": times}, indent=2, ensure_ascii=False))
    _draw(results, folder / "bench.png")
    loader = {timing.name: timing.milliseconds for timing in results[_LOADER]}
    console.print(_in_words(loader, cfg.workers, cfg.images_per_second), soft_wrap=True)
    console.print(f"Results and chart: {folder}", soft_wrap=True)


def _check(cfg: "DictConfig") -> None:
    if not OmegaConf.is_list(cfg.sizes):
        raise UsageError(f"Expected argument `sizes` to be a list of integers, such as [224]; got {cfg.sizes}.")
    with usage_errors():
        for size in cfg.sizes:
            integer("sizes", size, at_least=1, remedy="in a list, such as [224]")
        integer("workers", cfg.workers, at_least=0)
        for name in ("seconds", "images_per_second"):
            number(name, cfg[name], above=0)


def _print(console: "Console", results: "dict[str, list[Timing]]") -> None:
    from rich.table import Table

    for part, timings in results.items():
        if part == "operations":
            table = Table("operation", "numba", "pillow", "ratio", title="Operations, 224×224, ms with mixing")
            times = {timing.name: timing.milliseconds for timing in timings}
            for name in dict.fromkeys(timing.name.split(", ")[0] for timing in timings):
                fast, slow = times[f"{name}, numba"], times[f"{name}, pillow"]
                table.add_row(name, f"{fast:.3f}", f"{slow:.3f}", f"{slow / fast:.1f}")
        else:
            first = timings[0]
            against = f"of {first.name}"
            table = Table("", "ms per image", against, title=part if "loader" in part else f"AugMix, {part}")
            for timing in timings:
                table.add_row(
                    timing.name, f"{timing.milliseconds:.3f}", f"{timing.milliseconds / first.milliseconds:.2f}"
                )
        console.print(table)


def _in_words(loader: dict[str, float], workers: int, images_per_second: float) -> str:
    without = loader["without AugMix"]
    processes = max(workers, 1)
    needed = {
        name: math.ceil(images_per_second * milliseconds * processes / 1000) for name, milliseconds in loader.items()
    }
    costs = [
        f"{loader[name]:.2f} ms {words} ({100 * (loader[name] / without - 1):+.0f} %)"
        for name, words in (
            ("with numba", "with it"),
            ("with numba, views=2", "with two views for JSDLoss"),
        )
    ]
    return (
        f"Here loading a JPEG image takes {without:.2f} ms without AugMix, {' and '.join(costs)} ({processes} "
        f"process{'es' if processes > 1 else ''}). A model that trains on {images_per_second:g} images/s does not wait "
        f"for them from about num_workers={needed['with numba']} on, {needed['with numba, views=2']} with views, and "
        f"{needed['without AugMix']} without AugMix."
    )


def _draw(results: "dict[str, list[Timing]]", path: Path) -> None:
    from matplotlib.figure import Figure

    parts = {part: timings for part, timings in results.items() if part != "operations"}
    figure = Figure(figsize=(3.6 * len(parts), 3.6), layout="constrained")
    for axes, (part, timings) in zip(figure.subplots(1, len(parts), squeeze=False)[0], parts.items(), strict=True):
        names = [timing.name for timing in timings]
        bars = axes.barh(
            names,
            [timing.milliseconds for timing in timings],
            color=["C0" if "numba" in name else "C7" for name in names],
        )
        axes.bar_label(bars, fmt="%.3g", padding=2)
        axes.margins(x=0.2)
        axes.invert_yaxis()
        axes.set_title(part)
        axes.set_xlabel("ms per image")
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


main = hydra_command("augmix-bench", "bench", bench)


if __name__ == "__main__":
    main()
