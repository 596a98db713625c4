"""Computes a corrupted test set, where none is published, in the format of CIFAR-10-C."""

import hashlib
import json
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset

from lightning_augmix._checks import integer, one_of
from lightning_augmix._extras import require
from lightning_augmix._files import whole_file
from lightning_augmix.robustness.published import (
    CORRUPTIONS,
    SEVERITIES,
    STRENGTHS,
    CorruptedData,
    open_corruptions,
    read_origin,
)

__all__ = ["compute_corruptions", "digest_of"]


def compute_corruptions(
    data: Dataset[Any],
    folder: str | Path,
    corruptions: Sequence[str] = CORRUPTIONS,
    *,
    strengths: str = "auto",
    seed: int = 0,
    processes: int | None = None,
    show_progress: bool = True,
) -> CorruptedData:
    """Computes a corrupted test set, in the format of CIFAR-10-C.

    The same severity is weaker for small images, as it was published: CIFAR-10-C's for those of 32 pixels, Tiny
    ImageNet-C's for 64, ImageNet-C's (with ``imagecorruptions-imaug``) for larger ones. Images of less than 32×32 are
    mirrored at the borders and cropped afterwards. A grayscale image is corrupted as RGB and its green channel kept, so
    that noise keeps its strength. Files already in the folder are kept, so an interrupted computation resumes with the
    first missing corruption. The images depend on the data, the strengths, the seed, and the versions of the library
    and its dependencies (scikit-image, OpenCV, SciPy, Pillow). This starts processes: unless they are forked, a script
    must call it under ``if __name__ == "__main__":``.

    Args:
        data: A map-style dataset of pairs (image, class); the images are PIL images of mode ``RGB`` or ``L``, or uint8
            arrays, all of one size: photographs need the ``Resize`` and ``CenterCrop`` of the test images.
        folder: Where the files go; created if needed.
        corruptions: The corruptions to compute, from ``CORRUPTIONS``.
        strengths: Whose constants the severities have: ``"cifar"``, ``"tiny_imagenet"`` or ``"imagenet"``; ``"auto"``
            for those of the images' size: ``"cifar"`` where the longer side has up to 32 pixels, ``"tiny_imagenet"`` up
            to 64, ``"imagenet"`` above.
        seed: Seed of the random corruptions, an integer, at least 0.
        processes: Number of parallel processes; ``None`` for one per processor.
        show_progress: Whether to show a progress bar.

    Returns:
        The corrupted test set.

    Raises:
        ImportError: If ``imagecorruptions-imaug`` or ``rich`` is not installed.
        TypeError: If ``seed`` or ``processes`` is not an integer.
        ValueError: If one of them is too small, if there are no such strengths or no such corruption, if there are no
            images or they differ in size, or if the folder holds corruptions of other images or strengths, another seed
            or another version of the library.
    """
    require("Computing corruptions", "robustness", "imagecorruptions-imaug", "rich")
    unknown = [name for name in corruptions if name not in CORRUPTIONS]
    if unknown:
        raise ValueError(f"Expected argument `corruptions` to be of: {', '.join(CORRUPTIONS)}; got {unknown}.")
    one_of("strengths", strengths, ["auto", *STRENGTHS])
    seed = integer("seed", seed, at_least=0)
    if processes is not None:
        processes = integer("processes", processes, at_least=1, remedy="leave it out for all processors")
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    images, labels = _stacked(data)
    if strengths == "auto":
        strengths = _strengths_for(max(images.shape[1:3]))
    _check_origin(path, images, labels, strengths, seed)
    content: dict[str, NDArray[Any]] = {"labels": np.tile(labels, len(SEVERITIES)), "clean": images}
    for name, array in content.items():
        if not (path / f"{name}.npy").exists():
            with whole_file(path / f"{name}.npy") as part:
                np.save(part, array)
    missing = [name for name in corruptions if not (path / f"{name}.npy").exists()]
    if missing:
        _compute(path, missing, images.shape, strengths, seed, processes, show_progress)
    return open_corruptions(path)


def _stacked(data: Any) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    if not len(data):
        raise ValueError("Expected argument `data` to have images; got none.")
    images, labels = np.empty(0, np.uint8), np.empty(len(data), np.int64)
    for index in range(len(data)):
        image, label = data[index]
        array = np.asarray(image)
        is_image = array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)
        if isinstance(image, Image.Image) and image.mode not in ("RGB", "L"):
            is_image = False
        if index == 0 and is_image:
            images = np.empty((len(data), *array.shape), np.uint8)
        if not is_image or array.dtype != np.uint8 or array.shape != images.shape[1:]:
            kind = f"{image.mode} " if isinstance(image, Image.Image) else ""
            raise ValueError(
                "Expected argument `data` to return PIL images of mode RGB or L, or uint8 arrays [H, W, 3] or [H, W], "
                f"all of one size; image {index} is {kind}{array.dtype} {list(array.shape)}: apply Resize and "
                "CenterCrop only."
            )
        images[index] = array
        labels[index] = int(label)
    return images, labels


def digest_of(samples: Iterable[Any]) -> str:
    """Digests images and their classes, to tell whether two sets of images are the same.

    Args:
        samples: Pairs (image, class); the images are PIL images or arrays.

    Returns:
        The SHA-256 of all images and, after them, all classes, in hexadecimal.
    """
    digest, labels = hashlib.sha256(), []
    for image, label in samples:
        digest.update(np.ascontiguousarray(image).data)
        labels.append(int(label))
    digest.update(np.array(labels, np.int64).data)
    return digest.hexdigest()


def _strengths_for(side: int) -> str:
    if side <= 32:
        return "cifar"
    return "tiny_imagenet" if side <= 64 else "imagenet"


def _check_origin(
    folder: Path, images: NDArray[np.uint8], labels: NDArray[np.int64], strengths: str, seed: int
) -> None:
    """Records what the files are computed from, or rejects a folder computed from something else."""
    library = version("imagecorruptions-imaug")
    origin = {
        "images": digest_of(zip(images, labels, strict=True)),
        "seed": seed,
        "strengths": strengths,
        "imagecorruptions-imaug": library,
    }
    path = folder / "origin.json"
    if not path.exists():
        if any(folder.glob("*.npy")):
            raise ValueError(f"{folder} holds files that were not computed here: choose another folder.")
        with whole_file(path) as part:
            part.write_text(json.dumps(origin, indent=2))
    before = read_origin(path)
    if before != origin:
        changed = ", ".join(name for name in origin if before.get(name) != origin[name])
        raise ValueError(f"{folder} holds corruptions of different {changed}: choose another folder, or delete it.")


_CHUNK = 1 << 18  # pixels: three seconds of glass_blur, the slowest; an interrupt waits for chunks in progress


def _compute(
    folder: Path,
    names: Sequence[str],
    shape: tuple[int, ...],
    strengths: str,
    seed: int,
    processes: int | None,
    show_progress: bool,
) -> None:
    from rich.progress import Progress

    size = max(1, _CHUNK // (shape[1] * shape[2]))
    starts = range(0, shape[0], size)
    with (
        ProcessPoolExecutor(processes, initializer=_begin, initargs=(folder / "clean.npy",)) as pool,
        Progress(disable=not show_progress) as progress,
    ):
        task = progress.add_task("", total=len(names) * len(SEVERITIES) * len(starts))
        for name in names:
            progress.update(task, description=f"Computing {name}")
            with whole_file(folder / f"{name}.npy") as part:
                result = np.lib.format.open_memmap(part, "w+", np.uint8, (len(SEVERITIES) * shape[0], *shape[1:]))
                calls = ((name, severity, start, size, strengths, seed) for severity in SEVERITIES for start in starts)
                for (_, severity, start, *_), chunk in _unordered(pool, _corrupt_chunk, calls):
                    first = (severity - 1) * shape[0] + start
                    result[first : first + len(chunk)] = chunk
                    progress.advance(task)
                result.flush()


def _unordered(
    pool: ProcessPoolExecutor, function: Callable[..., Any], calls: Iterator[tuple[Any, ...]]
) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Yields calls with their results as they complete, and queues only a few."""
    running: dict[Future[Any], tuple[Any, ...]] = {}
    try:
        while True:
            for call in islice(calls, 2 * (os.cpu_count() or 1) - len(running)):
                running[pool.submit(function, *call)] = call
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future.result()
    finally:
        for future in running:
            future.cancel()


_images: NDArray[np.uint8]


def _begin(path: Path) -> None:
    global _images
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process handles it
    _images = np.load(path, mmap_mode="r", allow_pickle=False)


def _corrupt_chunk(name: str, severity: int, start: int, size: int, strengths: str, seed: int) -> NDArray[np.uint8]:
    from lightning_augmix.robustness.corruptions import corrupt

    number = CORRUPTIONS.index(name)
    return np.stack(
        [
            corrupt(_images[index], name, severity, strengths, np.random.SeedSequence([seed, number, severity, index]))
            for index in range(start, min(start + size, len(_images)))
        ]
    )
