"""Sources of the plans' 64-bit keys: torch's generator, or (seed, epoch, sample index)."""

import copy
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["WITHOUT_SEED", "GeneratorKeys", "KeySource", "RunKeys", "Sample", "fold_in"]

#: The remedy if a sample has no index or epoch for its augmentation to depend on.
WITHOUT_SEED = "leave `seed=None` and seed with `seed_everything(…, workers=True)`"

_MASK = 2**64 - 1


def fold_in(*integers: int) -> int:
    """Hashes integers to a 64-bit key that depends on each of them and on their order.

    Each is folded in by a round of the SplitMix64 finaliser, a bijection of 64 bits, so keys that differ in only one
    integer never collide.

    Args:
        *integers: Any integers, taken modulo 2⁶⁴.

    Returns:
        An integer in [0, 2⁶⁴).

    Example:
        >>> fold_in(0, 1) != fold_in(1, 0)
        True
    """
    z = 0
    for integer in integers:
        z = (z + integer + 0x9E3779B97F4A7C15) & _MASK
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
        z ^= z >> 31
    return z


@dataclass
class Sample:
    """A sample that a training loader's dataset is making.

    Attributes:
        source: The source its keys should come from.
        index: The index the loader requested; ``None`` if there is none.
        drawn: Number of keys drawn from ``source`` for it, in the thread that makes it.
        foreign: Number of keys drawn from other sources for it, in the same thread.
    """

    source: "KeySource"
    index: int | None
    drawn: int = 0
    foreign: int = 0


# A context variable, so that threads that make samples in parallel do not see each other's.
_sample: ContextVar[Sample | None] = ContextVar("sample", default=None)


class KeySource(ABC):
    """Supplies a transform with the key of each image.

    Attributes:
        drawn: Number of keys drawn from it in this process.
    """

    def __init__(self) -> None:
        self.drawn = 0

    def draw(self) -> int:
        """Returns the 64-bit key of the next image."""
        sample = _sample.get()
        key = self._draw(sample)
        self.drawn += 1
        if sample is not None and sample.source is self:
            sample.drawn += 1
        elif sample is not None:
            sample.foreign += 1
        return key

    @abstractmethod
    def _draw(self, sample: Sample | None) -> int: ...

    @contextmanager
    def sample(self, index: Any) -> Iterator[Sample]:
        """Declares the sample that is made inside the context.

        Args:
            index: The index the loader requested; ``None`` if there is none.
        """
        sample = Sample(self, self._checked(index))
        token = _sample.set(sample)
        try:
            yield sample
        finally:
            _sample.reset(token)

    def is_making_sample(self) -> bool:
        """Whether this is called inside :meth:`sample`."""
        sample = _sample.get()
        return sample is not None and sample.source is self

    def _checked(self, index: Any) -> int | None:
        return None


class GeneratorKeys(KeySource):
    """Keys from a torch generator, uniform on [0, 2⁶³).

    In ``DataLoader`` workers, torch seeds the default generator differently for every worker and epoch.

    Args:
        generator: The generator to advance; ``None`` for torch's default generator.
    """

    def __init__(self, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.generator = generator

    def _draw(self, sample: Sample | None) -> int:
        return _random_key(self.generator)


def _shared(value: int) -> torch.Tensor:
    shared: torch.Tensor = torch.tensor(value).share_memory_()  # type: ignore[no-untyped-call]
    return shared


_scratch = threading.local()


def _random_key(generator: torch.Generator | None) -> int:
    if generator is None or generator.device.type == "cpu":
        # One tensor per thread: creating one takes longer than drawing.
        if not hasattr(_scratch, "key"):
            with torch.inference_mode(False):
                _scratch.key = torch.empty((), dtype=torch.int64, device="cpu")
        key = _scratch.key
    else:
        key = torch.empty((), dtype=torch.int64, device=generator.device)
    return int(key.random_(generator=generator))


class RunKeys(KeySource):
    """Keys of one training run, for the transforms that the callback inserts.

    Without a seed, a key combines a number from torch's default generator with the rank; otherwise ranks with equal
    seeds would share every draw. With a seed, it is a pure function of the seed, the epoch, the sample index and, with
    several loaders, the loader's position.

    The epoch, and whether any key was drawn, are in shared memory: running worker processes see the one and report
    the other.

    Args:
        seed: The seed, or ``None``.
        rank: The global rank of this process, for keys without a seed.
    """

    def __init__(self, seed: int | None, rank: int) -> None:
        super().__init__()
        self.seed = seed
        self.rank = rank
        self._loader = 0
        self._epoch, self._used, self._strict = _shared(0), _shared(0), _shared(0)

    def __deepcopy__(self, memo: object) -> "RunKeys":
        # A dataset that deep-copies its transforms stays in the run.
        return self

    def for_loader(self, position: int) -> "RunKeys":
        """Returns the keys of one of several loaders in the run.

        Args:
            position: The loader's position, from 0.
        """
        keys = copy.copy(self)
        keys.drawn = 0
        keys._loader = position
        keys._used = _shared(0)
        return keys

    @property
    def epoch(self) -> int:
        """The epoch that keys are drawn for."""
        return int(self._epoch)

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self._epoch.fill_(epoch)

    @property
    def used(self) -> bool:
        """Whether a key was drawn since this was last set to false, in this process or in a worker."""
        return bool(self._used)

    @used.setter
    def used(self, used: bool) -> None:
        self._used.fill_(used)

    @property
    def only_within_samples(self) -> bool:
        """Whether drawing outside a sample is an error, as it always is with a seed; also shared."""
        return self.seed is not None or bool(self._strict)

    @only_within_samples.setter
    def only_within_samples(self, only: bool) -> None:
        self._strict.fill_(only)

    def _draw(self, sample: Sample | None) -> int:
        if self.only_within_samples and (sample is None or sample.source is not self):
            raise RuntimeError(
                "AugMix was called outside the training dataset: by other data, which must stay clean, in a collate "
                "function, or in a thread that the dataset started. Apply the transform only in the `__getitem__` or "
                "`__iter__` of the training dataset."
            )
        self.used = True
        if self.seed is None:
            return fold_in(_random_key(None), self.rank)
        assert sample is not None
        assert sample.index is not None
        # Only loaders after the first extend the key, so that those of a single loader stay the same.
        loader = (self._loader,) if self._loader else ()
        return fold_in(self.seed, self.epoch, sample.index, sample.drawn, *loader)

    def _checked(self, index: Any) -> int | None:
        if self.seed is None:
            return None
        try:
            return int(index.__index__())
        except (AttributeError, TypeError):
            raise TypeError(
                f"`seed` makes the augmentation of a sample depend on its index, which must be an integer; got "
                f"{index!r} from the sampler: {WITHOUT_SEED}."
            ) from None
