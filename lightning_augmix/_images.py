"""Every kind of image AugMix accepts, as uint8 arrays and back."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision import tv_tensors

__all__ = ["Pixels", "as_pixels", "may_be_image"]

_T = TypeVar("_T")

_PERMITTED = (
    "a PIL image of mode RGB or L, a uint8 array [H, W], [H, W, 1] or [H, W, 3], or a tensor [1 or 3, H, W] or "
    "[N, 1 or 3, H, W] of dtype uint8, or of a floating-point dtype with values in [0, 1]"
)


@dataclass
class Pixels(Generic[_T]):
    """An image, or a batch of images, as the engines take it.

    Attributes:
        array: uint8 ``[N, H, W]``, ``[N, H, W, 3]``, or from Pillow ``[N, H, W, 4]`` with padding behind red, green and
            blue; C-contiguous; N is 1 for a single image. Never written to.
        is_batch: Whether a batch was given.
        restore: Turns an array of this shape into the type, dtype, shape and device that were given.
        copy: Makes a copy of what was given, floating-point values unrounded.
    """

    array: NDArray[np.uint8]
    is_batch: bool
    restore: Callable[[NDArray[np.uint8]], _T]
    copy: Callable[[], _T]

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.array.shape[1], self.array.shape[2]


def as_pixels(img: _T) -> Pixels[_T]:
    """Takes an image of any accepted type.

    Args:
        img: A PIL image of mode ``RGB`` or ``L``; a uint8 array ``[H, W]``, ``[H, W, 1]`` or ``[H, W, 3]``; a tensor
            or ``tv_tensors.Image`` ``[C, H, W]`` or ``[N, C, H, W]`` with C of 1 or 3, uint8, or floating-point in
            [0, 1], which is rounded to the nearest of 256 levels.

    Returns:
        The pixels, with the way back.

    Raises:
        TypeError: If the type or dtype is none of these.
        ValueError: If mode, shape or values are none of these.
    """
    if isinstance(img, Image.Image):
        return _from_pil(img)
    if isinstance(img, np.ndarray):
        return _from_array(img)
    if isinstance(img, torch.Tensor) and (type(img) is torch.Tensor or isinstance(img, tv_tensors.Image)):
        return _from_tensor(img)
    raise _error(TypeError, f"{type(img).__name__}", "convert it first, for instance with `PIL.Image.fromarray`")


def _error(kind: type[Exception], given: str, remedy: str) -> Exception:
    return kind(f"Expected argument `img` to be {_PERMITTED}; got {given}: {remedy}.")


def _from_pil(img: Image.Image) -> Pixels[Any]:
    if img.mode not in ("RGB", "L"):
        raise _error(ValueError, f"a PIL image of mode {img.mode}", "convert it with `img.convert('RGB')`")
    if 0 in img.size:
        raise _error(ValueError, f"an empty PIL image of size {img.size}", "remove empty images from the data")
    if img.mode == "L":
        return Pixels(np.asarray(img)[None], False, lambda array: Image.fromarray(array[0]), img.copy)
    # Pillow's own layout, to which and from which it copies several times as fast as to `[H, W, 3]`.
    array = np.frombuffer(img.tobytes("raw", "RGBX"), np.uint8).reshape(1, *img.size[::-1], 4)
    return Pixels(array, False, lambda augmented: _rgb_image(augmented, img.size), img.copy)


def _rgb_image(pixels: NDArray[np.uint8], size: tuple[int, int]) -> Image.Image:
    # What Image.frombytes does, less filling the new image with black.
    image = Image.new("RGB", size, None)
    image.frombytes(pixels, "raw", "RGBX")
    return image


def _from_array(img: NDArray[Any]) -> Pixels[Any]:
    if img.dtype != np.uint8:
        remedy = "convert it, for values in [0, 1] with `(255 * img).round().astype('uint8')`"
        raise _error(TypeError, f"an array of dtype {img.dtype}", remedy)
    if not (img.ndim == 2 or (img.ndim == 3 and img.shape[2] in (1, 3))) or img.size == 0:
        remedy = "channels come last in arrays (`img.transpose(1, 2, 0)`), and batches are tensors"
        raise _error(ValueError, f"an array of shape {list(img.shape)}", remedy)
    squeezed = img[..., 0] if img.ndim == 3 and img.shape[2] == 1 else img
    return Pixels(np.ascontiguousarray(squeezed)[None], False, lambda array: array[0].reshape(img.shape), img.copy)


def _from_tensor(img: torch.Tensor) -> Pixels[Any]:
    if img.ndim not in (3, 4) or img.shape[-3] not in (1, 3) or 0 in img.shape[-2:]:
        remedy = "channels come first in tensors (`img.permute(2, 0, 1)`, `img[None]` for one channel)"
        raise _error(ValueError, f"a tensor of shape {list(img.shape)}", remedy)
    levels = _levels(img.detach()).cpu()
    batch = levels if img.ndim == 4 else levels[None]
    array = np.ascontiguousarray(batch.permute(0, 2, 3, 1).numpy())

    def restore(augmented: NDArray[np.uint8]) -> torch.Tensor:
        channels_last = torch.from_numpy(augmented.reshape(array.shape))
        result = channels_last.permute(0, 3, 1, 2).contiguous().view(img.shape).to(img.device)
        if img.is_floating_point():
            result = result.to(torch.promote_types(img.dtype, torch.float32)).div_(255).to(img.dtype)
        return tv_tensors.wrap(result, like=img) if isinstance(img, tv_tensors.Image) else result

    def copy() -> torch.Tensor:
        result = img.detach().clone()
        return tv_tensors.wrap(result, like=img) if isinstance(img, tv_tensors.Image) else result

    return Pixels(array[..., 0] if array.shape[3] == 1 else array, img.ndim == 4, restore, copy)


def _levels(img: torch.Tensor) -> torch.Tensor:
    img = img.as_subclass(torch.Tensor)
    if img.dtype == torch.uint8:
        return img
    if not img.is_floating_point():
        remedy = "convert it with `torchvision.transforms.v2.ToDtype(torch.uint8, scale=True)`"
        raise _error(TypeError, f"a tensor of dtype {img.dtype}", remedy)
    if img.numel() == 0:
        return img.to(torch.uint8)
    low, high = (float(bound) for bound in img.aminmax())
    if np.isnan(low) or np.isnan(high):
        raise _error(ValueError, "a tensor with NaN values", "look for the step before AugMix that makes them")
    if low < 0 or high > 1:
        remedy = (
            "it was probably normalised, and AugMix belongs before `Normalize`, best before the image becomes floating-"
            "point at all; levels in [0, 255] are passed as uint8"
        )
        raise _error(ValueError, f"a floating-point tensor with values in [{low:.4g}, {high:.4g}]", remedy)
    return img.to(torch.promote_types(img.dtype, torch.float32)).mul(255).round_().to(torch.uint8)


def may_be_image(entry: Any) -> bool:
    """Whether type, shape and dtype are those of an image, rather than of a label or an index.

    Args:
        entry: Anything that stands in a sample.
    """
    if isinstance(entry, Image.Image | tv_tensors.Image):
        return True
    if not isinstance(entry, torch.Tensor | np.ndarray) or isinstance(entry, tv_tensors.TVTensor):
        return False
    if isinstance(entry, np.ndarray):
        return entry.dtype == np.uint8 and entry.ndim in (2, 3)
    return entry.ndim in (3, 4) and (entry.dtype == torch.uint8 or entry.is_floating_point())
