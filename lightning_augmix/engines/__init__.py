"""Engines draw and apply plans. All produce the same bytes as the reference, ``pillow``."""

import os
import warnings
from collections.abc import Callable, Mapping
from functools import lru_cache
from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from lightning_augmix.engines import numba_engine, pillow_engine, torch_engine
from lightning_augmix.plans.hyperparameters import Hyperparameters
from lightning_augmix.plans.plan import AugMixPlan

__all__ = ["Engine", "select_engine"]


class Engine(Protocol):
    """The interface of an engine, which is a module.

    Images are uint8 arrays, C-contiguous and never written to: ``[N, H, W]``, ``[N, H, W, 3]``, or ``[N, H, W, 4]``
    with padding after red, green and blue, as Pillow stores them. Results are new arrays of the same shape, with
    arbitrary padding.

    Attributes:
        TAKES_TENSORS: Whether images may be uint8 tensors ``[N, C, H, W]`` too, with C of 1 or 3, of any memory format,
            on any device. Results are new tensors of the same shape, device and memory format then, and both functions
            take a table that converts their levels, see :func:`torch_engine.apply`.
    """

    TAKES_TENSORS: bool

    def warm_up(self, announce: Callable[[], None] = ...) -> None:
        """Compiles the engine's functions, so that worker processes need not, and announces it."""

    def apply(self, images: Any, plan: AugMixPlan) -> Any:
        """Applies a batch of plans, one to each image."""

    def augment(self, images: Any, keys: NDArray[np.uint64], hyperparameters: Hyperparameters) -> Any:
        """Draws a plan for each image from its key and applies it."""


_ENGINES: Mapping[str, Engine] = {"numba": numba_engine, "pillow": pillow_engine, "torch": torch_engine}
_NAMES = (*_ENGINES, "triton")


def select_engine(engine: str, device: torch.device | None = None) -> Engine:
    """Returns the engine with the given name.

    Args:
        engine: ``"numba"``, ``"pillow"``, ``"torch"``, ``"triton"``, or ``"auto"``: for tensors on a CUDA device, where
            they stay, ``triton``, or ``torch`` where Triton is not installed or does not work; else ``numba``, the
            fastest at every size from 32×32 to 384×384 (`augmix-bench`). ``numba`` leaves images with a side above
            2¹⁶ pixels to ``pillow``, and ``triton`` those that are on no CUDA device to ``torch``.
        device: Where the images are; ``None`` for arrays and PIL images.

    Returns:
        The engine.

    Raises:
        ValueError: If there is no such engine.
        RuntimeError: If ``triton`` was asked for, and does not give the bytes of the reference on that device.
    """
    if not isinstance(engine, str) or engine not in ("auto", *_NAMES):
        permitted = ", ".join(("auto", *_NAMES))
        raise ValueError(f"Expected argument `engine` to be one of: {permitted}; got {engine!r} (use 'auto').")
    on_cuda = device is not None and device.type == "cuda"
    if engine == "auto":
        return _for_cuda(device) if on_cuda and find_spec("triton") else _ENGINES["torch" if on_cuda else "numba"]
    if engine != "triton":
        return _ENGINES[engine]
    if not find_spec("triton"):
        raise ValueError("Expected argument `engine` to be 'torch' where Triton is not installed; got 'triton'.")
    if not on_cuda and os.environ.get("TRITON_INTERPRET") != "1":
        return torch_engine
    from lightning_augmix.engines import triton_engine

    triton_engine.check(device or torch.device("cpu"))
    return triton_engine


@lru_cache(maxsize=64)
def _for_cuda(device: torch.device | None) -> Engine:
    try:
        return select_engine("triton", device)
    except Exception as error:  # no C compiler, no support for the device, ...
        warnings.warn(
            f"Triton does not work on {device}, so the slower engine 'torch' takes its place ({error})",
            RuntimeWarning,
            stacklevel=4,
        )
        return torch_engine
