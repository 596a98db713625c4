"""Measures AugMix on batches on a device: whether the bytes are those of the reference, and what it costs."""

import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
import torchvision
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from lightning_augmix._device import augmented_batch
from lightning_augmix.commands.benchmark import Timing, side_by_side
from lightning_augmix.engines import Engine, pillow_engine, select_engine
from lightning_augmix.operations import OPERATIONS
from lightning_augmix.plans.hyperparameters import validate
from lightning_augmix.plans.plan import draw_plan

__all__ = [
    "batch_of",
    "bytes_moved",
    "copies_per_second",
    "different_bytes",
    "engine_times",
    "engines",
    "engines_and_errors",
    "step_times",
    "waits",
]

_DEFAULTS = validate(3, 3, -1, 1.0, "all")


@lru_cache
def engines_and_errors(device: torch.device) -> tuple[dict[str, Engine], dict[str, str]]:
    """The engines that work on a device, the others' errors; ``numba`` is on the CPU, and images go there and back.

    Args:
        device: The device.
    """
    working, errors = dict[str, Engine](), dict[str, str]()
    for name in ("triton", "torch", "numba") if device.type == "cuda" else ("torch", "numba"):
        try:
            if name == "triton":  # whose check `select_engine` makes; here its bytes are counted
                engine: Any = import_module("lightning_augmix.engines.triton_engine")
            else:
                engine = select_engine(name, device)
            _augmented(engine, torch.zeros(1, 3, 5, 4, dtype=torch.uint8, device=device), _keys(1, 0), _DEFAULTS)
            working[name] = engine
        except Exception as error:  # compilers and drivers raise many kinds
            errors[name] = f"{type(error).__name__}: {error}"
    return working, errors


def engines(device: torch.device) -> dict[str, Engine]:
    """The engines that work on a device.

    Args:
        device: The device.
    """
    return engines_and_errors(device)[0]


def different_bytes(device: torch.device) -> dict[str, int]:
    """How many bytes each engine makes that are not those of ``pillow``.

    Compared are 2,560 random plans of all operations, for noise of 80 sizes up to 96×96, with one and three channels.

    Args:
        device: The device.
    """
    rng = np.random.default_rng(0)
    differ = dict.fromkeys(engines(device), 0)
    for number in range(80):
        height, width = (int(side) for side in rng.integers(1, 97, 2))
        images = rng.integers(0, 256, (32, height, width, 3 if number % 2 else 1), np.uint8)
        keys = np.arange(32 * number, 32 * (number + 1)).astype(np.uint64)
        hyperparameters = validate(
            (0.05, 1, 3, 10)[number % 4], 1 + number % 4, (-1, 1, 4)[number % 3], 1.0, list(OPERATIONS)
        )
        arrays = images if number % 2 else images[..., 0]
        expected = torch.from_numpy(pillow_engine.augment(arrays, keys, hyperparameters).reshape(images.shape))
        levels = torch.from_numpy(images).to(device).movedim(3, 1)
        for name, engine in engines(device).items():
            found = _augmented(engine, levels, keys, hyperparameters)
            differ[name] += int((found.movedim(1, 3).cpu() != expected).sum())
    return differ


def _augmented(engine: Engine, levels: Tensor, keys: Any, hyperparameters: Any, table: Tensor | None = None) -> Tensor:
    return augmented_batch(levels, keys[None], hyperparameters, engine, table)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def batch_of(images: Sequence[Image.Image], number: int, size: int, device: torch.device) -> Tensor:
    """Makes a batch of photographs, uint8 ``[N, 3, size, size]``, on a device.

    Args:
        images: The photographs.
        number: N.
        size: The side, in pixels.
        device: The device.
    """
    resized = np.stack([np.asarray(image.resize((size, size))) for image in images])
    return torch.from_numpy(resized[np.arange(number) % len(resized)]).movedim(3, 1).contiguous().to(device)


def engine_times(levels: Tensor, seconds: float) -> Iterator[list[Timing]]:
    """Times every engine, drawing included, torchvision's AugMix, and what comes closest in Kornia if it is installed.

    torchvision's draws once for a batch, and Kornia's RandAugment has no mixture.

    Args:
        levels: uint8 ``[N, 3, H, W]``.
        seconds: Seconds to spend on each.

    Yields:
        The timings so far, per image.
    """
    number = len(levels)

    def contender(engine: Engine) -> Callable[[int], Any]:
        return lambda call: _augmented(engine, levels, _keys(number, call), _DEFAULTS)

    contenders = {name: contender(engine) for name, engine in engines(levels.device).items()}
    one_plan = v2.AugMix()
    contenders["torchvision v2, one plan a batch"] = lambda _: one_plan(levels)
    if find_spec("kornia") is not None:
        from kornia.augmentation.auto import RandAugment

        closest = RandAugment(n=2, m=10)
        contenders["Kornia's RandAugment, uint8 in and out"] = lambda _: (
            closest(levels.float() / 255).mul_(255).round_().to(torch.uint8)
        )
    yield from _per_image(contenders, levels, seconds)


def _per_image(
    contenders: Mapping[str, Callable[[int], Any]], levels: Tensor, seconds: float
) -> Iterator[list[Timing]]:
    for timings in side_by_side(contenders, seconds, lambda: _wait(levels.device)):
        yield [Timing(timing.name, timing.milliseconds / len(levels)) for timing in timings]


def _keys(number: int, call: int) -> Any:
    return np.arange(number * call, number * (call + 1)).astype(np.uint64)


def bytes_moved(levels: Tensor) -> float:
    """The bytes per image that operations and mixture read and write; some operations read the whole image before.

    Args:
        levels: uint8 ``[N, 3, H, W]``.
    """
    plan = draw_plan(_keys(len(levels), 0), (levels.shape[2], levels.shape[3]), _DEFAULTS)
    whole = [list(OPERATIONS).index(name) for name in ("autocontrast", "equalize", "contrast", "contrast_original")]
    passes = 2 * (plan.operations >= 0).sum() + np.isin(plan.operations, whole).sum()  # these read the image before
    mixed = (plan.operations[..., 0] >= 0).sum() + 2 * len(levels)
    return float(passes + mixed) / len(levels) * levels[0].numel()


def copies_per_second(device: torch.device) -> float:
    """The bytes per second that the device reads and writes when it copies 256 MiB.

    Args:
        device: The device.
    """
    source = torch.zeros(2**28, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    rates = []
    for _ in range(11):
        _wait(device)
        start = time.perf_counter()
        for _ in range(8):
            target.copy_(source)
        _wait(device)
        rates.append(8 * 2 * source.numel() / (time.perf_counter() - start))
    return statistics.median(rates)


def waits(levels: Tensor) -> dict[str, int]:
    """How often the host waits for the device when a batch is augmented; of the engines that keep it there.

    Args:
        levels: uint8 ``[N, 3, H, W]``, on a CUDA device.
    """
    found = {}
    for name, engine in engines(levels.device).items():
        if engine.TAKES_TENSORS:
            _augmented(engine, levels, _keys(len(levels), 0), _DEFAULTS)
            torch.cuda.set_sync_debug_mode("warn")
            try:
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always")
                    _augmented(engine, levels, _keys(len(levels), 1), _DEFAULTS)
            finally:
                torch.cuda.set_sync_debug_mode("default")
            found[name] = sum("synchroniz" in str(warning.message) for warning in caught)
    return found


def step_times(levels: Tensor, seconds: float) -> Iterator[list[Timing]]:
    """Times training steps of a ResNet-50, bfloat16 and channels_last, with and without AugMix on the batch before.

    Args:
        levels: uint8 ``[N, 3, H, W]``.
        seconds: Seconds to spend on each.

    Yields:
        The timings so far, per image.
    """
    device, number = levels.device, len(levels)
    levels = levels.contiguous(memory_format=torch.channels_last)
    model: Any = torchvision.models.resnet50().to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9)
    labels = torch.arange(number, device=device) % 1000
    normalize = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.485, 0.456, 0.406], [0.25] * 3)])
    every = torch.arange(256, dtype=torch.uint8, device=device).repeat(3, 1, 1)
    table = normalize(every)[:, 0]
    engine = select_engine("auto", device)

    def step(images: Tensor) -> None:
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16):
            loss = torch.nn.functional.cross_entropy(model(images), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    contenders: Mapping[str, Callable[[int], Any]] = {
        "without AugMix": lambda _: step(normalize(levels)),
        "with AugMix": lambda call: step(_augmented(engine, levels, _keys(number, call), _DEFAULTS, table)),
    }
    yield from _per_image(contenders, levels, seconds)
