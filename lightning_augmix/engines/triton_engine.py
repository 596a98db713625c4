"""The engine for CUDA devices: a handful of launches for a whole batch, with the same bytes as ``pillow``.

A row is one chain of one image. In each step every row that goes on has one operation; a program has one row and one
tile of pixels, and so one operation. States alternate between two buffers, so which holds the end of a chain is known
from its length. The kernels are launched without fused multiplications and additions, which round once.
"""

from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
import torch
import triton
from numpy.typing import NDArray
from torch import Tensor

from lightning_augmix.engines import torch_engine
from lightning_augmix.engines import triton_kernels as kernels
from lightning_augmix.kernels.affine import LARGEST_ANGLE
from lightning_augmix.operations import OPERATIONS
from lightning_augmix.plans.hyperparameters import Hyperparameters, validate
from lightning_augmix.plans.plan import AugMixPlan

__all__ = ["TAKES_TENSORS", "apply", "augment", "check", "warm_up"]

TAKES_TENSORS = True
_Images = TypeVar("_Images", NDArray[np.uint8], Tensor)

warm_up = torch_engine.warm_up


def apply(images: _Images, plan: AugMixPlan, table: Tensor | None = None) -> _Images:
    """Does what :func:`torch_engine.apply` does.

    Args:
        images: See there; on a CUDA device, or in Triton's interpreter.
        plan: See there.
        table: See there.

    Returns:
        See there.
    """
    return torch_engine.on_tensors(_applied, images, plan, table)


def augment(
    images: _Images, keys: NDArray[np.uint64], hyperparameters: Hyperparameters, table: Tensor | None = None
) -> _Images:
    """Does what :func:`torch_engine.augment` does.

    Args:
        images: As for :func:`apply`.
        keys: See there.
        hyperparameters: See there.
        table: See there.

    Returns:
        See there.
    """
    return apply(images, torch_engine.drawn(images, keys, hyperparameters), table)


@lru_cache(maxsize=64)
def check(device: torch.device) -> None:
    """Compares every operation with torch's engine on the CPU, once for each device: drivers and compilers differ.

    Args:
        device: The device.

    Raises:
        RuntimeError: If a value differs.
    """
    keys, hyperparameters = np.arange(8, 16, dtype=np.uint64), validate(10, 3, 3, 1.0, list(OPERATIONS))
    # Triton makes other code for multiples of 16, and for other tiles.
    for channels, height, width in ((3, 33, 35), (1, 33, 35), (3, 48, 64), (1, 48, 64)):
        generator = torch.Generator().manual_seed(0)
        levels = torch.randint(256, (len(keys), channels, height, width), dtype=torch.uint8, generator=generator)
        table = torch.randn(256, channels, generator=generator).T
        for of_levels in (None, table):
            expected = torch_engine.augment(levels, keys, hyperparameters, of_levels)
            on_device = None if of_levels is None else of_levels.to(device)
            found = augment(levels.to(device), keys, hyperparameters, on_device).cpu()
            different = (found != expected).float().mean()
            if different:
                raise RuntimeError(
                    f"Triton's kernels do not give what the other engines give on {device} ({different:.2%} of the "
                    "values differ): use engine='torch', and please report it, with the output of `python -m "
                    "torch.utils.collect_env`."
                )


_TILE = 1024  # pixels of a program
_MOST_TILES = 65_535  # in the second dimension of a grid


def _applied(images: Tensor, plan: AugMixPlan, table: Tensor | None) -> Tensor:
    if triton.cdiv(images.shape[2] * images.shape[3], _TILE) > _MOST_TILES:
        return torch_engine.apply(images, plan, table)
    out = torch.empty_like(images, dtype=images.dtype if table is None else table.dtype)
    if images.numel() == 0:
        return out
    with torch.cuda.device_of(images):  # type: ignore[no-untyped-call]  # where Triton launches
        _launch(images, plan, None if table is None else table.contiguous(), out)
    return out


def _launch(images: Tensor, plan: AugMixPlan, table: Tensor | None, out: Tensor) -> None:
    number, chains, depth = plan.operations.shape
    channels, height, width = images.shape[1:]
    pixels, rows = height * width, number * chains
    tiles = triton.cdiv(pixels, _TILE)
    planes = images.contiguous()
    parameters, weights, operations = _uploaded(plan, images.device)
    rotations = _rotations(plan.image_size, images.device)
    states = planes.new_empty((2, rows, channels, pixels))
    tables = planes.new_empty((rows, channels, 256))
    shared = {"CHANNELS": channels, "enable_fp_fusion": False}
    for step in range(depth):
        source, per_image = (planes, chains) if step == 0 else (states[(step + 1) % 2], 1)
        place = (step, depth, per_image)
        kernels.tabulate[(rows, channels)](
            source,
            operations,
            tables,
            *place,
            pixels,
            TILE=min(4096, max(256, triton.next_power_of_2(pixels))),
            **shared,
        )
        kernels.operate[(rows, tiles)](
            *(source, operations, parameters, rotations, tables, states[step % 2], *place, height, width),
            TILE=_TILE,
            **shared,
        )
    kernels.mix[(number * channels, tiles)](
        *(planes, states, operations, weights, tables if table is None else table, out),
        *(chains, depth, height, width, *out.stride()),
        HAS_TABLE=table is not None,
        TILE=_TILE,
        **shared,
    )


def _uploaded(plan: AugMixPlan, device: torch.device) -> list[Tensor]:
    """The parameters, weights and operations of a batch of plans on a device, uploaded at once."""
    # The widest type first, because of the alignment.
    arrays: list[NDArray[Any]] = [plan.parameters, plan.weights, plan.operations]
    together = torch_engine.uploaded(np.concatenate([array.reshape(-1).view(np.uint8) for array in arrays]), device)
    parts = torch.split(together, [array.nbytes for array in arrays])
    return [part.view(dtype) for part, dtype in zip(parts, (torch.float64, torch.float32, torch.int8), strict=True)]


@lru_cache(maxsize=64)
def _rotations(image_size: tuple[int, int], device: torch.device) -> Tensor:
    """The affine matrices of all rotations, ``[A, 6]``."""
    degrees = np.arange(-LARGEST_ANGLE, LARGEST_ANGLE + 1, dtype=np.float64)
    matrices = torch_engine.numbers("rotate", degrees, image_size).T
    return torch.from_numpy(np.ascontiguousarray(matrices)).to(device)
