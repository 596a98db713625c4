"""The images that ``augmix-train`` trains on."""

import gzip
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSampler
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision import datasets
from torchvision.transforms import v2

from lightning_augmix._checks import boolean, integer, one_of
from lightning_augmix.commands.console import UsageError
from lightning_augmix.commands.folders import ClassFolders, class_names, some, typical_side

__all__ = ["Digits", "GzippedFashionMNIST", "ImageDataModule"]

_Transform = Callable[[Any], Any]

VALIDATION_SHARE = 0.1
VALIDATION_FOLDERS = ("val", "valid", "validation")
SMALL = 96  # pixels: images up to this size are padded and cropped, larger ones cropped and resized
PHOTOGRAPH = 224  # pixels that larger images are resized to


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
        parts = _digits()
        self.data: NDArray[np.uint8] = parts[0 if train else 1]
        self.targets: list[int] = parts[2 if train else 3].tolist()

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image = Image.fromarray(self.data[index])
        return (image if self.transform is None else self.transform(image)), self.targets[index]

    def __len__(self) -> int:
        return len(self.targets)


@cache  # a run opens them a dozen times
def _digits() -> Sequence[NDArray[Any]]:
    """The levels of the training and the test images, and their labels."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    levels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    parts: list[NDArray[Any]] = train_test_split(
        levels, digits.target, test_size=0.2, random_state=0, stratify=digits.target
    )
    return parts


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

    open: Callable[[str, bool, bool, _Transform | None], Any] | None  # None: folders
    num_classes: int | None  # None: as many as there are folders
    size: int | None  # pixels; None: to be looked at
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    flip: bool


_DEBIAN = "/usr/share/datasets/fashion-mnist"  # from the package dataset-fashion-mnist


def _fashion_mnist(root: str, train: bool, download: bool, transform: _Transform | None) -> Any:
    for folder in (root, _DEBIAN):
        if GzippedFashionMNIST.is_at(folder):
            return GzippedFashionMNIST(folder, train, transform)
    return datasets.FashionMNIST(root, train, transform, download=download)


_SOURCES: Mapping[str, _Source] = {
    "digits": _Source(lambda root, train, download, t: Digits(train, t), 10, 8, (0.3,) * 3, (0.35,) * 3, flip=False),
    "fashion_mnist": _Source(_fashion_mnist, 10, 28, (0.286,) * 3, (0.353,) * 3, flip=True),
    "cifar10": _Source(
        lambda root, train, download, t: datasets.CIFAR10(root, train, t, download=download),
        10,
        32,
        (0.4914, 0.4822, 0.4465),
        (0.247, 0.2435, 0.2616),
        flip=True,
    ),
    "cifar100": _Source(
        lambda root, train, download, t: datasets.CIFAR100(root, train, t, download=download),
        100,
        32,
        (0.5071, 0.4865, 0.4409),
        (0.2673, 0.2564, 0.2762),
        flip=True,
    ),
    "image_folder": _Source(None, None, None, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), flip=True),
}


class ImageDataModule(pl.LightningDataModule):
    """Training, validation and test images as normalised RGB tensors ``[3, image_size, image_size]``.

    A tenth of each class's training images, at least one, is set aside for validation, unless there is a folder of
    validation images; a class with a single image is not validated. Training images are randomly cropped and, where
    that preserves the class, flipped. AugMix is not part of this: the callback adds it. What is looked up in the data
    (``image_size``, ``crop``, ``classes``) is stored among the hyperparameters, and so in checkpoints.

    Args:
        dataset: ``"digits"``, ``"fashion_mnist"``, ``"cifar10"``, ``"cifar100"`` or ``"image_folder"``.
        root: Folder of the data; the digits need none. ``fashion_mnist`` also accepts a folder of gzipped IDX files,
            and finds those of Debian's package ``dataset-fashion-mnist``; ``image_folder`` needs a folder ``train``,
            and takes ``val`` (or ``valid``, ``validation``) and ``test``, each with one folder per class. Without
            ``test``, the validation images are tested.
        image_size: Height and width of the images in pixels, at least 8; ``None`` for the images' own size, and 224 if
            that is above 96.
        crop: How training images are cropped: ``"pad"`` for any part of the padded image, ``"resized"`` for parts of
            any size and shape, resized; ``None`` for ``"pad"`` if the images have at most 96 pixels.
        classes: The names of the classes in the order of their numbers; ``None`` for the folders in ``train``.
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
        image_size: int | None = 32,
        crop: str | None = None,
        classes: list[str] | None = None,
        batch_size: int = 128,
        num_workers: int = 2,
        train_images: int | None = None,
        download: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        one_of("dataset", dataset, tuple(_SOURCES))
        if image_size is not None:
            integer("image_size", image_size, at_least=8)
        if crop is not None:
            one_of("crop", crop, ("pad", "resized"))
        if classes is not None and (isinstance(classes, str) or len(set(classes)) < max(1, len(classes))):
            raise ValueError(f"Expected argument `classes` to be a list of different names, or None; got {classes!r}.")
        integer("batch_size", batch_size, at_least=1)
        integer("num_workers", num_workers, at_least=0)
        if train_images is not None:
            integer("train_images", train_images, at_least=1)
        boolean("download", download)
        integer("seed", seed)
        self.save_hyperparameters()

    @property
    def _source(self) -> _Source:
        return _SOURCES[self.hparams["dataset"]]

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self._source.num_classes or len(self._folder_classes())

    @property
    def validated(self) -> str:
        """What the validation images are: the name of their folder, or ``"held-out"``."""
        return self._folder("val") or "held-out"

    @property
    def tested(self) -> str:
        """What the test images are: ``"test"``, the name of the validation folder, or ``"held-out"``."""
        return self._folder("test") or self._folder("val") or "held-out"

    def prepare_data(self) -> None:
        """Downloads what is missing, once per machine."""
        if self._source.open:
            for part in ("train", "test"):
                self._open(part)
        else:
            self._folder_classes()

    def setup(self, stage: str) -> None:
        """Looks at the images, opens the data, and splits the training images."""
        self._look()
        self.test_data = self._test(self.eval_transform())
        self._keep_classes()
        if stage != "test":
            train = self._open("train", self._train_transform())
            indices, _ = self._split(train)
            self.train_data = Subset(train, indices[: self.hparams["train_images"]])
            self.val_data = self._validation(self.eval_transform())
        if stage == "fit":
            self._tell()

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled batches; an incomplete last one is dropped if there are others."""
        return self._loader(self.train_data, shuffle=True, drop_last=len(self.train_data) > self.hparams["batch_size"])

    def val_dataloader(self) -> DataLoader[Any]:
        """Batches of the validation images."""
        return self._loader(self.val_data, sampler=self._each_once(self.val_data))

    def test_dataloader(self) -> DataLoader[Any]:
        """Batches of the test images."""
        return self._loader(self.test_data, sampler=self._each_once(self.test_data))

    def test_images(self) -> Dataset[Any]:
        """The test images as PIL images of one size, for computing corruptions."""
        images: Dataset[Any] = self._test(self._before_corruption())
        return images

    def stored_images(self) -> Dataset[Any]:
        """The test images as they are stored, files as their bytes: to tell whether two runs have the same."""
        images = self._test(None)
        folder = images.dataset if isinstance(images, Subset) else images
        if isinstance(folder, ClassFolders):
            folder.loader = partial(np.fromfile, dtype=np.uint8)
        return images  # type: ignore[no-any-return]

    def validation_images(self) -> Dataset[Any]:
        """The same of the validation images."""
        images: Dataset[Any] = self._validation(self._before_corruption())
        return images

    def eval_transform(self) -> Any:
        """The transform from a PIL image to an input, as for validation and test."""
        return v2.Compose([*self._eval_size(), *self._to_tensor()])

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

    def _each_once(self, data: Any) -> UnrepeatedDistributedSampler | None:
        """This process's share of the images, without the repetitions by which Lightning makes all shares equal."""
        ranks = self.trainer.world_size if self.trainer is not None else 1
        # A process without images would not take part in the reduction that the others wait for.
        if self.trainer is None or not 1 < ranks <= len(data):
            return None
        return UnrepeatedDistributedSampler(data, ranks, self.trainer.global_rank, shuffle=False)

    def _folder(self, part: str) -> str | None:
        """The name of the folder of a part, or ``None`` where there is none."""
        if self._source.open:
            return None if part == "val" else part
        names = VALIDATION_FOLDERS if part == "val" else (part,)
        return next((name for name in names if (Path(self.hparams["root"]) / name).is_dir()), None)

    def _folder_classes(self) -> list[str]:
        if self.hparams["classes"] is not None:
            return list(self.hparams["classes"])
        folder = Path(self.hparams["root"]) / "train"
        with self._missing_data():
            names = class_names(folder)
        if not names:
            raise UsageError(f"{folder} has no folders: put the images of each class into a folder of its own.")
        return names

    def _open(self, part: str, transform: _Transform | None = None) -> Any:
        root = self.hparams["root"]
        with self._missing_data():
            if self._source.open:
                return self._source.open(root, part == "train", self.hparams["download"], transform)
            data = ClassFolders(Path(root) / (self._folder(part) or part), self._folder_classes(), transform)
            if part == "train" and data.missing:
                raise UsageError(f"{data.root} has no images of: {some(data.missing)}.")
            return data

    @contextmanager
    def _missing_data(self) -> Iterator[None]:
        root, name = self.hparams["root"], self.hparams["dataset"]
        try:
            yield
        except UsageError:
            raise
        except (OSError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            if self._source.open:
                remedy = "set data.root to the folder that has it, or data.download=true to fetch it"
            else:
                reason = reason if Path(root).is_dir() else f"there is no folder {root}"
                remedy = "set data.root to a folder with a folder train, and in that one folder of images per class"
            raise UsageError(f"data.root={root} does not have the data of {name} ({reason}): {remedy}.") from None

    def _look(self) -> None:
        """Sets how large the images shall be, and how they are cropped, by what they are."""
        size, crop = self.hparams["image_size"], self.hparams["crop"]
        if size is None or crop is None:
            side = self._source.size or typical_side(self._open("train"))
            size = size or (max(8, side) if side <= SMALL else PHOTOGRAPH)
            crop = crop or ("pad" if side <= SMALL else "resized")
            if self._source.size is None:
                rank_zero_info(f"Images of {side} pixels: data.image_size={size}, data.crop={crop}.")
        self.save_hyperparameters({"image_size": size, "crop": crop})

    def _keep_classes(self) -> None:
        names = list(self.test_data.classes) if self._source.open else self._folder_classes()
        if self.hparams["classes"] not in (None, names):
            raise UsageError(
                f"Expected argument `classes` to be None or the classes of {self.hparams['dataset']}, in their order; "
                f"got {some(self.hparams['classes'])}."
            )
        self.save_hyperparameters({"classes": names})

    def _split(self, train: Any) -> tuple[list[int], list[int]]:
        """The indices for training, in random order, and those set aside for validation."""
        random = np.random.RandomState(self.hparams["seed"] % 2**32)
        if self._folder("val"):
            return random.permutation(len(train)).tolist(), []
        return _stratified(np.asarray(train.targets), random)

    def _validation(self, transform: _Transform | None) -> Any:
        if self._folder("val"):
            return self._open("val", transform)
        train = self._open("train", transform)
        return Subset(train, self._split(train)[1])

    def _test(self, transform: _Transform | None) -> Any:
        return self._open("test", transform) if self._folder("test") else self._validation(transform)

    def _tell(self) -> None:
        """Says which classes are not measured."""
        if isinstance(self.val_data, Subset):
            train: Any = self.val_data.dataset
            targets = np.asarray(train.targets)
            single = np.setdiff1d(targets, targets[self.val_data.indices])
            if len(single):
                names = [self.hparams["classes"][number] for number in single]
                rank_zero_info(f"Not validated, as they have a single image: {some(names)}.")
        for data in (self.val_data, self.test_data):
            if isinstance(data, ClassFolders) and data.missing:
                rank_zero_info(f"{data.root} has no images of: {some(data.missing)}.")

    def _train_transform(self) -> Any:
        size = self.hparams["image_size"]
        steps: list[_Transform] = [v2.RandomResizedCrop(size)]
        if self.hparams["crop"] == "pad":
            steps = [v2.Resize(size), v2.RandomCrop(size, padding=size // 8)]
        if self._source.flip:
            steps.append(v2.RandomHorizontalFlip())
        return v2.Compose([v2.RGB(), *steps, *self._to_tensor()])

    def _before_corruption(self) -> Any:
        is_whole = self._source.size is not None and self.hparams["crop"] == "pad"
        return None if is_whole else v2.Compose(self._eval_size())

    def _eval_size(self) -> list[_Transform]:
        size = self.hparams["image_size"]
        shorter = size if self.hparams["crop"] == "pad" else size * 8 // 7
        return [v2.RGB(), v2.Resize(shorter), v2.CenterCrop(size)]

    def _to_tensor(self) -> list[_Transform]:
        normalize = v2.Normalize(self._source.mean, self._source.std)
        return [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), normalize, v2.ToPureTensor()]


def _stratified(targets: NDArray[Any], random: np.random.RandomState) -> tuple[list[int], list[int]]:
    """The indices of all but a tenth of each class, in random order, and those of the tenth, at least one of each.

    A class with a single image keeps it for training.
    """
    from sklearn.model_selection import train_test_split

    _, classes, counts = np.unique(targets, return_inverse=True, return_counts=True)
    is_single = counts[classes] == 1
    shared, single = np.flatnonzero(~is_single), np.flatnonzero(is_single)
    if not len(shared):
        raise UsageError("No class has two training images, one of them to validate with: add images, or a folder val.")
    held_out = max(int(VALIDATION_SHARE * len(shared)), int((counts > 1).sum()))
    kept, validation = train_test_split(shared, test_size=held_out, stratify=classes[shared], random_state=random)
    return random.permutation(np.concatenate((kept, single))).tolist(), validation.tolist()
