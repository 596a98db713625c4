"""Compiled operations that move no pixels, with the same bytes as Pillow.

Pixels are uint32, red in the lowest byte; the fourth byte is padding. Kernels that treat all bytes alike take uint8.
Numba widens integers to 64 bits; casting back to 32 lets LLVM use whole vector registers.
"""

import math

import numpy as np
from numpy.typing import NDArray

from lightning_augmix.kernels.fractions import UNCERTAIN, blend, sixteenth_bits
from lightning_augmix.kernels.jit import compiled
from lightning_augmix.kernels.permute import look_up_blocks

__all__ = [
    "autocontrast_table",
    "blend_with_constant",
    "blend_with_luma",
    "equalize_table",
    "luma_sum",
    "map_channels",
    "posterize",
    "sharpen",
    "solarize",
]

_u8, _i16, _i32, _u32, _f32 = np.uint8, np.int16, np.int32, np.uint32, np.float32
_EVERY_LEVEL = np.arange(256, dtype=np.uint8)


@compiled
def posterize(image: NDArray[np.uint8], bits: int, out: NDArray[np.uint8]) -> None:
    """Keeps the highest bits of every level."""
    mask = _u8(256 - (1 << (8 - bits)))
    for i in range(out.size):
        out[i] = image[i] & mask


@compiled
def solarize(image: NDArray[np.uint8], threshold: int, out: NDArray[np.uint8]) -> None:
    """Inverts the levels at or above a threshold, which is from 0 to 255."""
    threshold = _u8(threshold)
    for i in range(out.size):
        level = image[i]
        out[i] = level if level < threshold else level ^ _u8(255)


# Pillow computes ``level + factor · (image − level)`` in float32. Where that is not clipped, the product is within 255,
# and both roundings together are within 2⁻¹⁶; 256 more for the fraction, cut off after 32 bits.
_MARGIN = (1 << 16) + 256
_BLOCK = 4096  # bytes, so that what is computed on the way stays in the L1 cache


@compiled
def _blend_in_float(
    image: NDArray[np.uint8], degenerate: NDArray[np.uint8], factor: float, out: NDArray[np.uint8]
) -> None:
    for i in range(out.size):
        level = _f32(degenerate[i])
        level += factor * (_f32(image[i]) - level)
        out[i] = _u8(_i32(max(min(level, _f32(255.0)), _f32(0.0))))


@compiled
def _bits(factor: float) -> int:
    """The fractional part of a factor of a blend as a factor of 16 bits, or ``UNCERTAIN``."""
    return sixteenth_bits(factor - math.floor(factor), _MARGIN) if 0.0 <= factor < 2.0 else UNCERTAIN


@compiled
def _blend(
    image: NDArray[np.uint8], degenerate: NDArray[np.uint8], factor: float, bits: int, out: NDArray[np.uint8]
) -> None:
    """Blends with a degenerate image, ``level + factor · (image − level)``, as Pillow rounds and clips it."""
    if bits == UNCERTAIN:
        _blend_in_float(image, degenerate, factor, out)
    else:
        blend(degenerate, image, int(factor), bits, out)


@compiled
def blend_with_constant(image: NDArray[np.uint8], level: int, factor: float, out: NDArray[np.uint8]) -> None:
    """Blends with a level, 0 for brightness or the mean for contrast."""
    bits, degenerate = _bits(factor), np.full(_BLOCK, level, _u8)
    for start in range(0, out.size, _BLOCK):
        stop = min(start + _BLOCK, out.size)
        _blend(image[start:stop], degenerate[: stop - start], factor, bits, out[start:stop])


@compiled
def _luma(pixel: int) -> int:
    red, green, blue = pixel & _u32(255), (pixel >> _u32(8)) & _u32(255), (pixel >> _u32(16)) & _u32(255)
    return _u32((_u32(19595) * red + _u32(38470) * green + _u32(7471) * blue + _u32(32768)) >> _u32(16))


@compiled
def luma_sum(image: NDArray[np.uint32], is_gray: bool) -> int:
    """The sum of the gray levels of all pixels."""
    total = 0
    if is_gray:
        for i in range(image.size):
            total += np.int64(image[i] & _u32(255))
    else:
        for i in range(image.size):
            total += np.int64(_luma(image[i]))
    return total


@compiled
def _lumas(image: NDArray[np.uint32], out: NDArray[np.uint32]) -> None:
    for i in range(out.size):
        out[i] = _u32(_luma(image[i]) * _u32(0x010101))


@compiled
def blend_with_luma(image: NDArray[np.uint32], factor: float, out: NDArray[np.uint32]) -> None:
    """Blends with the gray image."""
    bits, degenerate = _bits(factor), np.empty(_BLOCK // 4, _u32)
    for start in range(0, out.size, degenerate.size):
        stop = min(start + degenerate.size, out.size)
        part, gray = image[start:stop], degenerate[: stop - start]
        _lumas(part, gray)
        _blend(part.view(_u8), gray.view(_u8), factor, bits, out[start:stop].view(_u8))


@compiled
def _sum_rows(
    above: NDArray[np.uint8], row: NDArray[np.uint8], below: NDArray[np.uint8], out: NDArray[np.int16]
) -> None:
    for i in range(out.size):
        out[i] = _i16(_i32(above[i]) + _i32(row[i]) + _i32(below[i]))


@compiled
def _smooth(
    left: NDArray[np.int16],
    middle: NDArray[np.int16],
    right: NDArray[np.int16],
    row: NDArray[np.uint8],
    out: NDArray[np.uint8],
) -> None:
    for i in range(out.size):
        # The filter's sum / 13, rounded: exact in 16-bit integers, because no sum / 13 is half an integer.
        total = _i16(_i16(left[i] + middle[i]) + _i16(right[i] + _i16(_i16(row[i]) << 2) + 6))
        out[i] = _u8(_i16(_i32(_i32(total) * _i32(20165)) >> _i32(18)))


@compiled
def sharpen(image: NDArray[np.uint8], stride: int, factor: float, out: NDArray[np.uint8]) -> None:
    """Blends with the image smoothed by a 3×3 filter; the border stays unchanged.

    Args:
        image: The bytes of the image.
        stride: Bytes in a row.
        factor: Factor of the blend.
        out: The bytes of the result; must not be ``image``.
    """
    if image.size < 3 * stride or stride < 12:
        out[:] = image
        return
    bits, sums, smooth = _bits(factor), np.empty(_BLOCK + 8, _i16), np.empty(_BLOCK, _u8)
    # First filter as if each row continued in the next, then restore the borders.
    begin, end = stride + 4, image.size - stride - 4
    for start in range(begin, end, _BLOCK):
        n = min(_BLOCK, end - start)
        here, a, b = image[start : start + n], start - 4, start + n + 4
        _sum_rows(image[a - stride : b - stride], image[a:b], image[a + stride : b + stride], sums[: n + 8])
        _smooth(sums[:n], sums[4 : n + 4], sums[8 : n + 8], here, smooth[:n])
        _blend(here, smooth[:n], factor, bits, out[start : start + n])
    out[:stride] = image[:stride]
    out[image.size - stride :] = image[image.size - stride :]
    for start in range(stride, image.size, stride):
        out[start - 4 : start + 4] = image[start - 4 : start + 4]


@compiled
def autocontrast_table(image: NDArray[np.uint32], table: NDArray[np.uint8]) -> bool:
    """Fills the three rows of a table with the levels after autocontrast; returns whether any changes."""
    lowest, highest = np.full(1024, 255, _u8), np.zeros(1024, _u8)  # by position, modulo 1024
    levels = image.view(_u8)
    for start in range(0, levels.size, 1024):
        stop = min(start + 1024, levels.size)
        _extremes(levels[start:stop], lowest[: stop - start], highest[: stop - start])
    changes = False
    for channel in range(3):
        low, high = _i32(lowest[channel::4].min()), _i32(highest[channel::4].max())
        if high <= low or (low == 0 and high == 255):
            table[channel, :] = _EVERY_LEVEL
            continue
        changes = True
        scale = 255.0 / (high - low)
        offset = -low * scale
        for level in range(256):
            table[channel, level] = _u8(min(max(int(level * scale + offset), 0), 255))
    return changes


@compiled
def _extremes(levels: NDArray[np.uint8], lowest: NDArray[np.uint8], highest: NDArray[np.uint8]) -> None:
    for i in range(levels.size):
        lowest[i] = min(lowest[i], levels[i])
        highest[i] = max(highest[i], levels[i])


@compiled
def equalize_table(image: NDArray[np.uint32], table: NDArray[np.uint8]) -> bool:
    """Fills the three rows of a table with the levels after equalize; returns whether any changes."""
    # Two histograms per channel, so that neighbours of equal level do not wait for each other.
    counts = np.zeros((6, 256), _i32)
    for i in range(0, image.size - 1, 2):
        pixel, other = image[i], image[i + 1]
        counts[0, pixel & _u32(255)] += 1
        counts[1, (pixel >> _u32(8)) & _u32(255)] += 1
        counts[2, (pixel >> _u32(16)) & _u32(255)] += 1
        counts[3, other & _u32(255)] += 1
        counts[4, (other >> _u32(8)) & _u32(255)] += 1
        counts[5, (other >> _u32(16)) & _u32(255)] += 1
    if image.size % 2:
        pixel = image[image.size - 1]
        counts[0, pixel & _u32(255)] += 1
        counts[1, (pixel >> _u32(8)) & _u32(255)] += 1
        counts[2, (pixel >> _u32(16)) & _u32(255)] += 1
    totals = np.empty(256, _i32)
    changes = False
    for channel in range(3):
        occupied, last = 0, 0
        for level in range(256):
            counts[channel, level] += counts[channel + 3, level]
            if counts[channel, level]:
                occupied, last = occupied + 1, counts[channel, level]
        step = (image.size - last) // 255
        if occupied <= 1 or step == 0:
            table[channel, :] = _EVERY_LEVEL
            continue
        changes = True
        total = step // 2
        for level in range(256):
            totals[level] = total
            total += counts[channel, level]
        # In float64, whose division is vectorised: exact, as the integers are below 2³¹.
        divisor = np.float64(step)
        for level in range(256):
            quotient = _i32(np.float64(totals[level]) / divisor)
            table[channel, level] = _u8(min(quotient, _i32(255)))
    return changes


@compiled
def map_channels(image: NDArray[np.uint32], table: NDArray[np.uint8], out: NDArray[np.uint32]) -> None:
    """Looks up every level in the row of the table for its channel."""
    done = look_up_blocks(image.view(_u8), table.reshape(-1), out.view(_u8)) // 4  # type: ignore[call-arg]
    red, green, blue = table[0], table[1], table[2]
    rest, out_rest = image[done:], out[done:]
    for i in range(out_rest.size):
        pixel = rest[i]
        levels = _u32(red[pixel & _u32(255)]) | (_u32(green[(pixel >> _u32(8)) & _u32(255)]) << _u32(8))
        out_rest[i] = levels | (_u32(blue[(pixel >> _u32(16)) & _u32(255)]) << _u32(16))
