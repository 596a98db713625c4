import gzip
import hashlib
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

from lightning_augmix import AugmentAndMixTransform, augment_dataset
from lightning_augmix.commands import data
from lightning_augmix.commands.console import UsageError
from lightning_augmix.commands.data import Digits, GzippedFashionMNIST, ImageDataModule

IMAGES = 40


def write_idx(path, values):
    header = bytes((0, 0, 8, values.ndim)) + np.array(values.shape, ">i4").tobytes()
    path.write_bytes(gzip.compress(header + values.astype(np.uint8).tobytes()))


def write_fashion_mnist(root):
    rng = np.random.default_rng(0)
    for part in ("train", "t10k"):
        write_idx(root / f"{part}-images-idx3-ubyte.gz", rng.integers(0, 256, (IMAGES, 28, 28)))
        write_idx(root / f"{part}-labels-idx1-ubyte.gz", rng.integers(0, 10, IMAGES))


def write_cifar(root, cls, monkeypatch):
    """Files in CIFAR's own format, and their checksums for torchvision to check."""
    folder = root / cls.base_folder
    folder.mkdir()
    rng = np.random.default_rng(0)

    def write(name, content):
        (folder / name).write_bytes(pickle.dumps(content))
        return hashlib.md5((folder / name).read_bytes()).hexdigest()

    labels = "labels" if cls is datasets.CIFAR10 else "fine_labels"
    key = cls.meta["key"]
    for attribute in ("train_list", "test_list"):
        entries = []
        for name, _ in getattr(cls, attribute):
            batch = {"data": rng.integers(0, 256, (IMAGES, 3072), dtype=np.uint8), labels: [1] * IMAGES}
            entries.append([name, write(name, batch)])
        monkeypatch.setattr(cls, attribute, entries)
    meta = {**cls.meta, "md5": write(cls.meta["filename"], {key: [str(number) for number in range(10)]})}
    monkeypatch.setattr(cls, "meta", meta)


def write_image_folder(root, test_name="test"):
    for part in ("train", test_name):
        for name in ("cat", "dog", "eel"):
            (root / part / name).mkdir(parents=True)
            for number in range(4):
                Image.new("L", (30, 20), number * 20).save(root / part / name / f"{number}.png")


def check(data, classes, size, train):
    assert data.num_classes == classes
    data.prepare_data()
    data.setup("fit")
    assert len(data.train_data) == train
    assert not set(data.train_data.indices) & set(data.val_data.indices)
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        images, targets = next(iter(loader))
        assert images.shape[1:] == (3, size, size)
        assert type(images) is torch.Tensor
        assert images.dtype == torch.float32
        assert 0 <= targets.min() <= targets.max() < classes
    augmix = AugmentAndMixTransform()
    steps = [type(step).__name__ for step in augment_dataset(data.train_data, augmix).dataset.transform.transforms]
    assert steps[-5:] == ["AugmentAndMixTransform", "ToImage", "ToDtype", "Normalize", "ToPureTensor"]


def test_digits():
    check(ImageDataModule(num_workers=0), 10, 32, 1437 - 143)
    train, test = Digits(train=True), Digits(train=False)
    assert (len(train), len(test)) == (1437, 360)
    assert train[0][0].size == (8, 8)
    assert (train.data.min(), train.data.max()) == (0, 255)
    assert np.bincount(test.targets).min() >= 34


def test_gzipped_fashion_mnist(tmp_path):
    write_fashion_mnist(tmp_path)
    check(ImageDataModule("fashion_mnist", str(tmp_path), num_workers=0, train_images=20), 10, 32, 20)
    assert GzippedFashionMNIST(tmp_path)[0][0].size == (28, 28)


@pytest.mark.parametrize("cls", [datasets.CIFAR10, datasets.CIFAR100])
@pytest.mark.filterwarnings("ignore:.*align")  # NumPy on how torchvision unpickles
def test_cifar(cls, tmp_path, monkeypatch):
    write_cifar(tmp_path, cls, monkeypatch)
    train = IMAGES * len(cls.train_list)
    name, classes = cls.__name__.lower(), {datasets.CIFAR10: 10, datasets.CIFAR100: 100}[cls]
    data = ImageDataModule(name, str(tmp_path), num_workers=0, download=False)
    check(data, classes, 32, train - train // 10)


@pytest.mark.parametrize("test_name", ["test", "val"])
def test_image_folder(test_name, tmp_path):
    write_image_folder(tmp_path, test_name)
    check(ImageDataModule("image_folder", str(tmp_path), image_size=24, num_workers=0), 3, 24, 11)


def test_the_split_follows_its_seed():
    def validation(seed):
        data = ImageDataModule(seed=seed)
        data.setup("fit")
        return data.val_data.indices

    assert validation(0) == validation(0) != validation(1)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: content[: len(content) // 2],
        lambda content: b"not gzip",
        lambda content: gzip.compress(b""),
        lambda content: gzip.compress(gzip.decompress(content)[:-1]),
        lambda content: gzip.compress(b"\0\0\x0d\3" + gzip.decompress(content)[4:]),
    ],
)
def test_spoilt_files_are_an_error_that_names_them(spoil, tmp_path):
    write_fashion_mnist(tmp_path)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(UsageError, match=rf"{path.name} is not a gzipped IDX file.*fetch it again"):
        ImageDataModule("fashion_mnist", str(tmp_path)).setup("fit")


@pytest.mark.parametrize("name", ["fashion_mnist", "cifar10", "cifar100", "image_folder"])
def test_missing_data_is_an_error_that_names_root_and_remedy(name, tmp_path, monkeypatch):
    monkeypatch.setattr(data, "_DEBIAN", str(tmp_path))
    with pytest.raises(
        UsageError, match=rf"data\.root={tmp_path} does not have the data of {name}.*data\.download=true"
    ):
        ImageDataModule(name, str(tmp_path), download=False).prepare_data()


@pytest.mark.parametrize(
    ("argument", "value"),
    [("dataset", "mnist"), ("image_size", 7), ("batch_size", 0), ("num_workers", -1), ("train_images", 0)],
)
def test_arguments_out_of_range_are_errors_that_name_them(argument, value):
    with pytest.raises(ValueError, match=rf"argument `{argument}` to be .*; got '?{value}"):
        ImageDataModule(**{argument: value})
