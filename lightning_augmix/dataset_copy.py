"""Shallow copies of datasets, and copies that tell which sample they are asked for."""

from functools import cache
from itertools import chain
from typing import Any, TypeVar

from lightning_augmix.keys import RunKeys
from lightning_augmix.pipeline import PlacementError

__all__ = ["copy_dataset", "index_dataset"]

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


def index_dataset(dataset: _D) -> _D:
    """Returns a copy of a map-style dataset that tells :class:`~lightning_augmix.keys.RunKeys` the sample it loads.

    It is an instance of the dataset's type, of a subclass made for it, because the loader, a ``worker_init_fn`` and
    the user's own code have to find in it what they find in the dataset.

    Args:
        dataset: A map-style dataset with integer indices.

    Returns:
        The copy.
    """
    indexed = copy_dataset(dataset)
    cls: Any = type(dataset)
    indexed.__class__ = _indexed_class(cls)
    return indexed


@cache
def _indexed_class(cls: Any) -> Any:
    def __getitem__(self: Any, index: Any) -> Any:  # noqa: N807
        try:
            number = index.__index__()
        except (AttributeError, TypeError):
            raise TypeError(
                f"`seed` makes the augmentation of a sample depend on its index, which must be an integer; the sampler "
                f"gave {index!r}: leave `seed=None` and seed with `seed_everything(…, workers=True)`."
            ) from None
        with RunKeys.sample(number):
            return cls.__getitem__(self, index)

    def __reduce_ex__(self: Any, protocol: Any) -> Any:  # noqa: N807
        # The type made here cannot be imported by a worker process; the dataset's own can, in its own way.
        plain = copy_dataset(self)
        plain.__class__ = cls
        return index_dataset, (plain,)

    # `__getitems__` would load several samples in one call; loaders take None for a dataset that has none.
    namespace = {"__getitem__": __getitem__, "__getitems__": None, "__reduce_ex__": __reduce_ex__}
    return type(cls.__name__, (cls,), {**namespace, "__module__": cls.__module__, "__qualname__": cls.__qualname__})
