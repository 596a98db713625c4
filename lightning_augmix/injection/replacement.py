"""Methods of single objects, replaced for a time."""

from collections.abc import Callable
from typing import Any

__all__ = ["Replacement"]


class Replacement:
    """A method that takes the place of another, of one object and not of its class.

    Copies and pickles of the object have its own method.

    Args:
        owner: The object.
        name: The name of its method.
        method: Takes the method that was there as its first argument.
    """

    def __init__(self, owner: Any, name: str, method: Callable[..., Any]) -> None:
        self._owner, self._name, self._method = owner, name, method
        self._before = getattr(owner, name)
        # In a copy of an object, made during a fit, the method of its class is an attribute.
        of_class = getattr(self._before, "__func__", None) is getattr(type(owner), name, self)
        self._is_attribute = name in vars(owner) and not of_class
        setattr(owner, name, self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the method that takes the place."""
        return self._method(self._before, *args, **kwargs)

    def put_back(self) -> None:
        """Puts the method back, unless somebody else has replaced it again."""
        if vars(self._owner).get(self._name) is self:
            if self._is_attribute:
                setattr(self._owner, self._name, self._before)
            else:
                delattr(self._owner, self._name)

    def __reduce__(self) -> tuple[Callable[[Any], Any], tuple[Any]]:
        return _same, (self._before,)


def _same(method: Any) -> Any:
    return method
