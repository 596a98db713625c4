"""Fractions of the difference of two levels, rounded down, by one 16-bit multiplication."""

import numpy as np
from numpy.typing import NDArray

from lightning_augmix.kernels.jit import compiled

__all__ = ["UNCERTAIN", "between", "between_each", "blend", "sixteenth_bits"]

_u8, _i16, _i32, _u32 = np.uint8, np.int16, np.int32, np.uint32

UNCERTAIN = -1


@compiled
def sixteenth_bits(fraction: float, margin: int) -> int:
    """A factor f with ``floor(d · fraction) = floor(d · f / 2¹⁶)`` for every difference d of two levels.

    floor(d · fraction) changes only where ``fraction`` crosses a rational with a denominator up to 255. Neighbouring
    ones are more than 2⁻¹⁶ apart, so that one of the two f next to ``fraction`` lies between the same two rationals.

    Args:
        fraction: In [0, 1).
        margin: How far d · fraction must be from every integer, in units of 2⁻³².

    Returns:
        f in (0, 2¹⁶), or ``UNCERTAIN`` if some d · fraction is closer.
    """
    fixed = _u32(int(fraction * 2.0**32))
    below = _u32(fixed & _u32(0xFFFF))
    nearest, farthest = _u32(0xFFFFFFFF), _u32(0)
    fits = True
    for denominator in range(1, 256):
        # the fractional part of fraction · denominator
        rest = _u32(fixed * _u32(denominator))
        nearest, farthest = min(nearest, rest), max(farthest, rest)
        fits &= rest > _u32(below * _u32(denominator))
    if nearest < _u32(margin) or farthest > _u32(0xFFFFFFFF) - _u32(margin):
        return UNCERTAIN
    return int(fixed >> 16) + (0 if fits else 1)


@compiled
def _part(difference: int, factor: int) -> int:
    """``floor(difference · factor / 2¹⁶)``, of signed 16-bit integers."""
    return _i16(_i32(_i32(difference) * _i32(factor)) >> _i32(16))


@compiled
def _interpolated(p: int, q: int, factor: int) -> int:
    """Interpolates between two bytes: a factor f above 2¹⁵ is passed as f − 2¹⁶."""
    return _u8(_i16(_i16(q if factor < 0 else p) + _part(_i16(_i16(q) - _i16(p)), factor)))


@compiled
def between(p: NDArray[np.uint8], q: NDArray[np.uint8], factor: int, out: NDArray[np.uint8]) -> None:
    """Interpolates bytes, with a factor from :func:`sixteenth_bits`."""
    factor = _i16(factor)
    for i in range(out.size):
        out[i] = _interpolated(p[i], q[i], factor)


@compiled
def between_each(
    p: NDArray[np.uint8], q: NDArray[np.uint8], factors: NDArray[np.int16], out: NDArray[np.uint8]
) -> None:
    """Does the same, with a factor for each byte."""
    for i in range(out.size):
        out[i] = _interpolated(p[i], q[i], factors[i])


@compiled
def blend(p: NDArray[np.uint8], q: NDArray[np.uint8], whole: int, factor: int, out: NDArray[np.uint8]) -> None:
    """Computes ``p + (whole + factor / 2¹⁶) · (q − p)``, rounded down and clipped, for a whole part of 0 or 1."""
    factor = _i16(factor)
    # As in `_interpolated`, a factor that is negative now stands for one more.
    times = whole + 1 if factor < 0 else whole
    for i in range(out.size):
        difference = _i16(_i16(q[i]) - _i16(p[i]))
        level = _i16(_i16(p[i]) if times == 0 else _i16(q[i]))
        level = _i16(level + (difference if times == 2 else _i16(0)))
        level = _i16(level + _part(difference, factor))
        level = _i16(0) if level < _i16(0) else level
        level = _i16(255) if level > _i16(255) else level
        out[i] = _u8(level)
