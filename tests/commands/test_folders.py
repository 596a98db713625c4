import pickle
import zlib

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from lightning_augmix.commands.folders import ClassFolders, ImageError, load_image


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_as_their_exif_says(orientation, tmp_path):
    pixels = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    turned = {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.T,
        6: np.rot90(pixels, -1),
        7: np.rot90(pixels, 2).T,
        8: np.rot90(pixels),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    loaded = load_image(tmp_path / "a.png")
    assert loaded.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(loaded)[..., 0], turned[orientation])


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "PA"])
def test_modes_of_eight_bits_become_rgb(mode, tmp_path):
    path = tmp_path / ("a.tif" if mode in ("CMYK", "PA") else "a.png")
    Image.new("RGB", (4, 3), "white").convert("L" if mode in ("LA", "1", "PA") else "RGB").convert(mode).save(path)
    loaded = load_image(path)
    assert loaded.mode == "RGB"
    assert loaded.getcolors() == [(12, (255, 255, 255))]


def test_what_is_transparent_is_white(tmp_path):
    Image.new("RGBA", (2, 2), (0, 0, 0, 0)).save(tmp_path / "rgba.png")
    palette = Image.new("P", (2, 2), 1)
    palette.putpalette([255, 0, 0, 0, 255, 0])
    palette.save(tmp_path / "palette.png", transparency=b"\xff\x00")
    Image.new("RGB", (2, 2), (0, 0, 9)).save(tmp_path / "key.png", transparency=(0, 0, 9))
    for name in ("rgba", "palette", "key"):
        assert load_image(tmp_path / f"{name}.png").getcolors() == [(4, (255, 255, 255))]


def huge(path):
    """A PNG whose header says 14,000×14,000 pixels."""
    Image.new("L", (1, 1)).save(path)
    content = bytearray(path.read_bytes())
    content[16:24] = (14_000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    path.write_bytes(content)


def truncated(path):
    Image.effect_noise((64, 64), 50).save(path, "JPEG")
    path.write_bytes(path.read_bytes()[:600])


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (huge, "cannot be read as an image .*196000000 pixels"),
        (truncated, "cannot be read as an image .*truncated"),
        (lambda path: path.write_text("no image"), "cannot be read as an image .*cannot identify"),
        (lambda path: Image.new("I;16", (4, 4)).save(path), r"more than eight bits \(mode I;16\): convert it"),
        (lambda path: Image.new("F", (4, 4)).save(path, "TIFF"), r"more than eight bits \(mode F\): convert it"),
    ],
)
def test_what_cannot_be_read_is_an_error_that_names_the_file(spoil, words, tmp_path):
    path = tmp_path / "a.png"
    spoil(path)
    with pytest.raises(ImageError, match=f"^{path} .*{words}"):
        load_image(path)


@pytest.mark.parametrize("workers", [0, 1])
def test_the_error_is_one_line_from_a_worker_too(workers, tmp_path):
    path = tmp_path / "cat" / "a.jpg"
    path.parent.mkdir()
    truncated(path)
    with pytest.raises(ImageError, match=f"^{path} cannot be read") as raised:
        list(DataLoader(ClassFolders(tmp_path, ["cat"]), num_workers=workers))
    assert "\n" not in str(raised.value)


def test_the_error_can_be_pickled():
    assert str(pickle.loads(pickle.dumps(ImageError("a.png cannot be read")))) == "a.png cannot be read"
