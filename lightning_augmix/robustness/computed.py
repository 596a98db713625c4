"""Computes a corrupted test set, where none is published, in the format of CIFAR-10-C."""

import hashlib
import json
import os
import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from lightning_augmix._checks import integer, one_of
from lightning_augmix._extras import require
from lightning_augmix._files import whole_file
from lightning_augmix.robustness.published import (
    CORRUPTIONS,
    SEVERITIES,
    STRENGTHS,
    CorruptedData,
    digest_path,
    open_corruptions,
    read_origin,
    write_digest,
)

__all__ = ["as_array", "compute_corruptions", "digest_of", "strengths_for"]


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
    ImageNet-C's for 64, ImageNet-C's (with ``imagecorruptions-imaug``) for larger ones. Images of less than 32×32
    are mirrored at the borders and cropped afterwards. A grayscale image is corrupted as RGB and its green channel
    kept, so that noise keeps its strength. Whole files in the folder are kept, so an interrupted computation
    resumes with the first missing corruption; beside each is its SHA-256, which is checked when it is opened. The
    images depend on the data, the strengths, the seed, and the versions of the library and its dependencies
    (scikit-image, OpenCV, SciPy, Pillow). This starts processes: unless they are forked, a script must call it
    under ``if __name__ == "__main__":``.

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
        strengths = strengths_for(max(images.shape[1:3]))
    _check_origin(path, images, labels, strengths, seed)
    content: dict[str, NDArray[Any]] = {"labels": np.tile(labels, len(SEVERITIES)), "clean": images}
    for name, array in content.items():
        if not _holds(path / f"{name}.npy", array):
            with whole_file(path / f"{name}.npy") as part:
                np.save(part, array)
    paths = {name: path / f"{name}.npy" for name in corruptions}
    missing = [name for name, file in paths.items() if not (file.exists() and digest_path(file).exists())]
    if missing:
        _compute(path, missing, images.shape, strengths, seed, processes, show_progress)
    return open_corruptions(path)


def _stacked(data: Any) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    if not len(data):
        raise ValueError("Expected argument `data` to have images; got none.")
    images, labels = np.empty(0, np.uint8), np.empty(len(data), np.int64)
    for index in range(len(data)):
        image, label = data[index]
        array = as_array(image, index)
        if index == 0:
            images = np.empty((len(data), *array.shape), np.uint8)
        if array.shape != images.shape[1:]:
            raise ValueError(
                f"Expected argument `data` to return images of one size; image {index} is {list(array.shape)}, image 0 "
                f"{list(images.shape[1:])}: apply Resize and CenterCrop."
            )
        images[index] = array
        labels[index] = int(label)
    return images, labels


def as_array(image: Any, index: int) -> NDArray[np.uint8]:
    """Makes an array of an image that is to be corrupted.

    Args:
        image: The image.
        index: Its number, for the message.

    Returns:
        The image, ``[H, W, 3]`` or ``[H, W]``.

    Raises:
        ValueError: If it is neither a PIL image of mode ``RGB`` or ``L`` nor such an array.
    """
    array = np.asarray(image)
    is_image = array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)
    if isinstance(image, Image.Image) and image.mode not in ("RGB", "L"):
        is_image = False
    if not is_image or array.dtype != np.uint8:
        kind = f"{image.mode} " if isinstance(image, Image.Image) else ""
        raise ValueError(
            "Expected argument `data` to return PIL images of mode RGB or L, or uint8 arrays [H, W, 3] or [H, W], all "
            f"of one size; image {index} is {kind}{array.dtype} {list(array.shape)}: apply Resize and CenterCrop only."
        )
    return array


def _holds(path: Path, array: NDArray[Any]) -> bool:
    try:
        return np.array_equal(np.load(path, mmap_mode="r", allow_pickle=False), array)
    except (OSError, EOFError, ValueError):
        return False


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


def strengths_for(side: int) -> str:
    """The strengths that were published for images of a size.

    Args:
        side: The longer side, in pixels.
    """
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
        raise ValueError(
            f"{folder} holds corruptions of different {changed}: choose another folder (cache=DIR of augmix-evaluate), "
            "or delete it."
        )


_CHUNK = 1 << 18  # pixels: three seconds of the slowest corruption; an interrupt waits for what is in progress


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

    count = shape[0]
    size = max(1, _CHUNK // (shape[1] * shape[2]))
    chunks = [
        [(name, severity, index) for index in range(start, min(start + size, count))]
        for name in names
        for severity in SEVERITIES
        for start in range(0, count, size)
    ]
    data = _Corrupted(folder / "clean.npy", strengths, seed)
    workers = min(processes or os.cpu_count() or 1, len(chunks))
    own = torch.Generator()  # of the seeds of workers, which would otherwise be drawn from the global one
    settings: dict[str, Any] = {"collate_fn": _as_tensor, "worker_init_fn": _end_in_silence, "generator": own}
    loader = iter(DataLoader(data, batch_sampler=chunks, num_workers=workers, **settings))
    header = np.lib.format.header_data_from_array_1_0(np.empty((0, *shape[1:]), np.uint8))
    with Progress(disable=not show_progress) as progress:
        task = progress.add_task("", total=len(chunks))
        for name in names:
            progress.update(task, description=f"Computing {name}")
            with whole_file(folder / f"{name}.npy") as part, part.open("wb") as file:
                np.lib.format.write_array_header_1_0(file, {**header, "shape": (len(SEVERITIES) * count, *shape[1:])})
                for chunk in islice(loader, len(chunks) // len(names)):
                    file.write(chunk.numpy().data)
                    progress.advance(task)
            write_digest(folder / f"{name}.npy")


def _end_in_silence(worker: int) -> None:
    # The thread that hands over tensors prints a traceback where the process that takes them was ended.
    hook = sys.excepthook

    def show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not issubclass(kind, ConnectionError):
            hook(kind, error, trace)

    sys.excepthook = show


def _as_tensor(images: list[NDArray[np.uint8]]) -> torch.Tensor:
    # Tensors come in shared memory. Arrays would fill the pipe of a process that was killed, and hold up its workers.
    return torch.from_numpy(np.stack(images))


class _Corrupted(Dataset[NDArray[np.uint8]]):
    """The clean images with a corruption in a severity, by its name, the severity and the number of the image."""

    def __init__(self, path: Path, strengths: str, seed: int) -> None:
        self.path, self.strengths, self.seed = path, strengths, seed
        self._images: NDArray[np.uint8] | None = None

    def __getitem__(self, key: tuple[str, int, int]) -> NDArray[np.uint8]:
        from lightning_augmix.robustness.corruptions import corrupt

        name, severity, index = key
        if self._images is None:  # mapped by each process itself
            self._images = np.load(self.path, mmap_mode="r", allow_pickle=False)
        seeds = np.random.SeedSequence([self.seed, CORRUPTIONS.index(name), severity, index])
        return corrupt(self._images[index], name, severity, self.strengths, seeds)
