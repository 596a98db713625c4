"""The 15 common corruptions in five severities: published files, or computed into files of the same format.

Source: Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations",
ICLR 2019, https://arxiv.org/abs/1903.12261.
"""

import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset
from torchvision.datasets import ImageFolder

__all__ = ["CORRUPTIONS", "SEVERITIES", "CorruptedData", "compute_corruptions", "open_corruptions"]

#: The common corruptions, in the order in which they are published.
CORRUPTIONS = (
    *("gaussian_noise", "shot_noise", "impulse_noise"),
    *("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    *("snow", "frost", "fog", "brightness"),
    *("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
)
SEVERITIES = (1, 2, 3, 4, 5)

_Transform = Callable[[Image.Image], Any]


class CorruptedData(ABC):
    """A corrupted test set: for each corruption and severity, a dataset of the same images.

    Args:
        folder: Where the files are.

    Attributes:
        folder: The same.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @abstractmethod
    def dataset(self, corruption: str, severity: int, transform: _Transform) -> Dataset[Any]:
        """Opens the images of one corruption and severity.

        Args:
            corruption: The name of the corruption.
            severity: From 1 to 5.
            transform: What makes the classifier's input of a PIL image.

        Returns:
            A dataset of pairs (transformed image, class).

        Raises:
            ValueError: If its files are missing, cut off, or not what they should be; the message names the file.
        """


def open_corruptions(folder: str | Path) -> CorruptedData:
    """Opens a corrupted test set in the format of CIFAR-10-C and CIFAR-100-C, or of ImageNet-C.

    Args:
        folder: A folder of ``labels.npy`` and one ``<corruption>.npy`` each, uint8 ``[5 · N, H, W, 3]`` or ``[5 · N, H,
            W]``, severity 1 first, as CIFAR-10-C has them (they are not loaded but mapped, and nothing in them is
            executed); or of folders ``<corruption>/<severity>/<class>/`` of image files, as ImageNet-C has them.

    Returns:
        The corrupted test set.

    Raises:
        ValueError: If the folder is neither; the message names what is missing.
    """
    path = Path(folder)
    if (path / "labels.npy").exists():
        return _Arrays(path)
    if any((path / corruption).is_dir() for corruption in CORRUPTIONS):
        return _Folders(path)
    raise ValueError(
        f"Expected a folder with labels.npy and <corruption>.npy (CIFAR-10-C's format), or with folders <corruption>/"
        f"<severity>/<class> (ImageNet-C's); {path} {'has neither' if path.is_dir() else 'is no folder'}."
    )


class _Arrays(CorruptedData):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.labels = _load(folder / "labels.npy")
        if not _are_five_times_the_same(self.labels):
            raise ValueError(
                f"Expected {folder / 'labels.npy'} to hold the classes of five times the same images, [5 · N]; got "
                f"{self.labels.dtype} {list(self.labels.shape)}."
            )

    def dataset(self, corruption: str, severity: int, transform: _Transform) -> Dataset[Any]:
        path = self.folder / f"{corruption}.npy"
        images = _load(path)
        is_image = images.ndim == 3 or (images.ndim == 4 and images.shape[3] == 3)
        if images.dtype != np.uint8 or not is_image or len(images) != len(self.labels):
            raise ValueError(
                f"Expected {path} to hold uint8 images [{len(self.labels)}, H, W, 3] or [{len(self.labels)}, H, W], as "
                f"many as labels.npy has classes; got {images.dtype} {list(images.shape)}."
            )
        count = len(self.labels) // len(SEVERITIES)
        start = (severity - 1) * count
        return _ArrayImages(path, start, self.labels[start : start + count].tolist(), transform)


def _are_five_times_the_same(labels: NDArray[Any]) -> bool:
    if labels.dtype.kind not in "iu" or labels.ndim != 1 or not len(labels) or len(labels) % len(SEVERITIES):
        return False
    parts = labels.reshape(len(SEVERITIES), -1)
    return bool((parts == parts[0]).all())


class _ArrayImages(Dataset[Any]):
    def __init__(self, path: Path, start: int, labels: list[int], transform: _Transform) -> None:
        self.path, self.start, self.labels, self.transform = path, start, labels, transform
        self.images = _load(path)[start : start + len(labels)]

    def __reduce__(self) -> tuple[Any, ...]:
        # A mapped array is pickled with all that it maps; a spawned process maps the file itself.
        return type(self), (self.path, self.start, self.labels, self.transform)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]

    def __len__(self) -> int:
        return len(self.images)


def _load(path: Path) -> NDArray[Any]:
    try:
        array: NDArray[Any] = np.lib.format.open_memmap(path, mode="r")
    except FileNotFoundError:
        raise ValueError(f"The corrupted test set misses {path}.") from None
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path} is cut off or no array ({error}): fetch or compute it again.") from None
    return array


class _Folders(CorruptedData):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._names: list[str] = []  # of the files of the first set that is opened

    def dataset(self, corruption: str, severity: int, transform: _Transform) -> Dataset[Any]:
        path = self.folder / corruption / str(severity)
        try:
            opened = ImageFolder(path, transform, loader=_open_image)
        except FileNotFoundError as error:
            raise ValueError(f"The corrupted test set misses {path}, or images in it ({error}).") from None
        # All have the same images: a folder that is missing would number the classes behind it anew.
        names = [str(Path(file).relative_to(path)) for file, _ in opened.samples]
        self._names = self._names or names
        different = sorted(set(names) ^ set(self._names))
        if different:
            verb = "lacks" if different[0] in self._names else "has, unlike others,"
            raise ValueError(f"{path} {verb} {different[0]}: every corruption and severity has the same images.")
        return opened  # type: ignore[no-any-return]


def _open_image(path: str) -> Image.Image:
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except OSError as error:
        raise ValueError(f"{path} is cut off or no image ({error}): fetch it again.") from None


def compute_corruptions(
    data: Dataset[Any],
    folder: str | Path,
    corruptions: Sequence[str] = CORRUPTIONS,
    *,
    seed: int = 0,
    processes: int | None = None,
    show_progress: bool = True,
) -> CorruptedData:
    """Computes a corrupted test set with ``imagecorruptions-imaug``, in the format of CIFAR-10-C.

    What the folder has already is kept, so an interrupted computation goes on where it was. The images are a function
    of the data, the seed and the library's version alone. The library takes images from 32×32: smaller ones are padded
    by their mirror image and cropped again. A grayscale image is corrupted as an RGB one whose green channel is taken,
    so that noise keeps its strength. Processes are started: a script has to call this under ``if __name__ ==
    "__main__":``, except where they are forked.

    Args:
        data: A map-style dataset of pairs (image, class); the images are PIL images of mode ``RGB`` or ``L``, or uint8
            arrays, all of one size: photographs need the ``Resize`` and ``CenterCrop`` of the test images.
        folder: Where the files go; it is made if need be.
        corruptions: Which to compute, of ``CORRUPTIONS``.
        seed: Seed of the random ones, an integer, at least 0.
        processes: How many work side by side; ``None`` for as many as there are processors.
        show_progress: Whether to show a progress bar.

    Returns:
        The corrupted test set.

    Raises:
        ImportError: If ``imagecorruptions-imaug`` is not installed.
        ValueError: If there is no such corruption, if images differ in size or are none, or if the folder holds the
            corruptions of other images or of another seed.
    """
    unknown = [name for name in corruptions if name not in CORRUPTIONS]
    if unknown:
        raise ValueError(f"Expected argument `corruptions` to be of: {', '.join(CORRUPTIONS)}; got {unknown}.")
    for name, value, least in (("seed", seed, 0), ("processes", processes, 1)):
        if value is not None and (not isinstance(value, int) or value < least):
            raise ValueError(f"Expected argument `{name}` to be an integer, at least {least}; got {value!r}.")
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    images, labels = _stacked(data)
    _check_origin(path, images, labels, seed)
    content: dict[str, NDArray[Any]] = {"labels": np.tile(labels, len(SEVERITIES)), "clean": images}
    for name, array in content.items():
        if not (path / f"{name}.npy").exists():
            with _whole(path / f"{name}.npy") as part:
                np.save(part, array)
    missing = [name for name in corruptions if not (path / f"{name}.npy").exists()]
    if missing:
        _compute(path, missing, images.shape, seed, processes, show_progress)
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
                "Expected argument `data` to give PIL images of mode RGB or L, or uint8 arrays [H, W, 3] or [H, W], "
                f"all of one size; image {index} is {kind}{array.dtype} {list(array.shape)}: apply Resize, CenterCrop "
                "and no more."
            )
        images[index] = array
        labels[index] = int(label)
    return images, labels


def _check_origin(folder: Path, images: NDArray[np.uint8], labels: NDArray[np.int64], seed: int) -> None:
    """Writes down what the files are computed from, or refuses a folder that was computed from something else."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        library = version("imagecorruptions-imaug")
    except PackageNotFoundError:
        raise ImportError(
            "Computing corruptions takes imagecorruptions-imaug: pip install 'lightning-augmix[robustness]'."
        ) from None
    digest = hashlib.sha256(images.data)
    digest.update(labels.data)
    origin = {"images": digest.hexdigest(), "seed": seed, "imagecorruptions-imaug": library}
    path = folder / "origin.json"
    if not path.exists():
        if any(folder.glob("*.npy")):
            raise ValueError(f"{folder} holds files that were not computed here: choose another folder.")
        with _whole(path) as part:
            part.write_text(json.dumps(origin, indent=2))
    try:
        before = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): delete the folder.") from None
    if before != origin:
        changed = ", ".join(name for name in origin if before.get(name) != origin[name])
        raise ValueError(f"{folder} holds corruptions with other {changed}: choose another folder, or delete it.")


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """Gives a path to write to, and moves what was written to its place: a file is whole or not there."""
    part = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


_CHUNK = 100  # images


def _compute(
    folder: Path, names: Sequence[str], shape: tuple[int, ...], seed: int, processes: int | None, show_progress: bool
) -> None:
    from rich.progress import Progress

    starts = range(0, shape[0], _CHUNK)
    with (
        ProcessPoolExecutor(processes, initializer=_open_images, initargs=(folder / "clean.npy",)) as pool,
        Progress(disable=not show_progress) as progress,
    ):
        task = progress.add_task("", total=len(names) * len(SEVERITIES) * len(starts))
        for name in names:
            progress.update(task, description=f"Computing {name}")
            with _whole(folder / f"{name}.npy") as part:
                result = np.lib.format.open_memmap(part, "w+", np.uint8, (len(SEVERITIES) * shape[0], *shape[1:]))
                calls = ((name, severity, start, seed) for severity in SEVERITIES for start in starts)
                for (_, severity, start, _), chunk in _unordered(pool, _corrupt_chunk, calls):
                    first = (severity - 1) * shape[0] + start
                    result[first : first + len(chunk)] = chunk
                    progress.advance(task)
                result.flush()


def _unordered(
    pool: ProcessPoolExecutor, function: Callable[..., Any], calls: Iterator[tuple[Any, ...]]
) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Yields the calls with their results as they come, and keeps few of them waiting."""
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


def _open_images(path: Path) -> None:
    global _images
    _images = np.load(path, mmap_mode="r", allow_pickle=False)


def _corrupt_chunk(name: str, severity: int, start: int, seed: int) -> NDArray[np.uint8]:
    number = CORRUPTIONS.index(name)
    return np.stack(
        [
            _corrupt(_images[index], name, severity, np.random.SeedSequence([seed, number, severity, index]))
            for index in range(start, min(start + _CHUNK, len(_images)))
        ]
    )


_LEAST_SIDE = 32  # pixels that the library takes


def _corrupt(image: NDArray[np.uint8], name: str, severity: int, seeds: np.random.SeedSequence) -> NDArray[np.uint8]:
    import cv2
    from imagecorruptions import corrupt

    cv2.setNumThreads(1)
    height, width = image.shape[:2]
    top, left = (max(0, _LEAST_SIDE - side + 1) // 2 for side in (height, width))
    bottom, right = (max(0, _LEAST_SIDE - side) // 2 for side in (height, width))
    padding = [(top, bottom), (left, right), (0, 0)][: image.ndim]
    own, *state = seeds.generate_state(9)
    np.random.seed(state)  # of this worker process
    seed = {"seed": int(own)} if name in ("impulse_noise", "glass_blur") else {}
    corrupted: NDArray[np.uint8] = corrupt(
        np.pad(image, padding, mode="symmetric"), severity=severity, corruption_name=name, **seed
    )
    cropped = corrupted[top : top + height, left : left + width]
    return cropped if image.ndim == 3 else cropped[..., 1]
