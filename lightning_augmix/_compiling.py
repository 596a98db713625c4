"""AugMix beside ``torch.compile``, which cannot look into its compiled kernels, and need not."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch

__all__ = ["runs_as_it_is"]

_F = TypeVar("_F", bound=Callable[..., Any])


def runs_as_it_is(function: _F) -> _F:
    """Makes ``torch.compile`` call a function as it is; with ``fullgraph=True`` torch refuses, and quotes the reason.

    Args:
        function: The function.
    """
    reason = (
        "AugMix has compiled kernels of its own, which run as they are: compile the model, and leave AugMix in the "
        "data, or leave out fullgraph=True"
    )
    disabled = torch.compiler.disable(function, reason=reason)  # type: ignore[no-untyped-call]

    @functools.wraps(function)
    def as_it_is(*args: Any, **kwargs: Any) -> Any:
        # Not the function itself: if it is compiled directly, torch looks into it nevertheless.
        return disabled(*args, **kwargs)

    return as_it_is  # type: ignore[return-value]
