"""Where AugMix cannot be placed for certain: the error, and the choice between it and a warning."""

import warnings
from typing import Literal, TypeAlias

__all__ = ["OnUnsupported", "PlacementError", "refuse"]

#: What happens where AugMix cannot be placed for certain.
OnUnsupported: TypeAlias = Literal["raise", "warn"]


class PlacementError(ValueError):
    """AugMix cannot be placed for certain; the message says what was seen and what to write instead."""


def refuse(reason: str, on_unsupported: OnUnsupported, cause: BaseException | None = None) -> None:
    """Raises, or warns, that a sample was made without AugMix.

    Args:
        reason: Why, and what to do.
        on_unsupported: Whether to raise or to warn.
        cause: The error that caused it.

    Raises:
        PlacementError: If ``on_unsupported`` is ``"raise"``.
    """
    message = f"AugMix was not applied: {reason}"
    if on_unsupported == "raise":
        raise PlacementError(message) from cause
    warnings.warn(message, stacklevel=3)
