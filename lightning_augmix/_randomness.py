"""The states of random generators: those of torch, NumPy and Python, and a dataset's own."""

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from itertools import islice
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch

__all__ = ["RandomStates", "generators_of", "replays"]

_SCALARS = (
    str,
    bytes,
    int,
    float,
    complex,
    type(None),
    torch.Tensor,
    np.ndarray,
    np.generic,
    torch.dtype,
    type,
    ModuleType,
)
# What a dataset holds many of are records of files, and generators stand elsewhere.
_FIRST_ITEMS = 16
_MOST_OBJECTS = 20_000


class RandomStates:
    """The states of the global generators of torch, NumPy and Python, and of others, at one moment.

    Args:
        generators: The others.
    """

    def __init__(self, generators: Iterable[Any] = ()) -> None:
        self._states: list[tuple[Callable[[Any], Any], Any]] = [
            (torch.set_rng_state, torch.get_rng_state()),
            (np.random.set_state, np.random.get_state()),
            (random.setstate, random.getstate()),
            *map(_state, generators),
        ]

    def restore(self) -> None:
        """Sets the generators back."""
        for restore, state in self._states:
            restore(state)


def _state(generator: Any) -> tuple[Callable[[Any], Any], Any]:
    if isinstance(generator, torch.Generator):
        return generator.set_state, generator.get_state()
    if isinstance(generator, np.random.RandomState):
        return generator.set_state, generator.get_state()
    if isinstance(generator, random.Random):
        return generator.setstate, generator.getstate()
    bits = generator.bit_generator
    return lambda state: setattr(bits, "state", state), bits.state


def replays(times: int) -> Iterator[int]:
    """Counts to ``times`` and sets the global random states back for each, so that each meets the same draws.

    After the last, the states are as the first left them.

    Args:
        times: At least 1.
    """
    before = after = RandomStates()
    for number in range(times):
        if number == 1:
            after = RandomStates()
        if number > 0:
            before.restore()
        yield number
    if times > 1:
        after.restore()


def generators_of(root: Any) -> list[Any]:
    """The random generators that an object holds or its functions use, as far as Python shows them.

    Args:
        root: A dataset, for instance.
    """
    found: dict[int, Any] = {}
    seen: dict[int, Any] = {}
    pending = [root]
    while pending and len(seen) < _MOST_OBJECTS:
        item = pending.pop()
        if isinstance(item, _SCALARS) or id(item) in seen:
            continue
        seen[id(item)] = item  # kept alive: another object may get its identity
        if isinstance(item, _GENERATORS):
            found[id(item)] = item
        else:
            pending += _parts(item)
    return list(found.values())


_GENERATORS = (torch.Generator, random.Random, np.random.Generator, np.random.RandomState)


def _parts(item: Any) -> Iterable[Any]:
    if isinstance(item, Mapping):
        return islice(dict.values(item), _FIRST_ITEMS) if isinstance(item, dict) else ()
    if isinstance(item, list | tuple | set | frozenset):
        return islice(item, _FIRST_ITEMS)
    if isinstance(item, FunctionType):
        return _used_by(item)
    if isinstance(item, MethodType):
        return item.__self__, item.__func__
    if isinstance(item, partial):
        return item.func, *item.args, *item.keywords.values()
    if isinstance(item, property | classmethod | staticmethod):
        return (item.fget if isinstance(item, property) else item.__func__,)
    of_class = [part for base in type(item).__mro__ if not _is_of_library(base) for part in vars(base).values()]
    return *(vars(item).values() if hasattr(item, "__dict__") else ()), *of_class


def _used_by(function: FunctionType) -> Iterator[Any]:
    """What a function closes over, its defaults, and the generators and functions of its module that it names."""
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # not filled yet
            yield cell.cell_contents
    yield from function.__defaults__ or ()
    for name in function.__code__.co_names:
        value = function.__globals__.get(name)
        is_own = isinstance(value, FunctionType) and value.__module__ == function.__module__
        if is_own or isinstance(value, _GENERATORS):
            yield value


def _is_of_library(cls: type) -> bool:
    return cls.__module__.partition(".")[0] in ("abc", "builtins", "numpy", "PIL", "torch", "torchvision", "typing")
