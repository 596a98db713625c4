import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_published import write_cifar_c
from torch.utils.data import Dataset
from torchvision import transforms

from lightning_augmix.robustness.computed import _end_in_silence, compute_corruptions, digest_of
from lightning_augmix.robustness.published import CORRUPTIONS, open_corruptions

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
        assert all(distance > 0 for distance in distances[1:]), name
        # Of 32 rows, 30 boxes merge four; in the middle, where small images are, none.
        assert distances[0] > 0 or (name, size) == ("pixelate", (8, 9))
        if name != "elastic_transform":  # for small images it moves ever less, but ever finer
            assert distances[4] > 0.8 * distances[0], name
    part = open_corruptions(tmp_path).dataset("frost", 5, TO_TENSOR)
    assert [label for _, label in part] == [0, 1, 0]


class Gray(Images):
    """The green channels of photographs, as RGB images or as grayscale ones."""

    def __getitem__(self, index):
        array = np.asarray(Images(size=self.size)[index][0])[..., 1]
        return (array if self.is_gray else np.repeat(array[..., None], 3, -1)), 0


def test_grayscale_images_have_the_noise_of_one_channel(tmp_path):
    names = ["gaussian_noise", "contrast"]
    gray, rgb = (computed(Gray(2, is_gray=kind), tmp_path / str(kind), names) for kind in (True, False))
    for name in names:
        np.testing.assert_array_equal(gray[name], rgb[name][..., 1])
    assert (rgb["gaussian_noise"][..., 0] != rgb["gaussian_noise"][..., 1]).any()


RANDOM = ("gaussian_noise", "impulse_noise", "glass_blur", "motion_blur", "snow", "frost", "fog", "elastic_transform")


@pytest.mark.slow
def test_corruptions_are_a_function_of_data_and_seed(tmp_path, monkeypatch):
    first = computed(Images(), tmp_path / "a", RANDOM)
    monkeypatch.setattr(
        "lightning_augmix.robustness.computed._CHUNK", 2 * 33 * 40
    )  # two images: other chunks, other processes
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


@pytest.mark.parametrize(
    ("size", "strengths", "set_name"),
    [
        ((8, 8), "cifar", "CIFAR-10-C"),
        ((20, 32), "cifar", "CIFAR-10-C"),
        ((33, 20), "tiny_imagenet", "Tiny ImageNet-C"),
        ((20, 64), "tiny_imagenet", "Tiny ImageNet-C"),
        ((65, 20), "imagenet", "ImageNet-C"),
    ],
)
def test_strengths_are_those_of_the_longer_side(size, strengths, set_name, tmp_path):
    data = Images(1, size)
    auto = computed(data, tmp_path / "auto", ["contrast"])
    named = computed(data, tmp_path / "named", ["contrast"], strengths=strengths)
    np.testing.assert_array_equal(auto["contrast"], named["contrast"])
    assert open_corruptions(tmp_path / "auto").strengths == set_name
    other = "imagenet" if strengths == "cifar" else "cifar"
    assert (computed(data, tmp_path / "other", ["contrast"], strengths=other)["contrast"] != auto["contrast"]).any()
    with pytest.raises(ValueError, match="holds corruptions of different strengths: choose another folder"):
        computed(data, tmp_path / "auto", ["contrast"], strengths=other)


def test_a_folder_from_before_there_were_strengths_has_those_of_imagenet(tmp_path):
    first = computed(Images(), tmp_path, ["contrast"], strengths="imagenet")
    path = tmp_path / "origin.json"
    origin = json.loads(path.read_text())
    del origin["strengths"]
    path.write_text(json.dumps(origin))
    assert open_corruptions(tmp_path).strengths == "ImageNet-C"
    again = computed(Images(), tmp_path, ["contrast"], strengths="imagenet")
    np.testing.assert_array_equal(again["contrast"], first["contrast"])
    with pytest.raises(ValueError, match="holds corruptions of different strengths: choose another folder"):
        computed(Images(), tmp_path, ["contrast"])


@pytest.mark.parametrize(("data", "seed", "changed"), [(Images(salt=1), 0, "images"), (Images(), 1, "seed")])
def test_a_folder_of_other_corruptions_is_an_error(data, seed, changed, tmp_path):
    computed(Images(), tmp_path, ["contrast"])
    with pytest.raises(ValueError, match=f"{tmp_path} holds corruptions of different {changed}: choose another folder"):
        computed(data, tmp_path, ["contrast"], seed=seed)


class Mixed(Images):
    def __getitem__(self, index):
        return Images(size=(33 + index, 40))[index]


@pytest.mark.parametrize(
    ("data", "names", "message"),
    [
        (Images(), ["blur"], r"`corruptions` to be of: gaussian_noise.*got \['blur'\]"),
        (Images(0), ["fog"], "`data` to have images; got none"),
        (Mixed(), ["fog"], r"of one size; image 1 is \[34, 40, 3\], image 0 \[33, 40, 3\]"),
        ([(Image.new("P", (40, 33)), 0)], ["fog"], r"image 0 is P uint8 \[33, 40\]"),
        ([(torch.rand(3, 32, 40), 0)], ["fog"], r"image 0 is float32 \[3, 32, 40\]: apply Resize"),
    ],
)
def test_data_that_cannot_be_corrupted_is_an_error(data, names, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        compute_corruptions(data, tmp_path, names, show_progress=False)


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        (
            {"strengths": "tiny"},
            ValueError,
            "`strengths` to be 'auto', .* or 'imagenet'; got 'tiny'",
        ),
        ({"strengths": None}, ValueError, "`strengths` to be 'auto', .*; got None"),
        ({"seed": -1}, ValueError, "`seed` to be an integer, at least 0; got -1"),
        ({"seed": 1.5}, TypeError, "`seed` to be an integer"),
        ({"seed": None}, TypeError, "`seed` to be an integer, at least 0; got None"),
        ({"seed": True}, TypeError, "`seed` to be an integer"),
        ({"processes": True}, TypeError, "`processes` to be an integer"),
        ({"processes": 0}, ValueError, "`processes` to be an integer, at least 1; got 0"),
    ],
)
def test_bad_settings(settings, kind, message, tmp_path):
    with pytest.raises(kind, match=message):
        compute_corruptions(Images(), tmp_path, ["contrast"], **settings)


def test_a_published_set_is_not_written_to(tmp_path):
    _, labels = write_cifar_c(tmp_path)
    with pytest.raises(ValueError, match=f"{tmp_path} holds files that were not computed here: choose another"):
        computed(Images(), tmp_path, ["contrast"])
    np.testing.assert_array_equal(np.load(tmp_path / "labels.npy"), labels)


def test_a_folder_that_is_opened_again_is_a_computed_one(tmp_path):
    first = compute_corruptions(Images(), tmp_path, ["contrast"], seed=3, processes=1, show_progress=False)
    for data in (first, open_corruptions(tmp_path)):
        assert (data.source, data.strengths, data.seed) == ("computed", "Tiny ImageNet-C", 3)
        assert data.versions == {"imagecorruptions-imaug": version("imagecorruptions-imaug")}


@pytest.mark.parametrize("as_array", [False, True])
def test_the_digest_is_of_the_clean_images_and_their_classes(as_array, tmp_path):
    data = Images(as_array=as_array)
    opened = compute_corruptions(data, tmp_path, ["contrast"], processes=1, show_progress=False)
    expected = hashlib.sha256(np.load(tmp_path / "clean.npy").tobytes() + np.array([0, 1, 0]).tobytes()).hexdigest()
    assert json.loads((tmp_path / "origin.json").read_text())["images"] == expected
    assert opened.digest == expected[:16]
    assert digest_of(data[index] for index in range(3)) == expected
    others = [
        [data[2], data[1], data[0]],
        [data[0], data[1]],
        [(image, 1) for image, _ in map(data.__getitem__, range(3))],
    ]
    assert len({expected, *map(digest_of, others)}) == 4


@pytest.mark.parametrize(
    "content",
    [
        *("{", "[]", "{}", '{"seed": "0"}', '{"seed": 0, "imagecorruptions-imaug": null}'),
        '{"seed": 0, "imagecorruptions-imaug": "1.1.5", "images": "a", "strengths": "strong"}',
        '{"seed": 0, "imagecorruptions-imaug": "1.1.5"}',
    ],
)
def test_a_damaged_origin_is_an_error_that_names_it(content, tmp_path):
    computed(Images(), tmp_path, ["contrast"], seed=np.int64(0))
    (tmp_path / "origin.json").write_text(content)
    with pytest.raises(ValueError, match=r"origin\.json is damaged"):
        computed(Images(), tmp_path, ["contrast"])
    with pytest.raises(ValueError, match=r"origin\.json is damaged"):
        open_corruptions(tmp_path)


def test_an_interrupted_computation_goes_on(tmp_path):
    expected = computed(Images(), tmp_path / "whole", ["contrast", "pixelate"])
    computed(Images(), tmp_path / "part", ["contrast"])
    (tmp_path / "part" / ".123.pixelate.npy").write_bytes(b"half")
    again = computed(Images(), tmp_path / "part", ["contrast", "pixelate"])
    np.testing.assert_array_equal(again["pixelate"], expected["pixelate"])
    origin = json.loads((tmp_path / "part" / "origin.json").read_text())
    assert origin.keys() == {"images", "seed", "strengths", "imagecorruptions-imaug"}
    shutil.rmtree(tmp_path / "part")


def test_global_generators_are_left_alone(tmp_path):
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    computed(Images(), tmp_path, ["gaussian_noise"], strengths="imagenet")
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()


@pytest.mark.parametrize("name", ["clean", "labels"])
@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(path.read_bytes()[:150]), lambda path: zero(path)])
def test_what_it_is_computed_from_is_mended(name, damage, tmp_path):
    expected = computed(Images(), tmp_path / "whole", ["contrast", "pixelate"])
    computed(Images(), tmp_path / "part", ["contrast"])
    damage(tmp_path / "part" / f"{name}.npy")
    again = computed(Images(), tmp_path / "part", ["contrast", "pixelate"])
    np.testing.assert_array_equal(again["pixelate"], expected["pixelate"])
    assert open_corruptions(tmp_path / "part").dataset("contrast", 1, TO_TENSOR)[1][1] == 1


def zero(path):
    np.save(path, np.zeros_like(np.load(path)))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (zero, "is not as it was computed"),
        (lambda path: path.with_suffix(".npy.sha256").write_text("0  contrast.npy"), "is not as it was computed"),
        (lambda path: path.with_suffix(".npy.sha256").unlink(), "was not computed to the end"),
    ],
)
def test_a_file_that_is_not_as_it_was_computed_is_refused_by_name(damage, reason, tmp_path):
    opened = compute_corruptions(Images(), tmp_path, ["contrast"], processes=1, show_progress=False)
    opened.dataset("contrast", 1, TO_TENSOR)
    damage(tmp_path / "contrast.npy")
    with pytest.raises(
        ValueError, match=rf"contrast\.npy {reason} \(by its SHA-256\): delete it, and compute it again"
    ):
        open_corruptions(tmp_path).dataset("contrast", 1, TO_TENSOR)


def test_a_file_without_a_digest_is_computed_again(tmp_path):
    expected = computed(Images(), tmp_path, ["contrast"])["contrast"]
    (tmp_path / "contrast.npy.sha256").unlink()
    zero(tmp_path / "contrast.npy")
    np.testing.assert_array_equal(computed(Images(), tmp_path, ["contrast"])["contrast"], expected)


def test_the_digests_are_those_of_sha256sum(tmp_path):
    computed(Images(), tmp_path, ["contrast", "pixelate"])
    command = ["sha256sum", "--check", "--strict", "contrast.npy.sha256", "pixelate.npy.sha256"]
    subprocess.run(command, cwd=tmp_path, check=True)


LONG = """
import sys
sys.path[:0] = sys.argv[1:3]
from test_computed import Images
from lightning_augmix.robustness.computed import compute_corruptions

if __name__ == "__main__":
    compute_corruptions(Images(400), sys.argv[3], processes=2, show_progress=False)
"""


def start(tmp_path, **settings):
    (tmp_path / "long.py").write_text(LONG)
    tests = Path(__file__).parent
    command = [sys.executable, "long.py", tests, tests.parent, tmp_path / "cache"]
    return subprocess.Popen(command, cwd=tmp_path, start_new_session=True, stderr=subprocess.PIPE, **settings)


def wait_for(condition, seconds=300):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def is_gone(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL, signal.SIGINT])
def test_no_process_outlives_the_command(number, tmp_path):
    command = start(tmp_path)
    wait_for(lambda: list(tmp_path.glob("cache/*.sha256")))
    command.send_signal(number)
    command.communicate(timeout=60)
    wait_for(lambda: is_gone(command.pid), seconds=60)
    assert command.returncode
    names = [path.name.removesuffix(".sha256") for path in tmp_path.glob("cache/*.sha256")]
    opened = open_corruptions(tmp_path / "cache")
    assert all(len(opened.dataset(name.removesuffix(".npy"), 1, TO_TENSOR)) == 400 for name in names)


def test_a_worker_is_silent_where_the_process_that_takes_its_images_was_ended(monkeypatch):
    shown = []
    monkeypatch.setattr(sys, "excepthook", lambda *error: shown.append(error))
    _end_in_silence(0)
    for error in (ConnectionResetError(104, "reset by peer"), OSError(28, "full")):
        sys.excepthook(type(error), error, None)
    assert [kind for kind, *_ in shown] == [OSError]


@pytest.mark.slow
def test_two_commands_at_once_share_a_folder(tmp_path):
    both = [start(tmp_path), start(tmp_path)]
    assert [command.communicate(timeout=300)[1] for command in both] == [b"", b""]
    opened = open_corruptions(tmp_path / "cache")
    for name in CORRUPTIONS:
        opened.dataset(name, 1, TO_TENSOR)


def test_a_full_disk_is_an_error_and_leaves_no_file(tmp_path):
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            compute_corruptions(Images(1), tmp_path, ["contrast"], processes=1, show_progress=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clean.npy", "labels.npy", "origin.json"]
