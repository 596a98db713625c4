"""Compiled operations that move pixels, with the same bytes as Pillow's bilinear affine transform.

Pillow computes ``p + (q − p)·fraction`` in double precision and truncates. These kernels use faster formulas, and
Pillow's own where they cannot be certain of the same bytes.

Pixels are uint32, red in the lowest byte; the fourth byte is padding.
"""

import math

import numpy as np
from numpy.typing import NDArray

from lightning_augmix.kernels.fractions import UNCERTAIN, between, between_each, sixteenth_bits
from lightning_augmix.kernels.jit import compiled

__all__ = ["LARGEST_ANGLE", "rotate", "rotation", "shear_x", "shear_y", "translate"]

_u8, _i16, _i32, _u32, _u64, _f32, _f64 = np.uint8, np.int16, np.int32, np.uint32, np.uint64, np.float32, np.float64

LARGEST_ANGLE = 30  # degrees


def rotation(degrees: float) -> tuple[float, float]:
    """Cosine and sine as in Image.rotate; not compiled, because that may differ in the last digit.

    Args:
        degrees: The angle, counterclockwise.
    """
    angle = -math.radians(degrees % 360.0)
    return round(math.cos(angle), 15), round(math.sin(angle), 15)


_ROTATIONS = np.array([rotation(angle) for angle in range(-LARGEST_ANGLE, LARGEST_ANGLE + 1)])
_MARGIN = 1 << 10  # 255 times an error of 4 / 2³²: enough for sides up to 2²² pixels


@compiled
def _copy(image: NDArray[np.uint32], out: NDArray[np.uint32]) -> None:
    for i in range(out.size):
        out[i] = image[i]


@compiled
def _clear(out: NDArray[np.uint32]) -> None:
    for i in range(out.size):
        out[i] = _u32(0)


@compiled
def translate(image: NDArray[np.uint32], width: int, right: int, down: int, out: NDArray[np.uint32]) -> None:
    """Takes each pixel from ``right`` columns to the right and ``down`` rows below; 0 outside the image."""
    height = image.size // width
    top, bottom = max(0, -down), min(height, height - down)
    left, end = max(0, -right), min(width, width - right)
    if top >= bottom or left >= end:
        _clear(out)
        return
    # First copy as if each row continued in the next, then clear the borders.
    first, last, distance = top * width + left, (bottom - 1) * width + end, down * width + right
    _clear(out[:first])
    _copy(image[first + distance : last + distance], out[first:last])
    _clear(out[last:])
    if right != 0:
        for y in range(top, bottom):
            _clear(out[y * width : y * width + left])
            _clear(out[y * width + end : (y + 1) * width])


@compiled
def _inside(shift: float, size: int) -> tuple[int, int]:
    """The half-open range of positions in a row or column whose source lies inside the image."""
    first = min(max(math.floor(-shift) - 1, 0), size)
    last = max(min(math.ceil(size - shift) + 1, size), first)
    while first < last and shift + (first + 0.5) < 0.0:
        first += 1
    while last > first and shift + (last - 0.5) >= size:
        last -= 1
    return first, last


@compiled
def _pixel_at(image: NDArray[np.uint32], width: int, height: int, x: float, y: float) -> int:
    """Interpolates as Pillow does, at a position relative to the centre of the first pixel."""
    left, top = math.floor(x), math.floor(y)
    right, bottom = min(left + 1, width - 1), min(top + 1, height - 1)
    across, down = x - left, y - top
    left, top = max(left, 0), max(top, 0)
    p, q = image[top * width + left], image[top * width + right]
    r, s = image[bottom * width + left], image[bottom * width + right]
    pixel = _u32(0)
    for shift in (_u32(0), _u32(8), _u32(16)):
        a, b = _f64((p >> shift) & _u32(255)), _f64((q >> shift) & _u32(255))
        c, d = _f64((r >> shift) & _u32(255)), _f64((s >> shift) & _u32(255))
        upper, lower = a + (b - a) * across, c + (d - c) * across
        pixel |= _u32(_i32(upper + (lower - upper) * down)) << shift
    return _u32(pixel)


@compiled
def shear_x(image: NDArray[np.uint32], width: int, factor: float, out: NDArray[np.uint32]) -> None:
    """Takes row y from ``factor · y`` columns to the right: one fraction per row."""
    levels, out_levels = image.view(_u8), out.view(_u8)
    height = image.size // width
    for y in range(height):
        start = y * width
        shift = factor * (y + 0.5)
        whole = math.floor(shift)
        bits = sixteenth_bits(shift - whole, _MARGIN)
        first, last = _inside(shift, width)
        out[start : start + first] = 0
        out[start + last : start + width] = 0
        if bits == UNCERTAIN:
            for x in range(first, last):
                out[start + x] = _pixel_at(image, width, height, (x + 0.5) + shift - 0.5, y)
            continue
        # At the borders both neighbours are the same pixel.
        if first < last and first + whole < 0:
            out[start + first] = image[start]
            first += 1
        if first < last and last - 1 + whole >= width - 1:
            last -= 1
            out[start + last] = image[start + width - 1]
        if first < last:
            a, b = 4 * (start + first + whole), 4 * (start + last + whole)
            between(levels[a:b], levels[a + 4 : b + 4], bits, out_levels[4 * (start + first) : 4 * (start + last)])


@compiled
def _places_below(y: int, wholes: NDArray[np.int32], bottom: int, places: NDArray[np.int32]) -> None:
    """The index of the pixel ``wholes[x]`` rows below row y in each column x, clamped to the image."""
    bottom, width = _i32(bottom), _i32(places.size)
    for x in range(places.size):
        row = _i32(min(max(_i32(_i32(y) + wholes[x]), _i32(0)), bottom))
        places[x] = _i32(_i32(row * width) + _i32(x))


@compiled
def _gather(image: NDArray[np.uint32], places: NDArray[np.int32], out: NDArray[np.uint32]) -> None:
    """Separate, because only the computation of the places is vectorised."""
    for i in range(out.size):
        out[i] = image[_u32(places[i])]


@compiled
def _clear_outside(row: NDArray[np.uint32], y: int, firsts: NDArray[np.int32], lasts: NDArray[np.int32]) -> None:
    y = _i32(y)
    for x in range(row.size):
        row[x] = row[x] if firsts[x] <= y and y < lasts[x] else _u32(0)


@compiled
def shear_y(image: NDArray[np.uint32], width: int, factor: float, out: NDArray[np.uint32]) -> None:
    """Takes column x from ``factor · x`` rows below: one fraction per column."""
    height = image.size // width
    wholes, firsts, lasts = np.empty(width, _i32), np.empty(width, _i32), np.empty(width, _i32)
    factors = np.empty(4 * width, _i16)
    is_certain = np.empty(width, np.bool_)
    for x in range(width):
        shift = factor * (x + 0.5)
        wholes[x] = math.floor(shift)
        firsts[x], lasts[x] = _inside(shift, height)
        bits = sixteenth_bits(shift - math.floor(shift), _MARGIN)
        is_certain[x] = bits != UNCERTAIN
        factors[4 * x : 4 * x + 4] = _i16(bits)
    first, last = firsts.max(), lasts.min()
    above, below = np.empty(width, _u32), np.empty(width, _u32)
    places = np.empty(width, _i32)
    _places_below(0, wholes, height - 1, places)
    _gather(image, places, above)
    for y in range(height):
        row = out[y * width : (y + 1) * width]
        # The lower neighbours of one row are the upper ones of the next.
        _places_below(y + 1, wholes, height - 1, places)
        _gather(image, places, below)
        between_each(above.view(_u8), below.view(_u8), factors, row.view(_u8))
        if not first <= y < last:
            _clear_outside(row, y, firsts, lasts)
        above, below = below, above
    for x in range(width):
        if not is_certain[x]:
            for y in range(firsts[x], lasts[x]):
                out[y * width + x] = _pixel_at(image, width, height, x, factor * (x + 0.5) + (y + 0.5) - 0.5)


# Positions as 64-bit fixed-point numbers. Over 2¹⁶ steps, each rounded by up to 2⁻⁴¹, they drift by less than 2⁻²⁴.
# The interpolation uses 24 bits of their fractions.
_FRACTION_BITS = 40
_ONE = 1 << _FRACTION_BITS
_FRACTION = (1 << 24) - 1
_BLOCK = 32  # columns


@compiled
def _places(
    x: int,
    y: int,
    step_x: int,
    step_y: int,
    width: int,
    height: int,
    places: NDArray[np.int32],
    across: NDArray[np.float32],
    down: NDArray[np.float32],
    doubts: NDArray[np.uint32],
) -> None:
    """Computes where the pixels of a row come from: the upper left neighbours, and the fractions to the others.

    Positions beyond the centres of the outermost pixels are clamped to the nearest cell. ``doubts`` marks positions
    that rounding may have moved into a neighbouring cell.
    """
    highest_x, highest_y = width * _ONE - _ONE - 1, height * _ONE - _ONE - 1
    for i in range(places.size):
        place_x, place_y = x + i * step_x, y + i * step_y
        near_x = _i32(_i32((place_x >> 16) + 8) & _i32(_FRACTION)) < 16
        near_y = _i32(_i32((place_y >> 16) + 8) & _i32(_FRACTION)) < 16
        doubts[i] = _u32(near_x | near_y)
        place_x, place_y = min(max(place_x, 0), highest_x), min(max(place_y, 0), highest_y)
        left, top = _i32(place_x >> _FRACTION_BITS), _i32(place_y >> _FRACTION_BITS)
        places[i] = _i32(_i32(top * _i32(width)) + left)
        across[i] = _f32(_i32((place_x >> 16) & _FRACTION)) * _f32(2.0**-24)
        down[i] = _f32(_i32((place_y >> 16) & _FRACTION)) * _f32(2.0**-24)


@compiled
def _gather_pairs(image: NDArray[np.uint32], places: NDArray[np.int32], out: NDArray[np.uint64]) -> None:
    """Loads two neighbours in a row as 64 bits, the left one in the lower half."""
    for i in range(out.size):
        place = _u32(places[i])
        out[i] = _u64(image[place]) | (_u64(image[place + 1]) << _u64(32))


# Interpolated levels are added to 1024, so that 13 bits of their fractions are the lowest bits of the sum. Its error
# is below 1.25 · 2⁻¹³: 255 times two positions that are off by 1.5 · 2⁻²⁴, six roundings by 2⁻¹⁷, and one by 2⁻¹⁴.
_SHIFTED, _LOWEST = _f32(1024.0), _u32((1 << 13) - 1)


@compiled
def _level_of(p: int, q: int, r: int, s: int, shift: int, across: float, down: float) -> int:
    mask = _u32(255)
    upper, lower = _f32(_i32((p >> shift) & mask)), _f32(_i32((r >> shift) & mask))
    upper = upper + (_f32(_i32((q >> shift) & mask)) - upper) * across
    lower = lower + (_f32(_i32((s >> shift) & mask)) - lower) * across
    return _f32(_SHIFTED + (upper + (lower - upper) * down)).view(_u32)


@compiled
def _is_doubtful(level: int) -> bool:
    return _u32(_u32(level + _u32(2)) & _LOWEST) < _u32(4)


@compiled
def _interpolate(
    uppers: NDArray[np.uint32],
    lowers: NDArray[np.uint32],
    across: NDArray[np.float32],
    down: NDArray[np.float32],
    out: NDArray[np.uint32],
    doubts: NDArray[np.uint32],
) -> int:
    """Interpolates between pairs in float32, and marks in ``doubts`` where that may be off by one.

    Returns:
        Nonzero if there is any doubt.
    """
    any_doubt = _u32(0)
    for i in range(out.size):
        a, b, c, d = uppers[2 * i], uppers[2 * i + 1], lowers[2 * i], lowers[2 * i + 1]
        x, y = across[i], down[i]
        red = _level_of(a, b, c, d, _u32(0), x, y)
        green = _level_of(a, b, c, d, _u32(8), x, y)
        blue = _level_of(a, b, c, d, _u32(16), x, y)
        out[i] = (
            (_u32(red >> _u32(13)) & _u32(255))
            | (_u32(green >> _u32(5)) & _u32(0xFF00))
            | (_u32(blue << _u32(3)) & _u32(0xFF0000))
        )
        differs = _u32((a ^ b) | (a ^ c) | (a ^ d))  # between equal levels, the result is exact
        doubt = _u32(doubts[i] | ((differs & _u32(255)) if _is_doubtful(red) else _u32(0)))
        doubt |= (differs & _u32(0xFF00)) if _is_doubtful(green) else _u32(0)
        doubt |= (differs & _u32(0xFF0000)) if _is_doubtful(blue) else _u32(0)
        doubts[i] = doubt
        any_doubt = _u32(any_doubt | doubt)
    return any_doubt


@compiled
def _any(doubts: NDArray[np.uint32]) -> bool:
    any_doubt = _u32(0)
    for i in range(doubts.size):
        any_doubt = _u32(any_doubt | doubts[i])
    return any_doubt != 0


@compiled
def _source(matrix: tuple[float, float, float, float], x: int, y: int) -> tuple[float, float]:
    """The position from which Pillow takes a pixel, relative to the corner of the image."""
    cosine, sine, offset_x, offset_y = matrix
    return (cosine * (x + 0.5) + sine * (y + 0.5)) + offset_x, (-sine * (x + 0.5) + cosine * (y + 0.5)) + offset_y


@compiled
def _columns_inside(matrix: tuple[float, float, float, float], width: int, height: int, y: int) -> tuple[int, int]:
    """The half-open range of columns in a row whose source lies inside the image."""
    cosine, sine = matrix[0], matrix[1]
    x, z = _source(matrix, 0, y)
    edge, other = z / sine, (z - height) / sine
    lowest, highest = max(-x / cosine, min(edge, other)), min((width - x) / cosine, max(edge, other))
    first = min(max(math.floor(lowest) - 1, 0), width)
    last = min(max(math.ceil(highest) + 2, first), width)
    while first < last:
        x, z = _source(matrix, first, y)
        if 0.0 <= x < width and 0.0 <= z < height:
            break
        first += 1
    while first < last:
        x, z = _source(matrix, last - 1, y)
        if 0.0 <= x < width and 0.0 <= z < height:
            break
        last -= 1
    return first, last


@compiled
def rotate(image: NDArray[np.uint32], width: int, degrees: int, out: NDArray[np.uint32]) -> None:
    """Rotates around the centre, counterclockwise, by whole degrees other than 0."""
    height = image.size // width
    cosine, sine = _ROTATIONS[degrees + LARGEST_ANGLE, 0], _ROTATIONS[degrees + LARGEST_ANGLE, 1]
    offset_x = (cosine * (-width / 2) + sine * (-height / 2)) + width / 2
    offset_y = (-sine * (-width / 2) + cosine * (-height / 2)) + height / 2
    matrix = (cosine, sine, offset_x, offset_y)
    step_x, step_y = math.floor(cosine * _ONE + 0.5), math.floor(-sine * _ONE + 0.5)
    places, doubts = np.empty(width, _i32), np.empty(width, _u32)
    fractions, pairs = np.empty((2, width), _f32), np.empty((2, width), _u64)
    halves = pairs.view(_u32)
    for y in range(height):
        row = out[y * width : (y + 1) * width]
        first, last = _columns_inside(matrix, width, height, y)
        # Whole blocks: columns that do not fill a vector register are slow.
        start, stop = first // _BLOCK * _BLOCK, min((last + _BLOCK - 1) // _BLOCK * _BLOCK, width)
        n = stop - start
        if width > 1 and height > 1:
            x, z = _source(matrix, start, y)
            fixed_x, fixed_y = math.floor((x - 0.5) * _ONE), math.floor((z - 0.5) * _ONE)
            across, down = fractions[0, :n], fractions[1, :n]
            _places(fixed_x, fixed_y, step_x, step_y, width, height, places[:n], across, down, doubts[:n])
            _gather_pairs(image, places[:n], pairs[0, :n])
            _gather_pairs(image[width:], places[:n], pairs[1, :n])
            any_doubt = _interpolate(halves[0, : 2 * n], halves[1, : 2 * n], across, down, row[start:stop], doubts[:n])
        else:
            doubts[:n] = 1
            any_doubt = 1
        _clear(row[:first])
        _clear(row[last:])
        if any_doubt == 0:
            continue
        for block in range(start, stop, _BLOCK):
            if _any(doubts[block - start : block - start + _BLOCK]):
                for column in range(max(block, first), min(block + _BLOCK, last)):
                    if doubts[column - start] != 0:
                        x, z = _source(matrix, column, y)
                        row[column] = _pixel_at(image, width, height, x - 0.5, z - 0.5)
