import hashlib
import pickle
import shutil
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from lightning_augmix.robustness import published
from lightning_augmix.robustness.published import CORRUPTIONS, SEVERITIES, open_corruptions

TO_TENSOR = transforms.ToTensor()


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
    with pytest.raises(ValueError, match=rf"lacks {tmp_path / 'snow' / '3'}"):
        data.dataset("snow", 3, np.asarray)
    (tmp_path / "fog" / "4" / "ant" / "1.png").rename(tmp_path / "fog" / "4" / "ant" / "2.png")
    with pytest.raises(ValueError, match=r"fog/4 lacks ant/1\.png: every corruption and severity has the same images"):
        data.dataset("fog", 4, np.asarray)
    broken = tmp_path / "fog" / "3" / "ant" / "1.png"
    spoil(broken, broken.read_bytes()[:33] + b"\0\0\0\1    " + broken.read_bytes()[41:])
    with pytest.raises(ValueError, match=r"ant/1\.png is truncated or not an image"):
        part[0]
    (tmp_path / "snow").mkdir()
    (tmp_path / "snow" / "1").write_text("")
    with pytest.raises(ValueError, match=rf"lacks {tmp_path / 'snow' / '1'}"):
        data.dataset("snow", 1, np.asarray)
    shutil.rmtree(tmp_path / "fog" / "5" / "ant")
    with pytest.raises(ValueError, match=r"fog/5 lacks ant/1\.png"):
        data.dataset("fog", 5, np.asarray)
    spoil(tmp_path / "fog" / "3" / "bee" / "1.png", b"no image")
    with pytest.raises(ValueError, match=r"bee/1\.png is truncated or not an image"):
        part[1]


def test_folders_as_the_archives_of_imagenet_c_unpack(tmp_path):
    for group, corruption in (("noise", "shot_noise"), ("weather", "fog")):
        folder = tmp_path / group / corruption / "1" / "ant"
        folder.mkdir(parents=True)
        Image.new("RGB", (6, 5)).save(folder / "1.png")
    data = open_corruptions(tmp_path)
    assert [len(data.dataset(name, 1, np.asarray)) for name in ("shot_noise", "fog")] == [1, 1]
    with pytest.raises(ValueError, match=f"lacks {tmp_path / 'snow' / '1'}"):
        data.dataset("snow", 1, np.asarray)


def test_images_of_sixteen_bits_are_refused_by_name(tmp_path):
    folder = tmp_path / "fog" / "1" / "ant"
    folder.mkdir(parents=True)
    Image.fromarray(np.full((5, 6), 300, np.uint16)).save(folder / "1.png")
    with pytest.raises(ValueError, match=r"ant/1\.png has levels of more than eight bits \(mode I.*scale its levels"):
        open_corruptions(tmp_path).dataset("fog", 1, np.asarray)[0]


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A server with CIFAR-10-C, of four images."""
    folder = tmp_path / "site"
    folder.mkdir()
    write_cifar_c(folder / "CIFAR-10-C")
    shutil.make_archive(str(folder / "set"), "tar", folder, "CIFAR-10-C")
    handler = partial(SimpleHTTPRequestHandler, directory=folder)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/set.tar"
        md5 = hashlib.md5((folder / "set.tar").read_bytes()).hexdigest()
        monkeypatch.setitem(published._ARCHIVES, "CIFAR-10-C", (url, md5))
        monkeypatch.setitem(published._ARCHIVES, "CIFAR-100-C", (url, "0" * 32))
        yield
        server.shutdown()


@pytest.mark.usefixtures("site")
def test_a_published_set_is_fetched_once_and_checked(tmp_path):
    folder = tmp_path / "data" / "CIFAR-10-C"
    assert len(open_corruptions(folder, download=True).dataset("fog", 1, np.asarray)) == 4
    written = (folder / "fog.npy").stat().st_mtime_ns
    open_corruptions(folder, download=True)
    assert (folder / "fog.npy").stat().st_mtime_ns == written
    with pytest.raises(OSError, match="could not be fetched, or its MD5 sum is wrong"):
        open_corruptions(tmp_path / "data" / "CIFAR-100-C", download=True)
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["CIFAR-10-C"]


def test_other_sets_cannot_be_fetched(tmp_path):
    with pytest.raises(ValueError, match=r"named CIFAR-10-C, CIFAR-100-C, Tiny-ImageNet-C; got .*CIFAR-11-C"):
        open_corruptions(tmp_path / "CIFAR-11-C", download=True)


def spoil(path, content):
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("labels", lambda path: path.unlink(), "with labels.npy and <corruption>.npy .*has neither"),
        ("labels", lambda path: np.save(path, np.zeros(21, int)), r"labels.npy to hold .* \[5 · N\]; got int64 \[21\]"),
        ("labels", lambda path: np.save(path, np.zeros((20, 2))), r"labels.npy to hold .*got float64 \[20, 2\]"),
        ("labels", lambda path: np.save(path, np.full(20, 0.5)), r"labels.npy to hold .*got float64 \[20\]"),
        ("labels", lambda path: np.save(path, np.arange(20)), "labels.npy to hold .* N images, five times over"),
        ("labels", lambda path: spoil(path, b""), "labels.npy is truncated or not an array"),
        ("fog", lambda path: path.unlink(), "lacks .*fog.npy"),
        ("fog", lambda path: spoil(path, path.read_bytes()[:-1]), "fog.npy is truncated or not an array"),
        ("fog", lambda path: spoil(path, path.read_bytes().replace(b"}", b"(")), "delete it, and fetch or compute it"),
        ("fog", lambda path: spoil(path, b"\x80 pickled"), "fog.npy is truncated or not an array"),
        ("fog", lambda path: np.save(path, np.array([{}] * 20), allow_pickle=True), "fog.npy is truncated or not an a"),
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


@pytest.mark.parametrize("severity", [0, 6, -1, "2", 2.0, True])
def test_no_such_severity_is_an_error(severity, tmp_path):
    write_cifar_c(tmp_path)
    with pytest.raises(ValueError, match="`severity` to be an integer from 1 to 5; got"):
        open_corruptions(tmp_path).dataset("fog", severity, np.asarray)


def test_no_folder_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="nowhere is not a folder"):
        open_corruptions(tmp_path / "nowhere")
