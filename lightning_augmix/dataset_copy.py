"""Shallow copies of datasets."""

from itertools import chain
from typing import TypeVar

from lightning_augmix.pipeline import PlacementError

__all__ = ["copy_dataset"]

_D = TypeVar("_D")


def copy_dataset(dataset: _D) -> _D:
    """Returns a shallow copy, made without the dataset's own ways of copying, which may load the data again.

    Args:
        dataset: A dataset with a ``__dict__``.

    Returns:
        An object of the same type with the same attributes.

    Raises:
        PlacementError: If the type does not allow it.
    """
    cls = type(dataset)
    try:
        copied: _D = object.__new__(cls)
        vars(copied).update(vars(dataset))
    except TypeError as error:
        raise PlacementError(f"{cls.__name__} cannot be copied in part ({error})") from None
    for slot in chain.from_iterable(_slots(base) for base in cls.__mro__):
        if hasattr(dataset, slot):
            object.__setattr__(copied, slot, getattr(dataset, slot))
    return copied


def _slots(cls: type) -> list[str]:
    slots = vars(cls).get("__slots__", ())
    names = [slots] if isinstance(slots, str) else list(slots)
    return [name for name in names if name not in ("__dict__", "__weakref__")]
