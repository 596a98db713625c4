"""The 15 common corruptions in five severities, from files in the published formats.

Source: Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations",
ICLR 2019, https://arxiv.org/abs/1903.12261.
"""

import hashlib
import json
import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset
from torchvision.datasets import ImageFolder
from torchvision.datasets.utils import download_and_extract_archive

from lightning_augmix._checks import boolean, integer, is_boolean, one_of, string
from lightning_augmix._files import whole_file
from lightning_augmix._images import TO_EIGHT_BITS

__all__ = [
    "CORRUPTIONS",
    "SEVERITIES",
    "STRENGTHS",
    "CorruptedData",
    "digest_path",
    "load_array",
    "open_corruptions",
    "read_origin",
    "source_of",
    "write_digest",
]

#: The common corruptions, in their published order.
CORRUPTIONS = (
    *("gaussian_noise", "shot_noise", "impulse_noise"),
    *("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    *("snow", "frost", "fog", "brightness"),
    *("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
)
SEVERITIES = (1, 2, 3, 4, 5)

#: The strengths of computed corruptions, with the published set that has them.
STRENGTHS = {"cifar": "CIFAR-10-C", "tiny_imagenet": "Tiny ImageNet-C", "imagenet": "ImageNet-C"}

# Where published sets are, and their MD5 sums as zenodo.org has them.
_ARCHIVES = {
    "CIFAR-10-C": (
        "https://zenodo.org/records/2535967/files/CIFAR-10-C.tar",
        "56bf5dcef84df0e2308c6dcbcbbd8499",
    ),
    "CIFAR-100-C": (
        "https://zenodo.org/records/3555552/files/CIFAR-100-C.tar",
        "11f0ed0f1191edbf9fa23466ae6021d3",
    ),
    "Tiny-ImageNet-C": (
        "https://zenodo.org/records/8206060/files/Tiny-ImageNet-C.tar",
        "f9c9a9dbdc11469f0b850190f7ad8be1",
    ),
}

_Transform = Callable[[Image.Image], Any]


def source_of(folder: Path, like: str) -> str:
    """Names a folder of published files for a report.

    Args:
        folder: The folder.
        like: The test set whose format they have.
    """
    return f"{Path(os.path.abspath(folder)).name} ({like}'s format)"


class CorruptedData(ABC):
    """A corrupted test set: for each corruption and severity, a dataset of the same images.

    Args:
        folder: The folder of the files.
        like: The test set whose format they have.

    Attributes:
        folder: The folder of the files.
        source: Where they come from: ``"computed"``, or the folder's name and format.
        strengths: Whose strengths computed corruptions have; ``None`` for published ones, whose files do not say.
        seed: Seed of computed corruptions; ``None`` for published ones.
        versions: Versions of the libraries that computed the corruptions.
        digest: Digest of the clean images that were corrupted and their classes; ``None`` for published ones, whose
            files do not say.
    """

    def __init__(self, folder: Path, like: str) -> None:
        self.folder = folder
        self.source = source_of(folder, like)
        self.strengths: str | None = None
        self.seed: int | None = None
        self.versions: Mapping[str, str] = {}
        self.digest: str | None = None

    def dataset(self, corruption: str, severity: int, transform: _Transform) -> Dataset[Any]:
        """Opens the images of one corruption and severity.

        Args:
            corruption: The name of the corruption.
            severity: From 1 to 5.
            transform: Converts a PIL image to an input of the classifier.

        Returns:
            A dataset of pairs (transformed image, class).

        Raises:
            ValueError: If there is no such severity, or a file is missing, truncated or malformed; the message names
                the file.
        """
        if is_boolean(severity) or not isinstance(severity, int | np.integer) or severity not in SEVERITIES:
            raise ValueError(f"Expected argument `severity` to be an integer from 1 to 5; got {severity!r}.")
        return self._opened(corruption, severity, transform)

    @abstractmethod
    def _opened(self, corruption: str, severity: int, transform: _Transform) -> Dataset[Any]: ...


def open_corruptions(folder: str | Path, *, download: bool = False) -> CorruptedData:
    """Opens a corrupted test set in the format of CIFAR-10-C and CIFAR-100-C, or of ImageNet-C.

    Args:
        folder: A folder with ``labels.npy`` and ``<corruption>.npy`` files, uint8 ``[5 · N, H, W, 3]`` or ``[5 · N, H,
            W]``, severity 1 first, as in CIFAR-10-C (they are memory-mapped, and nothing in them is executed); or with
            folders ``<corruption>/<severity>/<class>/`` of image files, as in ImageNet-C, also in folders of
            corruptions, such as ``noise/<corruption>``, as its archives unpack.

        download: Whether to fetch what is not there, if the folder is named ``CIFAR-10-C``, ``CIFAR-100-C`` or
            ``Tiny-ImageNet-C`` (3, 3 and 2 GB, from zenodo.org); their MD5 sums are checked.

    Returns:
        The corrupted test set.

    Raises:
        TypeError: If ``download`` is no boolean.
        ValueError: If the folder is neither; the message names what is missing. If there is no such set to download.
        OSError: If the download fails.
    """
    path = Path(folder)
    if boolean("download", download) and not path.exists():
        _download(path)
    if (path / "labels.npy").exists():
        return _Arrays(path)
    folders = {each.name: each for each in (*path.glob("*/*"), *path.glob("*")) if each.name in CORRUPTIONS}
    if any(each.is_dir() for each in folders.values()):
        return _Folders(path, folders)
    raise ValueError(
        f"Expected a folder with labels.npy and <corruption>.npy (CIFAR-10-C's format), or with folders <corruption>/"
        f"<severity>/<class> (ImageNet-C's); {path} {'has neither' if path.is_dir() else 'is not a folder'}."
    )


def _download(folder: Path) -> None:
    if folder.name not in _ARCHIVES:
        raise ValueError(
            f"Expected a folder that is there or, to download, is named {', '.join(_ARCHIVES)}; got {folder}."
        )
    url, md5 = _ARCHIVES[folder.name]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as part:  # the folder is whole or not there
        try:
            download_and_extract_archive(url, part, filename=f"{folder.name}.tar", md5=md5)
        except RuntimeError as error:
            raise OSError(f"{url} could not be fetched, or its MD5 sum is wrong ({error}): try again.") from error
        Path(part, folder.name).rename(folder)


def read_origin(path: Path) -> dict[str, Any]:
    """Reads what :func:`compute_corruptions` recorded of the files beside it.

    Args:
        path: The file ``origin.json``.

    Returns:
        What it holds; files from before there was a choice have the strengths ``"imagenet"``.

    Raises:
        ValueError: If it is damaged.
    """
    try:
        origin = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(origin, dict):
            raise ValueError(f"it holds a {type(origin).__name__}")
        integer("seed", origin.get("seed"), at_least=0)
        for name in ("imagecorruptions-imaug", "images"):
            string(name, origin.get(name))
        one_of("strengths", origin.setdefault("strengths", "imagenet"), list(STRENGTHS))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}): delete the folder.") from None
    return origin


def digest_path(path: Path) -> Path:
    """Where the digest of a computed file is; ``sha256sum --check`` reads it.

    Args:
        path: The file.
    """
    return path.with_suffix(f"{path.suffix}.sha256")


def write_digest(path: Path) -> None:
    """Writes the digest of a computed file, which tells that it is whole.

    Args:
        path: The file.
    """
    with whole_file(digest_path(path)) as part:
        part.write_text(f"{_digest_of_file(path)}  {path.name}\n", encoding="utf-8")


def _digest_of_file(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _verify(path: Path) -> None:
    try:
        expected = digest_path(path).read_text(encoding="utf-8").split()[:1]
    except (OSError, UnicodeError):
        expected = []
    if expected != [_digest_of_file(path)]:
        reason = "is not as it was computed" if expected else "was not computed to the end"
        raise ValueError(f"{path} {reason} (by its SHA-256): delete it, and compute it again.")


class _Arrays(CorruptedData):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "CIFAR-10-C")
        if (folder / "origin.json").exists():
            origin = read_origin(folder / "origin.json")
            self.source, self.strengths, self.seed = "computed", STRENGTHS[origin["strengths"]], origin["seed"]
            self.versions = {"imagecorruptions-imaug": origin["imagecorruptions-imaug"]}
            self.digest = origin["images"][:16]  # enough to tell images apart, and short in messages
        self._verified: set[str] = set()
        self.labels = load_array(folder / "labels.npy")
        if not _are_five_times_the_same(self.labels):
            raise ValueError(
                f"Expected {folder / 'labels.npy'} to hold the classes of N images, five times over, [5 · N]; got "
                f"{self.labels.dtype} {list(self.labels.shape)}."
            )

    def _opened(self, corruption: str, severity: int, transform: _Transform) -> Dataset[Any]:
        path = self.folder / f"{corruption}.npy"
        images = load_array(path)
        if self.source == "computed" and corruption not in self._verified:
            _verify(path)
            self._verified.add(corruption)
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
        self.images = load_array(path)[start : start + len(labels)]

    def __reduce__(self) -> tuple[Any, ...]:
        # Pickling a mapped array copies its content; a spawned process maps the file itself.
        return type(self), (self.path, self.start, self.labels, self.transform)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]

    def __len__(self) -> int:
        return len(self.images)


def load_array(path: Path) -> NDArray[Any]:
    """Maps a file of an array, which is data alone.

    Args:
        path: The file.

    Raises:
        ValueError: If it is missing or damaged.
    """
    try:
        array: NDArray[Any] = np.lib.format.open_memmap(path, mode="r")
    except FileNotFoundError:
        raise ValueError(f"The test set lacks {path}.") from None
    except Exception as error:  # for a damaged header NumPy raises many kinds, such as tokenize.TokenError
        raise ValueError(
            f"{path} is truncated or not an array ({error}): delete it, and fetch or compute it again."
        ) from None
    return array


class _Folders(CorruptedData):
    def __init__(self, folder: Path, folders: Mapping[str, Path]) -> None:
        super().__init__(folder, "ImageNet-C")
        self._folders = folders
        self._names: list[str] = []  # of the files in the first set opened

    def _opened(self, corruption: str, severity: int, transform: _Transform) -> Dataset[Any]:
        path = self._folders.get(corruption, self.folder / corruption) / str(severity)
        try:
            opened = ImageFolder(path, transform, loader=_open_image)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise ValueError(f"The corrupted test set lacks {path}, or images in it ({error}).") from None
        # All sets have the same images: a missing folder would renumber the classes after it.
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
            mode, converted = image.mode, image.convert("RGB")
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{path} is truncated or not an image ({error}): fetch it again.") from None
    if mode[0] in "IF":
        raise ValueError(f"{path} has levels of more than eight bits (mode {mode}): {TO_EIGHT_BITS}.")
    return converted
