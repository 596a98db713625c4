"""The images that ``augmix-train`` trains on."""

import gzip
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision import datasets
from torchvision.transforms import v2

from lightning_augmix._checks import boolean, integer, one_of
from lightning_augmix.commands.console import UsageError

__all__ = ["Digits", "GzippedFashionMNIST", "ImageDataModule"]

_Transform = Callable[[Any], Any]

VALIDATION_SHARE = 0.1


class Digits(datasets.VisionDataset):  # type: ignore[misc]  # torchvision ships no types
    """scikit-learn's handwritten digits: 1,797 grayscale images of 8×8 pixels with 17 levels, here scaled to 0…255.

    Source: the test set of E. Alpaydin, C. Kaynak: "Optical Recognition of Handwritten Digits", UCI, 1998.

    Args:
        train: Whether to take the training part, four fifths of each class, or the test part.
        transform: Applied to the PIL image.
    """

    classes = tuple("0123456789")

    def __init__(self, train: bool, transform: _Transform | None = None) -> None:
        super().__init__(transform=transform)
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        digits = load_digits()
        levels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
        parts = train_test_split(levels, digits.target, test_size=0.2, random_state=0, stratify=digits.target)
        self.data: NDArray[np.uint8] = parts[0 if train else 1]
        self.targets: list[int] = parts[2 if train else 3].tolist()

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image = Image.fromarray(self.data[index])
        return (image if self.transform is None else self.transform(image)), self.targets[index]

    def __len__(self) -> int:
        return len(self.targets)


class GzippedFashionMNIST(datasets.FashionMNIST):  # type: ignore[misc]  # torchvision ships no types
    """torchvision's FashionMNIST, read from gzipped IDX files directly in ``root``."""

    @staticmethod
    def is_at(root: str) -> bool:
        """Whether the files are there."""
        return (Path(root) / "train-images-idx3-ubyte.gz").exists()

    def _check_exists(self) -> bool:
        return self.is_at(str(self.root))

    def _load_data(self) -> tuple[torch.Tensor, torch.Tensor]:
        part = "train" if self.train else "t10k"
        images = _read_idx(Path(self.root) / f"{part}-images-idx3-ubyte.gz", dimensions=3)
        labels = _read_idx(Path(self.root) / f"{part}-labels-idx1-ubyte.gz", dimensions=1)
        return torch.from_numpy(images), torch.from_numpy(labels).long()


def _read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Reads uint8 data in the IDX format: two zero bytes, type 8, dimensions, big-endian sizes, values."""
    try:
        content = gzip.decompress(path.read_bytes())
        header = 4 + 4 * dimensions
        sizes = np.frombuffer(content[4:header], ">i4")
        if content[:4] != bytes((0, 0, 8, dimensions)) or len(content) != header + sizes.prod():
            raise ValueError("its header does not match its content")
        return np.array(np.frombuffer(content, np.uint8, offset=header).reshape(sizes))
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise UsageError(f"{path} is not a gzipped IDX file of FashionMNIST ({error}): fetch it again.") from None


@dataclass(frozen=True)
class _Source:
    """How to open a dataset (root, train, download, transform), and the preprocessing for its images."""

    open: Callable[[str, bool, bool, _Transform | None], Any]
    num_classes: int | None  # None: as many as there are folders
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    flip: bool
    small: bool = True


_DEBIAN = "/usr/share/datasets/fashion-mnist"  # from the package dataset-fashion-mnist


def _fashion_mnist(root: str, train: bool, download: bool, transform: _Transform | None) -> Any:
    for folder in (root, _DEBIAN):
        if GzippedFashionMNIST.is_at(folder):
            return GzippedFashionMNIST(folder, train, transform)
    return datasets.FashionMNIST(root, train, transform, download=download)


def _image_folder(root: str, train: bool, download: bool, transform: _Transform | None) -> Any:
    names = ("train",) if train else ("test", "val")
    folder = next((Path(root) / name for name in names if (Path(root) / name).is_dir()), None)
    if folder is None:
        raise FileNotFoundError(f"no folder {' or '.join(names)} in it")
    return datasets.ImageFolder(folder, transform)


_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

_SOURCES: Mapping[str, _Source] = {
    "digits": _Source(lambda root, train, download, t: Digits(train, t), 10, (0.3,) * 3, (0.35,) * 3, flip=False),
    "fashion_mnist": _Source(_fashion_mnist, 10, (0.286,) * 3, (0.353,) * 3, flip=True),
    "cifar10": _Source(
        lambda root, train, download, t: datasets.CIFAR10(root, train, t, download=download),
        10,
        (0.4914, 0.4822, 0.4465),
        (0.247, 0.2435, 0.2616),
        flip=True,
    ),
    "cifar100": _Source(
        lambda root, train, download, t: datasets.CIFAR100(root, train, t, download=download),
        100,
        (0.5071, 0.4865, 0.4409),
        (0.2673, 0.2564, 0.2762),
        flip=True,
    ),
    "image_folder": _Source(_image_folder, None, *_IMAGENET, flip=True, small=False),
}


class ImageDataModule(pl.LightningDataModule):
    """Training, validation and test images as normalised RGB tensors ``[3, image_size, image_size]``.

    A tenth of the training images is set aside for validation. Training images are randomly cropped and, where that
    preserves the class, flipped. AugMix is not part of this: the callback adds it.

    Args:
        dataset: ``"digits"``, ``"fashion_mnist"``, ``"cifar10"``, ``"cifar100"`` or ``"image_folder"``.
        root: Folder of the data; the digits need none. ``fashion_mnist`` also accepts a folder of gzipped IDX files,
            and finds those of Debian's package ``dataset-fashion-mnist``; ``image_folder`` needs folders ``train`` and
            ``test`` (or ``val``), each with one folder per class.
        image_size: Height and width of the images in pixels, at least 8.
        batch_size: Images per batch, at least 1.
        num_workers: Worker processes per loader, at least 0.
        train_images: Number of training images to use, at least 1; ``None`` for all.
        download: Whether torchvision may download what is missing.
        seed: Seed of the validation split.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of range, or the data cannot be found or fetched.
    """

    def __init__(
        self,
        dataset: str = "digits",
        root: str = "data",
        image_size: int = 32,
        batch_size: int = 128,
        num_workers: int = 2,
        train_images: int | None = None,
        download: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        one_of("dataset", dataset, tuple(_SOURCES))
        integer("image_size", image_size, at_least=8)
        integer("batch_size", batch_size, at_least=1)
        integer("num_workers", num_workers, at_least=0)
        if train_images is not None:
            integer("train_images", train_images, at_least=1)
        boolean("download", download)
        integer("seed", seed)
        self.save_hyperparameters()
        self._source = _SOURCES[dataset]

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self._source.num_classes or len(self._open(train=True).classes)

    def prepare_data(self) -> None:
        """Downloads what is missing, once per machine."""
        for train in (True, False):
            self._open(train)

    def setup(self, stage: str) -> None:
        """Opens the data and splits the training images."""
        train = self._open(train=True, transform=self._train_transform())
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(self.hparams["seed"])).tolist()
        held_out = max(1, int(VALIDATION_SHARE * len(train)))
        self.train_data = Subset(train, order[held_out:][: self.hparams["train_images"]])
        self.val_data = Subset(self._open(train=True, transform=self._eval_transform()), order[:held_out])
        self.test_data = self._open(train=False, transform=self._eval_transform())

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled batches; an incomplete last one is dropped if there are others."""
        return self._loader(self.train_data, shuffle=True, drop_last=len(self.train_data) > self.hparams["batch_size"])

    def val_dataloader(self) -> DataLoader[Any]:
        """Batches of the images set aside."""
        return self._loader(self.val_data)

    def test_dataloader(self) -> DataLoader[Any]:
        """Batches of the test images."""
        return self._loader(self.test_data)

    def test_images(self) -> Dataset[Any]:
        """The test images as PIL images of one size, for computing corruptions."""
        return self._open(train=False, transform=None if self._source.small else v2.Compose(self._eval_size()))  # type: ignore[no-any-return]

    def corrupted_transform(self) -> _Transform:
        """The transform from a corrupted test image, which is already cropped, to an input."""
        size = self.hparams["image_size"]
        transform: _Transform = v2.Compose([v2.RGB(), v2.Resize((size, size)), *self._to_tensor()])
        return transform

    def _loader(self, data: Dataset[Any], **kwargs: Any) -> DataLoader[Any]:
        workers = self.hparams["num_workers"]
        return DataLoader(
            data, self.hparams["batch_size"], num_workers=workers, persistent_workers=workers > 0, **kwargs
        )

    def _open(self, train: bool, transform: _Transform | None = None) -> Any:
        root, name = self.hparams["root"], self.hparams["dataset"]
        try:
            return self._source.open(root, train, self.hparams["download"], transform)
        except UsageError:
            raise
        except (OSError, RuntimeError) as error:
            raise UsageError(
                f"data.root={root} does not have the data of {name} ({' '.join(str(error).split())}): set data.root to "
                "the folder that has it, or data.download=true where torchvision can fetch it."
            ) from None

    def _train_transform(self) -> Any:
        size = self.hparams["image_size"]
        if self._source.small:
            steps: list[_Transform] = [v2.Resize((size, size)), v2.RandomCrop(size, padding=size // 8)]
        else:
            steps = [v2.RandomResizedCrop(size)]
        if self._source.flip:
            steps.append(v2.RandomHorizontalFlip())
        return v2.Compose([v2.RGB(), *steps, *self._to_tensor()])

    def _eval_transform(self) -> Any:
        return v2.Compose([*self._eval_size(), *self._to_tensor()])

    def _eval_size(self) -> list[_Transform]:
        size = self.hparams["image_size"]
        resize = [v2.Resize((size, size))] if self._source.small else [v2.Resize(size * 8 // 7), v2.CenterCrop(size)]
        return [v2.RGB(), *resize]

    def _to_tensor(self) -> list[_Transform]:
        normalize = v2.Normalize(self._source.mean, self._source.std)
        return [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), normalize, v2.ToPureTensor()]
