"""Compiled look-ups: what a conversion makes of each level of each channel, for whole images."""

import numpy as np
from numpy.typing import NDArray

from lightning_augmix.kernels.jit import compiled

__all__ = ["look_up_channel", "look_up_pixels"]

_u32 = np.uint32


@compiled
def look_up_pixels(pixels: NDArray[np.uint32], table: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    """Looks up the three lowest bytes of each pixel, and so separates the channels.

    Args:
        pixels: uint32 ``[P]``, red in the lowest byte.
        table: float32 ``[3, 256]``.
        out: float32 ``[3, P]``.
    """
    red, green, blue = table[0], table[1], table[2]
    reds, greens, blues = out[0], out[1], out[2]
    for i in range(pixels.size):
        pixel = pixels[i]
        reds[i] = red[pixel & _u32(255)]
        greens[i] = green[(pixel >> _u32(8)) & _u32(255)]
        blues[i] = blue[(pixel >> _u32(16)) & _u32(255)]


@compiled
def look_up_channel(levels: NDArray[np.uint8], table: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    """Looks up the levels of one channel.

    Args:
        levels: uint8 ``[P]``.
        table: float32 ``[256]``.
        out: float32 ``[P]``.
    """
    for i in range(levels.size):
        out[i] = table[levels[i]]
