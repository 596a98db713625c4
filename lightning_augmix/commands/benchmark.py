"""Measures what AugMix costs on this machine, compared with other implementations."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as v1
from torchvision.transforms import v2

from lightning_augmix.operations import OPERATIONS
from lightning_augmix.transform import AugmentAndMixTransform

__all__ = ["Timing", "implementations", "load_times", "operation_times", "photographs", "transform_times"]

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


def _side_by_side(contenders: Mapping[str, Callable[[int], Any]], seconds: float) -> Iterator[list[Timing]]:
    """Times functions of a running number in turn, and yields the timings so far after each round."""
    for function in contenders.values():
        function(0)
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
            numbers[name] += calls
            blocks[name].append(1000 * elapsed / calls)
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
    yield from _side_by_side({name: _on_images(t, resized) for name, t in implementations().items()}, seconds)


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
    yield from _side_by_side(contenders, seconds)


class _Files(Dataset[Any]):
    def __init__(self, paths: Sequence[Path], augmix: Callable[[Image.Image], Any] | None, length: int) -> None:
        self.paths, self.length = paths, length
        steps = [v1.RandomResizedCrop(224), v1.RandomHorizontalFlip(), *([augmix] if augmix else []), v1.ToTensor()]
        self.transform = v1.Compose([*steps, v1.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))])

    def __getitem__(self, index: int) -> Any:
        with Image.open(self.paths[index % len(self.paths)]) as image:
            return self.transform(image.convert("RGB"))

    def __len__(self) -> int:
        return self.length


def load_times(images: Sequence[Image.Image], folder: Path, workers: int, seconds: float) -> Iterator[list[Timing]]:
    """Times loaders of JPEG files: decode, RandomResizedCrop(224), flip, AugMix or not, ToTensor, Normalize.

    Args:
        images: Photographs.
        folder: An empty folder for the files; 500×375 each, like most of ImageNet.
        workers: Worker processes of each loader; 0 for this process.
        seconds: Seconds to spend on each loader.

    Yields:
        The timings so far.
    """
    paths = []
    for number, image in enumerate(images):
        paths.append(folder / f"{number}.jpg")
        image.resize((500, 375)).save(paths[-1], quality=90)
    every = implementations()
    augmixes = {"without AugMix": None, "with numba": every["numba"], "with pillow": every["pillow"]}
    augmixes["with torchvision v2"] = every["torchvision v2"]
    augmixes["with numba, width 5, depth 5"] = AugmentAndMixTransform(width=5, depth=5, engine="numba")
    if workers == 0:
        datasets = {name: _Files(paths, augmix, 1) for name, augmix in augmixes.items()}
        yield from _side_by_side({name: dataset.__getitem__ for name, dataset in datasets.items()}, seconds)
        return
    loaders = {
        # Equally many batches for each worker, and enough of them to make the start of a pass negligible.
        name: DataLoader(_Files(paths, augmix, 32 * 8 * workers), 32, num_workers=workers, persistent_workers=True)
        for name, augmix in augmixes.items()
    }
    passes: dict[str, list[float]] = {name: [] for name in loaders}
    for loader in loaders.values():
        for _ in loader:
            pass
    end = time.perf_counter() + seconds * len(loaders)
    while time.perf_counter() < end or min(map(len, passes.values())) < 3:
        for name, loader in loaders.items():
            start = time.perf_counter()
            count = sum(len(batch) for batch in loader)
            passes[name].append(1000 * (time.perf_counter() - start) / count)
        yield [Timing(name, statistics.median(times)) for name, times in passes.items()]
