"""Every kind of image AugMix accepts, as uint8 arrays and back."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision import tv_tensors

__all__ = ["SPATIAL_TARGETS", "TO_EIGHT_BITS", "Pixels", "UnsupportedImageError", "as_pixels", "may_be_image"]

_T = TypeVar("_T")

#: What torchvision marks as tied to places in an image.
SPATIAL_TARGETS = (tv_tensors.BoundingBoxes, tv_tensors.Mask, tv_tensors.KeyPoints)

#: What to do with PIL images of modes I and F, which Pillow converts by cutting off what is above 255.
TO_EIGHT_BITS = (
    "scale its levels, with `Image.fromarray((numpy.asarray(img) * (255 / white)).round().astype('uint8'))`, where "
    "white is 65535 for 16 bits"
)

_PERMITTED = (
    "a PIL image of mode RGB or L, a uint8 array [H, W], [H, W, 1] or [H, W, 3], or a tensor [1 or 3, H, W] or "
    "[N, 1 or 3, H, W] of dtype uint8, or of a floating-point dtype with values in [0, 1]"
)


class UnsupportedImageError(Exception):
    """An image of another type, mode, dtype, shape or range; a ``TypeError`` or ``ValueError``, too."""


class _UnsupportedTypeError(UnsupportedImageError, TypeError):
    pass


class _UnsupportedValueError(UnsupportedImageError, ValueError):
    pass


@dataclass
class Pixels(Generic[_T]):
    """An image, or a batch of images, as the engines take it.

    Attributes:
        levels: A uint8 array ``[N, H, W]``, ``[N, H, W, 3]``, or from Pillow ``[N, H, W, 4]`` with padding after red,
            green and blue, C-contiguous; or a tensor ``[N, C, H, W]``. N is 1 for a single image. Never written to.
        is_batch: Whether a batch was given.
        restore: Turns an array or tensor of this shape into the type, dtype, shape and device that were given.
        copy: Makes a copy of what was given, floating-point values unrounded.
    """

    levels: Any
    is_batch: bool
    restore: Callable[[Any], _T]
    copy: Callable[[], _T]

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        start = 2 if isinstance(self.levels, torch.Tensor) else 1
        return self.levels.shape[start], self.levels.shape[start + 1]


def as_pixels(img: _T, *, on_device: bool = False) -> Pixels[_T]:
    """Takes an image of any accepted type.

    Args:
        img: A PIL image of mode ``RGB`` or ``L``; a uint8 array ``[H, W]``, ``[H, W, 1]`` or ``[H, W, 3]``; a tensor
            ``[C, H, W]`` or ``[N, C, H, W]`` with C of 1 or 3, uint8, or floating-point in [0, 1], which is rounded to
            the nearest of 256 levels; or one of a subclass that `clone` keeps, such as ``tv_tensors.Image``.
        on_device: Whether the levels of a tensor are to be a tensor on its device, rather than an array.

    Returns:
        The pixels, with the way back.

    Raises:
        TypeError: If the type, layout or dtype is none of these.
        ValueError: If mode, shape or values are none of these.
    """
    if isinstance(img, Image.Image):
        return _from_pil(img)
    if isinstance(img, np.ndarray):
        return _from_array(img)
    if isinstance(img, torch.Tensor) and (
        isinstance(img, tv_tensors.Image) or not isinstance(img, tv_tensors.TVTensor)
    ):
        return _from_tensor(img, on_device)
    raise _error(TypeError, type(img).__name__, _remedy_for_type(img))


def _error(kind: type[Exception], given: str, remedy: str) -> Exception:
    unsupported = _UnsupportedTypeError if kind is TypeError else _UnsupportedValueError
    return unsupported(f"Expected argument `img` to be {_PERMITTED}; got {given}: {remedy}.")


def _remedy_for_type(img: Any) -> str:
    if isinstance(img, tv_tensors.Video):
        return "pass its frames as a batch of images, `tv_tensors.Image(img)`"
    if isinstance(img, tv_tensors.TVTensor):
        return "pass the image alone, or, if it is an image, convert it with `tv_tensors.Image(img)`"
    if isinstance(img, str | os.PathLike):
        return "open the file first, with `PIL.Image.open(img)`"
    if isinstance(img, bytes):
        return "decode it first, with `PIL.Image.open(io.BytesIO(img))`"
    if isinstance(img, list | tuple) or hasattr(img, "__array__"):
        return "convert it first, with `numpy.asarray(img, numpy.uint8)` if it is one image with levels in [0, 255]"
    return "pass an image, where the sample has one"


def _error_of_channels(given: str, channels: int, rest: str = "") -> Exception:
    if channels == 4:
        remedy = f"`img[..., :3{rest}]` leaves out the fourth of RGBA"
    else:
        remedy = f"select some, for instance `img[..., :{3 if channels > 3 else 1}{rest}]`"
    return _error(ValueError, given, f"AugMix takes 1 or 3 channels, not {channels}: {remedy}")


def _from_pil(img: Image.Image) -> Pixels[Any]:
    if img.mode not in ("RGB", "L"):
        remedy = "convert it with `img.convert('RGB')`"
        if img.mode[0] in "IF":
            remedy = TO_EIGHT_BITS
        raise _error(ValueError, f"a PIL image of mode {img.mode}", remedy)
    if 0 in img.size:
        raise _error(ValueError, f"an empty PIL image of size {img.size}", "remove empty images from the data")
    if img.mode == "L":
        return Pixels(np.asarray(img)[None], False, lambda array: _like(img, Image.fromarray(array[0])), img.copy)
    # Pillow's own layout, to which and from which it copies several times as fast as to `[H, W, 3]`.
    array = np.frombuffer(img.tobytes("raw", "RGBX"), np.uint8).reshape(1, *img.size[::-1], 4)
    return Pixels(array, False, lambda augmented: _like(img, _rgb_image(augmented, img.size)), img.copy)


def _like(img: Image.Image, augmented: Image.Image) -> Image.Image:
    augmented.info = img.info.copy()
    return augmented


def _rgb_image(pixels: NDArray[np.uint8], size: tuple[int, int]) -> Image.Image:
    # What Image.frombytes does, less filling the new image with black.
    image = Image.new("RGB", size, None)
    image.frombytes(pixels, "raw", "RGBX")
    return image


def _from_array(img: NDArray[Any]) -> Pixels[Any]:
    if isinstance(img, np.ma.MaskedArray | np.matrix):  # what they are would be lost
        remedy = "fill it, with `img.filled(0)`" if isinstance(img, np.ma.MaskedArray) else "use `numpy.asarray(img)`"
        raise _error(TypeError, f"a numpy {type(img).__name__}", remedy)
    if img.dtype != np.uint8:
        remedy = "convert it, for values in [0, 1] with `(255 * img).round().astype('uint8')`"
        raise _error(TypeError, f"an array of dtype {img.dtype}", remedy)
    if img.ndim not in (2, 3) or (img.ndim == 3 and img.shape[2] not in (1, 3)) or img.size == 0:
        raise _error_of_array(img)
    squeezed = img[..., 0] if img.ndim == 3 and img.shape[2] == 1 else img
    return Pixels(np.ascontiguousarray(squeezed)[None], False, lambda array: array[0].reshape(img.shape), img.copy)


def _error_of_array(img: NDArray[Any]) -> Exception:
    given = f"an array of shape {list(img.shape)}"
    if img.ndim not in (2, 3):
        return _error(ValueError, given, "arrays are single images with channels last, and batches are tensors")
    if img.size == 0:
        return _error(ValueError, given, "remove empty images from the data")
    if img.shape[0] in (1, 3):
        return _error(ValueError, given, "channels come last in arrays (`img.transpose(1, 2, 0)`)")
    return _error_of_channels(given, img.shape[2])


def _from_tensor(img: torch.Tensor, on_device: bool) -> Pixels[Any]:
    if img.layout is not torch.strided:
        raise _error(TypeError, "a sparse tensor", "use `img.to_dense()`")
    if img.is_meta:
        raise _error(TypeError, "a meta tensor", "it has no values")
    plain = img.as_subclass(torch.Tensor).detach()
    if plain.ndim not in (3, 4) or plain.shape[-3] not in (1, 3) or 0 in plain.shape[-2:]:
        raise _error_of_tensor(plain)
    if type(img) not in (torch.Tensor, tv_tensors.Image) and type(twin := img.detach().clone()) is not type(img):
        given = f"a {type(img).__name__}, whose `clone()` is a {type(twin).__name__}"
        raise _error(TypeError, given, "convert it with `img.detach().as_subclass(torch.Tensor)`")
    levels = _levels(plain)
    batch = levels if plain.ndim == 4 else levels[None]

    def restore(augmented: torch.Tensor) -> torch.Tensor:
        levels = augmented if plain.ndim == 4 else augmented[0]
        if plain.is_floating_point():
            levels = levels.to(torch.promote_types(plain.dtype, torch.float32)).div_(255)
        result = torch.empty_like(plain).copy_(levels)  # of the same memory format
        if type(img) is torch.Tensor:
            return result
        # A copy of the image has its type and all that it carries, whatever that may be.
        twin = copy()
        twin.as_subclass(torch.Tensor).copy_(result)
        return twin

    def copy() -> torch.Tensor:
        return img.detach().clone()

    if on_device:
        return Pixels(batch, plain.ndim == 4, restore, copy)
    array = np.ascontiguousarray(batch.cpu().permute(0, 2, 3, 1).numpy())

    def restore_array(augmented: NDArray[np.uint8]) -> torch.Tensor:
        return restore(torch.from_numpy(augmented.reshape(array.shape)).permute(0, 3, 1, 2).to(plain.device))

    return Pixels(array[..., 0] if array.shape[3] == 1 else array, plain.ndim == 4, restore_array, copy)


def _error_of_tensor(img: torch.Tensor) -> Exception:
    given = f"a tensor of shape {list(img.shape)}"
    if img.ndim not in (3, 4):
        return _error(ValueError, given, "channels come first in tensors (`img[None]` for one channel)")
    if 0 in img.shape[-3:]:
        return _error(ValueError, given, "remove empty images from the data")
    if img.shape[-1] in (1, 3) and img.shape[-1] < min(img.shape[-3:-1]):
        order = "2, 0, 1" if img.ndim == 3 else "0, 3, 1, 2"
        return _error(ValueError, given, f"channels come first in tensors (`img.permute({order})`)")
    return _error_of_channels(given, img.shape[-3], ", :, :")


def _levels(img: torch.Tensor) -> torch.Tensor:
    if img.dtype == torch.uint8:
        return img
    if img.is_floating_point() and img.dtype.itemsize == 1:
        raise _error(TypeError, f"a tensor of dtype {img.dtype}", "convert it with `img.float()`")
    if not img.is_floating_point():
        remedy = "convert it with `torchvision.transforms.v2.ToDtype(torch.uint8, scale=True)`"
        raise _error(TypeError, f"a tensor of dtype {img.dtype}", remedy)
    if img.numel() == 0:
        return img.to(torch.uint8)
    low, high = (float(bound) for bound in img.aminmax())
    if np.isnan(low) or np.isnan(high):
        raise _error(ValueError, "a tensor with NaN values", "look for the step before AugMix that makes them")
    # Resizing and blurring overshoot by rounding: what is within half a level of the range is of the last level.
    if low < -_HALF_A_LEVEL or high > 1 + _HALF_A_LEVEL:
        remedy = (
            "it was probably normalised, and AugMix belongs before `Normalize`, best before the image becomes floating-"
            "point at all; levels in [0, 255] are passed as uint8"
        )
        raise _error(ValueError, f"a floating-point tensor with values in [{low:.7g}, {high:.7g}]", remedy)
    return img.to(torch.promote_types(img.dtype, torch.float32)).mul(255).round_().clamp_(0, 255).to(torch.uint8)


_HALF_A_LEVEL = 0.5 / 255


def may_be_image(entry: Any) -> bool:
    """Whether type, shape and dtype are those of an image, rather than of a label or an index.

    Args:
        entry: An entry of a sample.
    """
    if isinstance(entry, Image.Image | tv_tensors.Image):
        return True
    if not isinstance(entry, torch.Tensor | np.ndarray) or isinstance(entry, tv_tensors.TVTensor):
        return False
    if isinstance(entry, np.ndarray):
        return entry.dtype == np.uint8 and entry.ndim in (2, 3)
    return entry.ndim in (3, 4) and (entry.dtype == torch.uint8 or entry.is_floating_point())
