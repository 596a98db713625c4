"""The compiled sampler: from 64-bit keys to the arrays of plans.

The random numbers come from SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014),
seeded with the mixed key. Logarithm and exponential are implemented here, because those of math libraries differ in the
last bit between platforms.
"""

import math

import numpy as np
from numpy.typing import NDArray

from lightning_augmix.kernels.jit import compiled
from lightning_augmix.kernels.table import (
    BY_HEIGHT,
    BY_WIDTH,
    CODE,
    ENHANCEMENT,
    EXTENT,
    INTEGER,
    LAW,
    LEVEL,
    NO_OPERATION,
    OFFSET,
    SCALE,
    SIGNED,
)

__all__ = ["draw"]

_LN2 = math.log(2.0)
_SQRT_HALF = math.sqrt(0.5)


@compiled
def _mix(z: np.uint64) -> np.uint64:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.uint64(z ^ (z >> np.uint64(31)))


@compiled
def _uniform(state: np.uint64) -> tuple[float, np.uint64]:
    """A number in the open interval (0, 1), exactly (k + ½) / 2⁵² with k uniform, and the next state."""
    state = state + np.uint64(0x9E3779B97F4A7C15)
    return (np.float64(_mix(state) >> np.uint64(12)) + 0.5) * 2.0**-52, state


@compiled
def _log(x: float) -> float:
    mantissa, exponent = math.frexp(x)
    if mantissa < _SQRT_HALF:
        mantissa, exponent = mantissa * 2.0, exponent - 1
    s = (mantissa - 1.0) / (mantissa + 1.0)
    square, total = s * s, 0.0
    for k in range(23, 0, -2):
        total = total * square + 1.0 / k
    return exponent * _LN2 + 2.0 * s * total


@compiled
def _exp(x: float) -> float:
    if x < -700.0:
        return 0.0
    exponent = math.floor(x / _LN2 + 0.5)
    remainder, total = x - exponent * _LN2, 1.0
    for k in range(14, 0, -1):
        total = 1.0 + remainder / k * total
    return math.ldexp(total, int(exponent))


@compiled
def _log_gamma_variate(alpha: float, state: np.uint64) -> tuple[float, np.uint64]:
    """The logarithm of a Gamma(alpha) variate for alpha ≥ 1 (Marsaglia, Tsang: "A simple method …", 2000)."""
    d = alpha - 1.0 / 3.0
    c = 1.0 / math.sqrt(9.0 * d)
    while True:
        u, state = _uniform(state)
        v, state = _uniform(state)
        x, y = 2.0 * u - 1.0, 2.0 * v - 1.0
        radius = x * x + y * y
        if radius >= 1.0:
            continue
        normal = x * math.sqrt(-2.0 * _log(radius) / radius)
        root = 1.0 + c * normal
        if root <= 0.0:
            continue
        cube = root * root * root
        u, state = _uniform(state)
        if _log(u) < 0.5 * normal * normal + d - d * cube + d * _log(cube):
            return _log(d) + _log(cube), state


@compiled
def _dirichlet(alpha: float, out: NDArray[np.float32], state: np.uint64) -> np.uint64:
    """Fills ``out`` with symmetric Dirichlet weights, via logarithms, so that no alpha underflows to 0/0."""
    logs = np.empty(out.size, np.float64)
    for i in range(out.size):
        if alpha >= 1.0:
            logs[i], state = _log_gamma_variate(alpha, state)
        else:
            # Gamma(a) = Gamma(a + 1) · U^(1/a); its log stays multiplied by a until the largest is subtracted.
            u, state = _uniform(state)
            logs[i], state = _log_gamma_variate(alpha + 1.0, state)
            logs[i] = alpha * logs[i] + _log(u)
    largest = logs.max()
    total = 0.0
    for i in range(out.size):
        difference = logs[i] - largest
        logs[i] = _exp(difference if alpha >= 1.0 else difference / alpha)
        total += logs[i]
    for i in range(out.size):
        out[i] = np.float32(logs[i] / total)
    return state


@compiled
def draw(
    keys: NDArray[np.uint64],
    table: NDArray[np.float64],
    height: int,
    width: int,
    severity: float,
    depth: int,
    alpha: float,
    operations: NDArray[np.int8],
    parameters: NDArray[np.float64],
    weights: NDArray[np.float32],
) -> None:
    """Fills the last three arrays with the plans of N keys.

    Args:
        keys: uint64 ``[N]``.
        table: The operations to draw from, see :func:`~lightning_augmix.kernels.table.sampling_table`.
        height: Height of the images, in pixels.
        width: Width of the images, in pixels.
        severity: In [0, 10].
        depth: Operations per chain, or −1.
        alpha: Above 0.
        operations: int8 ``[N, chains, max_depth]``.
        parameters: float64 ``[N, chains, max_depth]``.
        weights: float32 ``[N, 1 + chains]``: the mixing weight, then the weights of the chains.
    """
    for image in range(keys.size):
        state = _mix(keys[image])
        if severity == 0.0:
            weights[image, 0] = np.float32(0.0)
        else:
            pair = np.empty(2, np.float32)
            state = _dirichlet(alpha, pair, state)
            weights[image, 0] = pair[0]
        state = _dirichlet(alpha, weights[image, 1:], state)

        low = min(0.1, severity)
        for chain in range(operations.shape[1]):
            length = depth
            if depth < 0:
                u, state = _uniform(state)
                length = 1 + int(u * 3.0)
            for position in range(operations.shape[2]):
                if position >= length:
                    operations[image, chain, position] = NO_OPERATION
                    parameters[image, chain, position] = 0.0
                    continue
                u, state = _uniform(state)
                row = table[int(u * table.shape[0])]
                operations[image, chain, position] = np.int8(row[CODE])
                parameter = 0.0
                if row[LAW] == LEVEL:
                    u, state = _uniform(state)
                    term = row[SCALE] * (low + u * (severity - low)) / 10.0
                    if row[EXTENT] == BY_WIDTH:
                        term *= width
                    elif row[EXTENT] == BY_HEIGHT:
                        term *= height
                    if row[INTEGER]:
                        term = math.trunc(term)
                    if row[SIGNED]:
                        u, state = _uniform(state)
                        if u < 0.5:
                            term = -term
                    parameter = row[OFFSET] + term
                elif row[LAW] == ENHANCEMENT:
                    u, state = _uniform(state)
                    coin, state = _uniform(state)
                    if coin < 0.5:
                        parameter = 1.0 + u * (max(1.0, severity) - 1.0)
                        if parameter > 1.0:
                            parameter *= row[SCALE]
                    else:
                        parameter = 1.0 - 0.09 * severity * u
                parameters[image, chain, position] = parameter
