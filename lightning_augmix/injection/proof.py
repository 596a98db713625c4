"""The proof by experiment: which entry of a sample AugMix reaches.

A sample is made twice with the same random states, on a throw-away copy of the dataset: with the identity in AugMix's
place, then with the negative of the image. What differs is what AugMix reaches. It has to be one entry, the image.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lightning_augmix._errors import PlacementError
from lightning_augmix._randomness import RandomStates, generators_of
from lightning_augmix._views import differ
from lightning_augmix.injection.entries import Entry, candidates, entries_of, is_other_picture
from lightning_augmix.plans.audit import StandIn

__all__ = ["NOT_CALLED", "Experiment", "UnprovedError", "experiment"]

NOT_CALLED = (
    "a sample was made without it, because the dataset does not call the transform it holds (it may keep a reference "
    "to the original, or a cache of transformed samples)"
)


class UnprovedError(PlacementError):
    """AugMix does not reach the image of a sample, or more than that.

    Args:
        reason: What is wrong.
        entries: Those of the sample.
        reached: The paths of those that AugMix reaches; ``None`` where that is not known.
    """

    def __init__(self, reason: str, entries: Sequence[Entry], reached: frozenset[str] | None = None) -> None:
        super().__init__(reason)
        self.entries = entries
        self.reached = reached


@dataclass(frozen=True)
class Experiment:
    """What an experiment showed.

    Attributes:
        entries: The entries of the sample without AugMix.
        reached: The paths of those that the negative of the image changed.
        moving: The paths of those that change by themselves, for instance with a random generator out of reach.
        partly: The paths of those that it changed in some images of a batch, and in others not.
        was_called: Whether AugMix was called, with the identity and with the negative.
    """

    entries: Sequence[Entry]
    reached: frozenset[str]
    moving: frozenset[str]
    partly: frozenset[str]
    was_called: tuple[bool, bool]

    def image(self, *, by_hand: bool) -> Entry:
        """The image, if it is the one entry that AugMix reaches.

        Args:
            by_hand: Whether the user chose the place: then other entries may be images, too.

        Raises:
            UnprovedError: If it is not.
        """
        changed = [entry for entry in self.entries if entry.path in self.reached]
        if not changed:
            raise self._refusal(self._nothing_changed())
        if self.partly:
            paths = ", ".join(f"sample{path}" for path in sorted(self.partly))
            raise self._refusal(f"some images of a batch were made without it ({paths})")
        pictures = candidates(self.entries)
        certain = [entry for entry in changed if entry.path not in self.moving]
        images = [entry for entry in changed if entry.may_be_image]
        if len(images) > 1 and not by_hand:
            raise self._refusal("it reaches several entries of the sample that may be images, and has to reach one")
        image = (images or certain or changed)[0]
        if not images and pictures:
            raise self._refusal(f"it reaches sample{image.path}, and not sample{pictures[0].path}")
        pictures += [entry for entry in self.entries if entry not in pictures and is_other_picture(entry, image)]
        if any(entry is not image for entry in pictures) and not by_hand:
            number = len({image.path, *(entry.path for entry in pictures)})
            raise self._refusal(f"{number} entries of the sample may be images, and it reaches one of them")
        following = [entry.path for entry in certain if entry is not image and not (by_hand and entry.may_be_image)]
        if following:
            raise self._refusal(f"sample{following[0]} follows from the image, and would follow from the augmented one")
        return image

    def _refusal(self, reason: str) -> UnprovedError:
        return UnprovedError(reason, self.entries, self.reached)

    def _nothing_changed(self) -> str:
        if all(self.was_called):
            return "what it augments does not reach the sample"
        return NOT_CALLED


def experiment(
    make: Callable[[StandIn], tuple[Any, bool]], dataset: Any, count: int | None = None
) -> Experiment | None:
    """Makes a sample with the identity and with the negative of the image in AugMix's place.

    A third one, with the identity again, shows what moves by itself where more than one entry changed. Random states
    are set back before each, those of the dataset's own generators too, and in the end all are as they were.

    Args:
        make: Makes the sample; also tells whether AugMix was called.
        dataset: What the random generators are looked for in.
        count: The number of samples in it, if it is a batch.

    Returns:
        What it showed; ``None`` if there is no sample, for instance because its file cannot be read.
    """
    states = RandomStates(generators_of(dataset))

    def made(stand_in: StandIn) -> tuple[Any, bool]:
        states.restore()
        return make(stand_in)

    try:
        sample, called = made(StandIn.IDENTITY)
        if sample is None:
            return None
        entries = entries_of(sample, count)
        other, called_again = _made_otherwise(made)
        others = entries_of(other, count)
        reached = _changed(entries, others)
        moving: frozenset[str] = frozenset()
        if len(reached) > 1 or not all(entry.may_be_image for entry in entries if entry.path in reached):
            moving = _changed(entries, entries_of(made(StandIn.IDENTITY)[0], count))
    finally:
        states.restore()
    negatives = {entry.path: entry.value for entry in others}
    partly = frozenset(
        entry.path
        for entry in entries
        if entry.path in reached - moving and _is_partly_equal(entry.value, negatives.get(entry.path), count)
    )
    return Experiment(entries, reached, moving, partly, (called, called_again))


def _made_otherwise(made: Callable[[StandIn], tuple[Any, bool]]) -> tuple[Any, bool]:
    """The sample with another image: the negative, or if the dataset has no sample of that, one like the image."""
    try:
        other = made(StandIn.NEGATIVE)
    except PlacementError:
        raise
    except Exception:  # for instance of a crop to what is not white
        return made(StandIn.NEIGHBOUR)
    return made(StandIn.NEIGHBOUR) if other[0] is None else other


def _changed(entries: Sequence[Entry], others: Sequence[Entry]) -> frozenset[str]:
    values = {entry.path: entry.value for entry in others}
    return frozenset(e.path for e in entries if e.path not in values or _differ(e.value, values[e.path]))


def _differ(first: Any, second: Any) -> bool:
    if isinstance(first, list | tuple) and isinstance(second, list | tuple):
        return len(first) != len(second) or any(map(_differ, first, second))
    return differ(first, second)


def _is_partly_equal(first: Any, second: Any, count: int | None) -> bool:
    is_batch = isinstance(first, list | tuple) or (isinstance(first, torch.Tensor) and first.ndim == 4)
    if count is None or not is_batch or second is None or len(first) != count or len(second) != count:
        return False
    return not all(map(_differ, first, second))
