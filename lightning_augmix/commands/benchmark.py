"""Measures what AugMix costs on this machine, compared with other implementations."""

import platform
import re
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import PIL
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as v1
from torchvision.transforms import v2

from lightning_augmix.injection import augment_dataloader
from lightning_augmix.operations import OPERATIONS
from lightning_augmix.transform import AugmentAndMixTransform

__all__ = [
    "Timing",
    "implementations",
    "load_times",
    "machine",
    "operation_times",
    "photographs",
    "side_by_side",
    "transform_times",
]

_BLOCK = 0.02  # seconds that one contender runs at a time, so that its caches are warm


@dataclass(frozen=True)
class Timing:
    """How long something takes.

    Attributes:
        name: What was timed.
        milliseconds: Per image, the median over blocks of calls.
    """

    name: str
    milliseconds: float


def photographs(folder: str | None, count: int = 16) -> list[Image.Image]:
    """Loads photographs to measure with, as RGB images.

    Args:
        folder: A folder of images, searched recursively; ``None`` for the two that come with scikit-learn.
        count: Maximum number of images to take from the folder.

    Raises:
        ValueError: If the folder has no images.
    """
    if folder is None:
        from sklearn.datasets import load_sample_images

        return [Image.fromarray(image) for image in load_sample_images().images]
    suffixes = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    found = (path for path in Path(folder).rglob("*") if path.suffix.lower() in suffixes and path.is_file())
    paths = sorted(found)[:count]
    if not paths:
        raise ValueError(f"Expected `folder` to be a folder with images, or none; got {folder!r}.")
    return [Image.open(path).convert("RGB") for path in paths]


def machine(device: str | None) -> dict[str, str]:
    """The processor or the device, and the software.

    Args:
        device: ``"cuda"`` for the name of that device.
    """
    name = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine()
    with suppress(OSError):
        if device != "cuda" and (found := re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())):
            name = found[1]
    found_versions = {"device": name, "pillow": PIL.__version__}
    for package in ("lightning-augmix", "torch", "torchvision", "triton", "numba", "timm", "kornia"):
        with suppress(PackageNotFoundError):
            found_versions[package] = version(package)
    return found_versions


def implementations() -> dict[str, Callable[[Image.Image], Any]]:
    """Both engines, torchvision's AugMix, and timm's if it is installed, with their default hyperparameters."""
    found: dict[str, Callable[[Image.Image], Any]] = {
        "numba": AugmentAndMixTransform(engine="numba"),
        "pillow": AugmentAndMixTransform(engine="pillow"),
        "torchvision v1": v1.AugMix(),
        "torchvision v2": v2.AugMix(),
    }
    if find_spec("timm") is not None:
        from timm.data.auto_augment import augment_and_mix_transform

        found["timm"] = augment_and_mix_transform("augmix-m3-w3", {})
    return found


def side_by_side(
    contenders: Mapping[str, Callable[[int], Any]], seconds: float, finish: Callable[[], None] = lambda: None
) -> Iterator[list[Timing]]:
    """Times functions of a running number in turn.

    Args:
        contenders: The functions by name.
        seconds: Seconds to spend on each.
        finish: Waits until what was called has been done.

    Yields:
        The timings so far, per call.
    """
    for function in contenders.values():
        function(0)
        finish()
    blocks: dict[str, list[float]] = {name: [] for name in contenders}
    numbers = dict.fromkeys(contenders, 0)
    end = time.perf_counter() + seconds * len(contenders)
    while time.perf_counter() < end or min(map(len, blocks.values())) < 3:
        for name, function in contenders.items():
            start, calls, elapsed = time.perf_counter(), 0, 0.0
            while elapsed < _BLOCK:
                function(numbers[name] + calls)
                calls += 1
                elapsed = time.perf_counter() - start
            finish()
            numbers[name] += calls
            blocks[name].append(1000 * (time.perf_counter() - start) / calls)
        yield [Timing(name, statistics.median(times)) for name, times in blocks.items()]


def _on_images(transform: Callable[[Image.Image], Any], images: Sequence[Image.Image]) -> Callable[[int], Any]:
    return lambda number: transform(images[number % len(images)])


def transform_times(images: Sequence[Image.Image], size: int, seconds: float) -> Iterator[list[Timing]]:
    """Times every implementation on one thread, PIL image in and out.

    Args:
        images: Photographs.
        size: The side to which they are resized, in pixels.
        seconds: Seconds to spend on each implementation.

    Yields:
        The timings so far.
    """
    resized = [image.resize((size, size)) for image in images]
    yield from side_by_side({name: _on_images(t, resized) for name, t in implementations().items()}, seconds)


def operation_times(images: Sequence[Image.Image], size: int, seconds: float) -> Iterator[list[Timing]]:
    """Times every operation with both engines, as a single chain of that operation alone.

    Args:
        images: Photographs.
        size: The side to which they are resized, in pixels.
        seconds: Seconds to spend on each operation and engine.

    Yields:
        The timings so far, named ``"operation, engine"``.
    """
    resized = [image.resize((size, size)) for image in images]
    alone = {"width": 1, "depth": 1}
    contenders = {
        f"{name}, {engine}": _on_images(
            AugmentAndMixTransform(**alone, augmentation_set=[name], engine=engine),
            resized,
        )
        for name in OPERATIONS
        for engine in ("numba", "pillow")
    }
    yield from side_by_side(contenders, seconds)


class _Files(Dataset[Any]):
    def __init__(self, paths: Sequence[Path], crop: Any, augmix: Callable[[Image.Image], Any] | None) -> None:
        self.paths = paths
        steps = [crop, v1.RandomHorizontalFlip(), *([augmix] if augmix else []), v1.ToTensor()]
        self.transform = v1.Compose([*steps, v1.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))])

    def __getitem__(self, index: int) -> Any:
        with Image.open(self.paths[index]) as image:
            return self.transform(image.convert("RGB"))

    def __len__(self) -> int:
        return len(self.paths)


def load_times(
    images: Sequence[Image.Image],
    folder: Path,
    workers: int,
    seconds: float,
    *,
    side: int = 224,
    ours_alone: bool = False,
) -> Iterator[list[Timing]]:
    """Times loaders of JPEG files, with AugMix inserted into their datasets: decode, crop, flip, ToTensor, Normalize.

    With ``on="device"``, what is left for the device is not timed.

    Args:
        images: Photographs.
        folder: An empty folder for the files.
        workers: Worker processes of each loader; 0 for this process.
        seconds: Seconds to spend on each loader.
        side: 224 for files of 500×375, like most of ImageNet, and RandomResizedCrop, in batches of 32; 32 for files of
            that size, padded and cropped, in batches of 128.
        ours_alone: Whether to leave out what other engines and libraries take.

    Yields:
        The timings so far.
    """
    size, batch = ((500, 375), 32) if side > 32 else ((side, side), 128)
    crop = v1.RandomResizedCrop(side) if side > 32 else v1.RandomCrop(side, padding=4)
    files = []
    for number, image in enumerate(images):
        files.append(folder / f"{side}-{number}.jpg")
        image.resize(size).save(files[-1], quality=90)
    # Equally many batches for each worker, and enough of them to make the start of a pass negligible.
    paths = [files[number % len(files)] for number in range(8 * batch * max(workers, 1))]

    def loader(augmix: Callable[[Image.Image], Any] | None = None) -> DataLoader[Any]:
        data = _Files(paths, crop, augmix)
        return DataLoader(data, batch, num_workers=workers, persistent_workers=workers > 0)

    def injected(
        transform: AugmentAndMixTransform, views: int = 0, on: Literal["workers", "device"] = "workers"
    ) -> DataLoader[Any]:
        return augment_dataloader(loader(), transform, views=views, on=on)

    loaders = {
        "without AugMix": loader(),
        "with numba": injected(AugmentAndMixTransform(engine="numba")),
        "with numba, views=2": injected(AugmentAndMixTransform(engine="numba"), views=2),
        "for the device": injected(AugmentAndMixTransform(), on="device"),
    }
    others = {
        "with numba, width 5, depth 5": injected(AugmentAndMixTransform(width=5, depth=5, engine="numba")),
        "with pillow": injected(AugmentAndMixTransform(engine="pillow")),
        "with torchvision v2": loader(v2.AugMix()),
    }
    if not ours_alone:
        loaders |= others
    for each in loaders.values():
        next(iter(each))
    passes: dict[str, list[float]] = {name: [] for name in loaders}
    end = time.perf_counter() + seconds * len(loaders)
    while time.perf_counter() < end or min(map(len, passes.values())) < 3:
        for name, each in loaders.items():
            start = time.perf_counter()
            for _ in each:
                pass
            passes[name].append(1000 * (time.perf_counter() - start) / len(paths))
        yield [Timing(name, statistics.median(times)) for name, times in passes.items()]
