"""The engine for batches on a device: torch's own functions, with the same bytes as ``pillow``.

Plans are drawn on the CPU, so which rows need which operation is known there: the device is never asked. A row is the
state of one chain of one image. Functions here must not be compiled: fused multiplications and additions round once.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_augmix.engines import pillow_engine
from lightning_augmix.kernels.affine import rotation
from lightning_augmix.kernels.table import NO_OPERATION
from lightning_augmix.operations import OPERATIONS
from lightning_augmix.plans.hyperparameters import Hyperparameters
from lightning_augmix.plans.plan import AugMixPlan, draw_plan

__all__ = ["TAKES_TENSORS", "apply", "augment", "converted", "drawn", "numbers", "on_tensors", "uploaded", "warm_up"]

TAKES_TENSORS = True
_Images = TypeVar("_Images", NDArray[np.uint8], Tensor)


warm_up = pillow_engine.warm_up


def apply(images: _Images, plan: AugMixPlan, table: Tensor | None = None) -> _Images:
    """Applies a batch of plans, one to each image; the host does not wait for the device.

    Args:
        images: A uint8 tensor ``[N, C, H, W]`` with C of 1 or 3, of any memory format, on any device; or an array
            ``[N, H, W]``, ``[N, H, W, 3]``, or ``[N, H, W, 4]`` with padding.
        plan: A batch of N plans for that size.
        table: What becomes of each level of each channel after that, ``[C, 256]``, on the same device; ``None`` to
            leave the images uint8. For tensors alone.

    Returns:
        The augmented images, new, of the same type, shape, device and memory format, with the dtype of the table.
    """
    return on_tensors(_applied, images, plan, table)


def on_tensors(
    applied: Callable[[Tensor, AugMixPlan, Tensor | None], Tensor],
    images: _Images,
    plan: AugMixPlan,
    table: Tensor | None,
) -> _Images:
    """Calls a function of tensors for tensors or arrays.

    Args:
        applied: The function, of a uint8 tensor ``[N, C, H, W]``.
        images: As for :func:`apply`.
        plan: As for :func:`apply`.
        table: As for :func:`apply`.
    """
    if isinstance(images, Tensor):
        return applied(images, plan, table)
    augmented = images.copy()
    levels = torch.from_numpy(augmented[..., None] if images.ndim == 3 else augmented[..., :3]).permute(0, 3, 1, 2)
    levels.copy_(applied(levels, plan, None))
    return augmented


def augment(
    images: _Images, keys: NDArray[np.uint64], hyperparameters: Hyperparameters, table: Tensor | None = None
) -> _Images:
    """Draws a plan for each image, on the CPU, and applies it.

    Args:
        images: As for :func:`apply`.
        keys: uint64 ``[N]``.
        hyperparameters: Validated hyperparameters.
        table: As for :func:`apply`.

    Returns:
        As for :func:`apply`.
    """
    return apply(images, drawn(images, keys, hyperparameters), table)


def drawn(images: Tensor | NDArray[np.uint8], keys: NDArray[np.uint64], hyperparameters: Hyperparameters) -> AugMixPlan:
    """Draws a plan for each image, on the CPU.

    Args:
        images: As for :func:`apply`.
        keys: uint64 ``[N]``.
        hyperparameters: Validated hyperparameters.
    """
    height, width = images.shape[2:] if isinstance(images, Tensor) else images.shape[1:3]
    return draw_plan(keys, (height, width), hyperparameters)


def converted(levels: Tensor, table: Tensor | None) -> Tensor:
    """Looks up each level in the table of its channel.

    Args:
        levels: uint8 ``[N, C, H, W]``.
        table: ``[C, 256]``, on the same device; ``None`` to leave the levels.
    """
    if table is None:
        return levels
    channels, of_levels = table.shape
    places = levels.int() + torch.arange(0, channels * of_levels, of_levels, device=levels.device).view(-1, 1, 1)
    found = table.flatten().index_select(0, places.flatten()).view(levels.shape)
    return found if levels.is_contiguous() else torch.empty_like(levels, dtype=table.dtype).copy_(found)


def _applied(images: Tensor, plan: AugMixPlan, table: Tensor | None) -> Tensor:
    if images.numel() == 0:
        return converted(images.clone(), table)
    if images.device.type == "mps":  # which has no float64
        return converted(_applied(images.cpu(), plan, None).to(images.device), table)
    number, chains, depth = plan.operations.shape
    state = images.contiguous().repeat_interleave(chains, dim=0)
    steps = _Steps(plan, images.device)
    for step in range(depth):
        for name, rows, parameters in steps.of(step):
            state.index_copy_(0, rows, _OPERATIONS[name](state.index_select(0, rows), parameters))
    mixed = _mixed(images, state.view(number, chains, *images.shape[1:]), steps.weights[..., None, None, None])
    return converted(mixed, table)


def _mixed(images: Tensor, chains: Tensor, weights: Tensor) -> Tensor:
    """Computes what ``pillow_engine.mix`` does, in its order."""
    mixed = torch.zeros(images.shape, dtype=torch.float32, device=images.device)
    for chain in range(chains.shape[1]):
        mixed += weights[:, chain + 1] * chains[:, chain].float()
    mixed *= weights[:, 0]
    mixed += (1 - weights[:, 0]) * images.float()
    return torch.empty_like(images).copy_(mixed.round_().clamp_(0, 255))


class _Steps:
    """A batch of plans as the rows that each operation has to change in each step, on a device; uploaded at once."""

    def __init__(self, plan: AugMixPlan, device: torch.device) -> None:
        number, chains, depth = plan.operations.shape
        codes = plan.operations.reshape(number * chains, depth).T
        parameters = plan.parameters.reshape(number * chains, depth).T
        columns, self._groups, start = [], list[list[tuple[str, slice]]](), 0
        for of_rows, values in zip(codes, parameters, strict=True):
            groups = []
            for code in np.unique(of_rows[of_rows != NO_OPERATION]):
                rows, name = np.flatnonzero(of_rows == code), _NAMES[code]
                columns.append(np.vstack([rows, numbers(name, values[rows], plan.image_size)]))
                groups.append((name, slice(start, start := start + len(rows))))
            self._groups.append(groups)
        parts = [np.hstack([np.empty((1 + _NUMBERS, 0)), *columns]).ravel(), plan.weights.astype(np.float64).ravel()]
        everything = uploaded(np.concatenate(parts), device)
        self._table = everything[: start * (1 + _NUMBERS)].view(1 + _NUMBERS, start)
        self._rows = self._table[0].long()
        self.weights = everything[start * (1 + _NUMBERS) :].view(number, 1 + chains).float()

    def of(self, step: int) -> Iterator[tuple[str, Tensor, Tensor]]:
        """The operations of a step: the name, int64 rows ``[R]``, and float64 numbers ``[6, R, 1, 1, 1]``."""
        for name, part in self._groups[step]:
            yield name, self._rows[part], self._table[1:, part, None, None, None]


# ---- Parameters, on the CPU -----------------------------------------------------------------------------------------

_NAMES = tuple(OPERATIONS)
_NUMBERS = 6  # of a row: an affine matrix, or one parameter


def uploaded(numbers: NDArray[np.float64], device: torch.device) -> Tensor:
    """Copies numbers to a device, without waiting for it.

    Args:
        numbers: The numbers.
        device: The device.
    """
    on_host = torch.from_numpy(numbers)
    if device.type == "cuda":
        on_host = on_host.pin_memory()
    return on_host.to(device, non_blocking=True)


def numbers(name: str, parameters: NDArray[np.float64], image_size: tuple[int, int]) -> NDArray[np.float64]:
    """What an operation needs to know for each row: the affine matrix, or its parameter and zeros; ``[6, R]``.

    Args:
        name: The operation.
        parameters: Its parameter for each row.
        image_size: (height, width) in pixels.
    """
    of_rows = np.zeros((_NUMBERS, len(parameters)))
    if name == "rotate":
        of_rows[:] = np.transpose([_rotation(degrees, image_size) for degrees in parameters])
    elif name in _MATRICES:
        of_rows[[0, 4]] = 1
        of_rows[_MATRICES[name]] = parameters
    else:
        of_rows[0] = parameters
    return of_rows


_MATRICES = {"shear_x": 1, "translate_x": 2, "shear_y": 3, "translate_y": 5}


def _rotation(degrees: float, image_size: tuple[int, int]) -> tuple[float, ...]:
    """As in Pillow's ``Image.rotate``."""
    height, width = image_size
    cosine, sine = rotation(degrees)
    x, y = -width / 2.0, -height / 2.0
    return (
        *(cosine, sine, (cosine * x + sine * y) + width / 2.0),
        *(-sine, cosine, (-sine * x + cosine * y) + height / 2.0),
    )


# ---- Operations: uint8 [R, C, H, W] and numbers to uint8 [R, C, H, W] -----------------------------------------------


def _look_up(levels: Tensor, tables: Tensor) -> Tensor:
    """Looks up each level in the table of its channel, ``[R, C, 256]``."""
    return tables.to(torch.uint8).gather(2, levels.flatten(2).long()).view(levels.shape)


def _autocontrast(levels: Tensor, _: Tensor) -> Tensor:
    low, high = (bound.double()[..., None] for bound in levels.flatten(2).aminmax(dim=2))
    scale = torch.full_like(low, 255.0) / (high - low)  # a number divided by a tensor would be rounded twice
    every = torch.arange(256, dtype=torch.float64, device=levels.device)
    stretched = (every * scale + -low * scale).trunc().clamp_(0, 255)
    return _look_up(levels, torch.where(high > low, stretched, every))


def _equalize(levels: Tensor, _: Tensor) -> Tensor:
    pixels = levels.shape[2] * levels.shape[3]
    every = torch.arange(256, device=levels.device)
    counts = torch.zeros(*levels.shape[:2], 256, dtype=torch.int64, device=levels.device)
    with _any_order():
        counts.scatter_add_(
            2,
            levels.flatten(2).long(),
            torch.ones((), dtype=torch.int64, device=levels.device).expand(*levels.shape[:2], pixels),
        )
    last = torch.where(counts > 0, every, 0).amax(2, keepdim=True)
    step = (pixels - counts.gather(2, last)) // 255
    before = counts.cumsum(2) - counts
    equalized = ((step // 2 + before) // step.clamp(min=1)).clamp_(max=255)
    return _look_up(levels, torch.where(step > 0, equalized, every))


@contextmanager
def _any_order() -> Iterator[None]:
    """Sums of integers are the same in any order, which ``use_deterministic_algorithms`` does not know."""
    was_on, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(was_on, warn_only=warns)


def _posterize(levels: Tensor, numbers: Tensor) -> Tensor:
    return levels & (256 - (2.0 ** (8 - numbers[0]))).to(torch.uint8)


def _solarize(levels: Tensor, numbers: Tensor) -> Tensor:
    return torch.where(levels.short() >= numbers[0].short(), 255 - levels, levels)


def _affine(levels: Tensor, numbers: Tensor) -> Tensor:
    height, width = levels.shape[2:]
    a, b, c, d, e, f = numbers[:, :, 0]
    x = torch.arange(width, dtype=torch.float64, device=levels.device) + 0.5
    y = torch.arange(height, dtype=torch.float64, device=levels.device)[:, None] + 0.5
    across, down = (a * x + b * y) + c, (d * x + e * y) + f
    is_inside = (across >= 0) & (across < width) & (down >= 0) & (down < height)
    across, down = across - 0.5, down - 0.5
    left, top = across.floor(), down.floor()
    across, down = (across - left)[:, None], (down - top)[:, None]
    columns = [(left + offset).clamp_(0, width - 1).long() for offset in (0, 1)]
    # Below the last row, Pillow takes the first of the two rows again: the one that the clamped position names.
    rows = [(top + offset).clamp_(0, height - 1).long() * width for offset in (0, 1)]
    flat = levels.flatten(2)

    def at(row: Tensor, column: Tensor) -> Tensor:
        places = (row + column).flatten(1)[:, None].expand(-1, levels.shape[1], -1)
        return flat.gather(2, places).view(levels.shape).double()

    upper, lower = (at(row, columns[0]) for row in rows)
    upper = upper + (at(rows[0], columns[1]) - upper) * across
    lower = lower + (at(rows[1], columns[1]) - lower) * across
    return torch.where(is_inside[:, None], upper + (lower - upper) * down, 0).to(torch.uint8)


def _blend(degenerate: Tensor, levels: Tensor, numbers: Tensor) -> Tensor:
    degenerate = degenerate.float()
    blended = degenerate + numbers[0].float() * (levels.float() - degenerate)
    return blended.clamp_(0, 255).to(torch.uint8)


def _gray(levels: Tensor) -> Tensor:
    if levels.shape[1] == 1:
        return levels.int()
    red, green, blue = (levels[:, channel : channel + 1].int() for channel in range(3))
    return (19595 * red + 38470 * green + 7471 * blue + 32768) >> 16


def _color(levels: Tensor, numbers: Tensor) -> Tensor:
    return _blend(_gray(levels), levels, numbers)


def _contrast(levels: Tensor, numbers: Tensor) -> Tensor:
    mean = _gray(levels).sum((1, 2, 3), keepdim=True).double() / (levels.shape[2] * levels.shape[3])
    return _blend((mean + 0.5).floor(), levels, numbers)


def _brightness(levels: Tensor, numbers: Tensor) -> Tensor:
    return _blend(torch.zeros_like(levels[:, :1, :1, :1]), levels, numbers)


def _sharpness(levels: Tensor, numbers: Tensor) -> Tensor:
    smooth, (height, width) = levels.int(), levels.shape[2:]
    if height > 2 and width > 2:
        rows = smooth[:, :, :-2] + smooth[:, :, 1:-1] + smooth[:, :, 2:]
        total = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4 * smooth[:, :, 1:-1, 1:-1]
        # The filter's sum / 13, rounded, which is never half an integer. The border stays.
        smooth[:, :, 1:-1, 1:-1] = (total + 6) // 13
    return _blend(smooth, levels, numbers)


_ENHANCE = {"color": _color, "contrast": _contrast, "brightness": _brightness, "sharpness": _sharpness}

_OPERATIONS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "autocontrast": _autocontrast,
    "equalize": _equalize,
    "posterize": _posterize,
    "solarize": _solarize,
    **dict.fromkeys(("rotate", "shear_x", "shear_y", "translate_x", "translate_y"), _affine),
    **_ENHANCE,
    **{f"{name}_original": enhance for name, enhance in _ENHANCE.items()},
}
