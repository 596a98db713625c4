"""The audit of draws: which keys were drawn, for which sample, in this thread, in this process and in any."""

from contextvars import ContextVar
from enum import Enum, auto

import torch
from torch.utils.data import get_worker_info

__all__ = ["Audit", "Sample", "StandIn", "Tally", "current_sample", "shared"]


class StandIn(Enum):
    """What takes the place of a key, and so of AugMix, in an experiment."""

    IDENTITY = auto()
    NEGATIVE = auto()
    NEIGHBOUR = auto()  # each level changed by one, where the dataset does not take the negative


def shared(value: int) -> torch.Tensor:
    """An integer in shared memory, which worker processes that are already running see change."""
    tensor: torch.Tensor = torch.tensor(value).share_memory_()  # type: ignore[no-untyped-call]
    return tensor


# A context variable, so that threads that make samples side by side do not see each other's.
_sample: ContextVar["Sample | None"] = ContextVar("sample", default=None)


class Sample:
    """A sample that the dataset of a training loader is making, while this is entered as a context.

    Args:
        audit: See below.
        index: See below.
        stand_in: See below.

    Attributes:
        audit: Counts the keys that are expected to be drawn for it.
        index: The index that the loader requested; ``None`` if there is none.
        stand_in: What takes the place of its keys; ``None`` outside of experiments.
        drawn: Number of expected keys that were drawn for it, in the thread that makes it.
        foreign: Number of other keys that were drawn for it, in the same thread.
        places: The places in the data where the expected keys were drawn.
    """

    __slots__ = ("_token", "audit", "drawn", "foreign", "index", "places", "stand_in")

    def __init__(self, audit: "Audit", index: int | None, stand_in: StandIn | None) -> None:
        self.audit = audit
        self.index = index
        self.stand_in = stand_in
        self.drawn = self.foreign = 0
        self.places: frozenset[int] = frozenset()

    def __enter__(self) -> "Sample":
        self._token = _sample.set(self)
        self.audit.stand_in = self.stand_in
        return self

    def __exit__(self, *_: object) -> None:
        self.audit.stand_in = None
        _sample.reset(self._token)


def current_sample() -> Sample | None:
    """The sample that is being made in this thread, if any."""
    return _sample.get()


_ROWS, _OF_A_LOADER = 1024, 64  # processes with counts of their own, and how many of a loader


class Tally:
    """Counts of what is augmented, kept in memory that worker processes share; each process adds to its own.

    Args:
        loader: The position of the loader, among several.
        counts: Those of the other loaders, to count with them.
    """

    def __init__(self, loader: int = 0, counts: torch.Tensor | None = None) -> None:
        if counts is None:
            counts = torch.zeros((_ROWS, 2), dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]
        self._loader, self._counts = loader, counts
        self._rows = counts.numpy()

    def __getstate__(self) -> tuple[int, torch.Tensor]:
        return self._loader, self._counts  # an array would be copied

    def __setstate__(self, state: tuple[int, torch.Tensor]) -> None:
        self.__init__(*state)  # type: ignore[misc]

    def of_loader(self, position: int) -> "Tally":
        """Returns a tally that counts with this one, for another loader.

        Args:
            position: The loader's position.
        """
        return Tally(position, self._counts)

    def add(self, images: int, nanoseconds: int = 0) -> None:
        """Adds to the counts.

        Args:
            images: Augmented images.
            nanoseconds: The time spent on that.
        """
        worker = get_worker_info()
        row = self._rows[(_OF_A_LOADER * self._loader + (0 if worker is None else 1 + worker.id)) % _ROWS]
        row[0] += images
        row[1] += nanoseconds

    @property
    def images(self) -> int:
        """Images that were augmented, for all loaders."""
        return int(self._rows[:, 0].sum())

    @property
    def seconds(self) -> float:
        """Seconds that all processes together have spent on that."""
        return float(self._rows[:, 1].sum()) / 1e9


class Audit:
    """Counts the keys that are drawn for one training loader or dataset.

    Args:
        across_processes: Whether :attr:`used` is kept, in memory that worker processes share.
        tally: See below.

    Attributes:
        drawn: Keys drawn in this process, in any of its threads: a dataset may transform in threads of its own.
        stand_in: What threads of the dataset's own get in place of keys during an experiment.
        tally: Counts what is augmented; ``None`` where that is of no interest.
    """

    def __init__(self, *, across_processes: bool = False, tally: Tally | None = None) -> None:
        self.tally = tally
        self.drawn = 0
        self.stand_in: StandIn | None = None
        self._used = shared(0) if across_processes else None

    @property
    def used(self) -> bool:
        """Whether a key was drawn, or a sample needed none, since this was last set to false."""
        return bool(self._used)

    @used.setter
    def used(self, used: bool) -> None:
        if self._used is not None:
            self._used.fill_(used)

    def record(self, place: int) -> None:
        """Writes down that a key was drawn.

        Args:
            place: Where in the data.
        """
        self.drawn += 1
        self.used = True
        sample = _sample.get()
        if sample is None:
            return
        if sample.audit is self:
            sample.drawn += 1
            if place not in sample.places:
                sample.places |= {place}
        else:
            sample.foreign += 1

    def is_making_sample(self) -> bool:
        """Whether this is called within :meth:`sample`."""
        sample = _sample.get()
        return sample is not None and sample.audit is self

    def sample(self, index: int | None, stand_in: StandIn | None = None) -> Sample:
        """Declares the sample that is made within the context.

        Args:
            index: See :class:`Sample`.
            stand_in: See :class:`Sample`.
        """
        return Sample(self, index, stand_in)
