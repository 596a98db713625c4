"""Compiled chains of operations and their mixture, with the same bytes as the engine ``pillow``.

Most operations are vectorised passes over whole pixels. They are faster than Pillow's look-up tables, even for several
operations in a row (a table takes two instructions per byte; posterize takes one per 32 bytes). Only autocontrast and
equalize, whose tables depend on the image, use look-up tables.
"""

import numpy as np
from numpy.typing import NDArray

from lightning_augmix.kernels.affine import rotate, shear_x, shear_y, translate
from lightning_augmix.kernels.jit import compiled
from lightning_augmix.kernels.pointwise import (
    autocontrast_table,
    blend_with_constant,
    blend_with_luma,
    equalize_table,
    luma_sum,
    map_channels,
    posterize,
    sharpen,
    solarize,
)
from lightning_augmix.kernels.sampling import draw
from lightning_augmix.kernels.table import NO_OPERATION
from lightning_augmix.operations import OPERATIONS

__all__ = ["apply_plans", "augment", "pack", "unpack"]

_f32, _i32, _u8, _u32 = np.float32, np.int32, np.uint8, np.uint32

# Numba compiles them in as constants.
_CODES = {name: code for code, name in enumerate(OPERATIONS)}
_AUTOCONTRAST, _EQUALIZE, _POSTERIZE, _SOLARIZE = (
    _CODES[name] for name in ("autocontrast", "equalize", "posterize", "solarize")
)
_ROTATE, _SHEAR_X, _SHEAR_Y, _TRANSLATE_X, _TRANSLATE_Y = (
    _CODES[name] for name in ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
)
_COLOR, _CONTRAST, _BRIGHTNESS, _SHARPNESS = (_CODES[name] for name in ("color", "contrast", "brightness", "sharpness"))
_FIRST_ORIGINAL = _CODES["color_original"]  # the four enhancements again, in the same order


@compiled
def _operate(
    image: NDArray[np.uint32],
    width: int,
    is_gray: bool,
    code: int,
    parameter: float,
    table: NDArray[np.uint8],
    out: NDArray[np.uint32],
) -> bool:
    """Applies an operation; returns whether it changes anything, and so whether ``out`` was filled."""
    if code >= _FIRST_ORIGINAL:
        code += _COLOR - _FIRST_ORIGINAL
    if code in (_AUTOCONTRAST, _EQUALIZE):
        changes = autocontrast_table(image, table) if code == _AUTOCONTRAST else equalize_table(image, table)
        if changes:
            map_channels(image, table, out)
        return changes
    if code == _POSTERIZE:
        posterize(image.view(_u8), int(parameter), out.view(_u8))
    elif code == _SOLARIZE:
        if int(parameter) > 255:
            return False
        solarize(image.view(_u8), int(parameter), out.view(_u8))
    elif code in (_ROTATE, _TRANSLATE_X, _TRANSLATE_Y):
        amount = int(parameter)
        if amount == 0:
            return False
        if code == _ROTATE:
            rotate(image, width, amount, out)
        elif code == _TRANSLATE_X:
            translate(image, width, amount, 0, out)
        else:
            translate(image, width, 0, amount, out)
    elif code == _SHEAR_X:
        shear_x(image, width, parameter, out)
    elif code == _SHEAR_Y:
        shear_y(image, width, parameter, out)
    else:
        factor = _f32(parameter)
        if factor == _f32(1.0) or (code == _COLOR and is_gray):
            return False
        if code == _COLOR:
            blend_with_luma(image, factor, out)
        elif code == _CONTRAST:
            level = int(luma_sum(image, is_gray) / image.size + 0.5)
            blend_with_constant(image.view(_u8), level, factor, out.view(_u8))
        elif code == _BRIGHTNESS:
            blend_with_constant(image.view(_u8), 0, factor, out.view(_u8))
        else:
            sharpen(image.view(_u8), 4 * width, factor, out.view(_u8))
    return True


@compiled
def _state(image: NDArray[np.uint32], buffers: NDArray[np.uint32], number: int) -> NDArray[np.uint32]:
    """The current state of a chain: a buffer, or the unchanged image if ``number`` is negative."""
    return image if number < 0 else buffers[number]


@compiled
def _first_term(sums: NDArray[np.float32], levels: NDArray[np.uint8], weight: float) -> None:
    for i in range(sums.size):
        sums[i] = weight * _f32(levels[i])


@compiled
def _add_term(sums: NDArray[np.float32], levels: NDArray[np.uint8], weight: float) -> None:
    for i in range(sums.size):
        sums[i] += weight * _f32(levels[i])


@compiled
def _mixed(mixture: float, level: float, mixing_weight: float) -> int:
    rest = _f32(1.0) - mixing_weight
    return _i32(np.rint(min(mixture * mixing_weight + rest * level, _f32(255.0))))


@compiled
def _finish(sums: NDArray[np.float32], levels: NDArray[np.uint8], mixing_weight: float, out: NDArray[np.uint8]) -> None:
    for i in range(sums.size):
        out[i] = _u8(_mixed(sums[i], _f32(levels[i]), mixing_weight))


@compiled
def _mixed_channel(p: int, a: int, b: int, c: int, shift: int, weights: tuple[float, float, float, float]) -> int:
    mask = _u32(255)
    mixture = weights[1] * _f32(_i32((a >> shift) & mask)) + weights[2] * _f32(_i32((b >> shift) & mask))
    mixture += weights[3] * _f32(_i32((c >> shift) & mask))
    return _u32(_mixed(mixture, _f32(_i32((p >> shift) & mask)), weights[0])) << shift


@compiled
def _mix_three(
    image: NDArray[np.uint32],
    a: NDArray[np.uint32],
    b: NDArray[np.uint32],
    c: NDArray[np.uint32],
    weights: NDArray[np.float32],
    out: NDArray[np.uint32],
) -> None:
    """Mixes three chains, the default: one pass without the padding takes half the time."""
    w = (weights[0], weights[1], weights[2], weights[3])
    for i in range(out.size):
        pixel = _mixed_channel(image[i], a[i], b[i], c[i], _u32(0), w)
        pixel |= _mixed_channel(image[i], a[i], b[i], c[i], _u32(8), w)
        out[i] = pixel | _mixed_channel(image[i], a[i], b[i], c[i], _u32(16), w)


@compiled
def _mix(
    image: NDArray[np.uint32],
    chains: NDArray[np.uint32],
    order: NDArray[np.int64],
    weights: NDArray[np.float32],
    sums: NDArray[np.float32],
    out: NDArray[np.uint32],
) -> None:
    """Computes what ``pillow_engine.mix`` does, in blocks that stay in the cache."""
    if order.size == 3:
        a, b = _state(image, chains, order[0]), _state(image, chains, order[1])
        _mix_three(image, a, b, _state(image, chains, order[2]), weights, out)
        return
    levels, out_levels = image.view(_u8), out.view(_u8)
    for start in range(0, levels.size, sums.size):
        stop = min(levels.size, start + sums.size)
        block = sums[: stop - start]
        for chain in range(order.size):
            result = _state(image, chains, order[chain]).view(_u8)[start:stop]
            if chain == 0:
                _first_term(block, result, weights[1])
            else:
                _add_term(block, result, weights[chain + 1])
        _finish(block, levels[start:stop], weights[0], out_levels[start:stop])


@compiled
def apply_plans(
    images: NDArray[np.uint32],
    width: int,
    is_gray: bool,
    operations: NDArray[np.int8],
    parameters: NDArray[np.float64],
    weights: NDArray[np.float32],
    buffers: NDArray[np.uint32],
    out: NDArray[np.uint32],
) -> None:
    """Applies a plan to each image; ``buffers`` has room for one result per chain and one more."""
    table, sums = np.empty((3, 256), np.uint8), np.empty(4096, np.float32)
    order = np.empty(operations.shape[1], np.int64)
    for number in range(images.shape[0]):
        image = images[number]
        if weights[number, 0] == _f32(0.0):
            out[number, :] = image
            continue
        spare = 0
        for chain in range(order.size):
            # Two buffers alternate; the one that a chain ends in is kept for the mixture.
            current, target, other = -1, spare, chain + 1
            for position in range(operations.shape[2]):
                code = operations[number, chain, position]
                if code == NO_OPERATION:
                    break
                source = _state(image, buffers, current)
                if _operate(source, width, is_gray, code, parameters[number, chain, position], table, buffers[target]):
                    current, target, other = target, other, target
            order[chain] = current
            spare = target
        _mix(image, buffers, order, weights[number], sums, out[number])


@compiled
def augment(
    keys: NDArray[np.uint64],
    table: NDArray[np.float64],
    severity: float,
    depth: int,
    alpha: float,
    chains: int,
    max_depth: int,
    images: NDArray[np.uint32],
    width: int,
    is_gray: bool,
    buffers: NDArray[np.uint32],
    out: NDArray[np.uint32],
) -> None:
    """Draws a plan for each image from its key, and applies it."""
    operations = np.empty((keys.size, chains, max_depth), np.int8)
    parameters = np.empty((keys.size, chains, max_depth), np.float64)
    weights = np.empty((keys.size, 1 + chains), np.float32)
    height = images.shape[1] // width
    draw(keys, table, height, width, severity, depth, alpha, operations, parameters, weights)
    apply_plans(images, width, is_gray, operations, parameters, weights, buffers, out)


@compiled
def pack(colors: NDArray[np.uint8], packed: NDArray[np.uint32]) -> None:
    """Packs the three bytes of each pixel into one word."""
    for i in range(packed.size):
        red, green, blue = colors[3 * i], colors[3 * i + 1], colors[3 * i + 2]
        packed[i] = np.uint32(red) | (np.uint32(green) << np.uint32(8)) | (np.uint32(blue) << np.uint32(16))


@compiled
def unpack(packed: NDArray[np.uint32], colors: NDArray[np.uint8]) -> None:
    """Reverses :func:`pack`."""
    for i in range(packed.size):
        pixel = packed[i]
        colors[3 * i], colors[3 * i + 1], colors[3 * i + 2] = _u8(pixel), _u8(pixel >> 8), _u8(pixel >> 16)
