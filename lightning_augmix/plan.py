"""Plans: every random choice AugMix makes for an image, drawn from a 64-bit key."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias, TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

from lightning_augmix.hyperparameters import Hyperparameters, validate
from lightning_augmix.operations import (
    CODE,
    EXTENT,
    EXTENTS,
    INTEGER,
    LAW,
    LAWS,
    OFFSET,
    OPERATIONS,
    SCALE,
    SIGNED,
    AugmentationSet,
)

__all__ = ["AugMixPlan", "Chain", "draw_plan", "sample_plan"]

#: One chain: its operations in order, each a name and the parameter in the operation's unit.
Chain: TypeAlias = tuple[tuple[str, float | int | None], ...]

_NAMES = tuple(OPERATIONS)
_NO_OPERATION = -1


class AugMixPlan:
    """Every random choice for one image, or for a batch: what to apply, how strongly, and how to mix.

    Plans come from :func:`sample_plan` and are immutable. A batch of plans has a length, and indexing it gives the
    plan of one image. The arrays, whose leading dimension ``N`` only a batch has, are what engines read:

    Attributes:
        image_size: (height, width) in pixels of the images the plan is for.
        operations: int8 ``[N, width, max_depth]``: codes, positions in
            :data:`~lightning_augmix.operations.OPERATIONS`; −1 behind the end of a chain.
        parameters: float64 ``[N, width, max_depth]``: in the unit of the operation; 0 where it has none.
        weights: float32 ``[N, 1 + width]``: the mixing weight, then the weights of the chains.

    Example:
        >>> plan = sample_plan(5, (32, 48), severity=3)
        >>> print(plan)
        AugMixPlan for 32×48: 0.586 of the image + 0.414 of
          0.453 solarize(209) → contrast(0.878932) → translate_x(-2)
          0.279 posterize(4) → shear_x(-0.03796359) → brightness(1.997879)
          0.269 posterize(4) → color(0.9433352) → translate_x(-2)
    """

    __slots__ = ("image_size", "operations", "parameters", "weights")

    image_size: tuple[int, int]
    operations: NDArray[np.int8]
    parameters: NDArray[np.float64]
    weights: NDArray[np.float32]

    def __init__(
        self,
        image_size: tuple[int, int],
        operations: NDArray[np.int8],
        parameters: NDArray[np.float64],
        weights: NDArray[np.float32],
    ) -> None:
        for array in (operations, parameters, weights):
            array.flags.writeable = False
        assign = object.__setattr__
        assign(self, "image_size", image_size)
        assign(self, "operations", operations)
        assign(self, "parameters", parameters)
        assign(self, "weights", weights)

    @property
    def is_batch(self) -> bool:
        """Whether this holds the plans of a batch rather than the plan of one image."""
        return self.operations.ndim == 3

    @property
    def chains(self) -> tuple[Chain, ...]:
        """The chains of one image's plan, each a tuple of (operation name, parameter or ``None``)."""
        self._require_one_image("chains")
        return tuple(
            tuple(_decode(code, value) for code, value in zip(codes, values, strict=True) if code != _NO_OPERATION)
            for codes, values in zip(self.operations.tolist(), self.parameters.tolist(), strict=True)
        )

    @property
    def chain_weights(self) -> tuple[float, ...]:
        """The weights of the chains of one image's plan: float32 values that add up to 1."""
        self._require_one_image("chain_weights")
        return tuple(self.weights[1:].tolist())

    @property
    def mixing_weight(self) -> float:
        """The share of the mixed chains in the output of one image's plan, a float32 value in [0, 1]."""
        self._require_one_image("mixing_weight")
        return float(self.weights[0])

    def __len__(self) -> int:
        if not self.is_batch:
            raise TypeError("The plan of one image has no length; a batch of plans, from an array of keys, has.")
        return len(self.operations)

    def __getitem__(self, index: int) -> "AugMixPlan":
        if not self.is_batch:
            raise TypeError("The plan of one image cannot be indexed; a batch of plans, from an array of keys, can.")
        return AugMixPlan(self.image_size, self.operations[index], self.parameters[index], self.weights[index])

    def __iter__(self) -> Iterator["AugMixPlan"]:
        return (self[index] for index in range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, AugMixPlan):
            return NotImplemented
        return self.image_size == other.image_size and all(
            np.array_equal(getattr(self, name), getattr(other, name))
            for name in ("operations", "parameters", "weights")
        )

    def __hash__(self) -> int:
        return hash((self.image_size, self.operations.tobytes(), self.parameters.tobytes(), self.weights.tobytes()))

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"Plans are immutable: `{name}` cannot be set. Draw another with `sample_plan`.")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"Plans are immutable: `{name}` cannot be deleted.")

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        return AugMixPlan, (self.image_size, self.operations, self.parameters, self.weights)

    def __repr__(self) -> str:
        height, width = self.image_size
        if self.is_batch:
            return f"AugMixPlan for {len(self)} images of {height}×{width}"
        head = f"AugMixPlan for {height}×{width}: {1 - self.mixing_weight:.3f} of the image"
        lines = (
            f"  {weight:.3f} " + " → ".join(name + ("" if value is None else f"({value:.7g})") for name, value in chain)
            for weight, chain in zip(self.chain_weights, self.chains, strict=True)
        )
        return "\n".join((f"{head} + {self.mixing_weight:.3f} of", *lines))

    def _require_one_image(self, name: str) -> None:
        if self.is_batch:
            raise AttributeError(f"A batch of plans has no `{name}`; index it first: `plan[i].{name}`.")


def _decode(code: int, value: float) -> tuple[str, float | int | None]:
    operation = OPERATIONS[_NAMES[code]]
    if operation.law == "none":
        return operation.name, None
    return operation.name, int(value) if operation.integer else value


def sample_plan(
    key: int | Sequence[int] | NDArray[np.integer[Any]],
    image_size: tuple[int, int],
    severity: float = 3,
    width: int = 3,
    depth: int = -1,
    alpha: float = 1.0,
    augmentation_set: AugmentationSet = "all",
) -> AugMixPlan:
    """Draws the plan of one image, or of a batch, as a pure function of its key.

    The same key and arguments give the same plan in every process and on every platform: only integer arithmetic
    and correctly rounded floating-point operations take part. Keys need not be random; neighbouring keys give
    unrelated plans. Source: Hendrycks et al., "AugMix", ICLR 2020, https://arxiv.org/abs/1912.02781.

    Args:
        key: A 64-bit integer for the plan of one image, or a one-dimensional sequence or array of N of them for a
            batch of N plans. Signed and unsigned keys are taken modulo 2⁶⁴.
        image_size: (height, width) in pixels, each at least 1.
        severity: Upper bound of the intensity, a real number in [0, 10]; 0 leaves images as they are.
        width: Number of chains, at least 1.
        depth: Operations per chain, at least 1, or −1 to draw 1, 2 or 3 for each chain.
        alpha: Parameter of the Dirichlet distribution of the chain weights and of the Beta distribution of the
            mixing weight, above 0; 1 makes both uniform.
        augmentation_set: The name of a set, or a sequence of operation names or operations.

    Returns:
        The plan.

    Raises:
        TypeError: If an argument is of a kind not named above.
        ValueError: If an argument is out of its range.

    Example:
        >>> plan = sample_plan(7, (224, 224), augmentation_set=["rotate"], width=1, depth=2)
        >>> plan.chains
        ((('rotate', -8), ('rotate', -5)),)
        >>> plan == sample_plan([6, 7], (224, 224), augmentation_set=["rotate"], width=1, depth=2)[1]
        True
    """
    hyperparameters = validate(severity, width, depth, alpha, augmentation_set)
    if type(image_size) is not tuple or tuple(map(type, image_size)) != (int, int):
        image_size = _checked_size(image_size)
    if image_size[0] < 1 or image_size[1] < 1:
        raise ValueError(f"Expected argument `image_size` to be (height, width), each at least 1; got {image_size}.")
    return draw_plan(key if type(key) is int else _checked_keys(key), image_size, hyperparameters)


def draw_plan(
    key: int | NDArray[np.uint64], image_size: tuple[int, int], hyperparameters: Hyperparameters
) -> AugMixPlan:
    """:func:`sample_plan` on arguments that are already valid.

    Args:
        key: A 64-bit integer, or a uint64 array of shape ``[N]``.
        image_size: (height, width) in pixels.
        hyperparameters: Validated hyperparameters.

    Returns:
        The plan of one image, or of a batch where ``key`` is an array.
    """
    h = hyperparameters
    lead = () if isinstance(key, int) else key.shape
    operations = np.empty((*lead, h.width, h.max_depth), np.int8)
    parameters = np.empty((*lead, h.width, h.max_depth), np.float64)
    weights = np.empty((*lead, 1 + h.width), np.float32)
    height, width = image_size
    if isinstance(key, int):
        # Modulo 2⁶⁴ and signed, so that one compiled signature serves every key.
        signed = ((key + 2**63) & (2**64 - 1)) - 2**63
        _draw(signed, h.table, height, width, h.severity, h.depth, h.alpha, operations, parameters, weights)
    else:
        keys = key.view(np.int64)
        _draw_batch(keys, h.table, height, width, h.severity, h.depth, h.alpha, operations, parameters, weights)
    return AugMixPlan(image_size, operations, parameters, weights)


def _checked_size(image_size: Any) -> tuple[int, int]:
    try:
        height, width = (side.__index__() for side in image_size)
    except (TypeError, ValueError, AttributeError):
        raise TypeError(
            f"Expected argument `image_size` to be (height, width) in pixels; got {image_size!r}."
        ) from None
    return height, width


def _checked_keys(key: Any) -> int | NDArray[np.uint64]:
    if not isinstance(key, bool | np.bool_) and hasattr(key, "__index__") and np.ndim(key) == 0:
        return int(key)
    try:
        keys = [int(k.__index__()) & (2**64 - 1) for k in key]
    except (TypeError, AttributeError):
        raise TypeError(
            f"Expected argument `key` to be a 64-bit integer or a one-dimensional sequence of them; got {key!r}."
        ) from None
    return np.array(keys, np.uint64)


# ---- The compiled sampler -------------------------------------------------------------------------------------------
#
# SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014) on the mixed key. Logarithm
# and exponential are written out because those of the platforms' math libraries differ in the last bit.

_F = TypeVar("_F", bound=Callable[..., Any])
_compiled = cast("Callable[[_F], _F]", numba.njit(cache=True, nogil=True, error_model="numpy"))

_LEVEL, _ENHANCEMENT = LAWS["level"], LAWS["enhancement"]
_BY_WIDTH, _BY_HEIGHT = EXTENTS["width"], EXTENTS["height"]
_LN2 = math.log(2.0)
_SQRT_HALF = math.sqrt(0.5)


@_compiled
def _mix(z: np.uint64) -> np.uint64:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.uint64(z ^ (z >> np.uint64(31)))


@_compiled
def _uniform(state: np.uint64) -> tuple[float, np.uint64]:
    """A number in the open interval (0, 1), exactly (k + ½) / 2⁵² with k uniform, and the next state."""
    state = state + np.uint64(0x9E3779B97F4A7C15)
    return (np.float64(_mix(state) >> np.uint64(12)) + 0.5) * 2.0**-52, state


@_compiled
def _log(x: float) -> float:
    mantissa, exponent = math.frexp(x)
    if mantissa < _SQRT_HALF:
        mantissa, exponent = mantissa * 2.0, exponent - 1
    s = (mantissa - 1.0) / (mantissa + 1.0)
    square, total = s * s, 0.0
    for k in range(23, 0, -2):
        total = total * square + 1.0 / k
    return exponent * _LN2 + 2.0 * s * total


@_compiled
def _exp(x: float) -> float:
    if x < -700.0:
        return 0.0
    exponent = math.floor(x / _LN2 + 0.5)
    remainder, total = x - exponent * _LN2, 1.0
    for k in range(14, 0, -1):
        total = 1.0 + remainder / k * total
    return math.ldexp(total, int(exponent))


@_compiled
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


@_compiled
def _dirichlet(alpha: float, out: NDArray[np.float32], state: np.uint64) -> np.uint64:
    """Fills ``out`` with symmetric Dirichlet weights, from logarithms, so that no alpha underflows to 0/0."""
    logs = np.empty(out.size, np.float64)
    for i in range(out.size):
        if alpha >= 1.0:
            logs[i], state = _log_gamma_variate(alpha, state)
        else:
            # Gamma(a) = Gamma(a + 1) · U^(1/a); kept multiplied by a until the largest is subtracted.
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


@_compiled
def _draw(
    key: int,
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
    state = _mix(np.uint64(key))
    if severity == 0.0:
        weights[0] = np.float32(0.0)
    else:
        pair = np.empty(2, np.float32)
        state = _dirichlet(alpha, pair, state)
        weights[0] = pair[0]
    state = _dirichlet(alpha, weights[1:], state)

    low = min(0.1, severity)
    for chain in range(operations.shape[0]):
        length = depth
        if depth < 0:
            u, state = _uniform(state)
            length = 1 + int(u * 3.0)
        for position in range(operations.shape[1]):
            if position >= length:
                operations[chain, position] = _NO_OPERATION
                parameters[chain, position] = 0.0
                continue
            u, state = _uniform(state)
            row = table[int(u * table.shape[0])]
            operations[chain, position] = np.int8(row[CODE])
            parameter = 0.0
            if row[LAW] == _LEVEL:
                u, state = _uniform(state)
                term = row[SCALE] * (low + u * (severity - low)) / 10.0
                if row[EXTENT] == _BY_WIDTH:
                    term *= width
                elif row[EXTENT] == _BY_HEIGHT:
                    term *= height
                if row[INTEGER]:
                    term = math.trunc(term)
                if row[SIGNED]:
                    u, state = _uniform(state)
                    if u < 0.5:
                        term = -term
                parameter = row[OFFSET] + term
            elif row[LAW] == _ENHANCEMENT:
                u, state = _uniform(state)
                coin, state = _uniform(state)
                if coin < 0.5:
                    parameter = 1.0 + u * (max(1.0, severity) - 1.0)
                    if parameter > 1.0:
                        parameter *= row[SCALE]
                else:
                    parameter = 1.0 - 0.09 * severity * u
            parameters[chain, position] = parameter


@_compiled
def _draw_batch(
    keys: NDArray[np.int64],
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
    for i in range(keys.size):
        _draw(keys[i], table, height, width, severity, depth, alpha, operations[i], parameters[i], weights[i])
