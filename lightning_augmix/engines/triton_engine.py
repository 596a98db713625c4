"""The engine for CUDA devices: a handful of launches for a whole batch, with the same bytes as ``pillow``.

A row is one chain of one image. In each step every row that goes on has one operation; a program has one row and one
tile of pixels, and so one operation. States alternate between two buffers, so which holds the end of a chain is known
from its length. The kernels are launched without fused multiplications and additions, which round once.
"""

from typing import TypeVar

import numpy as np
import torch
import triton
from numpy.typing import NDArray
from torch import Tensor

from lightning_augmix.engines import torch_engine
from lightning_augmix.engines import triton_kernels as kernels
from lightning_augmix.kernels.table import NO_OPERATION
from lightning_augmix.operations import OPERATIONS
from lightning_augmix.plans.hyperparameters import Hyperparameters
from lightning_augmix.plans.plan import AugMixPlan

__all__ = ["TAKES_TENSORS", "apply", "augment", "warm_up"]

TAKES_TENSORS = True
_Images = TypeVar("_Images", NDArray[np.uint8], Tensor)

warm_up = torch_engine.warm_up


def apply(images: _Images, plan: AugMixPlan) -> _Images:
    """Applies a batch of plans, one to each image; the host does not wait for the device.

    Args:
        images: A uint8 tensor ``[N, C, H, W]`` with C of 1 or 3, of any memory format, on a CUDA device; or, in
            Triton's interpreter, on the CPU, or an array ``[N, H, W]``, ``[N, H, W, 3]``, or ``[N, H, W, 4]``.
        plan: A batch of N plans for that size.

    Returns:
        The augmented images, new, of the same type, shape, device and memory format.
    """
    return torch_engine.on_tensors(_applied, images, plan)


def augment(images: _Images, keys: NDArray[np.uint64], hyperparameters: Hyperparameters) -> _Images:
    """Draws a plan for each image, on the CPU, and applies it.

    Args:
        images: As for :func:`apply`.
        keys: uint64 ``[N]``.
        hyperparameters: Validated hyperparameters.

    Returns:
        As for :func:`apply`.
    """
    return apply(images, torch_engine.drawn(images, keys, hyperparameters))


_TILE = 1024  # pixels of a program


def _applied(images: Tensor, plan: AugMixPlan) -> Tensor:
    if images.numel() == 0:
        return images.clone()
    number, chains, depth = plan.operations.shape
    channels, height, width = images.shape[1:]
    pixels, tiles = height * width, triton.cdiv(height * width, _TILE)
    planes = images.contiguous()
    steps = _Steps(plan, images.device)
    states = planes.new_empty((2, number * chains, channels, pixels))
    counts = planes.new_zeros((max(1, steps.tables), channels, 256), dtype=torch.int32)
    tables = planes.new_empty(counts.shape)
    shape = {"PIXELS": pixels, "CHANNELS": channels, "TILE": _TILE, "enable_fp_fusion": False}
    for step in range(depth):
        source = planes if step == 0 else states[(step + 1) % 2]
        rows, with_tables = steps.rows[step], steps.rows_with_tables[step]
        per_row = chains if step == 0 else 1  # rows of an image share it in the first step
        if len(with_tables):
            part = steps.table[with_tables.start : with_tables.stop]
            kernels.count[(len(with_tables), channels, tiles)](source, part, counts, per_row, **shape)
            kernels.fill_tables[(len(with_tables), channels)](
                part, counts, tables, PIXELS=pixels, CHANNELS=channels, enable_fp_fusion=False
            )
        if len(rows):
            part = steps.table[rows.start : rows.stop]
            kernels.operate[(len(rows), tiles)](source, part, tables, states[step % 2], per_row, height, width, **shape)
    out = torch.empty_like(planes)
    size = channels * pixels
    grid = (number, triton.cdiv(size, _TILE))
    kernels.mix[grid](
        planes, states, steps.lengths, steps.weights, out, number, chains, size, TILE=_TILE, enable_fp_fusion=False
    )
    return torch.empty_like(images).copy_(out)


class _Steps:
    """A batch of plans as the rows of each step, on a device; uploaded at once.

    Attributes:
        table: float64 ``[T, 9]``: the row, the code of its operation, its table, and the operation's six numbers.
        rows: For each step, which lines of the table it has.
        rows_with_tables: The first of them, whose operations need a table of the image.
        tables: The number of such tables.
        lengths: int32 ``[rows]``: the operations of each chain.
        weights: float32 ``[N, 1 + chains]``.
    """

    def __init__(self, plan: AugMixPlan, device: torch.device) -> None:
        number, chains, depth = plan.operations.shape
        codes = plan.operations.reshape(number * chains, depth)
        parameters = plan.parameters.reshape(number * chains, depth)
        lines, start, self.tables = [np.empty((0, _COLUMNS))], 0, 0
        self.rows, self.rows_with_tables = list[range](), list[range]()
        for of_rows, values in zip(codes.T, parameters.T, strict=True):
            present = set(of_rows.tolist()) - {NO_OPERATION}
            first, count = start, 0
            for code in sorted(present, key=lambda code: (_kernel_code(code) not in kernels.WITH_TABLES, code)):
                rows = np.flatnonzero(of_rows == code)
                line = np.zeros((len(rows), _COLUMNS))
                line[:, 0], line[:, 1] = rows, _kernel_code(code)
                if _kernel_code(code) in kernels.WITH_TABLES:
                    line[:, 2] = np.arange(self.tables, self.tables + len(rows))
                    self.tables += len(rows)
                    count += len(rows)
                line[:, 3:] = torch_engine.numbers(_NAMES[code], values[rows], plan.image_size).T
                lines.append(line)
                start += len(rows)
            self.rows.append(range(first, start))
            self.rows_with_tables.append(range(first, first + count))
        lengths = (codes != NO_OPERATION).sum(1)
        parts = [np.vstack(lines).ravel(), lengths.astype(np.float64), plan.weights.astype(np.float64).ravel()]
        uploaded = torch_engine.uploaded(np.concatenate(parts), device)
        table, lengths, weights = torch.split(uploaded, [part.size for part in parts])
        self.table = table.view(-1, _COLUMNS)
        self.lengths = lengths.int()
        self.weights = weights.view(number, 1 + chains).float()


_NAMES = tuple(OPERATIONS)
_COLUMNS = 9


def _kernel_code(code: int) -> int:
    """The four original enhancements are the four enhancements again, in the same order."""
    first = kernels.CODES["color_original"]
    return code if code < first else code - first + kernels.CODES["color"]
