import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from lightning_augmix import AugmentAndMixTransform, augmix_image
from lightning_augmix._images import as_pixels
from strategies import arrays

FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def as_tensor(array):
    return torch.from_numpy(array[..., None] if array.ndim == 2 else array).permute(2, 0, 1)


class Mine(torch.Tensor):
    pass


class Located(torch.Tensor):
    """Hands its path on to what is computed from it."""

    path = None

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        result = super().__torch_function__(func, types, args, kwargs)
        if isinstance(result, cls):
            result.path = next((arg.path for arg in args if isinstance(arg, cls)), None)
        return result


class Plain(torch.Tensor):
    """Becomes a plain tensor in every computation."""

    __torch_function__ = torch._C._disabled_torch_function_impl


def located(tensor):
    result = tensor.as_subclass(Located)
    result.path = "scan.png"
    return result


def scan(tensor):
    from monai.data import MetaTensor  # takes seconds, in processes that run other tests too

    return MetaTensor(tensor, meta={"patient": [7]}, applied_operations=[{"class": "Flip"}])


KINDS = {
    "PIL image": Image.fromarray,
    "array": lambda a: a,
    "array with a channel": lambda a: a[..., None] if a.ndim == 2 else a,
    "Fortran array": np.asfortranarray,
    "tensor": as_tensor,
    "tv_tensors.Image": lambda a: tv_tensors.Image(as_tensor(a)),
    "subclass of a tensor": lambda a: as_tensor(a).as_subclass(Mine),
    "subclass with an attribute": lambda a: located(as_tensor(a)),
    "MetaTensor": lambda a: scan(as_tensor(a)),
    "batch": lambda a: torch.stack([as_tensor(a), 255 - as_tensor(a)]),
}


def same(a, b):
    assert type(a) is type(b)
    if isinstance(a, Image.Image):
        return a.mode == b.mode and a.size == b.size and a.tobytes() == b.tobytes()
    if isinstance(a, torch.Tensor):
        assert (a.dtype, a.shape, a.device) == (b.dtype, b.shape, b.device)
        if isinstance(a, Located):
            assert a.path == b.path
        if type(a).__name__ == "MetaTensor":
            assert a.meta["patient"] == b.meta["patient"]
            assert torch.equal(a.affine, b.affine)
            assert a.applied_operations == b.applied_operations
        return torch.equal(a, b)
    assert (a.dtype, a.shape) == (b.dtype, b.shape)
    return np.array_equal(a, b)


@pytest.mark.parametrize("kind", KINDS)
@given(arrays())
def test_there_and_back_is_the_same(kind, array):
    img = KINDS[kind](array)
    pixels = as_pixels(img)
    assert pixels.is_batch is (kind == "batch")
    assert pixels.image_size == array.shape[:2]
    assert pixels.levels.dtype == np.uint8
    assert pixels.levels.flags.c_contiguous
    np.testing.assert_array_equal(pixels.levels[0].reshape(*array.shape[:2], -1)[..., :3].reshape(array.shape), array)
    assert same(pixels.restore(pixels.levels.copy()), img)


@given(arrays(), st.sampled_from(FLOATS))
def test_floats_are_rounded_to_levels_and_come_back_as_floats(array, dtype):
    img = (as_tensor(array).to(torch.float64) / 255).to(dtype)
    pixels = as_pixels(img)
    if dtype in (torch.float32, torch.float64):  # the others cannot tell 256 levels apart
        np.testing.assert_array_equal(pixels.levels[0], array)
    restored = pixels.restore(pixels.levels.copy())
    assert restored.dtype == dtype
    torch.testing.assert_close(restored, img, atol=1 / 255, rtol=0)


def test_the_original_is_not_written_to_nor_shared_with_the_result():
    for kind, convert in KINDS.items():
        img = convert(np.full((2, 3), 7, np.uint8))
        pixels = as_pixels(img)
        restored = pixels.restore(np.full_like(pixels.levels, 9))
        assert np.asarray(img).flat[0] == 7, kind
        assert np.asarray(restored).flat[0] == 9, kind


@pytest.mark.parametrize("kind", ["subclass of a tensor", "subclass with an attribute", "MetaTensor"])
@pytest.mark.parametrize("is_batch", [False, True])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.float32])
@pytest.mark.parametrize("severity", [0, 3])
def test_subclasses_of_tensors_keep_what_they_carry(kind, is_batch, dtype, severity):
    levels = np.random.default_rng(0).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    img = KINDS[kind](levels)
    plain = as_tensor(levels)
    if is_batch:
        img, plain = torch.stack([img, img]), torch.stack([plain, plain])
    if dtype != torch.uint8:
        img, plain = (each.to(dtype).div(255) for each in (img, plain))
    before = img.clone()
    augmix = AugmentAndMixTransform(severity)
    torch.manual_seed(0)
    expected = augmix(plain)
    torch.manual_seed(0)
    augmented = augmix(img)
    assert torch.equal(augmented.as_subclass(torch.Tensor), expected)
    assert same(img, before)
    assert same(augmented.copy_(img), img)


def test_a_batch_of_none_is_a_batch():
    pixels = as_pixels(torch.zeros(0, 3, 4, 5, dtype=torch.uint8))
    assert pixels.restore(pixels.levels.copy()).shape == (0, 3, 4, 5)
    assert as_pixels(torch.zeros(0, 3, 4, 5)).restore(pixels.levels.copy()).dtype == torch.float32


def test_gradients_end_here():
    img = torch.full((1, 2, 3), 0.5, requires_grad=True)
    pixels = as_pixels(img)
    assert not pixels.restore(pixels.levels.copy()).requires_grad


BOXES = tv_tensors.BoundingBoxes(torch.zeros(1, 4), format="XYXY", canvas_size=(4, 5))


@pytest.mark.parametrize(
    ("img", "error", "given_as", "remedy"),
    [
        (Image.new("RGBA", (3, 2)), ValueError, "mode RGBA", "convert"),
        (Image.new("1", (3, 2)), ValueError, "mode 1", "convert"),
        (Image.new("I;16", (3, 2)), ValueError, "mode I;16", "scale its levels"),
        (Image.new("F", (3, 2)), ValueError, "mode F", "scale its levels"),
        (Image.new("RGB", (0, 2)), ValueError, r"size \(0, 2\)", "remove"),
        (np.zeros((2, 3)), TypeError, "dtype float64", "uint8"),
        (np.zeros((2, 3), bool), TypeError, "dtype bool", "uint8"),
        (np.zeros((3, 4, 5), np.uint8), ValueError, r"shape \[3, 4, 5\]", "last"),
        (np.zeros((2, 3, 4, 3), np.uint8), ValueError, r"shape \[2, 3, 4, 3\]", "batches are tensors"),
        (np.zeros((0, 3), np.uint8), ValueError, r"shape \[0, 3\]", "remove empty images"),
        (np.zeros(3, np.uint8), ValueError, r"shape \[3\]", "last"),
        (torch.zeros(2, 3, dtype=torch.uint8), ValueError, r"shape \[2, 3\]", r"first.*img\[None\]"),
        (torch.zeros(4, 5, 3, dtype=torch.uint8), ValueError, r"shape \[4, 5, 3\]", "first"),
        (torch.zeros(1, 1, 3, 4, 5, dtype=torch.uint8), ValueError, "shape", "first"),
        (torch.zeros(2, 4, 5, 3, dtype=torch.uint8), ValueError, "shape", r"first.*img.permute\(0, 3, 1, 2\)"),
        (torch.zeros(3, 0, 5, dtype=torch.uint8), ValueError, r"shape \[3, 0, 5\]", "remove empty images"),
        (torch.zeros(3, 4, 5, dtype=torch.int64), TypeError, "int64", "ToDtype"),
        (torch.zeros(3, 4, 5, dtype=torch.complex64), TypeError, "complex64", "ToDtype"),
        (torch.full((3, 4, 5), -0.01), ValueError, r"\[-0.01, -0.01\]", "before `Normalize`"),
        (torch.full((3, 4, 5), 1.0021), ValueError, r"\[1.0021, 1.0021\]", "before `Normalize`"),
        (torch.zeros(3, 4, 5).to(torch.float8_e4m3fn), TypeError, "float8_e4m3fn", r"img\.float\(\)"),
        (torch.zeros(3, 4, 5).to_sparse(), TypeError, "sparse", r"img\.to_dense\(\)"),
        (torch.zeros(3, 4, 5, device="meta"), TypeError, "a meta tensor", "it has no values"),
        (np.ma.MaskedArray(np.zeros((3, 4), np.uint8)), TypeError, "MaskedArray", r"img\.filled\(0\)"),
        (np.zeros((3, 4), np.uint8).view(np.matrix), TypeError, "matrix", r"numpy\.asarray\(img\)"),
        (torch.full((3, 4, 5), 255.0), ValueError, r"\[255, 255\]", "passed as uint8"),
        (torch.full((3, 4, 5), float("inf")), ValueError, "inf", "before `Normalize`"),
        (torch.tensor([[[0.5, float("nan")]]]), ValueError, "NaN", "look for"),
        (tv_tensors.Mask(torch.zeros(1, 2, 3, dtype=torch.uint8)), TypeError, "Mask", "if it is an image, convert"),
        (BOXES, TypeError, "BoundingBoxes", "if it is an image"),
        (tv_tensors.Video(torch.zeros(2, 3, 2, 3)), TypeError, "Video", r"frames as a batch.*tv_tensors.Image\(img\)"),
        (torch.nn.Parameter(torch.zeros(3, 4, 5)), TypeError, "Parameter, whose `clone", "convert.*as_subclass"),
        (torch.zeros(3, 4, 5).as_subclass(Plain), TypeError, "Plain, whose `clone", "convert.*as_subclass"),
        ("cat.png", TypeError, "str", "open the file.*PIL.Image.open"),
        (Path("cat.png"), TypeError, "Path", "open the file.*PIL.Image.open"),
        (b"", TypeError, "bytes", "PIL.Image.open"),
        ([[1, 2], [3, 4]], TypeError, "list", r"convert.*numpy\.asarray"),
        (None, TypeError, "NoneType", "pass an image"),
    ],
)
def test_anything_else_is_an_error_that_says_what_is_permitted_what_was_given_and_the_remedy(
    img, error, given_as, remedy
):
    with pytest.raises(error, match=rf"`img` to be a PIL image of mode RGB or L.*got .*{given_as}.*: .*{remedy}"):
        as_pixels(img)


@pytest.mark.parametrize(
    ("img", "channels", "remedy"),
    [
        (torch.zeros(4, 50, 40, dtype=torch.uint8), 4, r"`img\[\.\.\., :3, :, :\]`.*RGBA"),
        (torch.zeros(4, 3, 3, dtype=torch.uint8), 4, "RGBA"),
        (torch.zeros(2, 4, 50, 40), 4, r"`img\[\.\.\., :3, :, :\]`.*RGBA"),
        (torch.zeros(13, 50, 40), 13, "select"),
        (torch.zeros(7, 13, 50, 40), 13, "select"),
        (torch.zeros(2, 50, 40, dtype=torch.uint8), 2, r"select.*`img\[\.\.\., :1, :, :\]`"),
        (np.zeros((50, 40, 4), np.uint8), 4, r"`img\[\.\.\., :3\]`.*RGBA"),
        (np.zeros((50, 40, 2), np.uint8), 2, r"select.*`img\[\.\.\., :1\]`"),
        (np.zeros((50, 40, 13), np.uint8), 13, "select"),
    ],
)
def test_other_numbers_of_channels_are_told_from_channels_at_the_wrong_end(img, channels, remedy):
    shape = str(list(img.shape)).replace("[", r"\[").replace("]", r"\]")
    expected = rf"shape {shape}: AugMix takes 1 or 3 channels, not {channels}: .*{remedy}"
    with pytest.raises(ValueError, match=expected) as caught:
        as_pixels(img)
    assert " come " not in str(caught.value)


@pytest.mark.parametrize(
    ("img", "remedy"),
    [
        (torch.zeros(50, 40, 3, dtype=torch.uint8), r"channels come first in tensors.*`img\.permute\(2, 0, 1\)`"),
        (torch.zeros(50, 40, 1), r"channels come first in tensors.*`img\.permute\(2, 0, 1\)`"),
        (np.zeros((3, 50, 40), np.uint8), r"channels come last in arrays.*`img\.transpose\(1, 2, 0\)`"),
        (np.zeros((1, 50, 40), np.uint8), r"channels come last in arrays.*`img\.transpose\(1, 2, 0\)`"),
    ],
)
def test_channels_at_the_wrong_end(img, remedy):
    with pytest.raises(ValueError, match=remedy):
        as_pixels(img)


@pytest.mark.parametrize(("mode", "white"), [("I;16", 65535), ("I", 65535), ("F", 1.0)])
def test_the_remedy_for_more_than_eight_bits_keeps_the_image(mode, white):
    levels = np.linspace(0, white, 256).reshape(16, 16)
    img = Image.fromarray(levels.astype({"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]))
    assert img.mode == mode
    with pytest.raises(ValueError, match="scale its levels") as refused:
        as_pixels(img)
    remedy = re.search("`(Image.*?)`", str(refused.value))[1]
    mended = eval(remedy, {"Image": Image, "numpy": np, "img": img, "white": white})
    np.testing.assert_array_equal(as_pixels(mended).levels[0], np.arange(256).reshape(16, 16))


@pytest.mark.parametrize("overshoot", [2e-7, 1e-3, 0.49 / 255])
def test_floats_within_half_a_level_of_the_range_are_of_its_last_levels(overshoot):
    img = torch.tensor([-overshoot, 0.0, 1.0, 1 + overshoot]).reshape(1, 2, 2)
    assert as_pixels(img).levels.tolist() == [[[0, 0], [255, 255]]]


def test_resizing_by_torch_is_taken():
    white = torch.ones(3, 37, 53)
    white[:, :, ::2] = 0
    resized = v2.functional.resize(white, [16, 20], antialias=True)
    smooth = torch.nn.functional.interpolate(white[None], (60, 90), mode="bicubic", antialias=True)[0]
    for img in (torch.ones(3, 5, 6) * 1.0000002, resized, smooth.clamp(-1e-4, 1.0001)):
        assert augmix_image(img).shape == img.shape


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_the_memory_format_stays(dtype):
    batch = torch.randint(256, (2, 3, 5, 6)).to(dtype) / (255 if dtype.is_floating_point else 1)
    batch = batch.to(dtype)
    last = batch.contiguous(memory_format=torch.channels_last)
    single = torch.rand(5, 6, 3).permute(2, 0, 1)
    for img in (batch, last, single, batch[0], batch[:, :, ::2]):
        augmented = augmix_image(img, generator=torch.Generator().manual_seed(3))
        expected = augmix_image(img.contiguous(), generator=torch.Generator().manual_seed(3))
        assert augmented.stride() == torch.empty_like(img).stride()
        assert torch.equal(augmented, expected)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("severity", [0, 3])
def test_what_pillow_knows_of_an_image_stays(mode, severity):
    img = Image.new(mode, (6, 5), 3)
    img.info["dpi"] = (72, 72)
    augmented = augmix_image(img, severity)
    assert augmented.info == {"dpi": (72, 72)}
    augmented.info.clear()
    assert img.info


def test_arrays_in_files_are_taken(tmp_path):
    np.save(tmp_path / "image.npy", np.full((4, 5, 3), 9, np.uint8))
    assert type(augmix_image(np.load(tmp_path / "image.npy", mmap_mode="r"))) is np.ndarray
