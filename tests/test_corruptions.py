import json
import pickle
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset
from torchvision import transforms

from lightning_augmix.corruptions import CORRUPTIONS, SEVERITIES, compute_corruptions, open_corruptions

TO_TENSOR = transforms.ToTensor()


class Images(Dataset):
    """Photograph-like images of one size."""

    def __init__(self, count=3, size=(33, 40), is_gray=False, as_array=False, salt=0):
        self.count, self.size, self.is_gray, self.as_array, self.salt = count, size, is_gray, as_array, salt

    def __getitem__(self, index):
        y, x = np.mgrid[: self.size[0], : self.size[1]]
        waves = (np.sin(x / 5 + index + self.salt) + np.cos(y / 7) + 2) * 60
        array = (waves if self.is_gray else np.stack([waves, waves / 2 + 20, 255 - waves], -1)).astype(np.uint8)
        return (array if self.as_array else Image.fromarray(array)), index % 2

    def __len__(self):
        return self.count


def write_cifar_c(folder, count=4, corruptions=CORRUPTIONS):
    """Random images in CIFAR-10-C's format."""
    rng = np.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    labels = np.tile(np.arange(count) % 3, 5).astype(np.uint8)
    np.save(folder / "labels.npy", labels)
    images = {name: rng.integers(0, 256, (5 * count, 8, 9, 3), dtype=np.uint8) for name in corruptions}
    for name, array in images.items():
        np.save(folder / f"{name}.npy", array)
    return images, labels


def test_arrays_in_the_format_of_cifar_c(tmp_path):
    images, labels = write_cifar_c(tmp_path)
    data = open_corruptions(tmp_path)
    for name in ("fog", "jpeg_compression"):
        for severity in SEVERITIES:
            part = data.dataset(name, severity, np.asarray)
            assert len(part) == 4
            for index in range(4):
                image, label = part[index]
                np.testing.assert_array_equal(image, images[name][4 * (severity - 1) + index])
                assert label == labels[index]


def test_arrays_are_mapped_and_can_go_to_worker_processes(tmp_path):
    write_cifar_c(tmp_path)
    part = open_corruptions(tmp_path).dataset("snow", 2, TO_TENSOR)
    assert isinstance(part.images, np.memmap)
    assert len(pickle.dumps(part)) < 2000
    expected = [part[index][0] for index in range(4)]
    loader = torch.utils.data.DataLoader(part, 4, num_workers=1, multiprocessing_context="spawn")
    assert torch.equal(next(iter(loader))[0], torch.stack(expected))


def test_folders_in_the_format_of_imagenet_c(tmp_path):
    for severity in SEVERITIES:
        for number, name in enumerate(("ant", "bee")):
            folder = tmp_path / "fog" / str(severity) / name
            folder.mkdir(parents=True)
            Image.new("RGB", (6, 5), (10 * severity, number, 0)).save(folder / "1.png")
    data = open_corruptions(str(tmp_path))
    part = data.dataset("fog", 3, np.asarray)
    assert [(image[0, 0].tolist(), label) for image, label in part] == [([30, 0, 0], 0), ([30, 1, 0], 1)]
    with pytest.raises(ValueError, match=rf"misses {tmp_path / 'snow' / '3'}"):
        data.dataset("snow", 3, np.asarray)
    (tmp_path / "fog" / "4" / "ant" / "1.png").rename(tmp_path / "fog" / "4" / "ant" / "2.png")
    with pytest.raises(ValueError, match=r"fog/4 lacks ant/1\.png: every corruption and severity has the same images"):
        data.dataset("fog", 4, np.asarray)
    shutil.rmtree(tmp_path / "fog" / "5" / "ant")
    with pytest.raises(ValueError, match=r"fog/5 lacks ant/1\.png"):
        data.dataset("fog", 5, np.asarray)
    spoil(tmp_path / "fog" / "3" / "bee" / "1.png", b"no image")
    with pytest.raises(ValueError, match=r"bee/1\.png is cut off or no image"):
        part[1]


def spoil(path, content):
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("labels", lambda path: path.unlink(), "with labels.npy and <corruption>.npy .*has neither"),
        ("labels", lambda path: np.save(path, np.zeros(21, int)), r"labels.npy to hold .* \[5 · N\]; got int64 \[21\]"),
        ("labels", lambda path: np.save(path, np.zeros((20, 2))), r"labels.npy to hold .*got float64 \[20, 2\]"),
        ("labels", lambda path: np.save(path, np.full(20, 0.5)), r"labels.npy to hold .*got float64 \[20\]"),
        ("labels", lambda path: np.save(path, np.arange(20)), "labels.npy to hold .* five times the same images"),
        ("labels", lambda path: spoil(path, b""), "labels.npy is cut off or no array"),
        ("fog", lambda path: path.unlink(), "misses .*fog.npy"),
        ("fog", lambda path: spoil(path, path.read_bytes()[:-1]), "fog.npy is cut off or no array"),
        ("fog", lambda path: spoil(path, b"\x80 pickled"), "fog.npy is cut off or no array"),
        ("fog", lambda path: np.save(path, np.array([{}] * 20), allow_pickle=True), "fog.npy is cut off or no array"),
        ("fog", lambda path: np.save(path, np.zeros((20, 8, 9, 3))), r"fog.npy to hold uint8 .*got float64"),
        ("fog", lambda path: np.save(path, np.zeros((20, 8, 9, 4), np.uint8)), r"got uint8 \[20, 8, 9, 4\]"),
        ("fog", lambda path: np.save(path, np.zeros((15, 8, 9), np.uint8)), r"\[20, H, W, 3\].*got uint8 \[15, 8, 9\]"),
    ],
)
def test_wrong_files_are_an_error_that_names_them(name, change, message, tmp_path):
    write_cifar_c(tmp_path)
    change(tmp_path / f"{name}.npy")
    with pytest.raises(ValueError, match=message):
        open_corruptions(tmp_path).dataset("fog", 1, np.asarray)


def test_no_folder_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="nowhere is no folder"):
        open_corruptions(tmp_path / "nowhere")


def computed(data, folder, names, **settings):
    opened = compute_corruptions(data, folder, names, processes=1, show_progress=False, **settings)
    return {name: np.load(opened.folder / f"{name}.npy") for name in names}


@pytest.mark.slow
@pytest.mark.parametrize(("size", "is_gray"), [((33, 40), False), ((28, 30), True), ((8, 9), False)])
def test_all_corruptions_are_computed_for_images_of_any_size(size, is_gray, tmp_path):
    data = Images(3, size, is_gray)
    arrays = computed(data, tmp_path, CORRUPTIONS)
    clean = np.stack([np.asarray(data[index][0]) for index in range(len(data))])
    for name, array in arrays.items():
        assert array.dtype == np.uint8
        assert array.shape == (15, *clean.shape[1:]), name
        distances = [np.abs(part.astype(int) - clean).mean() for part in np.split(array, 5)]
        assert all(distance > 0 for distance in distances), name
        assert distances[4] > 0.8 * distances[0], name
    part = open_corruptions(tmp_path).dataset("frost", 5, TO_TENSOR)
    assert [label for _, label in part] == [0, 1, 0]


RANDOM = ("gaussian_noise", "impulse_noise", "glass_blur", "motion_blur", "snow", "frost", "fog", "elastic_transform")


@pytest.mark.slow
def test_corruptions_are_a_function_of_data_and_seed(tmp_path, monkeypatch):
    first = computed(Images(), tmp_path / "a", RANDOM)
    monkeypatch.setattr("lightning_augmix.corruptions._CHUNK", 2)  # other chunks, other processes
    again = compute_corruptions(Images(as_array=True), tmp_path / "b", RANDOM, processes=2, show_progress=False)
    other = computed(Images(), tmp_path / "c", RANDOM, seed=1)
    for name in RANDOM:
        np.testing.assert_array_equal(first[name], np.load(again.folder / f"{name}.npy"))
        assert not np.array_equal(first[name], other[name])
        assert not np.array_equal(first[name][0], first[name][3])


def test_what_is_there_is_kept_and_what_is_missing_is_computed(tmp_path):
    first = computed(Images(), tmp_path, ["contrast", "pixelate"])
    changed = tmp_path / "contrast.npy"
    np.save(changed, first["contrast"][::-1])
    (tmp_path / "pixelate.npy").unlink()
    again = computed(Images(), tmp_path, ["contrast", "pixelate", "brightness"])
    np.testing.assert_array_equal(again["contrast"], first["contrast"][::-1])
    np.testing.assert_array_equal(again["pixelate"], first["pixelate"])
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(("data", "seed", "changed"), [(Images(salt=1), 0, "images"), (Images(), 1, "seed")])
def test_a_folder_of_other_corruptions_is_an_error(data, seed, changed, tmp_path):
    computed(Images(), tmp_path, ["contrast"])
    with pytest.raises(ValueError, match=f"{tmp_path} holds corruptions with other {changed}: choose another folder"):
        computed(data, tmp_path, ["contrast"], seed=seed)


class Mixed(Images):
    def __getitem__(self, index):
        return Images(size=(33 + index, 40))[index]


@pytest.mark.parametrize(
    ("data", "names", "message"),
    [
        (Images(), ["blur"], r"`corruptions` to be of: gaussian_noise.*got \['blur'\]"),
        (Images(0), ["fog"], "`data` to have images; got none"),
        (Mixed(), ["fog"], r"all of one size; image 1 is RGB uint8 \[34, 40, 3\]"),
        ([(Image.new("P", (40, 33)), 0)], ["fog"], r"image 0 is P uint8 \[33, 40\]"),
        ([(torch.rand(3, 32, 40), 0)], ["fog"], r"image 0 is float32 \[3, 32, 40\]: apply Resize"),
    ],
)
def test_data_that_cannot_be_corrupted_is_an_error(data, names, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        compute_corruptions(data, tmp_path, names, show_progress=False)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seed": -1}, "`seed` to be an integer, at least 0; got -1"),
        ({"seed": 1.5}, "`seed` to be an integer"),
        ({"processes": 0}, "`processes` to be an integer, at least 1; got 0"),
    ],
)
def test_bad_settings(settings, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        compute_corruptions(Images(), tmp_path, ["contrast"], **settings)


def test_a_published_set_is_not_written_to(tmp_path):
    _, labels = write_cifar_c(tmp_path)
    with pytest.raises(ValueError, match=f"{tmp_path} holds files that were not computed here: choose another"):
        computed(Images(), tmp_path, ["contrast"])
    np.testing.assert_array_equal(np.load(tmp_path / "labels.npy"), labels)


def test_a_damaged_origin_is_an_error_that_names_it(tmp_path):
    computed(Images(), tmp_path, ["contrast"])
    (tmp_path / "origin.json").write_text("{")
    with pytest.raises(ValueError, match=r"origin\.json is damaged"):
        computed(Images(), tmp_path, ["contrast"])


def test_an_interrupted_computation_goes_on(tmp_path):
    expected = computed(Images(), tmp_path / "whole", ["contrast", "pixelate"])
    computed(Images(), tmp_path / "part", ["contrast"])
    (tmp_path / "part" / ".123.pixelate.npy").write_bytes(b"half")
    again = computed(Images(), tmp_path / "part", ["contrast", "pixelate"])
    np.testing.assert_array_equal(again["pixelate"], expected["pixelate"])
    origin = json.loads((tmp_path / "part" / "origin.json").read_text())
    assert origin.keys() == {"images", "seed", "imagecorruptions-imaug"}
    shutil.rmtree(tmp_path / "part")
