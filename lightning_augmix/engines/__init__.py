"""Engines apply plans. All of them give the bytes of the reference, ``pillow``."""

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from lightning_augmix.engines import pillow
from lightning_augmix.plan import AugMixPlan

__all__ = ["Engine", "select_engine"]

#: Applies the plan of one image to a uint8 array ``[H, W]`` or ``[H, W, 3]``.
Engine: TypeAlias = Callable[[NDArray[np.uint8], AugMixPlan], NDArray[np.uint8]]

_ENGINES: Mapping[str, Engine] = {"pillow": pillow.apply}


def select_engine(engine: str) -> Engine:
    """Returns the engine of a name.

    Args:
        engine: ``"pillow"``, or ``"auto"`` for the fastest that serves the input.

    Returns:
        The function that applies plans.

    Raises:
        ValueError: If there is no such engine.
    """
    name = "pillow" if engine == "auto" else engine
    if not isinstance(name, str) or name not in _ENGINES:
        permitted = ", ".join(("auto", *_ENGINES))
        raise ValueError(f"Expected argument `engine` to be one of: {permitted}; got {engine!r} (use 'auto').")
    return _ENGINES[name]
