"""The compiled engine: draws and applies plans in one call, with the same bytes as ``pillow``."""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lightning_augmix._threads import in_parts
from lightning_augmix.engines import pillow_engine
from lightning_augmix.kernels import chains as kernels
from lightning_augmix.kernels.jit import IS_COMPILED, announcing
from lightning_augmix.plans.hyperparameters import Hyperparameters, validate
from lightning_augmix.plans.plan import AugMixPlan

__all__ = ["TAKES_TENSORS", "apply", "augment", "warm_up"]

TAKES_TENSORS = False

_scratch = threading.local()
_KEPT = 1 << 24  # pixels, 64 MiB


def _buffers(chains: int, pixels: int) -> NDArray[np.uint32]:
    """Memory for one result per chain and one more; this thread keeps it, unless it is very large."""
    needed = (chains + 1) * pixels
    if needed > _KEPT:
        return np.empty((chains + 1, pixels), np.uint32)
    memory = getattr(_scratch, "memory", None)
    if memory is None or memory.size < needed:
        memory = _scratch.memory = np.empty(needed, np.uint32)
    return memory[:needed].reshape(chains + 1, pixels)


def _packed(images: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """Pixels ``[N, H · W]``, always read-only: for a second type, Numba would compile everything again."""
    number, height, width = images.shape[:3]
    if images.ndim == 3:
        packed = images.reshape(number, height * width).astype(np.uint32)
    elif images.shape[3] == 4:
        packed = images.view(np.uint32).reshape(number, height * width)
    else:
        packed = np.empty((number, height * width), np.uint32)
        kernels.pack(np.require(images, requirements="W").reshape(-1), packed.reshape(-1))
    packed.flags.writeable = False
    return packed


def _unpacked(packed: NDArray[np.uint32], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    if len(shape) == 3:
        return packed.astype(np.uint8).reshape(shape)
    if shape[3] == 4:
        return packed.view(np.uint8).reshape(shape)
    colors = np.empty(shape, np.uint8)
    kernels.unpack(packed.reshape(-1), colors.reshape(-1))
    return colors


def warm_up(announce: Callable[[], None] = lambda: None) -> None:
    """Compiles the kernels, or loads their machine code from disk, so that worker processes need not.

    Numba holds a lock meanwhile: a process that is forked while another thread is in here deadlocks.

    Args:
        announce: Called before anything is compiled.
    """
    with announcing(announce):
        augment(np.zeros((1, 1, 1, 3), np.uint8), np.zeros(1, np.uint64), validate(3, 3, -1, 1.0, "all"))


# Above this, the positions in a rotation would drift further than `affine` allows for.
_LARGEST_SIDE = 1 << 16


def _is_for_pillow(images: NDArray[np.uint8]) -> bool:
    """Whether the kernels are not for these images, or would be interpreted, with integers that do not wrap around."""
    return max(images.shape[1:3]) > _LARGEST_SIDE or not IS_COMPILED


# Batch size, in pixels, from which threads are worth starting. On two cores the second thread gains nothing in the
# first 4 ms (64 images of 96×96: 3.1 ms with one thread, 3.4 ms with two; 256: 12.6 and 7.2 ms).
_WORTH_THREADS = 1 << 20


def _on_batch(images: NDArray[np.uint8], chains: int, kernel: Callable[..., None]) -> NDArray[np.uint8]:
    """Calls ``kernel(part, images, buffers, out)`` for the parts of a batch, in parallel if torch has threads."""
    packed = _packed(images)
    number, pixels = packed.shape
    out = np.empty(packed.shape, np.uint32)
    threads = min(torch.get_num_threads(), number) if packed.size >= _WORTH_THREADS else 1
    in_parts(lambda part: kernel(part, packed[part], _buffers(chains, pixels), out[part]), number, threads)
    return _unpacked(out, images.shape)


def apply(images: NDArray[np.uint8], plan: AugMixPlan) -> NDArray[np.uint8]:
    """Applies a batch of plans, one to each image.

    Args:
        images: uint8 ``[N, H, W]``, ``[N, H, W, 3]``, or ``[N, H, W, 4]`` with padding; C-contiguous.
        plan: A batch of N plans for that size.

    Returns:
        The augmented images, a new array of the same shape, with arbitrary padding.
    """
    if _is_for_pillow(images):
        return pillow_engine.apply(images, plan)
    width, is_gray = images.shape[2], images.ndim == 3
    arrays = [np.require(array, requirements="W") for array in (plan.operations, plan.parameters, plan.weights)]

    def kernel(part: slice, images: Any, buffers: Any, out: Any) -> None:
        kernels.apply_plans(images, width, is_gray, *(array[part] for array in arrays), buffers, out)

    return _on_batch(images, plan.operations.shape[1], kernel)


def augment(images: NDArray[np.uint8], keys: NDArray[np.uint64], hyperparameters: Hyperparameters) -> NDArray[np.uint8]:
    """Draws a plan for each image and applies it.

    Args:
        images: As for :func:`apply`.
        keys: uint64 ``[N]``.
        hyperparameters: Validated hyperparameters.

    Returns:
        As for :func:`apply`.
    """
    h = hyperparameters
    if _is_for_pillow(images):
        return pillow_engine.augment(images, keys, h)
    width, is_gray = images.shape[2], images.ndim == 3

    def kernel(part: slice, images: Any, buffers: Any, out: Any) -> None:
        settings = (h.table, h.severity, h.depth, h.alpha, h.width, h.max_depth)
        kernels.augment(keys[part], *settings, images, width, is_gray, buffers, out)

    return _on_batch(images, h.width, kernel)
