"""Plans: every random choice AugMix makes for an image, drawn from a 64-bit key."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from lightning_augmix._checks import is_boolean
from lightning_augmix._compiling import runs_as_it_is
from lightning_augmix._threads import in_parts
from lightning_augmix.kernels.table import NO_OPERATION
from lightning_augmix.operations import OPERATIONS, AugmentationSet
from lightning_augmix.plans.hyperparameters import Hyperparameters, validate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["AugMixPlan", "Chain", "draw_plan", "sample_plan"]

#: One chain: its operations in order, each a name and the parameter in the operation's unit.
Chain: TypeAlias = tuple[tuple[str, float | int | None], ...]

_NAMES = tuple(OPERATIONS)


class AugMixPlan:
    """Every random choice for one image, or for a batch: what to apply, how strongly, and how to mix.

    Plans come from :func:`sample_plan` or from your own arrays, and are immutable. A batch of plans has a length, and
    indexing it returns the plan of one image. Only the arrays of a batch have the leading dimension ``N``.

    Attributes:
        image_size: (height, width) in pixels of the images the plan is for.
        operations: int8 ``[N, width, max_depth]``: codes, positions in
            :data:`~lightning_augmix.operations.OPERATIONS`; −1 after the end of a chain.
        parameters: float64 ``[N, width, max_depth]``: in the unit of the operation; 0 if it has none.
        weights: float32 ``[N, 1 + width]``: the mixing weight, then the weights of the chains.

    The arrays are copied.

    Raises:
        ValueError: If an array has the wrong dtype or shape, there are no chains, an operation is unknown or stands
            after the end of a chain, a parameter is not finite, out of range for its operation and image size or, where
            it counts something, not whole, or weights are not in [0, 1] or those of the chains do not add up to 1.

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
        arrays = _copied(operations, parameters, weights)
        _check(image_size, *arrays)
        self._assign(image_size, *arrays)

    @classmethod
    def _drawn(cls, *content: Any) -> "AugMixPlan":
        """A plan from arrays known to be valid: checking them takes longer than drawing them."""
        plan = object.__new__(cls)
        plan._assign(*content)
        return plan

    def _assign(self, image_size: Any, *arrays: Any) -> None:
        for array in arrays:
            array.flags.writeable = False
        for name, value in zip(self.__slots__, (image_size, *arrays), strict=True):
            object.__setattr__(self, name, value)

    @property
    def is_batch(self) -> bool:
        """Whether this holds the plans of a batch rather than the plan of one image."""
        return self.operations.ndim == 3

    @property
    def chains(self) -> tuple[Chain, ...]:
        """The chains of one image's plan, each a tuple of (operation name, parameter or ``None``)."""
        self._require_one_image("chains")
        return tuple(
            tuple(_decode(code, value) for code, value in zip(codes, values, strict=True) if code != NO_OPERATION)
            for codes, values in zip(self.operations.tolist(), self.parameters.tolist(), strict=True)
        )

    @property
    def chain_weights(self) -> tuple[float, ...]:
        """The weights of the chains of one image's plan: float32 values that add up to 1."""
        self._require_one_image("chain_weights")
        return tuple(self.weights[1:].tolist())

    @property
    def mixing_weight(self) -> float:
        """The weight of the mixed chains in one image's plan, a float32 value in [0, 1]."""
        self._require_one_image("mixing_weight")
        return float(self.weights[0])

    def as_batch(self) -> "AugMixPlan":
        """This batch, or a batch of one if this is the plan of one image."""
        if self.is_batch:
            return self
        return self._drawn(self.image_size, self.operations[None], self.parameters[None], self.weights[None])

    def __len__(self) -> int:
        if not self.is_batch:
            raise TypeError("The plan of one image has no length; only a batch of plans, from an array of keys, does.")
        return len(self.operations)

    def __getitem__(self, index: int) -> "AugMixPlan":
        if not self.is_batch:
            raise TypeError("The plan of one image cannot be indexed; only a batch, from an array of keys, can.")
        return self._drawn(self.image_size, self.operations[index], self.parameters[index], self.weights[index])

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

    def show(self, image: Any) -> "Figure":
        """Draws what this plan does to an image, step by step, as in the paper's Figure 4.

        Args:
            image: One image of :attr:`image_size`, of any type that :func:`~lightning_augmix.augmix_image` takes.

        Returns:
            The figure, which notebooks show; ``figure.savefig("augmix.svg")`` writes it.

        Raises:
            AttributeError: If this is a batch of plans.
            ImportError: If Matplotlib is not installed.
            TypeError: If ``image`` is no image.
            ValueError: If ``image`` has another size.
        """
        from lightning_augmix.pictures import draw_plan_steps  # loads torchvision, which plans do without

        self._require_one_image("show")
        return draw_plan_steps(image, self)

    def _require_one_image(self, name: str) -> None:
        if self.is_batch:
            raise AttributeError(f"A batch of plans has no `{name}`; index it first: `plan[i].{name}`.")


def _decode(code: int, value: float) -> tuple[str, float | int | None]:
    operation = OPERATIONS[_NAMES[code]]
    if operation.law == "none":
        return operation.name, None
    return operation.name, int(value) if operation.integer else value


@runs_as_it_is
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

    The same key and arguments yield the same plan in every process and on every platform: only integer arithmetic
    and correctly rounded floating-point operations are used. Keys need not be random; neighbouring keys yield
    unrelated plans. Source: Hendrycks et al., "AugMix", ICLR 2020, https://arxiv.org/abs/1912.02781.

    Args:
        key: A 64-bit integer for the plan of one image, or a one-dimensional sequence or array of N of them for a
            batch of N plans. Signed and unsigned keys are taken modulo 2⁶⁴.
        image_size: (height, width) in pixels, each at least 1.
        severity: See :class:`~lightning_augmix.AugmentAndMixTransform`.
        width: See there.
        depth: See there.
        alpha: See there.
        augmentation_set: See there.

    Returns:
        The plan.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of range.

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


_WORTH_A_THREAD = 1024  # plans, which take a millisecond


def draw_plan(
    key: int | NDArray[np.uint64], image_size: tuple[int, int], hyperparameters: Hyperparameters
) -> AugMixPlan:
    """Does what :func:`sample_plan` does, for valid arguments.

    Args:
        key: A 64-bit integer, or a uint64 array of shape ``[N]``.
        image_size: (height, width) in pixels.
        hyperparameters: Validated hyperparameters.

    Returns:
        The plan of one image, or of a batch if ``key`` is an array.
    """
    from lightning_augmix.kernels.sampling import draw  # loads Numba, which only drawing needs

    h = hyperparameters
    keys = np.array([key & (2**64 - 1)], np.uint64) if isinstance(key, int) else key
    operations = np.empty((keys.size, h.width, h.max_depth), np.int8)
    parameters = np.empty((keys.size, h.width, h.max_depth), np.float64)
    weights = np.empty((keys.size, 1 + h.width), np.float32)
    settings = (h.table, *image_size, h.severity, h.depth, h.alpha)
    in_parts(
        lambda part: draw(keys[part], *settings, operations[part], parameters[part], weights[part]),
        keys.size,
        min(torch.get_num_threads(), keys.size // _WORTH_A_THREAD),
    )
    if isinstance(key, int):
        return AugMixPlan._drawn(image_size, operations[0], parameters[0], weights[0])
    return AugMixPlan._drawn(image_size, operations, parameters, weights)


_DTYPES = {"operations": np.int8, "parameters": np.float64, "weights": np.float32}
# Float32 weights of 100 chains are off by less.
_TOLERANCE = 1e-5


def _copied(*arrays: Any) -> list[NDArray[Any]]:
    """Copies in memory that nothing can write to: compiled code reads it without checks."""
    copies = []
    for (name, dtype), array in zip(_DTYPES.items(), arrays, strict=True):
        if not isinstance(array, np.ndarray) or array.dtype != dtype:
            given = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
            raise ValueError(f"Expected argument `{name}` to be a {dtype.__name__} array; got {given}.")
        copies.append(np.frombuffer(array.tobytes(), dtype).reshape(array.shape))
    return copies


def _check(image_size: Any, operations: Any, parameters: Any, weights: Any) -> None:
    """Rejects arrays that engines would read out of bounds, or not all apply alike."""
    of_weights = (*operations.shape[:-2], operations.shape[-2] + 1) if operations.ndim in (2, 3) else None
    if parameters.shape != operations.shape or weights.shape != of_weights:
        raise ValueError(
            "Expected arguments `operations`, `parameters` and `weights` to have shapes [N, width, max_depth], the "
            f"same, and [N, 1 + width], without N for one image; got {operations.shape}, {parameters.shape} "
            f"and {weights.shape}."
        )
    if _checked_size(image_size) != image_size or min(image_size) < 1:
        raise ValueError(f"Expected argument `image_size` to be (height, width), each at least 1; got {image_size}.")
    if operations.shape[-2] < 1:
        raise ValueError("Expected argument `operations` to have at least one chain; got none.")
    if operations.size and not (operations.min() >= NO_OPERATION and operations.max() < len(_NAMES)):
        raise ValueError(f"Expected argument `operations` to hold codes from −1 to {len(_NAMES) - 1}.")
    if np.any((operations[..., :-1] == NO_OPERATION) & (operations[..., 1:] != NO_OPERATION)):
        raise ValueError("Expected argument `operations` to have no operation after the end of a chain, −1.")
    for code, (name, operation) in enumerate(OPERATIONS.items()):
        low, high = operation.limits(image_size)
        own = parameters[operations == code]
        is_permitted = (own >= low) & (own <= high) & (not operation.integer or own == np.trunc(own))
        if not np.all(is_permitted):
            kind = "whole numbers" if operation.integer else "numbers"
            raise ValueError(
                f"Expected argument `parameters` to be {kind} from {low:g} to {high:g} for {name} in images of "
                f"{image_size}; got {own[~is_permitted][0]}."
            )
    if not np.all((weights >= 0) & (weights <= 1)):
        raise ValueError("Expected argument `weights` to be in [0, 1]; got others, or NaN.")
    sums = weights[..., 1:].sum(axis=-1, dtype=np.float64)
    if np.any(np.abs(sums - 1) > _TOLERANCE):
        raise ValueError(f"Expected argument `weights` of the chains to add up to 1; got {sums[np.abs(sums - 1) > 0]}.")


def _checked_size(image_size: Any) -> tuple[int, int]:
    try:
        if not any(map(is_boolean, image_size)):
            height, width = (side.__index__() for side in image_size)
            return height, width
    except (TypeError, ValueError, AttributeError):
        pass
    raise TypeError(f"Expected argument `image_size` to be (height, width) in pixels; got {image_size!r}.")


def _checked_keys(key: Any) -> int | NDArray[np.uint64]:
    if not is_boolean(key) and hasattr(key, "__index__") and np.ndim(key) == 0:
        return int(key)
    try:
        if not any(map(is_boolean, key)):
            return np.array([int(k.__index__()) & (2**64 - 1) for k in key], np.uint64)
    except (TypeError, AttributeError):
        pass
    raise TypeError(
        f"Expected argument `key` to be a 64-bit integer or a one-dimensional sequence of them; got {key!r}."
    )
