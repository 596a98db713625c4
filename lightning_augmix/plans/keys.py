"""Sources of the plans' 64-bit keys: torch's generator, or (seed, epoch, sample index)."""

import copy
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from lightning_augmix.plans.audit import Audit, Sample, StandIn, Tally, current_sample, shared

__all__ = ["WITHOUT_SEED", "GeneratorKeys", "KeySource", "RunKeys", "fold_in"]

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


_Self = TypeVar("_Self", bound="KeySource")


class KeySource(ABC):
    """Supplies a transform with the key of each image.

    Attributes:
        audit: Writes down each key that is drawn.
        place: Where in the data the transform stands; 0 where there is but one place.
    """

    def __init__(self) -> None:
        self.audit = Audit()
        self.place = 0

    def at(self: _Self, place: int) -> _Self:
        """Returns a source of the same keys, with the same audit, for another place.

        Args:
            place: See above.
        """
        source = copy.copy(self)
        source.place = place
        return source

    @property
    def severity(self) -> float | None:
        """The severity now, where it follows the epochs; ``None`` where it is that of the transform."""
        return None

    @property
    def stand_in(self) -> StandIn | None:
        """What takes the place of keys now; ``None`` outside of experiments."""
        sample = current_sample()
        if sample is None:  # in a thread of the dataset's own
            return self.audit.stand_in
        return sample.stand_in if sample.audit is self.audit else None

    def draw(self) -> int | StandIn:
        """Returns the 64-bit key of the next image, or what takes its place."""
        key = self.stand_in or self._draw(current_sample())
        self.audit.record(self.place)
        return key

    @abstractmethod
    def _draw(self, sample: Sample | None) -> int: ...

    def sample(self, index: Any, stand_in: StandIn | None = None) -> Sample:
        """Declares the sample that is made within the context.

        Args:
            index: The index that the loader asks the dataset for; ``None`` where it has none.
            stand_in: Takes the place of the keys, in an experiment.
        """
        return self.audit.sample(self._checked(index), stand_in)

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
    """Keys for one training run, which the callback hands to the transforms it inserts.

    Without a seed a key is a number from torch's default generator, with the rank folded in: ranks that are seeded
    alike would otherwise share every draw. With a seed it is a pure function of the seed, the epoch, the index of the
    sample, and the loader's position among several.

    The epoch lives in shared memory: worker processes that are already running see it change.

    Args:
        seed: The seed, or ``None``.
        rank: The global rank of this process, for keys without a seed.
        severity_of: The severity in an epoch; ``None`` where it is that of the transform.
    """

    def __init__(self, seed: int | None, rank: int, severity_of: Callable[[int], float] | None = None) -> None:
        super().__init__()
        self.audit = Audit(across_processes=True, tally=Tally())
        self.seed = seed
        self.rank = rank
        self._severity_of = severity_of
        self._loader = 0
        self._epoch, self._strict = shared(0), shared(0)

    def __deepcopy__(self, memo: object) -> "RunKeys":
        # A dataset that deep-copies its transforms stays in the run.
        return self

    def for_loader(self, position: int) -> "RunKeys":
        """Returns the keys of one of several loaders in the run, with an audit of their own and the run's tally.

        Args:
            position: The loader's position, from 0.
        """
        keys = copy.copy(self)
        keys.audit = Audit(across_processes=True, tally=self.audit.tally and self.audit.tally.of_loader(position))
        keys._loader = position
        return keys

    @property
    def severity(self) -> float | None:
        """See :attr:`KeySource.severity`."""
        return None if self._severity_of is None else self._severity_of(self.epoch)

    def for_pictures(self) -> "RunKeys":
        """Returns the keys of pictures that are not trained on: they are not counted, and have no schedule."""
        keys = copy.copy(self)
        keys.audit, keys._severity_of = Audit(across_processes=True), None
        return keys

    @property
    def follow_epochs(self) -> bool:
        """Whether the augmentation depends on the epoch."""
        return self.seed is not None or self._severity_of is not None

    @property
    def epoch(self) -> int:
        """The epoch that keys are drawn for."""
        return int(self._epoch)

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self._epoch.fill_(epoch)

    @property
    def strict(self) -> bool:
        """Whether to draw outside a sample is an error, as it always is with a seed; in shared memory, too."""
        return self.seed is not None or bool(self._strict)

    @strict.setter
    def strict(self, strict: bool) -> None:
        self._strict.fill_(strict)

    def _draw(self, sample: Sample | None) -> int:
        if self.strict and (sample is None or sample.audit is not self.audit):
            raise RuntimeError(
                "AugMix was called outside the training dataset: by other data, which must stay clean, in a collate "
                "function, or in a thread that the dataset started. Apply the transform only in the `__getitem__` or "
                "`__iter__` of the training dataset."
            )
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
