"""The operations of AugMix: one frozen record each, and the sets named after them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, TypeAlias

__all__ = ["OPERATIONS", "AugmentationSet", "Operation", "augmentation_sets", "resolve_operations"]


@dataclass(frozen=True)
class Operation:
    """One operation and the distribution of its parameter.

    With ``L ~ U(0.1, severity)`` and a random sign if ``signed``, the parameter is

    * ``"none"``: absent.
    * ``"level"``: ``offset ± scale · extent · L / 10``, the second term truncated toward zero if ``integer``.
    * ``"enhancement"``: ``U(1, max(1, severity))`` or ``U(1 − 0.09 · severity, 1)``, each with probability ½;
      a factor above 1 is multiplied by ``scale``.

    Attributes:
        name: The name in plans and in lists of operations.
        unit: The unit of the parameter, for display: degrees, pixels, bits, …
        law: How the parameter is drawn: one of the three above.
        scale: What ``L / 10``, or a factor above 1, is multiplied by.
        offset: The first term of a ``"level"``: the parameter without any intensity.
        signed: Whether the second term is negated with probability ½.
        integer: Whether the second term is truncated, and the parameter an ``int``.
        extent: The side of the image that the second term is scaled with, in pixels; ``None`` for 1.
        moves_pixels: Whether the operation moves image content, so that boxes, masks and keypoints no longer match.
    """

    name: str
    unit: str = ""
    law: Literal["none", "level", "enhancement"] = "none"
    scale: float = 1.0
    offset: float = 0.0
    signed: bool = False
    integer: bool = False
    extent: Literal["width", "height"] | None = None
    moves_pixels: bool = False

    def limits(self, image_size: tuple[int, int]) -> tuple[float, float]:
        """The least and the greatest parameter that engines apply to images of a size.

        Args:
            image_size: (height, width) in pixels.
        """
        if self.law == "none":
            return 0, 0
        if self.unit in _LIMITS:
            return _LIMITS[self.unit]
        side = {None: 1, "height": image_size[0], "width": image_size[1]}[self.extent]
        return -self.scale * side, self.scale * side

    # Sets of operations are looked up for every plan, and hashing nine fields is slow.
    def __hash__(self) -> int:
        return hash(self.name)


# Those that plans of one's own may have beyond what is drawn: 8 bits, and factors from the degenerate image on.
_LIMITS: Mapping[str, tuple[float, float]] = {"bits": (1, 8), "threshold": (0, 256), "enhancement factor": (0, 10)}

AugmentationSet: TypeAlias = str | Sequence[str | Operation]


def _geometric(
    name: str, unit: str, scale: float, *, integer: bool, extent: Literal["width", "height"] | None = None
) -> Operation:
    return Operation(name, unit, "level", scale, signed=True, integer=integer, extent=extent, moves_pixels=True)


_COMMON = (
    Operation("autocontrast"),
    Operation("equalize"),
    Operation("posterize", "bits", "level", -4, offset=4, integer=True),
    Operation("solarize", "threshold", "level", -256, offset=256, integer=True),
    _geometric("rotate", "degrees", 30, integer=True),
    _geometric("shear_x", "shear factor", 0.3, integer=False),
    _geometric("shear_y", "shear factor", 0.3, integer=False),
    _geometric("translate_x", "pixels", 1 / 3, integer=True, extent="width"),
    _geometric("translate_y", "pixels", 1 / 3, integer=True, extent="height"),
)
_ENHANCEMENTS = (
    Operation("color", "enhancement factor", "enhancement"),
    Operation("contrast", "enhancement factor", "enhancement"),
    # The reference scales brightening, and nothing else, by 0.75: kept, so that published settings carry over.
    Operation("brightness", "enhancement factor", "enhancement", 0.75),
    Operation("sharpness", "enhancement factor", "enhancement"),
)
_ORIGINAL_ENHANCEMENTS = tuple(
    Operation(f"{operation.name}_original", "enhancement factor", "level", 1.8, offset=0.1)
    for operation in _ENHANCEMENTS
)

#: Every operation by name. The order defines the codes in plans, so only ever append.
OPERATIONS: Mapping[str, Operation] = MappingProxyType(
    {operation.name: operation for operation in _COMMON + _ENHANCEMENTS + _ORIGINAL_ENHANCEMENTS}
)

#: The named sets. ``all``: the 13 of the method card; ``safe``: the paper's nine, which do not overlap with the
#: CIFAR-C / ImageNet-C corruptions; ``original``: those nine and the official code's four enhancements;
#: ``photometric``: those of ``all`` that move no pixels, for samples with boxes, masks or keypoints.
augmentation_sets: Mapping[str, tuple[Operation, ...]] = MappingProxyType(
    {
        "all": _COMMON + _ENHANCEMENTS,
        "safe": _COMMON,
        "original": _COMMON + _ORIGINAL_ENHANCEMENTS,
        "photometric": tuple(o for o in _COMMON + _ENHANCEMENTS if not o.moves_pixels),
    }
)


def resolve_operations(augmentation_set: AugmentationSet) -> tuple[Operation, ...]:
    """Returns the operations that an augmentation set stands for.

    Args:
        augmentation_set: A key of :data:`augmentation_sets`, or a non-empty sequence of operation names or
            :class:`Operation` records. A name given twice is drawn twice as often.

    Returns:
        The operations, in the order given.

    Raises:
        TypeError: If ``augmentation_set`` is neither a name nor a sequence of names and operations.
        ValueError: If a name is unknown, an operation is not one of :data:`OPERATIONS`, or the sequence is empty.

    Example:
        >>> [operation.name for operation in resolve_operations(["rotate", "solarize"])]
        ['rotate', 'solarize']
    """
    sets, names = ", ".join(augmentation_sets), ", ".join(OPERATIONS)
    permitted = f"one of {sets}, or a list of operations from: {names}"
    if isinstance(augmentation_set, str):
        if augmentation_set in augmentation_sets:
            return augmentation_sets[augmentation_set]
        remedy = f"; for that operation alone write ['{augmentation_set}']" if augmentation_set in OPERATIONS else ""
        raise ValueError(f"Expected argument `augmentation_set` to be {permitted}; got '{augmentation_set}'{remedy}.")
    if not isinstance(augmentation_set, Sequence):
        raise TypeError(f"Expected argument `augmentation_set` to be {permitted}; got {augmentation_set!r}.")
    if not augmentation_set:
        raise ValueError(f"Expected argument `augmentation_set` to be {permitted}; got an empty list.")
    resolved = []
    for entry in augmentation_set:
        if not isinstance(entry, str | Operation):
            raise TypeError(f"Expected argument `augmentation_set` to be {permitted}; got {entry!r} in the list.")
        known = OPERATIONS.get(entry if isinstance(entry, str) else entry.name)
        if known is None or (isinstance(entry, Operation) and entry != known):
            raise ValueError(f"Expected argument `augmentation_set` to be {permitted}; got {entry!r} in the list.")
        resolved.append(known)
    return tuple(resolved)
