"""Engines draw and apply plans. All produce the same bytes as the reference, ``pillow``."""

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lightning_augmix.engines import numba_engine, pillow_engine
from lightning_augmix.plans.hyperparameters import Hyperparameters
from lightning_augmix.plans.plan import AugMixPlan

__all__ = ["Engine", "select_engine"]


class Engine(Protocol):
    """The interface of an engine, which is a module.

    Images are uint8 arrays, C-contiguous and never written to: ``[N, H, W]``, ``[N, H, W, 3]``, or ``[N, H, W, 4]``
    with padding after red, green and blue, as Pillow stores them. Results are new arrays of the same shape, with
    arbitrary padding.
    """

    def warm_up(self, announce: Callable[[], None] = ...) -> None:
        """Compiles the engine's functions, so that worker processes need not, and announces it."""

    def apply(self, images: NDArray[np.uint8], plan: AugMixPlan) -> NDArray[np.uint8]:
        """Applies a batch of plans, one to each image."""

    def augment(
        self, images: NDArray[np.uint8], keys: NDArray[np.uint64], hyperparameters: Hyperparameters
    ) -> NDArray[np.uint8]:
        """Draws a plan for each image from its key and applies it."""


_ENGINES: Mapping[str, Engine] = {"numba": numba_engine, "pillow": pillow_engine}


def select_engine(engine: str) -> Engine:
    """Returns the engine with the given name.

    Args:
        engine: ``"numba"``, ``"pillow"``, or ``"auto"`` for the faster: ``numba``, at every size from 32×32 to 384×384
            (`augmix-bench`). ``numba`` leaves images with a side above 2¹⁶ pixels to ``pillow``.

    Returns:
        The engine.

    Raises:
        ValueError: If there is no such engine.
    """
    name = "numba" if engine == "auto" else engine
    if not isinstance(name, str) or name not in _ENGINES:
        permitted = ", ".join(("auto", *_ENGINES))
        raise ValueError(f"Expected argument `engine` to be one of: {permitted}; got {engine!r} (use 'auto').")
    return _ENGINES[name]
