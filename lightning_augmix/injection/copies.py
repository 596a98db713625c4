"""Copies of datasets that share their data."""

from collections.abc import Callable, Mapping
from functools import cache
from itertools import chain
from typing import Any, TypeAlias, TypeVar

from lightning_augmix._errors import PlacementError

__all__ = ["OURS", "copy_dataset", "slots_of"]

#: What the names of attributes start with that are put into copies.
OURS = "_augmix_"

_D = TypeVar("_D")


#: Returns the attributes of a subclass of a dataset's class; a module-level function, so that it can be pickled.
Define: TypeAlias = Callable[[type], Mapping[str, Any]]


def copy_dataset(dataset: _D, define: Define | None = None, *, own_containers: bool = True) -> _D:
    """Returns a shallow copy, made without the dataset's own ways of copying, which may load the data again.

    It is never finalised: a dataset's ``__del__`` closes files that the original still reads. It is pickled in the
    dataset's own way.

    Args:
        dataset: A dataset with a ``__dict__``.
        define: What to change in the class of the copy.
        own_containers: Whether its dictionaries and lists are copies too, because datasets keep caches in them.

    Returns:
        An object of the same class, or of a subclass where there is something to change or a ``__del__``, with the
        same attributes.

    Raises:
        PlacementError: If the type does not allow it.
    """
    cls = _original_class(type(dataset))
    if not hasattr(dataset, "__dict__"):
        raise PlacementError(f"{cls.__name__} cannot be copied in part: wrap it in a torch.utils.data.Dataset")
    try:
        is_same = define is None and not hasattr(cls, "__del__")
        copied: _D = object.__new__(cls if is_same else _made_class(cls, define))
    except Exception as error:  # a metaclass may raise anything
        raise PlacementError(f"{cls.__name__} cannot be copied in part ({error})") from None
    for name, value in vars(dataset).items():
        vars(copied)[name] = value.copy() if own_containers and type(value) in (dict, list) else value
    for slot in chain.from_iterable(slots_of(base) for base in cls.__mro__):
        if hasattr(dataset, slot):
            object.__setattr__(copied, slot, getattr(dataset, slot))
    return copied


def slots_of(cls: type) -> list[str]:
    """The attributes that instances of a class have in slots.

    Args:
        cls: The class; those of its bases are not among them.
    """
    slots = vars(cls).get("__slots__", ())
    names = [slots] if isinstance(slots, str) else list(slots)
    return [name for name in names if name not in ("__dict__", "__weakref__")]


class _Made:
    """The first base of every class that is made."""

    __slots__ = ()

    def __init_subclass__(cls) -> None:
        """Keeps made classes out of the registries that datasets keep of their subclasses."""

    def __del__(self) -> None:
        """Leaves open what the original shares."""


def _original_class(cls: Any) -> Any:
    return cls.__mro__[2] if issubclass(cls, _Made) else cls


@cache
def _made_class(cls: Any, define: Define | None) -> Any:
    def __reduce_ex__(self: Any, protocol: Any) -> Any:  # noqa: N807
        reduced = cls.__reduce_ex__(self, protocol)
        if isinstance(reduced, str):
            return reduced
        # Worker processes can import the dataset's class, but not one that was made here.
        make, arguments, state, *items = (*reduced, None)[:5]
        make, *arguments = (cls if part is type(self) else part for part in (make, *arguments))
        # The dataset's own way of pickling may leave out what it does not know.
        ours = {name: value for name, value in vars(self).items() if name.startswith(OURS)}
        return _rebuilt, (define, make, tuple(arguments), state, ours), None, *items[:2]

    namespace: dict[str, Any] = {"__slots__": (), "__module__": cls.__module__, "__qualname__": cls.__qualname__}
    namespace["__reduce_ex__"] = __reduce_ex__
    made = type(cls)(cls.__name__, (_Made, cls), namespace)
    # Not in the namespace, where IterDataPipe's metaclass would wrap `__iter__` once more.
    for name, method in (define(cls) if define is not None else {}).items():
        setattr(made, name, method)
    return made


def _rebuilt(
    define: Define | None, make: Callable[..., Any], arguments: tuple[Any, ...], state: Any, ours: dict[str, Any]
) -> Any:
    dataset = make(*arguments)
    if hasattr(dataset, "__setstate__"):
        dataset.__setstate__(state)
    elif state is not None:
        attributes, slots = state if isinstance(state, tuple) else (state, None)
        vars(dataset).update(attributes or {})
        for slot, value in (slots or {}).items():
            object.__setattr__(dataset, slot, value)
    copied = copy_dataset(dataset, define)
    vars(copied).update(ours)
    if hasattr(dataset, "__del__"):
        vars(copied)[f"{OURS}built"] = dataset  # which would close its files
    return copied
