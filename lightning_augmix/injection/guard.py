"""The guard of a training dataset: each of its samples goes through AugMix, once, and its image does."""

import os
from bisect import bisect_right
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any, Literal, TypeAlias, TypeVar

import numpy as np
import torch
from torch.utils._pytree import tree_leaves, tree_structure
from torch.utils.data import ConcatDataset, Dataset

from lightning_augmix._errors import OnUnsupported, PlacementError, refuse
from lightning_augmix.injection.advice import BY_HAND, PHOTOMETRIC, write_instead
from lightning_augmix.injection.copies import OURS, copy_dataset
from lightning_augmix.injection.decide import ImageKey
from lightning_augmix.injection.derived import refusing_to_derive
from lightning_augmix.injection.entries import (
    Entry,
    coordinates_over_image,
    describe_entries,
    entries_of,
    kind_of,
    lies_over_image,
)
from lightning_augmix.injection.proof import NOT_CALLED, UnprovedError, experiment
from lightning_augmix.injection.rebuild import throw_away_copy
from lightning_augmix.injection.samples import augment_field, augment_leaf, field_of, only_image, position_of
from lightning_augmix.plans.audit import Sample, StandIn
from lightning_augmix.plans.keys import KeySource
from lightning_augmix.transform import AugmentAndMixTransform

__all__ = ["Guard", "OverImageError", "Way", "guarded"]

_D = TypeVar("_D")

#: How AugMix comes to the samples: it was inserted into the dataset's transforms, is applied to the samples, or was put
#: in by hand.
Way: TypeAlias = Literal["inserted", "applied", "by hand"]


class Guard:
    """Makes the samples of a dataset, and refuses those whose image AugMix did not reach.

    The first sample that a process makes, and each that is of another kind or was made at other places, is proved by
    experiment, see :mod:`~lightning_augmix.injection.proof`; samples of iterable datasets cannot be made twice. Of all
    others, the keys that were drawn for them are counted.

    Args:
        way: How AugMix comes to the samples.
        transform: AugMix.
        image_key: The field that it is applied to; ``None`` for the only image.
        seen: The data, for messages.
        on_unsupported: Whether a sample without AugMix is an error, or a warning after which samples stay clean.
    """

    def __init__(
        self,
        way: Way,
        transform: AugmentAndMixTransform,
        image_key: ImageKey | None = None,
        seen: str = "",
        on_unsupported: OnUnsupported = "raise",
    ) -> None:
        self.way = way
        self.transform = transform
        self.image_key = image_key
        self.seen = seen
        self.on_unsupported = on_unsupported
        self._process: int | None = None
        # The kinds of samples that were proved, and what is known of them: where the image is, if AugMix is applied to
        # it; of batches, whether AugMix is called for each image or once for all.
        self._known: dict[Hashable, Any] = {}
        self._has_given_up = False

    @property
    def keys(self) -> KeySource:
        """Where the keys of its samples come from."""
        return self.transform.keys

    def make(self, dataset: Any, index: Any, load: Callable[[Any], Any]) -> Any:
        """Makes the sample of an index.

        Args:
            dataset: The guarded dataset.
            index: The index that the loader asks it for; a list of them for a batch.
            load: Makes the sample in a dataset's own way, given that one or a copy of it.

        Returns:
            The sample, augmented; ``None`` where the dataset has none.

        Raises:
            PlacementError: If it is not certain that AugMix reached its image, and nothing else, once.
        """
        self._start_in_process()
        if not self._has_given_up:
            try:
                return self._made(dataset, index, load)
            except PlacementError as error:
                self._refuse(error)
        with self.keys.sample(index, StandIn.IDENTITY):
            return load(dataset)

    def make_next(self, load: Callable[[], Any], drawn: int) -> Any:
        """Makes the next sample of an iterable dataset.

        Args:
            load: Makes it.
            drawn: The number of keys that this process had drawn before the dataset began.

        Returns:
            As for :meth:`make`.

        Raises:
            PlacementError: As for :meth:`make`, as far as it shows without an experiment.
        """
        self._start_in_process()
        with self.keys.sample(None, StandIn.IDENTITY if self._has_given_up else None) as made:
            sample = load()
            if sample is None or self._has_given_up:
                self.keys.audit.used = True
                return sample
            try:
                if self.way == "applied":
                    return self._applied(sample, None, made.foreign)
                if self.way == "inserted":
                    self._check_next(sample, drawn, made.foreign)
            except PlacementError as error:
                self._refuse(error)
            return sample

    def _check_next(self, sample: Any, drawn: int, foreign: int) -> None:
        # A dataset may read ahead, and may make several samples of one image: one key by the first sample.
        if self.keys.audit.drawn == drawn:
            raise UnprovedError(NOT_CALLED, entries_of(sample))
        if foreign:
            raise PlacementError(_TWICE)
        kind = kind_of(sample)
        if kind not in self._known:
            entries = entries_of(sample)
            self._check_over_image(entries, [entry for entry in entries if entry.may_be_image])
            self._known[kind] = None

    def _start_in_process(self) -> None:
        # A worker that was forked has to see for itself.
        if self._process != os.getpid():
            self._process, self._known, self._has_given_up = os.getpid(), {}, False

    def _made(self, dataset: Any, index: Any, load: Callable[[Any], Any]) -> Any:
        if not self._known and self.way != "applied":
            # Before anything augmented may come into a cache of the dataset's.
            self._prove(dataset, index, load)
        before = self.keys.audit.drawn
        with self.keys.sample(index) as made:
            sample = self._loaded(dataset, load)
            if sample is None:
                self.keys.audit.used = True
                return None
            if self.way == "applied":
                return self._applied(sample, _length(index), made.foreign)
        # Not `made.drawn` alone: a dataset may transform in threads of its own.
        drawn = made.drawn if self.way == "by hand" else self.keys.audit.drawn - before
        self._check(dataset, index, load, sample, made, drawn)
        return sample

    def _loaded(self, dataset: Any, load: Callable[[Any], Any]) -> Any:
        try:
            return load(dataset)
        except TypeError as error:
            if self.transform.views and "Views" in str(error):
                raise PlacementError(
                    "with `views`, a dataset has to put what its transforms return into the sample as it is, and "
                    f"{type(dataset).__name__} does not ({error}): stack images in the collate function"
                ) from error
            raise

    def _check(
        self, dataset: Any, index: Any, load: Callable[[Any], Any], sample: Any, made: Sample, drawn: int
    ) -> None:
        """Refuses a sample that AugMix did not reach: by what was drawn, or by an experiment if its kind is new."""
        if drawn == 0:
            raise UnprovedError(NOT_CALLED if self.way == "inserted" else _NOT_BY_HAND, entries_of(sample))
        if made.foreign and self.way == "inserted":
            raise PlacementError(_TWICE)
        count, kind = _length(index), (kind_of(sample), made.places, _member(dataset, index))
        is_batch = count is not None and count > 1
        if kind not in self._known or (is_batch and self._known[kind] is None):
            self._prove(dataset, index, load)
            self._known.setdefault(kind, None)
        images = drawn // max(1, self.transform.views)
        if count is not None and images < count and self._known[kind] == "each":
            reason = f"{count - images} of {count} images of a batch were made without it"
            raise UnprovedError(reason, entries_of(sample, count))

    def _prove(self, dataset: Any, index: Any, load: Callable[[Any], Any]) -> None:
        """Shows by an experiment which entry of a sample AugMix reaches, and refuses if it is not the image."""
        count, copied, kinds = _length(index), throw_away_copy(dataset), dict[Hashable, str | None]()

        def make(stand_in: StandIn) -> tuple[Any, bool]:
            before = self.keys.audit.drawn
            with self.keys.sample(index, stand_in) as made:
                sample = self._loaded(copied, load)
            drawn = made.drawn if self.way == "by hand" else self.keys.audit.drawn - before
            # The images of a batch are augmented each by a call, or all by one.
            calls = ("each" if drawn > 1 else "all") if count is not None and count > 1 else None
            kinds.setdefault((kind_of(sample), made.places, _member(dataset, index)), calls)
            return sample, drawn > 0

        drawn = self.keys.audit.drawn
        shown = experiment(make, copied, count)
        self.keys.audit.drawn = drawn
        if shown is None:
            return
        if self.way == "by hand" and not shown.reached and not all(shown.was_called):
            raise UnprovedError(_NOT_BY_HAND, shown.entries)
        if self.way == "inserted":
            reached = [entry for entry in shown.entries if entry.path in shown.reached]
            self._check_over_image(shown.entries, reached, count)
        shown.image(by_hand=self.way == "by hand")
        self._known.update(kinds)

    def _applied(self, sample: Any, count: int | None, foreign: int) -> Any:
        """Augments the image of a sample that the dataset made."""
        if foreign:
            raise PlacementError(_TWICE)
        # The position of the image depends on the lengths of lists before it, and these are of one kind.
        kind = (kind_of(sample), tree_structure(sample) if self.image_key is None else None)
        try:
            if kind not in self._known:
                entries = entries_of(sample, count)
                image = only_image(entries) if self.image_key is None else field_of(sample, self.image_key)
                self._check_over_image(entries, [entry for entry in entries if entry.value is image], count)
                self.transform.check_inputs(tree_leaves(sample))
                self._known[kind] = position_of(sample, image) if self.image_key is None else None
            if self.image_key is None:
                return augment_leaf(sample, self._known[kind], self.transform)
            return augment_field(sample, self.transform, self.image_key)
        except (TypeError, ValueError) as error:
            if isinstance(error, OverImageError):
                raise
            entries = entries_of(sample, count)
            # A mask beside the image is what to tell of, not that both may be images.
            self._check_over_image(entries, [entry for entry in entries if entry.may_be_image], count)
            raise UnprovedError(str(error), entries) from (None if isinstance(error, PlacementError) else error)

    def _check_over_image(self, entries: Sequence[Entry], images: Sequence[Entry], count: int | None = None) -> None:
        hyperparameters = self.transform.hyperparameters
        if not hyperparameters.moves_pixels or hyperparameters.severity == 0 or not images:
            return
        image = next((entry for entry in images if entry.may_be_image), images[0])
        others = [entry for entry in entries if entry is not image]
        over = next((entry for entry in others if lies_over_image(entry, image.image_size, count)), None)
        over = over or coordinates_over_image(others)
        if over is not None:
            raise OverImageError(over, entries, hyperparameters.augmentation_set)

    def _refuse(self, error: PlacementError) -> None:
        self._has_given_up = True
        reason, entries = str(error).removesuffix("."), None
        if isinstance(error, UnprovedError):
            entries = error.entries
            reason = f"{reason}.\nThe sample it saw:\n{describe_entries(entries, error.reached)}"
        else:
            reason = f"{reason}."
        remedy = BY_HAND
        if self.way != "by hand":
            over_image = isinstance(error, OverImageError)
            remedy = write_instead(entries, over_image=over_image, has_pipeline=self.way == "inserted")
        seen = f"The data it saw:\n{self.seen}\n" if self.seen else ""
        refuse(f"{reason}\n{seen}{remedy}", self.on_unsupported, error.__cause__)


class OverImageError(UnprovedError):
    """A sample has what lies over its image, and AugMix would move the image alone."""

    def __init__(self, entry: Entry, entries: Sequence[Entry], augmentation_set: object) -> None:
        super().__init__(
            f"sample{entry.path} ({entry}) lies over the image, and would stay where it is, but "
            f"augmentation_set={augmentation_set!r} moves the image's content: pass {PHOTOMETRIC}",
            entries,
        )


_NOT_BY_HAND = "a sample was made without it"
_TWICE = "the dataset applies AugMix itself, and applying it twice is not AugMix"


def _member(dataset: Any, index: Any) -> int | None:
    """The member of a ``ConcatDataset`` that makes a sample: each may use a shared transform in its own way."""
    if isinstance(dataset, ConcatDataset) and isinstance(index, int):
        return bisect_right(dataset.cumulative_sizes, index % max(1, len(dataset)))
    return None


def _length(index: Any) -> int | None:
    """The number of samples that an index asks for, if it is a list of them."""
    if isinstance(index, list | np.ndarray | torch.Tensor) and np.ndim(index) == 1:
        return len(index)
    return None


def guarded(dataset: _D, guard: Guard) -> _D:
    """Returns a copy of a dataset that makes its samples through a guard.

    It is an instance of the dataset's type, of a subclass made for it, because the loader, a ``worker_init_fn`` and
    the user's own code have to find in it what they find in the dataset.

    Args:
        dataset: A map-style or iterable dataset.
        guard: What makes its samples.

    Raises:
        PlacementError: If the type does not allow it.
    """
    copied = copy_dataset(dataset, _guarded)
    vars(copied)[_GUARD] = guard
    return copied


_GUARD = f"{OURS}guard"


def _guarded(cls: Any) -> dict[str, Any]:
    has_getitem = getattr(cls, "__getitem__", None) not in (None, Dataset.__getitem__)

    def load(index: Any, dataset: Any) -> Any:
        return cls.__getitem__(dataset, index) if has_getitem else cls.__getitems__(dataset, [index])[0]

    # A dataset may return another of its samples in place of one, for instance if a file cannot be read.

    def __getitem__(self: Any, index: Any) -> Any:  # noqa: N807
        guard = vars(self)[_GUARD]
        if guard.keys.audit.is_making_sample():
            return load(index, self)
        return guard.make(self, index, partial(load, index))

    def __getitems__(self: Any, indices: Any) -> Any:  # noqa: N807
        if vars(self)[_GUARD].keys.audit.is_making_sample():
            return cls.__getitems__(self, indices)
        return [self[index] for index in indices]

    def __iter__(self: Any) -> Any:  # noqa: N807
        guard = vars(self)[_GUARD]
        drawn = guard.keys.audit.drawn
        iterator = cls.__iter__(self)
        while True:
            try:
                sample = guard.make_next(partial(next, iterator), drawn)
            except StopIteration:
                return
            yield sample

    methods = {"__getitem__": __getitem__, "__getitems__": __getitems__, "__iter__": __iter__}
    own = {name: method for name, method in methods.items() if name == "__getitem__" or hasattr(cls, name)}
    return own | refusing_to_derive(cls, lambda self: vars(self)[_GUARD].keys.audit.is_making_sample())
