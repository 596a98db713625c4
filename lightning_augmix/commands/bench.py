"""``augmix-bench``: what AugMix costs on this machine, as a table, JSON and a chart."""

import json
import math
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from lightning_augmix._checks import integer, number
from lightning_augmix._figures import figure_of, save_figure
from lightning_augmix.commands.console import UsageError, hydra_command, usage_errors

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from omegaconf import DictConfig
    from PIL.Image import Image
    from rich.console import Console

    from lightning_augmix.commands.benchmark import Timing

__all__ = ["bench", "main"]

_LOADER, _STEP = "JPEG loader, 224×224", "Training step, ResNet-50, bf16"


def bench(cfg: "DictConfig") -> None:
    """Measures, prints tables, and writes ``bench.json`` and ``bench.png``.

    Args:
        cfg: The composed configuration, see ``configs/bench.yaml``.
    """
    # Imported here, so that `--help` is quick.
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
    facts = {"machine": benchmark.machine(cfg.device), **({} if cfg.device is None else _facts(cfg, images))}
    console.print(", ".join(f"{name} {value}" for name, value in facts["machine"].items()), soft_wrap=True)
    with tempfile.TemporaryDirectory() as scratch, Progress(console=console, transient=True) as progress:
        parts = {
            **(_parts if cfg.device is None else _parts_on_device)(cfg, images),
            **_loaders(cfg, images, Path(scratch)),
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
    (folder / "bench.json").write_text(json.dumps({**facts, "milliseconds": times}, indent=2, ensure_ascii=False))
    _draw(results, folder / "bench.png")
    if cfg.device is None:
        console.print(_in_words(times[_LOADER], cfg.workers, cfg.images_per_second), soft_wrap=True)
    else:
        console.print(_of_device_in_words(facts, times), soft_wrap=True)
    console.print(f"Results and chart: {folder}", soft_wrap=True)
    if wrong := [name for name, bytes_ in facts.get("different_bytes", {}).items() if bytes_]:
        raise UsageError(f"The bytes of {', '.join(wrong)} are not those of the reference on this device.")
    if errors := facts.get("errors"):
        raise UsageError("\n".join(f"{name} does not work on this device: {error}" for name, error in errors.items()))


def _loaders(cfg: "DictConfig", images: "Sequence[Image]", folder: Path) -> "Mapping[str, Iterator[list[Timing]]]":
    from lightning_augmix.commands import benchmark

    return {
        name: benchmark.load_times(
            images, folder, cfg.workers, cfg.seconds, side=side, ours_alone=cfg.device is not None
        )
        for name, side in ((_LOADER, 224), ("JPEG loader, 32×32", 32))
    }


def _parts(cfg: "DictConfig", images: "Sequence[Image]") -> "Mapping[str, Iterator[list[Timing]]]":
    import torch

    from lightning_augmix.commands import benchmark

    torch.set_num_threads(1)  # as in the worker processes of a loader
    return {
        **{f"{size}×{size}": benchmark.transform_times(images, size, cfg.seconds) for size in cfg.sizes},
        "operations": benchmark.operation_times(images, 224, cfg.seconds / 10),
    }


def _parts_on_device(cfg: "DictConfig", images: "Sequence[Image]") -> "Mapping[str, Iterator[list[Timing]]]":
    import torch

    from lightning_augmix.commands.device_benchmark import batch_of, engine_times, step_times

    device = torch.device(cfg.device)
    large, small = (256, 4096) if device.type == "cuda" else (16, 256)
    batches = {size: batch_of(images, small if size <= 64 else large, size, device) for size in cfg.sizes}
    to_train_on = batch_of(images, *((large, 224) if device.type == "cuda" else (4, 64)), device)
    return {
        **{
            f"{size}×{size}, batches of {len(levels)}": engine_times(levels, cfg.seconds)
            for size, levels in batches.items()
        },
        _STEP: step_times(to_train_on, cfg.seconds),
    }


def _facts(cfg: "DictConfig", images: "Sequence[Image]") -> dict[str, Any]:
    import torch

    from lightning_augmix.commands import device_benchmark as on_device

    device = torch.device(cfg.device)
    levels = on_device.batch_of(images, 256 if device.type == "cuda" else 16, 224, device)
    return {
        "different_bytes": on_device.different_bytes(device),
        "errors": on_device.engines_and_errors(device)[1],
        "waits": on_device.waits(levels) if device.type == "cuda" else {},
        "copied_bytes_per_second": on_device.copies_per_second(device),
        "bytes_per_image_224": on_device.bytes_moved(levels),
    }


def _of_device_in_words(facts: dict[str, Any], times: dict[str, dict[str, float]]) -> str:
    sentences = [f"{sum(facts['different_bytes'].values())} bytes differ from the reference's."]
    for part, milliseconds in times.items():
        if part.startswith("224×224"):
            fastest = min(facts["different_bytes"], key=milliseconds.__getitem__)
            rate = 1000 / milliseconds[fastest]
            share = rate * facts["bytes_per_image_224"] / facts["copied_bytes_per_second"]
            sentences.append(
                f"{fastest} augments {rate:,.0f} images/s of 224×224, at {share:.0%} of the bandwidth of a copy."
            )
    steps, loader = times[_STEP], times[_LOADER]
    sentences.append(
        f"A training step takes {steps['with AugMix'] / steps['without AugMix']:.3f} times as long with AugMix, and "
        f"loading what the device finishes, {loader['for the device'] / loader['without AugMix']:.2f} times."
    )
    if facts["waits"]:
        sentences.append(f"The host waits {max(facts['waits'].values())} times for the device in a batch.")
    return " ".join(sentences)


def _check(cfg: "DictConfig") -> None:
    if cfg.device is not None:
        _check_device(cfg.device)
    if not OmegaConf.is_list(cfg.sizes):
        raise UsageError(f"Expected argument `sizes` to be a list of integers, such as [224]; got {cfg.sizes}.")
    with usage_errors():
        for size in cfg.sizes:
            integer("sizes", size, at_least=1, remedy="in a list, such as [224]")
        integer("workers", cfg.workers, at_least=0)
        for name in ("seconds", "images_per_second"):
            number(name, cfg[name], above=0)


def _check_device(device: Any) -> None:
    import torch

    if device not in ("cpu", "cuda"):
        raise UsageError(f"Expected argument `device` to be cpu, cuda or null; got {device!r}.")
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("Expected argument `device` to be cpu or null where torch finds no CUDA device; got 'cuda'.")


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
            title = f"AugMix, {part}" if part[0].isdigit() else part
            table = Table("", "ms per image", "images/s", against, title=title)
            for timing in timings:
                milliseconds, ratio = timing.milliseconds, timing.milliseconds / first.milliseconds
                table.add_row(timing.name, f"{milliseconds:.3g}", f"{1000 / milliseconds:,.0f}", f"{ratio:.2f}")
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


_OURS = ("torch", "triton", "with AugMix", "for the device")


def _draw(results: "dict[str, list[Timing]]", path: Path) -> None:
    parts = {part: timings for part, timings in results.items() if part != "operations"}
    figure = figure_of(3.6 * len(parts), 3.6)
    for axes, (part, timings) in zip(figure.subplots(1, len(parts), squeeze=False)[0], parts.items(), strict=True):
        names = [timing.name for timing in timings]
        bars = axes.barh(
            names,
            [timing.milliseconds for timing in timings],
            color=["C0" if "numba" in name or name in _OURS else "C7" for name in names],
        )
        axes.bar_label(bars, fmt="%.3g", padding=2)
        axes.margins(x=0.2)
        axes.invert_yaxis()
        axes.set_title(part)
        axes.set_xlabel("ms per image")
        axes.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path)


main = hydra_command("augmix-bench", "bench", bench)


if __name__ == "__main__":
    main()
