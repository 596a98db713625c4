"""Checks of arguments: what is wrong is told by name, what is permitted, what was given, and a remedy."""

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np

__all__ = ["boolean", "integer", "is_boolean", "number", "one_of", "string"]


def integer(name: str, value: Any, *, at_least: int | None = None, also: int | None = None, remedy: str = "") -> int:
    """Checks that an argument is an integer; NumPy's are, and ``True`` is not.

    Args:
        name: The argument's name.
        value: What was given.
        at_least: The least that is permitted.
        also: An integer below that, permitted too.
        remedy: What to pass instead.

    Returns:
        The integer, of Python's type.

    Raises:
        TypeError: If it is none.
        ValueError: If it is too small.
    """
    permitted = "an integer" if at_least is None else f"an integer, at least {at_least}"
    if also is not None:
        permitted = f"{also} or {permitted}"
    if is_boolean(value) or not isinstance(value, Integral):
        raise TypeError(_message(name, permitted, f"{value!r} of type {type(value).__name__}", remedy))
    if at_least is not None and value < at_least and value != also:
        raise ValueError(_message(name, permitted, repr(value), remedy))
    return int(value)


def number(
    name: str,
    value: Any,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    remedy: str = "",
) -> float:
    """Checks that an argument is a finite real number; NumPy's are, and ``True`` is not.

    Args:
        name: The argument's name.
        value: What was given.
        at_least: The least that is permitted.
        above: What is too small, and all below it.
        at_most: The most that is permitted, beside `at_least`.
        below: What is too large, and all above it, beside `at_least`.
        remedy: What to pass instead.

    Returns:
        The number, of Python's type.

    Raises:
        TypeError: If it is none.
        ValueError: If it is out of its range, infinite or NaN.
    """
    permitted = "a real number"
    if at_most is not None or below is not None:
        end = f"{at_most:g}]" if at_most is not None else f"{below:g})"
        permitted += f" in [{at_least:g}, {end}"
    elif at_least is not None:
        permitted += f", at least {at_least:g}"
    elif above is not None:
        permitted += f" above {above:g}"
    if is_boolean(value) or not isinstance(value, Real):
        raise TypeError(_message(name, permitted, f"{value!r} of type {type(value).__name__}", remedy))
    given: Any = value  # `Real` has no typed comparisons
    is_valid = (
        (at_least is None or given >= at_least)
        and (above is None or given > above)
        and (at_most is None or given <= at_most)
        and (below is None or given < below)
        and math.isfinite(given)
    )
    if not is_valid:
        raise ValueError(_message(name, permitted, repr(value), remedy))
    return float(value)


def one_of(name: str, value: Any, permitted: Sequence[str], remedy: str = "") -> Any:
    """Checks that an argument is one of several strings.

    Args:
        name: The argument's name.
        value: What was given.
        permitted: The strings.
        remedy: What to pass instead.

    Returns:
        The string.

    Raises:
        ValueError: If it is none of them.
    """
    if not isinstance(value, str) or value not in permitted:
        raise ValueError(
            _message(name, f"{', '.join(map(repr, permitted[:-1]))} or {permitted[-1]!r}", repr(value), remedy)
        )
    return value


def string(name: str, value: Any) -> str:
    """Checks that an argument is a string.

    Args:
        name: The argument's name.
        value: What was given.

    Returns:
        The string.

    Raises:
        TypeError: If it is none.
    """
    if not isinstance(value, str):
        raise TypeError(_message(name, "a string", f"{value!r} of type {type(value).__name__}"))
    return value


def boolean(name: str, value: Any) -> bool:
    """Checks that an argument is ``True`` or ``False``; NumPy's are as well.

    Args:
        name: The argument's name.
        value: What was given.

    Returns:
        The boolean, of Python's type.

    Raises:
        TypeError: If it is none.
    """
    if not is_boolean(value):
        raise TypeError(_message(name, "True or False", repr(value)))
    return bool(value)


def is_boolean(value: Any) -> bool:
    """Whether a value is a boolean, which Python takes for an integer."""
    return isinstance(value, bool | np.bool_)


def _message(name: str, permitted: str, given: str, remedy: str = "") -> str:
    return f"Expected argument `{name}` to be {permitted}; got {given}{f' ({remedy})' if remedy else ''}."
