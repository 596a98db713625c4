"""What is derived from a guarded Hugging Face dataset would lose AugMix in silence, so that it is refused."""

from collections.abc import Callable
from functools import wraps
from types import FunctionType
from typing import Any, NoReturn

from lightning_augmix._errors import PlacementError

__all__ = ["refusing_to_derive"]

_MODULES = ("datasets.arrow_dataset", "datasets.iterable_dataset")

#: Methods after which the dataset itself is augmented as before.
_HARMLESS = {
    "cleanup_cache_files",
    "formatted_as",
    "load_state_dict",
    "reset_format",
    "set_epoch",
    "set_format",
    "set_transform",
    "state_dict",
}
#: What `concatenate_datasets`, `interleave_datasets` and `split_dataset_by_node` ask a dataset for.
_ASKED_BY_FUNCTIONS = ("_distributed", "_resolve_features", "format")


def refusing_to_derive(cls: type, is_making_sample: Callable[[Any], bool]) -> dict[str, Any]:
    """Methods for a guarded copy that refuse to derive another dataset, or to read the rows without AugMix.

    Args:
        cls: The class of the dataset; there are none if it is not of Hugging Face's ``datasets``.
        is_making_sample: Whether a copy is making a sample: it may use them then.
    """
    bases = [base for base in cls.__mro__ if base.__module__ in _MODULES]
    members = {name: member for base in reversed(bases) for name, member in vars(base).items()}
    if not bases:
        return {}

    def refuse(name: str) -> NoReturn:
        raise PlacementError(
            f"`{name}` of an augmented {cls.__name__} would lead to images without AugMix: use it on the dataset that "
            "you gave to `augment_dataset`, and augment what comes of it."
        )

    def method(name: str, own: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(own)
        def refusing(self: Any, *args: Any, **kwargs: Any) -> Any:
            return own(self, *args, **kwargs) if is_making_sample(self) else refuse(name)

        return refusing

    def attribute(name: str, own: Any) -> property:
        def refusing(self: Any) -> Any:
            if not is_making_sample(self):
                refuse(name)
            return own.__get__(self) if isinstance(own, property) else vars(self)[name]

        return property(refusing)

    refused: dict[str, Any] = {
        name: method(name, member)
        for name, member in members.items()
        if isinstance(member, FunctionType) and not name.startswith("_") and name not in _HARMLESS
    }
    for name in _ASKED_BY_FUNCTIONS:
        member = members.get(name)
        refused[name] = method(name, member) if isinstance(member, FunctionType) else attribute(name, member)
    return refused
