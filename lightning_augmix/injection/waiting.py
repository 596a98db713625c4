"""How long training waits for data, and what to do where AugMix is what it waits for."""

import math
import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from lightning_augmix.injection.replacement import Replacement

__all__ = ["Loading", "Waiting", "advice"]

STEPS = 200  # that are measured
_FEWEST = 20  # that say something
_MATTERS = 0.05  # of the time of training


class Waiting:
    """Measures the first steps of a fit: how long each waits for its batch, and how long it takes then.

    Args:
        epoch_loop: Lightning's loop over an epoch, which calls two methods around the fetching of a batch.
        until: Undoes everything at the end of the fit.

    Attributes:
        wait: Seconds that the measured steps waited.
        step: Seconds that they took after that.
        steps: Their number. The first of an epoch, for which workers are started, is not among them.
    """

    def __init__(self, epoch_loop: Any, until: ExitStack) -> None:
        self.wait = self.step = 0.0
        self.steps = 0
        self._began = self._fetched = 0.0
        self._is_first = True
        self._hooks = [
            Replacement(epoch_loop, "_on_before_fetch", self._begin),
            Replacement(epoch_loop, "_on_after_fetch", self._end),
        ]
        until.callback(self._put_back)

    def _put_back(self) -> None:
        for hook in self._hooks:
            hook.put_back()

    def _begin(self, before: Callable[[], Any]) -> Any:
        self._began = time.perf_counter()
        return before()

    def _end(self, before: Callable[[], Any]) -> Any:
        self._fetched = time.perf_counter()
        return before()

    def start_epoch(self) -> None:
        """Notes that an epoch starts."""
        self._is_first = True

    def end_step(self) -> bool:
        """Notes that a step has ended.

        Returns:
            Whether it was the last that is measured.
        """
        if self.steps == STEPS or not self._fetched:
            return False
        if not self._is_first:
            self.wait += self._fetched - self._began
            self.step += time.perf_counter() - self._fetched
            self.steps += 1
        self._is_first = False
        if self.steps == STEPS:
            self._put_back()
        return self.steps == STEPS

    @property
    def fraction(self) -> float | None:
        """The share of the time that is spent waiting; ``None`` where too few steps were measured."""
        return self.wait / (self.wait + self.step) if self.steps >= _FEWEST else None


@dataclass(frozen=True)
class Loading:
    """How training images are loaded and augmented.

    Attributes:
        share: The share of the time for samples that AugMix takes.
        workers: Worker processes of the loader.
        engine: The engine that augments.
        may_leave_to_device: Whether the device could augment, and does not.
    """

    share: float
    workers: int
    engine: str
    may_leave_to_device: bool


def advice(waiting: Waiting, loading: Loading) -> str | None:
    """What to do where training waits for AugMix.

    Args:
        waiting: What was measured.
        loading: How images are loaded.

    Returns:
        One line; ``None`` where AugMix is not what training waits for.
    """
    if waiting.fraction is None:
        return None
    wait, step = waiting.wait / waiting.steps, waiting.step / waiting.steps
    # Workers load while the model computes; without them, a step waits for all of its batch.
    load = wait + step if loading.workers else wait
    saved = min(wait, loading.share * load) / (wait + step)
    if saved < _MATTERS:
        return None
    remedies = []
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = min(processors, math.ceil(max(1, loading.workers) * load / step))
    if loading.engine not in ("numba", "triton"):
        remedies.append(f'engine="auto" (now {loading.engine!r}; the same bytes, faster)')
    if wanted > loading.workers and processors > 1:
        remedies.append(f"num_workers={wanted} (now {loading.workers}, with {processors} processors)")
    if loading.may_leave_to_device:
        remedies.append('on="device" (now "workers")')
    return (
        f"AugMix slows this training down by some {saved:.0%}: a step waits {1000 * wait:.3g} of "
        f"{1000 * (wait + step):.3g} ms for data, and AugMix is {loading.share:.0%} of loading. "
        f"Try {', or '.join(remedies) or 'a smaller width or depth'}."
    )
