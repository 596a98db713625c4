"""Engines draw and apply plans. All of them give the bytes of the reference, ``pillow``."""

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lightning_augmix.engines import numba_engine, pillow_engine
from lightning_augmix.plans.hyperparameters import Hyperparameters
from lightning_augmix.plans.plan import AugMixPlan

__all__ = ["Engine", "select_engine"]


class Engine(Protocol):
    """What a module has that is an engine.

    Images are uint8 arrays, C-contiguous and never written to: ``[N, H, W]``, ``[N, H, W, 3]``, or ``[N, H, W, 4]``
    with padding behind red, green and blue, as Pillow keeps them. Results are new arrays of the same shape, their
    padding of any value.
    """

    def warm_up(self, announce: Callable[[], None] = ...) -> None:
        """Compiles what there is to compile, so that worker processes do not each do so, and announces it."""

    def apply(self, images: NDArray[np.uint8], plan: AugMixPlan) -> NDArray[np.uint8]:
        """Applies a batch of plans, one to each image."""

    def augment(
        self, images: NDArray[np.uint8], keys: NDArray[np.uint64], hyperparameters: Hyperparameters
    ) -> NDArray[np.uint8]:
        """Draws a plan for each image from its key and applies it."""


_ENGINES: Mapping[str, Engine] = {"numba": numba_engine, "pillow": pillow_engine}


def select_engine(engine: str) -> Engine:
    """Returns the engine of a name.

    Args:
        engine: ``"numba"``, ``"pillow"``, or ``"auto"`` for the fastest: ``numba``, at every size from 32×32 to 384×384
            (`augmix-bench`). Images with a side above 2¹⁶ pixels it leaves to ``pillow``.

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
