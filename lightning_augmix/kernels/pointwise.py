"""Compiled operations that move no pixels, with the same bytes as Pillow.

Pixels are uint32, red in the lowest byte; the fourth byte is padding. Kernels that treat all bytes alike take uint8.
Numba widens integers to 64 bits; casting back to 32 lets LLVM use whole vector registers.
"""

import numpy as np
from numpy.typing import NDArray

from lightning_augmix.kernels.jit import compiled

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


@compiled
def _level(value: float) -> int:
    """Converts a float32 value as Pillow does: clipped, then truncated."""
    return _i32(max(min(value, _f32(255.0)), _f32(0.0)))


@compiled
def blend_with_constant(image: NDArray[np.uint8], level: int, factor: float, out: NDArray[np.uint8]) -> None:
    """Blends with a level, 0 for brightness or the mean for contrast: ``level + factor · (image − level)``."""
    level = _f32(level)
    for i in range(out.size):
        out[i] = _u8(_level(level + factor * (_f32(image[i]) - level)))


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
def blend_with_luma(image: NDArray[np.uint32], factor: float, out: NDArray[np.uint32]) -> None:
    """Blends with the gray image: ``luma + factor · (image − luma)``."""
    for i in range(out.size):
        pixel = image[i]
        luma = _i32(_luma(pixel))
        level = _f32(luma)
        red = level + factor * _f32(_i32(_i32(pixel & _u32(255)) - luma))
        green = level + factor * _f32(_i32(_i32((pixel >> _u32(8)) & _u32(255)) - luma))
        blue = level + factor * _f32(_i32(_i32((pixel >> _u32(16)) & _u32(255)) - luma))
        out[i] = _u32(_level(red)) | (_u32(_level(green)) << _u32(8)) | (_u32(_level(blue)) << _u32(16))


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
        out[i] = _u8(_i16(_i32(_i32(total) * _i32(20165)) >> _i32(16)) >> _i16(2))


@compiled
def _blend(image: NDArray[np.uint8], degenerate: NDArray[np.uint8], factor: float, out: NDArray[np.uint8]) -> None:
    for i in range(out.size):
        level = _f32(degenerate[i])
        out[i] = _u8(_level(level + factor * (_f32(image[i]) - level)))


_BLOCK = 4096  # bytes, so that the sums stay in the L1 cache


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
    sums, smooth = np.empty(_BLOCK + 8, _i16), np.empty(_BLOCK, _u8)
    # First filter as if each row continued in the next, then restore the borders.
    begin, end = stride + 4, image.size - stride - 4
    for start in range(begin, end, _BLOCK):
        n = min(_BLOCK, end - start)
        here, a, b = image[start : start + n], start - 4, start + n + 4
        _sum_rows(image[a - stride : b - stride], image[a:b], image[a + stride : b + stride], sums[: n + 8])
        _smooth(sums[:n], sums[4 : n + 4], sums[8 : n + 8], here, smooth[:n])
        _blend(here, smooth[:n], factor, out[start : start + n])
    out[:stride] = image[:stride]
    out[image.size - stride :] = image[image.size - stride :]
    for start in range(stride, image.size, stride):
        out[start - 4 : start + 4] = image[start - 4 : start + 4]


@compiled
def autocontrast_table(image: NDArray[np.uint32], table: NDArray[np.uint32]) -> bool:
    """Fills the three rows of a table with the levels after autocontrast; returns whether any changes."""
    low, high = np.full(3, 255, np.int64), np.zeros(3, np.int64)
    _extremes(image, low, high)
    changes = False
    for channel in range(3):
        if high[channel] <= low[channel] or (low[channel] == 0 and high[channel] == 255):
            _fill(table[channel], channel)
            continue
        changes = True
        scale = 255.0 / (high[channel] - low[channel])
        offset = -low[channel] * scale
        for level in range(256):
            table[channel, level] = _u32(min(max(int(level * scale + offset), 0), 255)) << _u32(8 * channel)
    return changes


@compiled
def _extremes(image: NDArray[np.uint32], low: NDArray[np.int64], high: NDArray[np.int64]) -> None:
    r0, g0, b0, r1, g1, b1 = _u32(255), _u32(255), _u32(255), _u32(0), _u32(0), _u32(0)
    for i in range(image.size):
        pixel = image[i]
        red, green, blue = pixel & _u32(255), (pixel >> _u32(8)) & _u32(255), (pixel >> _u32(16)) & _u32(255)
        r0, g0, b0 = min(r0, red), min(g0, green), min(b0, blue)
        r1, g1, b1 = max(r1, red), max(g1, green), max(b1, blue)
    low[0], low[1], low[2] = r0, g0, b0
    high[0], high[1], high[2] = r1, g1, b1


@compiled
def _fill(row: NDArray[np.uint32], channel: int) -> None:
    for level in range(256):
        row[level] = _u32(level) << _u32(8 * channel)


@compiled
def equalize_table(image: NDArray[np.uint32], table: NDArray[np.uint32]) -> bool:
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
            _fill(table[channel], channel)
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
            table[channel, level] = _u32(min(quotient, _i32(255))) << _u32(8 * channel)
    return changes


@compiled
def map_channels(image: NDArray[np.uint32], table: NDArray[np.uint32], out: NDArray[np.uint32]) -> None:
    """Looks up every level in the table of its channel, whose entries are already shifted into place."""
    red, green, blue = table[0], table[1], table[2]
    for i in range(out.size):
        pixel = image[i]
        out[i] = red[pixel & _u32(255)] | green[(pixel >> _u32(8)) & _u32(255)] | blue[(pixel >> _u32(16)) & _u32(255)]
