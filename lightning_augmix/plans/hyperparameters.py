"""The five hyperparameters of AugMix, validated once and passed on as one value."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_augmix._checks import integer, number
from lightning_augmix.kernels.table import sampling_table
from lightning_augmix.operations import AugmentationSet, Operation, resolve_operations

__all__ = ["Hyperparameters", "validate"]


@dataclass(frozen=True)
class Hyperparameters:
    """Valid hyperparameters, as returned by :func:`validate`.

    Attributes:
        severity, width, depth, alpha: See :class:`~lightning_augmix.AugmentAndMixTransform`.
        augmentation_set: The set's name, or a tuple of the operations' names.
        operations: The operations to draw from.
    """

    severity: float
    width: int
    depth: int
    alpha: float
    augmentation_set: str | tuple[str, ...]
    operations: tuple[Operation, ...]

    @cached_property
    def table(self) -> NDArray[np.float64]:
        """The operations as the compiled sampler reads them."""
        return sampling_table(self.operations)

    def __reduce__(self) -> tuple[Any, ...]:
        # Not the table: pickled, it would lose its read-only flag, and compiled functions would be compiled again.
        fields = (self.severity, self.width, self.depth, self.alpha, self.augmentation_set, self.operations)
        return Hyperparameters, fields

    @cached_property
    def moves_pixels(self) -> bool:
        """Whether any operation moves image content."""
        return any(operation.moves_pixels for operation in self.operations)

    @property
    def max_depth(self) -> int:
        """The largest number of operations a chain can have."""
        return self.depth if self.depth > 0 else 3

    def with_severity(self, severity: float) -> "Hyperparameters":
        """Returns the same with another severity.

        Args:
            severity: In [0, 10].
        """
        return validate(severity, self.width, self.depth, self.alpha, self.augmentation_set)

    def arguments(self) -> dict[str, Any]:
        """The hyperparameters as keyword arguments, with lists for tuples, for loggers and YAML."""
        chosen = self.augmentation_set
        return {
            "severity": self.severity,
            "width": self.width,
            "depth": self.depth,
            "alpha": self.alpha,
            "augmentation_set": chosen if isinstance(chosen, str) else list(chosen),
        }

    def __str__(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.arguments().items())


def validate(
    severity: float, width: int, depth: int, alpha: float, augmentation_set: AugmentationSet
) -> Hyperparameters:
    """Validates the arguments of :class:`~lightning_augmix.AugmentAndMixTransform`; nothing else does.

    Returns:
        The validated values.

    Raises:
        TypeError: If a value has the wrong type.
        ValueError: If a value is out of range.
    """
    if isinstance(augmentation_set, Sequence) and not isinstance(augmentation_set, str):
        augmentation_set = tuple(augmentation_set)
    try:
        hash((severity, width, depth, alpha, augmentation_set))
    except TypeError:
        # The cache rejects unhashable arguments; the function itself says which one is wrong.
        return _validated.__wrapped__(severity, width, depth, alpha, augmentation_set)
    return _validated(severity, width, depth, alpha, augmentation_set)


# Cached, because plans are drawn for every image; `typed` tells True from 1.
@lru_cache(maxsize=256, typed=True)
def _validated(
    severity: float, width: int, depth: int, alpha: float, augmentation_set: AugmentationSet
) -> Hyperparameters:
    severity = number("severity", severity, at_least=0, at_most=10, remedy="the paper uses 3, 0 is off")
    width = integer("width", width, at_least=1, remedy="the paper uses 3")
    depth = integer("depth", depth, at_least=1, also=-1, remedy="-1 draws 1, 2 or 3, as the paper does")
    alpha = number("alpha", alpha, above=0, remedy="the paper uses 1.0")
    operations = resolve_operations(augmentation_set)
    chosen = augmentation_set if isinstance(augmentation_set, str) else tuple(o.name for o in operations)
    return Hyperparameters(severity, width, depth, alpha, chosen, operations)
