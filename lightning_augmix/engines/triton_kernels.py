# mypy: ignore-errors
"""Kernels of the engine ``triton``: each program has one tile of the pixels of one row, and so one operation.

A row is one chain of one image. Where it has no operation in a step, its programs write nothing. What has to be
exact is float64, or float32 without division, which Triton rounds otherwise.
"""

import triton
import triton.language as tl

from lightning_augmix.kernels.affine import LARGEST_ANGLE
from lightning_augmix.operations import OPERATIONS

__all__ = ["mix", "operate", "tabulate"]

_CODES = {name: code for code, name in enumerate(OPERATIONS)}
_AUTOCONTRAST, _EQUALIZE, _POSTERIZE, _SOLARIZE = (
    tl.constexpr(_CODES[name]) for name in ("autocontrast", "equalize", "posterize", "solarize")
)
_ROTATE, _SHEAR_X, _SHEAR_Y = (tl.constexpr(_CODES[name]) for name in ("rotate", "shear_x", "shear_y"))
_TRANSLATE_X, _TRANSLATE_Y = tl.constexpr(_CODES["translate_x"]), tl.constexpr(_CODES["translate_y"])
_COLOR, _CONTRAST, _BRIGHTNESS, _SHARPNESS = (
    tl.constexpr(_CODES[name]) for name in ("color", "contrast", "brightness", "sharpness")
)
# The four original enhancements are the four enhancements again, in the same order.
_FIRST_ORIGINAL = tl.constexpr(_CODES["color_original"])
_LARGEST_ANGLE = tl.constexpr(LARGEST_ANGLE)


@triton.jit
def _code(operations, place):
    code = tl.load(operations + place).to(tl.int32)
    return tl.where(code < _FIRST_ORIGINAL, code, code - _FIRST_ORIGINAL + _COLOR)


@triton.jit
def _luma(red, green, blue):
    return (19595 * red + 38470 * green + 7471 * blue + 32768) >> 16


@triton.jit
def _gray(image, offsets, mask, pixels, CHANNELS: tl.constexpr):
    red = tl.load(image + offsets, mask=mask, other=0).to(tl.int32)
    if CHANNELS == 1:
        return red
    green = tl.load(image + pixels + offsets, mask=mask, other=0).to(tl.int32)
    blue = tl.load(image + 2 * pixels + offsets, mask=mask, other=0).to(tl.int32)
    return _luma(red, green, blue)


@triton.jit
def tabulate(
    source, operations, tables, step, depth, rows_per_image, pixels, CHANNELS: tl.constexpr, TILE: tl.constexpr
):
    """Makes the tables of the operations that look at the whole image: new levels, or for contrast the mean."""
    row, channel = tl.program_id(0).to(tl.int64), tl.program_id(1)
    code = _code(operations, row * depth + step)
    if (code == _AUTOCONTRAST) | (code == _EQUALIZE) | (code == _CONTRAST):
        image = source + (row // rows_per_image) * CHANNELS * pixels
        every = tl.arange(0, 256)
        counts = tl.zeros_like(every)
        for start in range(0, pixels, TILE):
            offsets = start + tl.arange(0, TILE)
            mask = offsets < pixels
            if code == _CONTRAST:
                levels = _gray(image, offsets, mask, pixels, CHANNELS)
            else:
                levels = tl.load(image + channel * pixels + offsets, mask=mask, other=0).to(tl.int32)
            counts += tl.histogram(levels, 256)
        beyond = tl.cdiv(pixels, TILE) * TILE - pixels  # which were counted as 0
        counts -= tl.where(every == 0, beyond, 0)
        highest = tl.max(tl.where(counts > 0, every, 0))
        if code == _AUTOCONTRAST:
            lowest = tl.min(tl.where(counts > 0, every, 255))
            scale = 255.0 / tl.maximum(highest - lowest, 1).to(tl.float64)
            stretched = every.to(tl.float64) * scale + (-lowest).to(tl.float64) * scale
            new = tl.where(highest > lowest, tl.minimum(tl.maximum(stretched, 0.0), 255.0).to(tl.int32), every)
        elif code == _EQUALIZE:
            width = (pixels - tl.sum(tl.where(every == highest, counts, 0))) // 255
            before = tl.cumsum(counts) - counts
            equalized = tl.minimum((width // 2 + before) // tl.maximum(width, 1), 255)
            new = tl.where(width > 0, equalized, every)
        else:
            mean = tl.sum(every.to(tl.int64) * counts.to(tl.int64)).to(tl.float64) / pixels
            new = tl.zeros_like(every) + (mean + 0.5).to(tl.int32)
        tl.store(tables + (row * CHANNELS + channel) * 256 + every, new.to(tl.uint8))


@triton.jit
def _blended(degenerate, levels, factor):
    degenerate = degenerate.to(tl.float32)
    blended = degenerate + factor * (levels.to(tl.float32) - degenerate)
    return tl.minimum(tl.maximum(blended, 0.0), 255.0).to(tl.int32)


@triton.jit
def _sum_of_row(plane, y, x, mask, width):
    row = plane + y * width + x
    left, right = tl.load(row - 1, mask=mask, other=0), tl.load(row + 1, mask=mask, other=0)
    return left.to(tl.int32) + tl.load(row, mask=mask, other=0).to(tl.int32) + right.to(tl.int32)


@triton.jit
def operate(
    source,
    operations,
    parameters,
    rotations,
    tables,
    target,
    step,
    depth,
    rows_per_image,
    height,
    width,
    CHANNELS: tl.constexpr,
    TILE: tl.constexpr,
):
    """Applies the operation of a row to a tile of its pixels."""
    row = tl.program_id(0).to(tl.int64)
    code = _code(operations, row * depth + step)
    parameter = tl.load(parameters + row * depth + step)
    factor = parameter.to(tl.float32)
    pixels = height * width
    image, out = source + (row // rows_per_image) * CHANNELS * pixels, target + row * CHANNELS * pixels
    table = tables + row * CHANNELS * 256
    offsets = tl.program_id(1) * TILE + tl.arange(0, TILE)
    mask = (offsets < pixels) & (code >= 0)
    x, y = offsets % width, offsets // width
    if (code >= _ROTATE) & (code <= _TRANSLATE_Y):
        # The rotation by 0 degrees is the identity.
        degrees = tl.where(code == _ROTATE, parameter, 0.0).to(tl.int32)
        matrix = rotations + (degrees + _LARGEST_ANGLE) * 6
        shift = tl.where(code == _ROTATE, 0.0, parameter)
        x_centre, y_centre = x.to(tl.float64) + 0.5, y.to(tl.float64) + 0.5
        a, b = tl.load(matrix), tl.load(matrix + 1) + tl.where(code == _SHEAR_X, shift, 0.0)
        c = tl.load(matrix + 2) + tl.where(code == _TRANSLATE_X, shift, 0.0)
        across = (a * x_centre + b * y_centre) + c
        a, b = tl.load(matrix + 3) + tl.where(code == _SHEAR_Y, shift, 0.0), tl.load(matrix + 4)
        c = tl.load(matrix + 5) + tl.where(code == _TRANSLATE_Y, shift, 0.0)
        down = (a * x_centre + b * y_centre) + c
        is_inside = (across >= 0) & (across < width) & (down >= 0) & (down < height) & mask
        across, down = across - 0.5, down - 0.5
        left, top = tl.floor(across), tl.floor(down)
        across, down = across - left, down - top
        left, top = left.to(tl.int32), top.to(tl.int32)
        right, bottom = tl.minimum(left + 1, width - 1), tl.minimum(top + 1, height - 1)
        left, top = tl.maximum(left, 0), tl.maximum(top, 0)
        for channel in tl.static_range(CHANNELS):
            plane = image + channel * pixels
            p = tl.load(plane + top * width + left, mask=is_inside, other=0).to(tl.float64)
            q = tl.load(plane + top * width + right, mask=is_inside, other=0).to(tl.float64)
            r = tl.load(plane + bottom * width + left, mask=is_inside, other=0).to(tl.float64)
            s = tl.load(plane + bottom * width + right, mask=is_inside, other=0).to(tl.float64)
            upper, lower = p + (q - p) * across, r + (s - r) * across
            new = (upper + (lower - upper) * down).to(tl.int32)
            tl.store(out + channel * pixels + offsets, new.to(tl.uint8), mask=mask)
    elif code == _COLOR:
        gray = _gray(image, offsets, mask, pixels, CHANNELS)
        for channel in tl.static_range(CHANNELS):
            levels = tl.load(image + channel * pixels + offsets, mask=mask, other=0).to(tl.int32)
            tl.store(out + channel * pixels + offsets, _blended(gray, levels, factor).to(tl.uint8), mask=mask)
    else:
        is_border = (x == 0) | (y == 0) | (x == width - 1) | (y == height - 1)
        for channel in tl.static_range(CHANNELS):
            plane = image + channel * pixels
            levels = tl.load(plane + offsets, mask=mask, other=0).to(tl.int32)
            if code == _POSTERIZE:
                shift = 8 - parameter.to(tl.int32)
                new = (levels >> shift) << shift
            elif code == _SOLARIZE:
                new = tl.where(levels >= parameter.to(tl.int32), 255 - levels, levels)
            elif code == _BRIGHTNESS:
                new = _blended(tl.zeros_like(levels), levels, factor)
            elif code == _CONTRAST:
                new = _blended(tl.zeros_like(levels) + tl.load(table).to(tl.int32), levels, factor)
            elif code == _SHARPNESS:
                has_neighbours = mask & (is_border == 0)
                total = _sum_of_row(plane, y - 1, x, has_neighbours, width)
                total += _sum_of_row(plane, y, x, has_neighbours, width)
                total += _sum_of_row(plane, y + 1, x, has_neighbours, width)
                # The filter's sum / 13, rounded, which is never half an integer. The border stays.
                smooth = tl.where(is_border, levels, (total + 4 * levels + 6) // 13)
                new = _blended(smooth, levels, factor)
            else:
                new = tl.load(table + channel * 256 + levels, mask=mask, other=0).to(tl.int32)
            tl.store(out + channel * pixels + offsets, new.to(tl.uint8), mask=mask)


@triton.jit
def mix(
    images,
    states,
    operations,
    weights,
    table,
    out,
    chains,
    depth,
    height,
    width,
    image_stride,
    channel_stride,
    row_stride,
    column_stride,
    CHANNELS: tl.constexpr,
    HAS_TABLE: tl.constexpr,
    TILE: tl.constexpr,
):
    """Computes what ``pillow_engine.mix`` does, in its order, and then what a table makes of each level."""
    image, channel = tl.program_id(0).to(tl.int64) // CHANNELS, tl.program_id(0) % CHANNELS
    pixels = height * width
    offsets = tl.program_id(1) * TILE + tl.arange(0, TILE)
    mask = offsets < pixels
    levels = tl.load(images + (image * CHANNELS + channel) * pixels + offsets, mask=mask, other=0).to(tl.float32)
    mixed = tl.zeros_like(levels)
    rows = (tl.num_programs(0) // CHANNELS).to(tl.int64) * chains
    for chain in range(chains):
        row = image * chains + chain
        length = 0
        for step in range(depth):
            length += (tl.load(operations + row * depth + step) >= 0).to(tl.int32)
        buffer = states + ((length + 1) % 2) * rows * CHANNELS * pixels  # written to in the last step
        place = (row * CHANNELS + channel) * pixels + offsets
        end = tl.load(buffer + place, mask=mask & (length > 0), other=0).to(tl.float32)
        mixed += tl.load(weights + image * (1 + chains) + chain + 1) * tl.where(length > 0, end, levels)
    mixing_weight = tl.load(weights + image * (1 + chains))
    mixed = mixed * mixing_weight + (1.0 - mixing_weight) * levels
    # Adding and subtracting 1.5 · 2²³ rounds to the nearest integer, ties to even.
    new = ((tl.minimum(mixed, 255.0) + 12582912.0) - 12582912.0).to(tl.int32)
    place = image * image_stride + channel * channel_stride
    place += (offsets // width) * row_stride + (offsets % width) * column_stride
    if HAS_TABLE:
        tl.store(out + place, tl.load(table + channel * 256 + new, mask=mask, other=0), mask=mask)
    else:
        tl.store(out + place, new.to(tl.uint8), mask=mask)
