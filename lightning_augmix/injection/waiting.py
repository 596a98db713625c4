"""How long training waits for data, and what to do where AugMix is what it waits for."""

import math
import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch

from lightning_augmix.injection.replacement import Replacement
from lightning_augmix.plans.audit import Tally

__all__ = ["Loading", "Waiting", "advice", "processors_of_rank"]

_STEPS, _STEPS_ON_DEVICE = 200, 50  # that are measured
_FEWEST = 20  # that say something
_MATTERS = 0.05  # of the time of training


class Waiting:
    """Measures the first steps of a fit: how long each waits for its batch, how long it takes then, and AugMix.

    On a device that computes while the host goes on, the host waits for it at the end of each of these steps: else it
    would wait while it fetches, and that would look like waiting for data.

    Args:
        epoch_loop: Lightning's loop over an epoch, which calls two methods around the fetching of a batch.
        tally: What AugMix counts.
        device: Where the model is.
        until: Undoes everything at the end of the fit.

    Attributes:
        steps: The number of measured steps. The first of an epoch, for which workers are started, is not among them.
        wait: Seconds that they waited.
        step: Seconds that they took after that.
        augmenting: Seconds that all processes together spent on AugMix meanwhile.
    """

    def __init__(self, epoch_loop: Any, tally: Tally, device: torch.device, until: ExitStack) -> None:
        self.wait = self.step = self.augmenting = 0.0
        self.steps = 0
        self._tally = tally
        self._is_on_device = device.type != "cpu"
        self._wanted = _STEPS_ON_DEVICE if self._is_on_device else _STEPS
        self._began = self._fetched = self._augmented_before = 0.0
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
        if self.steps == self._wanted or not self._fetched:
            return False
        if self._is_on_device:
            torch.accelerator.synchronize()
        if not self._is_first:
            self.wait += self._fetched - self._began
            self.step += time.perf_counter() - self._fetched
            self.augmenting += self._tally.seconds - self._augmented_before
            self.steps += 1
        self._is_first = False
        self._augmented_before = self._tally.seconds
        if self.steps == self._wanted:
            self._put_back()
        return self.steps == self._wanted

    @property
    def fraction(self) -> float | None:
        """The share of the time that is spent waiting; ``None`` where too few steps were measured."""
        return self.wait / (self.wait + self.step) if self.steps >= _FEWEST else None


@dataclass(frozen=True)
class Loading:
    """How training images are loaded and augmented.

    Attributes:
        workers: Worker processes of all loaders.
        processors: Processors for them; 0 where more workers are no remedy.
        engine: The engine that augments.
        may_leave_to_device: Whether the device could augment, and does not.
    """

    workers: int
    processors: int
    engine: str
    may_leave_to_device: bool


def processors_of_rank(ranks: int) -> int:
    """The processors that each of several processes on this machine can use.

    Args:
        ranks: The number of processes.
    """
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return here // ranks


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
    wait, step, augmenting = (seconds / waiting.steps for seconds in (waiting.wait, waiting.step, waiting.augmenting))
    at_once = max(1, loading.workers)
    # Workers load while the model computes; without them, a step waits for all of its batch.
    load = wait + step if loading.workers else wait
    saved = min(wait, augmenting / at_once) / (wait + step)
    if saved < _MATTERS:
        return None
    remedies = []
    wanted = min(loading.processors, math.ceil(at_once * load / step))
    if loading.engine not in ("numba", "triton"):
        remedies.append(f'engine="auto" (now {loading.engine!r}; the same images, faster)')
    if wanted > loading.workers and loading.processors > 1:
        remedies.append(f"num_workers={wanted} (now {loading.workers}, with {loading.processors} processors)")
    if loading.may_leave_to_device:
        remedies.append('on="device" (now "workers")')
    share = min(1.0, augmenting / at_once / load)
    return (
        f"AugMix slows this training down by some {saved:.0%}: a step waits {1000 * wait:.3g} of "
        f"{1000 * (wait + step):.3g} ms for data, and AugMix is {share:.0%} of loading. "
        f"Try {', or '.join(remedies) or 'a smaller width or depth'}."
    )
