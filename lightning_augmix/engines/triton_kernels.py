# mypy: ignore-errors
"""Kernels of the engine ``triton``: each program has one tile of the pixels of one row, and so one operation.

Lines of a table tell a row, the code of its operation, its table of levels, and the operation's six numbers. What has
to be exact is float64, or float32 without division, which Triton rounds otherwise.
"""

import triton
import triton.language as tl

from lightning_augmix.operations import OPERATIONS

__all__ = ["CODES", "WITH_TABLES", "count", "fill_tables", "mix", "operate"]

CODES = {name: code for code, name in enumerate(OPERATIONS)}
#: Operations that need a table of the image before.
WITH_TABLES = {CODES[name] for name in ("autocontrast", "equalize", "contrast")}

_AUTOCONTRAST, _EQUALIZE, _POSTERIZE, _SOLARIZE = (
    tl.constexpr(CODES[name]) for name in ("autocontrast", "equalize", "posterize", "solarize")
)
_ROTATE, _TRANSLATE_Y = tl.constexpr(CODES["rotate"]), tl.constexpr(CODES["translate_y"])
_COLOR, _CONTRAST, _BRIGHTNESS, _SHARPNESS = (
    tl.constexpr(CODES[name]) for name in ("color", "contrast", "brightness", "sharpness")
)


@triton.jit
def _luma(red, green, blue):
    return (19595 * red + 38470 * green + 7471 * blue + 32768) >> 16


@triton.jit
def _gray(plane, offsets, mask, PIXELS: tl.constexpr, CHANNELS: tl.constexpr):
    red = tl.load(plane + offsets, mask=mask, other=0).to(tl.int32)
    if CHANNELS == 1:
        return red
    green = tl.load(plane + PIXELS + offsets, mask=mask, other=0).to(tl.int32)
    blue = tl.load(plane + 2 * PIXELS + offsets, mask=mask, other=0).to(tl.int32)
    return _luma(red, green, blue)


@triton.jit
def count(source, lines, counts, per_row, PIXELS: tl.constexpr, CHANNELS: tl.constexpr, TILE: tl.constexpr):
    """Counts the levels of a channel, or for contrast those of the gray image, in channel 0."""
    line, channel = lines + tl.program_id(0) * 9, tl.program_id(1)
    row, code, table = tl.load(line).to(tl.int64), tl.load(line + 1).to(tl.int32), tl.load(line + 2).to(tl.int64)
    image = source + (row // per_row) * CHANNELS * PIXELS
    offsets = tl.program_id(2) * TILE + tl.arange(0, TILE)
    mask = offsets < PIXELS
    if code == _CONTRAST:
        levels = _gray(image, offsets, mask, PIXELS, CHANNELS)
    else:
        levels = tl.load(image + channel * PIXELS + offsets, mask=mask, other=0).to(tl.int32)
    every = tl.arange(0, 256)
    found = tl.histogram(levels, 256)
    found -= tl.where(every == 0, TILE - tl.sum(mask.to(tl.int32)), 0)  # what lies beyond the image counts as 0
    target = counts + (table * CHANNELS + channel) * 256 + every
    tl.atomic_add(target, found, mask=found > 0)


@triton.jit
def fill_tables(lines, counts, tables, PIXELS: tl.constexpr, CHANNELS: tl.constexpr):
    """Makes tables of counts: new levels, or for contrast the mean in every entry."""
    line, channel = lines + tl.program_id(0) * 9, tl.program_id(1)
    code, table = tl.load(line + 1).to(tl.int32), tl.load(line + 2).to(tl.int64)
    every = tl.arange(0, 256)
    place = (table * CHANNELS + channel) * 256 + every
    found = tl.load(counts + place)
    highest = tl.max(tl.where(found > 0, every, 0))
    if code == _AUTOCONTRAST:
        lowest = tl.min(tl.where(found > 0, every, 255))
        scale = 255.0 / tl.maximum(highest - lowest, 1).to(tl.float64)
        stretched = every.to(tl.float64) * scale + (-lowest).to(tl.float64) * scale
        new = tl.where(highest > lowest, tl.minimum(tl.maximum(stretched, 0.0), 255.0).to(tl.int32), every)
    elif code == _EQUALIZE:
        step = (PIXELS - tl.sum(tl.where(every == highest, found, 0))) // 255
        before = tl.cumsum(found) - found
        equalized = tl.minimum((step // 2 + before) // tl.maximum(step, 1), 255)
        new = tl.where(step > 0, equalized, every)
    else:
        mean = tl.sum(every.to(tl.int64) * found.to(tl.int64)).to(tl.float64) / PIXELS
        new = tl.zeros_like(every) + (mean + 0.5).to(tl.int32)
    tl.store(tables + place, new.to(tl.uint8))


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
    lines,
    tables,
    target,
    per_row,
    height,
    width,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
    TILE: tl.constexpr,
):
    """Applies the operation of a row to a tile of its pixels."""
    line = lines + tl.program_id(0) * 9
    row, code = tl.load(line).to(tl.int64), tl.load(line + 1).to(tl.int32)
    image, out = source + (row // per_row) * CHANNELS * PIXELS, target + row * CHANNELS * PIXELS
    table = tables + tl.load(line + 2).to(tl.int64) * CHANNELS * 256
    parameter = tl.load(line + 3)
    factor = parameter.to(tl.float32)
    offsets = tl.program_id(1) * TILE + tl.arange(0, TILE)
    mask = offsets < PIXELS
    x, y = offsets % width, offsets // width
    if code >= _ROTATE and code <= _TRANSLATE_Y:
        x_centre, y_centre = x.to(tl.float64) + 0.5, y.to(tl.float64) + 0.5
        across = (tl.load(line + 3) * x_centre + tl.load(line + 4) * y_centre) + tl.load(line + 5)
        down = (tl.load(line + 6) * x_centre + tl.load(line + 7) * y_centre) + tl.load(line + 8)
        is_inside = (across >= 0) & (across < width) & (down >= 0) & (down < height) & mask
        across, down = across - 0.5, down - 0.5
        left, top = tl.floor(across), tl.floor(down)
        across, down = across - left, down - top
        left, top = left.to(tl.int32), top.to(tl.int32)
        right, bottom = tl.minimum(left + 1, width - 1), tl.minimum(top + 1, height - 1)
        left, top = tl.maximum(left, 0), tl.maximum(top, 0)
        for channel in tl.static_range(CHANNELS):
            plane = image + channel * PIXELS
            p = tl.load(plane + top * width + left, mask=is_inside, other=0).to(tl.float64)
            q = tl.load(plane + top * width + right, mask=is_inside, other=0).to(tl.float64)
            r = tl.load(plane + bottom * width + left, mask=is_inside, other=0).to(tl.float64)
            s = tl.load(plane + bottom * width + right, mask=is_inside, other=0).to(tl.float64)
            upper, lower = p + (q - p) * across, r + (s - r) * across
            new = (upper + (lower - upper) * down).to(tl.int32)
            tl.store(out + channel * PIXELS + offsets, new.to(tl.uint8), mask=mask)
    elif code == _COLOR:
        gray = _gray(image, offsets, mask, PIXELS, CHANNELS)
        for channel in tl.static_range(CHANNELS):
            levels = tl.load(image + channel * PIXELS + offsets, mask=mask, other=0).to(tl.int32)
            tl.store(out + channel * PIXELS + offsets, _blended(gray, levels, factor).to(tl.uint8), mask=mask)
    else:
        is_border = (x == 0) | (y == 0) | (x == width - 1) | (y == height - 1)
        for channel in tl.static_range(CHANNELS):
            plane = image + channel * PIXELS
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
            tl.store(out + channel * PIXELS + offsets, new.to(tl.uint8), mask=mask)


@triton.jit
def mix(images, states, lengths, weights, out, number, chains, size, TILE: tl.constexpr):
    """Computes what ``pillow_engine.mix`` does, in its order."""
    image = tl.program_id(0).to(tl.int64)
    offsets = tl.program_id(1) * TILE + tl.arange(0, TILE)
    mask = offsets < size
    levels = tl.load(images + image * size + offsets, mask=mask, other=0).to(tl.float32)
    mixed = tl.zeros_like(levels)
    for chain in range(chains):
        row = image * chains + chain
        length = tl.load(lengths + row)
        if length == 0:
            end = levels
        else:
            buffer = ((length - 1) % 2).to(tl.int64) * number * chains
            end = tl.load(states + (buffer + row) * size + offsets, mask=mask, other=0).to(tl.float32)
        mixed += tl.load(weights + image * (1 + chains) + chain + 1) * end
    mixing_weight = tl.load(weights + image * (1 + chains))
    mixed = mixed * mixing_weight + (1.0 - mixing_weight) * levels
    # Adding and subtracting 1.5 · 2²³ rounds to the nearest integer, ties to even.
    rounded = (tl.minimum(mixed, 255.0) + 12582912.0) - 12582912.0
    tl.store(out + image * size + offsets, rounded.to(tl.int32).to(tl.uint8), mask=mask)
