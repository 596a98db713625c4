import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision import tv_tensors

from lightning_augmix._images import as_pixels
from strategies import arrays

FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def as_tensor(array):
    return torch.from_numpy(array[..., None] if array.ndim == 2 else array).permute(2, 0, 1)


KINDS = {
    "PIL image": Image.fromarray,
    "array": lambda a: a,
    "array with a channel": lambda a: a[..., None] if a.ndim == 2 else a,
    "Fortran array": np.asfortranarray,
    "tensor": as_tensor,
    "tv_tensors.Image": lambda a: tv_tensors.Image(as_tensor(a)),
    "batch": lambda a: torch.stack([as_tensor(a), 255 - as_tensor(a)]),
}


def same(a, b):
    assert type(a) is type(b)
    if isinstance(a, Image.Image):
        return a.mode == b.mode and a.size == b.size and a.tobytes() == b.tobytes()
    if isinstance(a, torch.Tensor):
        assert (a.dtype, a.shape, a.device) == (b.dtype, b.shape, b.device)
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
    assert pixels.array.dtype == np.uint8
    assert pixels.array.flags.c_contiguous
    np.testing.assert_array_equal(pixels.array[0].reshape(*array.shape[:2], -1)[..., :3].reshape(array.shape), array)
    assert same(pixels.restore(pixels.array.copy()), img)


@given(arrays(), st.sampled_from(FLOATS))
def test_floats_are_rounded_to_levels_and_come_back_as_floats(array, dtype):
    img = (as_tensor(array).to(torch.float64) / 255).to(dtype)
    pixels = as_pixels(img)
    if dtype in (torch.float32, torch.float64):  # the others cannot tell 256 levels apart
        np.testing.assert_array_equal(pixels.array[0], array)
    restored = pixels.restore(pixels.array.copy())
    assert restored.dtype == dtype
    torch.testing.assert_close(restored, img, atol=1 / 255, rtol=0)


def test_the_original_is_not_written_to_nor_shared_with_the_result():
    for kind, convert in KINDS.items():
        img = convert(np.full((2, 3), 7, np.uint8))
        pixels = as_pixels(img)
        restored = pixels.restore(np.full_like(pixels.array, 9))
        assert np.asarray(img).flat[0] == 7, kind
        assert np.asarray(restored).flat[0] == 9, kind


def test_a_batch_of_none_is_a_batch():
    pixels = as_pixels(torch.zeros(0, 3, 4, 5, dtype=torch.uint8))
    assert pixels.restore(pixels.array.copy()).shape == (0, 3, 4, 5)
    assert as_pixels(torch.zeros(0, 3, 4, 5)).restore(pixels.array.copy()).dtype == torch.float32


def test_gradients_end_here():
    img = torch.full((1, 2, 3), 0.5, requires_grad=True)
    pixels = as_pixels(img)
    assert not pixels.restore(pixels.array.copy()).requires_grad


@pytest.mark.parametrize(
    ("img", "error", "given_as", "remedy"),
    [
        (Image.new("RGBA", (3, 2)), ValueError, "mode RGBA", "convert"),
        (Image.new("1", (3, 2)), ValueError, "mode 1", "convert"),
        (Image.new("I;16", (3, 2)), ValueError, "mode I;16", "convert"),
        (Image.new("RGB", (0, 2)), ValueError, r"size \(0, 2\)", "remove"),
        (np.zeros((2, 3)), TypeError, "dtype float64", "uint8"),
        (np.zeros((2, 3), bool), TypeError, "dtype bool", "uint8"),
        (np.zeros((3, 4, 5), np.uint8), ValueError, r"shape \[3, 4, 5\]", "last"),
        (np.zeros((2, 3, 4, 3), np.uint8), ValueError, r"shape \[2, 3, 4, 3\]", "batches are tensors"),
        (np.zeros((0, 3), np.uint8), ValueError, r"shape \[0, 3\]", "last"),
        (np.zeros(3, np.uint8), ValueError, r"shape \[3\]", "last"),
        (torch.zeros(2, 3, dtype=torch.uint8), ValueError, r"shape \[2, 3\]", "first"),
        (torch.zeros(4, 5, 3, dtype=torch.uint8), ValueError, r"shape \[4, 5, 3\]", "first"),
        (torch.zeros(1, 1, 3, 4, 5, dtype=torch.uint8), ValueError, "shape", "first"),
        (torch.zeros(3, 0, 5, dtype=torch.uint8), ValueError, "shape", "first"),
        (torch.zeros(3, 4, 5, dtype=torch.int64), TypeError, "int64", "ToDtype"),
        (torch.zeros(3, 4, 5, dtype=torch.complex64), TypeError, "complex64", "ToDtype"),
        (torch.full((3, 4, 5), -0.01), ValueError, r"\[-0.01, -0.01\]", "before `Normalize`"),
        (torch.full((3, 4, 5), 255.0), ValueError, r"\[255, 255\]", "passed as uint8"),
        (torch.full((3, 4, 5), float("inf")), ValueError, "inf", "before `Normalize`"),
        (torch.tensor([[[0.5, float("nan")]]]), ValueError, "NaN", "look for"),
        (tv_tensors.Mask(torch.zeros(1, 2, 3, dtype=torch.uint8)), TypeError, "Mask", "convert"),
        ("cat.png", TypeError, "str", "convert"),
        (None, TypeError, "NoneType", "convert"),
    ],
)
def test_anything_else_is_an_error_that_says_what_is_permitted_what_was_given_and_the_remedy(
    img, error, given_as, remedy
):
    with pytest.raises(error, match=rf"`img` to be a PIL image of mode RGB or L.*got .*{given_as}.*: .*{remedy}"):
        as_pixels(img)
