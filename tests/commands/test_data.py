import gzip
import hashlib
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Subset
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


def paths(data):
    if isinstance(data, Subset):
        return {data.dataset.samples[index][0] for index in data.indices}
    return {path for path, _ in data.samples}


def check(data, classes, size, train):
    assert data.num_classes == classes
    data.prepare_data()
    data.setup("fit")
    assert len(data.train_data) == train
    if data.hparams.dataset != "image_folder":
        assert not set(data.train_data.indices) & set(data.val_data.indices)
    else:
        assert not paths(data.train_data) & paths(data.val_data)
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        images, targets = next(iter(loader))
        assert images.shape[1:] == (3, size, size)
        assert type(images) is torch.Tensor
        assert images.dtype == torch.float32
        assert 0 <= targets.min() <= targets.max() < classes
    augmix = AugmentAndMixTransform()
    *_, last, converting = augment_dataset(data.train_data, augmix).dataset.transform.transforms
    steps = [type(step).__name__ for step in (last, *converting.steps)]
    assert steps == ["AugmentAndMixTransform", "ToImage", "ToDtype", "Normalize", "ToPureTensor"]


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


@pytest.mark.parametrize(("test_name", "train"), [("test", 9), ("val", 12), ("valid", 12), ("validation", 12)])
def test_image_folder(test_name, train, tmp_path):
    write_image_folder(tmp_path, test_name)
    check(ImageDataModule("image_folder", str(tmp_path), image_size=24, num_workers=0), 3, 24, train)


def write_parts(root, size=(32, 32), **classes_of):
    """A folder per part and class, with images of one grey: the number of the letter."""
    for part, classes in classes_of.items():
        for name in classes:
            for number in range(4):
                path = root / part / name / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", size, (ord(name[0]) - ord("a"),) * 3).save(path)


def module(root, **arguments):
    data = ImageDataModule("image_folder", str(root), **{"image_size": None, "num_workers": 0, **arguments})
    data.setup("fit")
    return data


@pytest.mark.parametrize("part", ["test", "val"])
def test_classes_are_numbered_by_training_in_all_parts(part, tmp_path, caplog):
    caplog.set_level("INFO")
    write_parts(tmp_path, **{"train": "abcd", "test": "abcd", part: "bd"})
    (tmp_path / part / "c").mkdir()  # as good as none
    data = module(tmp_path)
    (images, targets), *_ = data.test_dataloader() if part == "test" else data.val_dataloader()
    greys = (images * 0.229 + 0.485)[:, 0, 0, 0] * 255
    assert greys.round().tolist() == targets.tolist()
    assert set(targets.tolist()) == {1, 3}
    assert f"{tmp_path / part} has no images of: a, c." in caplog.text
    assert data.hparams["classes"] == ["a", "b", "c", "d"]


@pytest.mark.parametrize("part", ["test", "val"])
def test_a_class_that_training_does_not_have_is_refused_by_name(part, tmp_path):
    write_parts(tmp_path, train="ab", test="ab")
    write_parts(tmp_path, **{part: "az"})
    with pytest.raises(UsageError, match=rf"{part} has classes that training does not have: z \(training has a, b\)"):
        module(tmp_path)


def test_a_training_class_without_images_and_folders_without_classes_are_refused(tmp_path):
    (tmp_path / "train" / ".hidden").mkdir(parents=True)
    with pytest.raises(UsageError, match="train has no folders"):
        _ = ImageDataModule("image_folder", str(tmp_path)).num_classes
    write_parts(tmp_path, train="ab", test="ab")
    assert ImageDataModule("image_folder", str(tmp_path)).num_classes == 2
    (tmp_path / "train" / "c").mkdir()
    with pytest.raises(UsageError, match="train has no images of: c"):
        module(tmp_path)
    shutil.rmtree(tmp_path / "train" / "c")
    for path in (tmp_path / "test").glob("*/*"):
        path.unlink()
    with pytest.raises(UsageError, match="test has no images"):
        module(tmp_path)


def test_the_number_of_classes_takes_no_look_into_their_folders(tmp_path, monkeypatch):
    write_parts(tmp_path, train="abc")
    monkeypatch.setattr("os.walk", None)
    assert ImageDataModule("image_folder", str(tmp_path)).num_classes == 3


@pytest.mark.parametrize(
    ("parts", "validation", "test", "tested"),
    [
        (["train", "val", "test"], "val", "test", "test"),
        (["train", "validation"], "validation", "validation", "validation"),
        (["train", "test"], "train", "test", "test"),
        (["train"], "train", "train", "held-out"),
    ],
)
def test_each_part_comes_from_its_folder(parts, validation, test, tested, tmp_path):
    write_parts(tmp_path, **dict.fromkeys(parts, "ab"))
    data = module(tmp_path)
    assert {Path(path).parts[-3] for path in paths(data.train_data)} == {"train"}
    assert {Path(path).parts[-3] for path in paths(data.val_data)} == {validation}
    assert {Path(path).parts[-3] for path in paths(data.test_data)} == {test}
    assert len(data.train_data) == (6 if validation == "train" else 8)
    assert data.tested == tested
    assert len(data.test_images()) == len(data.test_data)


def test_a_tenth_of_each_class_is_set_aside():
    data = ImageDataModule()
    data.setup("fit")
    targets = np.asarray(data.val_data.dataset.targets)
    shares = np.bincount(targets[data.val_data.indices]) / np.bincount(targets)
    assert shares == pytest.approx(0.1, abs=0.005)


def test_a_class_with_one_image_keeps_it_for_training_and_that_is_said(tmp_path, caplog):
    caplog.set_level("INFO")
    write_parts(tmp_path, train="abc", test="abc")
    for number in range(1, 4):
        (tmp_path / "train" / "b" / f"{number}.png").unlink()
    data = module(tmp_path)
    assert [path for path in paths(data.train_data) if Path(path).parent.name == "b"]
    assert "Not validated, as they have a single image: b." in caplog.text
    for number in range(1, 4):
        for name in "ac":
            (tmp_path / "train" / name / f"{number}.png").unlink()
    with pytest.raises(UsageError, match="No class has two training images"):
        module(tmp_path)


@pytest.mark.parametrize(
    ("size", "given", "expected"),
    [
        ((32, 32), {}, (32, "pad")),
        ((96, 120), {}, (96, "pad")),
        ((97, 97), {}, (224, "resized")),
        ((4, 4), {}, (8, "pad")),
        ((32, 32), {"crop": "resized"}, (32, "resized")),
        ((300, 200), {"crop": "pad"}, (224, "pad")),
        ((300, 200), {"image_size": 64}, (64, "resized")),
        ((32, 32), {"image_size": 64}, (64, "pad")),
    ],
)
def test_the_images_say_how_they_are_cropped(size, given, expected, tmp_path):
    write_parts(tmp_path, size, train="ab", test="ab")
    data = module(tmp_path, **given)
    assert (data.hparams["image_size"], data.hparams["crop"]) == expected
    kinds = {type(step).__name__ for step in data.train_data.dataset.transform.transforms}
    assert ("RandomCrop" in kinds, "RandomResizedCrop" in kinds) == (expected[1] == "pad", expected[1] == "resized")
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        assert next(iter(loader))[0].shape[1:] == (3, expected[0], expected[0])


def test_small_images_of_several_sizes(tmp_path):
    for name, size in (("a", (20, 40)), ("b", (32, 32)), ("c", (60, 36))):
        write_parts(tmp_path, size, train=name, test=name)
    data = module(tmp_path)
    assert data.hparams["image_size"] == 32
    assert len(np.unique([image.size for image, _ in data.test_images()])) == 1
    for loader in (data.train_dataloader(), data.test_dataloader()):
        assert next(iter(loader))[0].shape[1:] == (3, 32, 32)


def test_known_datasets_have_their_own_size():
    data = ImageDataModule(image_size=None)
    data.setup("fit")
    assert (data.hparams["image_size"], data.hparams["crop"]) == (8, "pad")
    assert data.hparams["classes"] == list("0123456789")
    assert data.test_images()[0][0].size == (8, 8)
    data = ImageDataModule(crop="resized")
    data.setup("test")
    assert data.test_images()[0][0].size == (32, 32)


def test_classes_of_known_datasets_cannot_be_renamed():
    with pytest.raises(UsageError, match=r"argument `classes` to be None or the classes of digits.*got one, two"):
        ImageDataModule(classes=["one", "two"]).setup("test")


def test_given_classes_need_no_training_folder(tmp_path):
    write_parts(tmp_path, test="bd")
    data = ImageDataModule("image_folder", str(tmp_path), crop="pad", classes=list("abcd"))
    data.setup("test")
    assert data.num_classes == 4
    assert set(data.test_data.targets) == {1, 3}


@pytest.mark.parametrize("classes", ["abc", ["a", "a"], []])
def test_classes_are_different_names(classes):
    with pytest.raises(ValueError, match="`classes` to be a list of different names, or None; got"):
        ImageDataModule("image_folder", classes=classes)


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
    remedy = "a folder train, and in that one" if name == "image_folder" else r"data\.download=true"
    with pytest.raises(UsageError, match=rf"data\.root={tmp_path} does not have the data of {name}.*{remedy}"):
        ImageDataModule(name, str(tmp_path), download=False).prepare_data()


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("dataset", "mnist"),
        ("image_size", 7),
        ("crop", "fit"),
        ("batch_size", 0),
        ("num_workers", -1),
        ("train_images", 0),
    ],
)
def test_arguments_out_of_range_are_errors_that_name_them(argument, value):
    with pytest.raises(ValueError, match=rf"argument `{argument}` to be .*; got '?{value}"):
        ImageDataModule(**{argument: value})
