"""Compiled operations that move pixels, with the bytes of Pillow's bilinear affine transform.

Pillow computes ``p + (q − p)·fraction`` in double precision and truncates. These kernels give the same bytes by faster
means, and do as Pillow does where they cannot be certain of that.

Pixels are uint32, red in the lowest byte; the fourth byte is padding.
"""

import math

import numpy as np
from numpy.typing import NDArray

from lightning_augmix.compiled import compiled

__all__ = ["rotate", "shear_x", "shear_y", "translate"]

_u8, _i32, _u32, _f32, _f64 = np.uint8, np.int32, np.uint32, np.float32, np.float64

_LARGEST_ANGLE = 30
# As in Image.rotate. Python's functions, because compiled ones may differ in the last digit.
_ROTATIONS = np.array(
    [
        (round(math.cos(-math.radians(angle % 360.0)), 15), round(math.sin(-math.radians(angle % 360.0)), 15))
        for angle in range(-_LARGEST_ANGLE, _LARGEST_ANGLE + 1)
    ]
)
_UNCERTAIN = -1
_MARGIN = 1e-7


@compiled
def translate(image: NDArray[np.uint32], width: int, right: int, down: int, out: NDArray[np.uint32]) -> None:
    """Takes each pixel from ``right`` columns and ``down`` rows further on, and 0 from outside."""
    height = image.size // width
    first, last = max(0, -right), min(width, width - right)
    for y in range(height):
        row = out[y * width : (y + 1) * width]
        if not 0 <= y + down < height or last <= first:
            row[:] = 0
            continue
        start = (y + down) * width
        row[:first] = 0
        row[first:last] = image[start + first + right : start + last + right]
        row[last:] = 0


@compiled
def _sixteenth_bits(fraction: float) -> int:
    """A factor f with ``floor(d · fraction) = floor(d · f / 2¹⁶)`` for every difference d of two levels.

    floor(d · fraction) changes only where the fraction passes a fraction with a denominator up to 255. Two such
    neighbours are more than 2⁻¹⁶ apart, so that between them there always is an f. The search goes down the
    Stern-Brocot tree.

    Returns:
        f in (0, 2¹⁶), or ``_UNCERTAIN`` where the fraction is such a neighbour, or too close to tell.
    """
    if fraction < _MARGIN or fraction > 1.0 - _MARGIN:
        return _UNCERTAIN
    a, b, c, d = 0, 1, 1, 1
    while b + d <= 255:
        difference = fraction * (b + d) - (a + c)
        if difference > _MARGIN:
            a, b = a + c, b + d
        elif difference < -_MARGIN:
            c, d = a + c, b + d
        else:
            return _UNCERTAIN
    return (a << 16) // b + 1


@compiled
def _between(p: NDArray[np.uint8], q: NDArray[np.uint8], factor: int, out: NDArray[np.uint8]) -> None:
    """Interpolates bytes, with a factor from :func:`_sixteenth_bits`."""
    # Minus 2¹⁶, so that the factor has 16 bits with its sign, and q in place of p makes up for it.
    factor = _i32(factor - 65536)
    for i in range(out.size):
        level = _i32(q[i])
        out[i] = _u8(level + _i32(_i32(_i32(level - _i32(p[i])) * factor) >> _i32(16)))


@compiled
def _between_each(
    p: NDArray[np.uint8], q: NDArray[np.uint8], factors: NDArray[np.int32], out: NDArray[np.uint8]
) -> None:
    """The same with a factor for each byte, 2¹⁶ already subtracted."""
    for i in range(out.size):
        level = _i32(q[i])
        out[i] = _u8(level + _i32(_i32(_i32(level - _i32(p[i])) * factors[i]) >> _i32(16)))


@compiled
def _exactly(p: int, q: int, fraction: float) -> int:
    """Interpolates two pixels as Pillow does."""
    pixel = _u32(0)
    for shift in (_u32(0), _u32(8), _u32(16)):
        first, second = _f64((p >> shift) & _u32(255)), _f64((q >> shift) & _u32(255))
        pixel |= _u32(_i32(first + (second - first) * fraction)) << shift
    return _u32(pixel)


@compiled
def shear_x(image: NDArray[np.uint32], width: int, factor: float, out: NDArray[np.uint32]) -> None:
    """Takes row y from ``factor · y`` columns further on: one fraction for each row."""
    levels, out_levels = image.view(_u8), out.view(_u8)
    for y in range(image.size // width):
        start = y * width
        shift = factor * (y + 0.5)
        whole = math.floor(shift)
        bits = _sixteenth_bits(shift - whole)
        first, last = 0, width
        while first < width and (first + 0.5) + shift < 0.0:
            first += 1
        while last > first and (last - 0.5) + shift >= width:
            last -= 1
        out[start : start + first] = 0
        out[start + last : start + width] = 0
        if bits == _UNCERTAIN:
            for x in range(first, last):
                place = (x + 0.5) + shift - 0.5
                left = math.floor(place)
                p, q = image[start + max(left, 0)], image[start + min(left + 1, width - 1)]
                out[start + x] = _exactly(p, q, place - left)
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
            _between(levels[a:b], levels[a + 4 : b + 4], bits, out_levels[4 * (start + first) : 4 * (start + last)])


@compiled
def _gather(image: NDArray[np.uint32], places: NDArray[np.int32], start: int, out: NDArray[np.uint32]) -> None:
    row = image[start:]
    for i in range(out.size):
        out[i] = row[_u32(places[i])]


@compiled
def shear_y(image: NDArray[np.uint32], width: int, factor: float, out: NDArray[np.uint32]) -> None:
    """Takes column x from ``factor · x`` rows further down: one fraction for each column."""
    height = image.size // width
    wholes, places = np.empty(width, _i32), np.empty(width, _i32)
    factors = np.empty(4 * width, _i32)
    is_certain = np.empty(width, np.bool_)
    lowest, highest = 0, 0
    for x in range(width):
        shift = factor * (x + 0.5)
        whole = math.floor(shift)
        bits = _sixteenth_bits(shift - whole)
        is_certain[x] = bits != _UNCERTAIN
        wholes[x] = whole
        lowest, highest = min(lowest, whole), max(highest, whole)
        factors[4 * x : 4 * x + 4] = bits - 65536
    for x in range(width):
        places[x] = (wholes[x] - lowest) * width + x
    above, below = np.empty(width, _u32), np.empty(width, _u32)
    out_levels = out.view(_u8)
    # Rows whose neighbours, for all columns, lie within the image. The lower neighbours of one row are the upper ones
    # of the next.
    first, last = min(max(0, -lowest), height), max(min(height, height - 1 - highest), 0)
    if first < last:
        _gather(image, places, (first + lowest) * width, above)
    for y in range(first, last):
        _gather(image, places, (y + 1 + lowest) * width, below)
        _between_each(above.view(_u8), below.view(_u8), factors, out_levels[4 * y * width : 4 * (y + 1) * width])
        above, below = below, above
    for x in range(width):
        shift = factor * (x + 0.5)
        for y in range(height):
            if first <= y < last and is_certain[x]:
                continue
            place = shift + (y + 0.5)
            if place < 0.0 or place >= height:
                out[y * width + x] = 0
                continue
            place -= 0.5
            upper = math.floor(place)
            p, q = image[max(upper, 0) * width + x], image[min(upper + 1, height - 1) * width + x]
            out[y * width + x] = _exactly(p, q, place - upper)


@compiled
def _places(
    cosine: float,
    sine: float,
    row_x: float,
    row_y: float,
    offset_x: float,
    offset_y: float,
    first: int,
    width: int,
    height: int,
    upper_left: NDArray[np.int32],
    upper_right: NDArray[np.int32],
    lower_left: NDArray[np.int32],
    lower_right: NDArray[np.int32],
    across: NDArray[np.float32],
    down: NDArray[np.float32],
) -> None:
    """Where the pixels of a row come from: the four neighbours, and the fractions between them."""
    for i in range(across.size):
        x = _f64(first + i) + 0.5
        place_x, place_y = ((cosine * x + row_x) + offset_x) - 0.5, ((-sine * x + row_y) + offset_y) - 0.5
        whole_x, whole_y = np.floor(place_x), np.floor(place_y)
        left, top = _i32(whole_x), _i32(whole_y)
        across[i], down[i] = _f32(place_x - whole_x), _f32(place_y - whole_y)
        right, bottom = min(_i32(left + _i32(1)), _i32(width - 1)), min(_i32(top + _i32(1)), _i32(height - 1))
        left, top = max(left, _i32(0)), max(top, _i32(0))
        upper_left[i], upper_right[i] = _i32(top * _i32(width) + left), _i32(top * _i32(width) + right)
        lower_left[i], lower_right[i] = _i32(bottom * _i32(width) + left), _i32(bottom * _i32(width) + right)


# Interpolation in float32 errs by less than 2⁻¹²: 255 times some roundings of 2⁻²⁴.
_TOLERANCE = np.float32(2.0**-11)


@compiled
def _level_of(p: int, q: int, r: int, s: int, shift: int, across: float, down: float) -> float:
    mask = _u32(255)
    upper, lower = _f32(_i32((p >> shift) & mask)), _f32(_i32((r >> shift) & mask))
    upper = upper + (_f32(_i32((q >> shift) & mask)) - upper) * across
    lower = lower + (_f32(_i32((s >> shift) & mask)) - lower) * across
    return upper + (lower - upper) * down


@compiled
def _interpolate(
    p: NDArray[np.uint32],
    q: NDArray[np.uint32],
    r: NDArray[np.uint32],
    s: NDArray[np.uint32],
    across: NDArray[np.float32],
    down: NDArray[np.float32],
    out: NDArray[np.uint32],
    doubts: NDArray[np.int32],
) -> int:
    """Interpolates a row in float32, and says where it may be off by one."""
    any_doubt = _i32(0)
    one, mask = _i32(1), _u32(255)
    for i in range(out.size):
        a, b, c, d, x, y = p[i], q[i], r[i], s[i], across[i], down[i]
        differs = (a ^ b) | (a ^ c) | (a ^ d)
        red = _level_of(a, b, c, d, _u32(0), x, y)
        green = _level_of(a, b, c, d, _u32(8), x, y)
        blue = _level_of(a, b, c, d, _u32(16), x, y)
        # An integer lies within the tolerance where adding it and subtracting it do not truncate alike.
        up_red, up_green, up_blue = _i32(red + _TOLERANCE), _i32(green + _TOLERANCE), _i32(blue + _TOLERANCE)
        low = _f32(1.0) - _TOLERANCE
        doubt_red = _i32(up_red ^ _i32(_i32(red + low) - one)) if differs & mask else _i32(0)
        doubt_green = _i32(up_green ^ _i32(_i32(green + low) - one)) if differs & _u32(0xFF00) else _i32(0)
        doubt_blue = _i32(up_blue ^ _i32(_i32(blue + low) - one)) if differs & _u32(0xFF0000) else _i32(0)
        doubt = _i32(doubt_red | doubt_green | doubt_blue)
        out[i] = _u32(up_red) | (_u32(up_green) << _u32(8)) | (_u32(up_blue) << _u32(16))
        doubts[i] = doubt
        any_doubt |= doubt
    return any_doubt


@compiled
def _bilinear(p: int, q: int, r: int, s: int, across: float, down: float) -> int:
    """Interpolates four pixels as Pillow does."""
    pixel = _u32(0)
    for shift in (_u32(0), _u32(8), _u32(16)):
        a, b = _f64((p >> shift) & _u32(255)), _f64((q >> shift) & _u32(255))
        c, d = _f64((r >> shift) & _u32(255)), _f64((s >> shift) & _u32(255))
        upper, lower = a + (b - a) * across, c + (d - c) * across
        pixel |= _u32(_i32(upper + (lower - upper) * down)) << shift
    return _u32(pixel)


@compiled
def rotate(image: NDArray[np.uint32], width: int, degrees: int, out: NDArray[np.uint32]) -> None:
    """Rotates around the centre, counterclockwise."""
    height = image.size // width
    cosine, sine = _ROTATIONS[degrees + _LARGEST_ANGLE, 0], _ROTATIONS[degrees + _LARGEST_ANGLE, 1]
    # The matrix is (cosine, sine, offset_x, −sine, cosine, offset_y).
    offset_x = (cosine * (-width / 2) + sine * (-height / 2)) + width / 2
    offset_y = (-sine * (-width / 2) + cosine * (-height / 2)) + height / 2
    places, doubts = np.empty((4, width), _i32), np.empty(width, _i32)
    fractions, neighbours = np.empty((2, width), _f32), np.empty((4, width), _u32)
    for y in range(height):
        row = out[y * width : (y + 1) * width]
        row_x, row_y = sine * (y + 0.5), cosine * (y + 0.5)
        first, last = 0, width
        while first < width:
            x, z = (cosine * (first + 0.5) + row_x) + offset_x, (-sine * (first + 0.5) + row_y) + offset_y
            if 0.0 <= x < width and 0.0 <= z < height:
                break
            row[first] = 0
            first += 1
        while last > first:
            x, z = (cosine * (last - 0.5) + row_x) + offset_x, (-sine * (last - 0.5) + row_y) + offset_y
            if 0.0 <= x < width and 0.0 <= z < height:
                break
            last -= 1
            row[last] = 0
        n = last - first
        if n == 0:
            continue
        inside = row[first:last]
        across, down = fractions[0, :n], fractions[1, :n]
        _places(
            cosine,
            sine,
            row_x,
            row_y,
            offset_x,
            offset_y,
            first,
            width,
            height,
            places[0, :n],
            places[1, :n],
            places[2, :n],
            places[3, :n],
            across,
            down,
        )
        p, q, r, s = neighbours[0, :n], neighbours[1, :n], neighbours[2, :n], neighbours[3, :n]
        _gather(image, places[0, :n], 0, p)
        _gather(image, places[1, :n], 0, q)
        _gather(image, places[2, :n], 0, r)
        _gather(image, places[3, :n], 0, s)
        if _interpolate(p, q, r, s, across, down, inside, doubts[:n]) == 0:
            continue
        for i in range(n):
            if doubts[i] != 0:
                x = (first + i) + 0.5
                place_x, place_y = ((cosine * x + row_x) + offset_x) - 0.5, ((-sine * x + row_y) + offset_y) - 0.5
                exact_x, exact_y = place_x - math.floor(place_x), place_y - math.floor(place_y)
                inside[i] = _bilinear(p[i], q[i], r[i], s[i], exact_x, exact_y)
