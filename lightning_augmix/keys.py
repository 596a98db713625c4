"""Where the 64-bit keys of plans come from: torch's generator, or (seed, epoch, sample index)."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import count
from typing import Protocol

import torch

__all__ = ["GeneratorKeys", "KeySource", "RunKeys", "combine"]

_MASK = 2**64 - 1


def combine(*integers: int) -> int:
    """Hashes integers to a 64-bit key that depends on each of them and on their order.

    Each is folded in by a round of the SplitMix64 finaliser, a bijection of 64 bits, so keys that differ in one
    integer alone never collide.

    Args:
        *integers: Any integers, taken modulo 2⁶⁴.

    Returns:
        An integer in [0, 2⁶⁴).

    Example:
        >>> combine(0, 1) != combine(1, 0)
        True
    """
    z = 0
    for integer in integers:
        z = (z + integer + 0x9E3779B97F4A7C15) & _MASK
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
        z ^= z >> 31
    return z


class KeySource(Protocol):
    """What a transform asks for the key of the next image."""

    def draw(self) -> int:
        """Returns a 64-bit key."""


class GeneratorKeys:
    """Keys from a torch generator, the default one unless another is given.

    In a worker process of a ``DataLoader`` torch seeds the default generator differently for every worker and epoch.

    Args:
        generator: The generator to advance; ``None`` for torch's default generator.
    """

    def __init__(self, generator: torch.Generator | None = None) -> None:
        self.generator = generator

    def draw(self) -> int:
        """Returns the key of the next image, uniform on [0, 2⁶³)."""
        device = "cpu" if self.generator is None else self.generator.device
        return int(torch.empty((), dtype=torch.int64, device=device).random_(generator=self.generator))


# The sample a dataset is working on: its index, and a counter for the keys drawn for it. A context variable, so that
# threads that load samples side by side do not see each other's.
_sample: ContextVar[tuple[int, Iterator[int]] | None] = ContextVar("sample", default=None)


class RunKeys:
    """Keys for one training run, which the callback gives to the transforms it inserts.

    Without a seed a key is a number from torch's default generator combined with the rank, because ranks that are
    seeded alike would otherwise share every draw. With a seed it is a pure function of the seed, the epoch and the
    index of the sample.

    The epoch, and whether any key was drawn, live in shared memory: worker processes that are already running see
    the one and report the other.

    Args:
        seed: The seed, or ``None``.
        rank: The global rank of this process, for keys without a seed.
    """

    def __init__(self, seed: int | None, rank: int) -> None:
        self.seed = seed
        self.rank = rank
        self._epoch_and_used = torch.zeros(2, dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]

    @property
    def epoch(self) -> int:
        """The epoch that keys are drawn for."""
        return int(self._epoch_and_used[0])

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self._epoch_and_used[0] = epoch

    @property
    def used(self) -> bool:
        """Whether a key was drawn since this was last set to false, in this process or in a worker."""
        return bool(self._epoch_and_used[1])

    @used.setter
    def used(self, used: bool) -> None:
        self._epoch_and_used[1] = used

    def draw(self) -> int:
        """Returns the key of the next image.

        Raises:
            RuntimeError: If there is a seed, and no sample is being loaded in this thread.
        """
        self._epoch_and_used[1] = 1
        if self.seed is None:
            return combine(GeneratorKeys().draw(), self.rank)
        sample = _sample.get()
        if sample is None:
            raise RuntimeError(
                "`seed` makes the augmentation of a sample depend on its index, but AugMix was called outside the "
                "dataset's `__getitem__` (in a collate function, or in a thread the dataset started). Apply the "
                "transform within `__getitem__`, or leave `seed=None` and seed with `seed_everything(…, workers=True)`."
            )
        index, draws = sample
        return combine(self.seed, self.epoch, index, next(draws))

    @staticmethod
    @contextmanager
    def sample(index: int) -> Iterator[None]:
        """Declares the sample that is loaded within the context.

        Args:
            index: The index that the loader asks the dataset for.
        """
        token = _sample.set((index, count()))
        try:
            yield
        finally:
            _sample.reset(token)
