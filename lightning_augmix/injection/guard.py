"""The guard of a training dataset: each of its samples goes through AugMix, once, and its image does."""

import copy
import difflib
import os
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, TypeAlias, TypeVar

import numpy as np
import torch
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten
from torch.utils.data import Dataset

from lightning_augmix._errors import OnUnsupported, PlacementError, refuse
from lightning_augmix.injection.advice import BY_HAND, PHOTOMETRIC, write_instead
from lightning_augmix.injection.copies import OURS, copy_dataset
from lightning_augmix.injection.decide import ImageKey
from lightning_augmix.injection.derived import refusing_to_derive
from lightning_augmix.injection.entries import Entry, describe_entries, entries_of, lies_over_image
from lightning_augmix.injection.proof import UnprovedError, experiment
from lightning_augmix.injection.rebuild import throw_away_copy
from lightning_augmix.plans.audit import StandIn
from lightning_augmix.plans.keys import KeySource
from lightning_augmix.transform import AugmentAndMixTransform

__all__ = ["Guard", "OverImageError", "Way", "augment_field", "augment_leaf", "field_of", "guarded", "only_image"]

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
        self._known: set[Hashable] = set()
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
                # A dataset may read ahead, and may make several samples of one image: one key by the first sample.
                if self.way == "inserted" and self.keys.audit.drawn == drawn:
                    raise UnprovedError(_NOT_CALLED, entries_of(sample))
                return self._checked(sample, None, made.foreign)
            except PlacementError as error:
                self._refuse(error)
            return sample

    def _start_in_process(self) -> None:
        # A worker that was forked has to see for itself.
        if self._process != os.getpid():
            self._process, self._known, self._has_given_up = os.getpid(), set(), False

    def _made(self, dataset: Any, index: Any, load: Callable[[Any], Any]) -> Any:
        count = _length(index)
        if self.way != "applied" and not self._known:
            # Before anything augmented may come into a cache of the dataset's.
            self._prove(dataset, index, load)
        drawn = self.keys.audit.drawn
        with self.keys.sample(index) as made:
            sample = self._loaded(dataset, load)
            if sample is None:
                self.keys.audit.used = True
                return None
            # Not `made.drawn`: a dataset may transform in threads of its own.
            drawn = made.drawn if self.way == "by hand" else self.keys.audit.drawn - drawn
            if self.way != "applied":
                self._check_draws(drawn, count, sample)
            sample = self._checked(sample, count, made.foreign)
        if self.way != "applied":
            kind = _kind(entries_of(sample, count), frozenset(made.places))
            if kind not in self._known:
                self._prove(dataset, index, load)
                self._known.add(kind)
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

    def _check_draws(self, drawn: int, count: int | None, sample: Any) -> None:
        images = drawn // max(1, self.transform.views)
        if drawn == 0:
            raise UnprovedError(_NOT_CALLED if self.way == "inserted" else _NOT_BY_HAND, entries_of(sample))
        # A batch is augmented by one call or by one for each image.
        if count is not None and 1 < images < count:
            raise UnprovedError(
                f"{count - images} of {count} images of a batch were made without it", entries_of(sample, count)
            )

    def _prove(self, dataset: Any, index: Any, load: Callable[[Any], Any]) -> None:
        count, places = _length(index), set[int]()
        copied = throw_away_copy(dataset)

        def make(stand_in: StandIn) -> tuple[Any, bool]:
            before = self.keys.audit.drawn
            with self.keys.sample(index, stand_in) as made:
                sample = self._loaded(copied, load)
            places.update(made.places)
            return sample, (made.drawn if self.way == "by hand" else self.keys.audit.drawn - before) > 0

        drawn = self.keys.audit.drawn
        shown = experiment(make, copied, count)
        self.keys.audit.drawn = drawn
        if shown is None:
            return
        if self.way == "by hand" and not shown.reached and not all(shown.was_called):
            raise UnprovedError(_NOT_BY_HAND, shown.entries)
        if self.way == "inserted":
            self._check_over_image(shown.entries, [e for e in shown.entries if e.path in shown.reached])
        shown.image(by_hand=self.way == "by hand")
        self._known.add(_kind(shown.entries, frozenset(places)))

    def _checked(self, sample: Any, count: int | None, foreign: int) -> Any:
        if foreign and self.way != "by hand":
            raise PlacementError("the dataset applies AugMix itself, and applying it twice is not AugMix")
        if self.way != "applied":
            return sample
        entries = entries_of(sample, count)
        kind = _kind(entries)
        try:
            if self.image_key is None:
                image = only_image(entries)
                augmented = augment_leaf(sample, image, self.transform)
            else:
                image = field_of(sample, self.image_key)
                augmented = augment_field(sample, self.transform, self.image_key)
        except (TypeError, ValueError) as error:
            # A mask beside the image is what to tell of, not that both may be images.
            self._check_over_image(entries, [entry for entry in entries if entry.may_be_image])
            raise UnprovedError(str(error), entries) from (None if isinstance(error, PlacementError) else error)
        if kind not in self._known:
            self._check_over_image(entries, [entry for entry in entries if entry.value is image])
            self._known.add(kind)
        return augmented

    def _check_over_image(self, entries: Sequence[Entry], images: Sequence[Entry]) -> None:
        hyperparameters = self.transform.hyperparameters
        if not hyperparameters.moves_pixels or hyperparameters.severity == 0 or not images:
            return
        image = next((entry for entry in images if entry.may_be_image), images[0])
        for entry in entries:
            if entry is not image and lies_over_image(entry, image.image_size):
                raise OverImageError(entry, entries, hyperparameters.augmentation_set)

    def _refuse(self, error: PlacementError) -> None:
        self._has_given_up = True
        reason, entries = str(error).removesuffix("."), None
        if isinstance(error, UnprovedError):
            entries = error.entries
            reason = f"{reason}.\nThe sample it saw:\n{describe_entries(entries, error.reached)}"
        else:
            reason = f"{reason}."
        remedy = (
            BY_HAND if self.way == "by hand" else write_instead(entries, over_image=isinstance(error, OverImageError))
        )
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


_NOT_CALLED = (
    "a sample was made without it, because the dataset does not call the transform it holds (it may keep a reference "
    "to the original, or a cache of transformed samples)"
)
_NOT_BY_HAND = "a sample was made without it"


def _length(index: Any) -> int | None:
    """The number of samples that an index asks for, if it is a list of them."""
    if isinstance(index, list | tuple | np.ndarray | torch.Tensor) and np.ndim(index) == 1:
        return len(index)
    return None


def _kind(entries: Sequence[Entry], places: frozenset[int] = frozenset()) -> Hashable:
    return frozenset(entry.kind for entry in entries), places


def only_image(entries: Sequence[Entry]) -> Any:
    """The image of a sample, if there is one alone and it is still uint8.

    Args:
        entries: Those of the sample.

    Raises:
        PlacementError: If the sample has no image or several, or if the image is floating-point.
    """
    images = [entry.value for entry in entries if entry.may_be_image]
    if len(images) != 1:
        raise PlacementError(f"{len(images) or 'no'} entries of the sample may be images, and AugMix takes one")
    [image] = images
    if isinstance(image, torch.Tensor | np.ndarray) and image.dtype not in (torch.uint8, np.uint8):
        raise PlacementError(
            f"the image of the sample is {image.dtype}, and no transform that can be seen shows where it became so"
        )
    return image


def augment_leaf(sample: Any, image: Any, transform: AugmentAndMixTransform) -> Any:
    """Returns a sample with its image augmented; the one given stays as it is.

    Args:
        sample: Any nesting of tuples, lists and dicts.
        image: The image in it.
        transform: AugMix.

    Raises:
        PlacementError: If the image is within something else.
        ValueError: If AugMix does not take the image, or the sample has boxes, masks or keypoints.
    """
    leaves, structure = tree_flatten(sample)
    if not any(leaf is image for leaf in leaves):
        raise PlacementError("the image of the sample is neither in a tuple, nor in a list, nor in a dict")
    transform.check_inputs(leaves)
    return tree_unflatten([transform(leaf) if leaf is image else leaf for leaf in leaves], structure)


def field_of(sample: Any, image_key: ImageKey) -> Any:
    """The field of a sample that a key or position names.

    Args:
        sample: A dictionary, list, tuple or named tuple.
        image_key: The key or position.

    Raises:
        PlacementError: If the sample has no such field.
    """
    try:
        return sample[image_key]
    except (LookupError, TypeError):
        pass
    if not isinstance(sample, Mapping):
        kind, hint = f"type {type(sample).__name__}", ""
    else:
        kind = f"keys {list(sample)}"
        close = difflib.get_close_matches(str(image_key), [key for key in sample if isinstance(key, str)], 1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
    raise PlacementError(f"the sample has no field `image_key={image_key!r}`, it is of {kind}{hint}")


def augment_field(sample: Any, transform: AugmentAndMixTransform, image_key: ImageKey) -> Any:
    """Returns a sample with the image in one field augmented; the one given stays as it is.

    Args:
        sample: A dictionary, list, tuple or named tuple.
        transform: AugMix.
        image_key: The field's key or position; a list of images is augmented image by image.

    Raises:
        PlacementError: If the sample has no such field.
        TypeError: If the field is no image.
        ValueError: If the field is an image of a kind AugMix does not take, or the sample has what it would not fit.
    """
    field = field_of(sample, image_key)
    transform.check_inputs(tree_leaves(sample))
    changed: Any = list(sample) if isinstance(sample, tuple) else copy.copy(sample)
    is_list = isinstance(field, list | tuple) and not hasattr(field, "_fields")
    changed[image_key] = type(field)(map(transform, field)) if is_list else transform(field)
    if not isinstance(sample, tuple):
        return changed
    return type(sample)(*changed) if hasattr(sample, "_fields") else tuple(changed)


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

    # A dataset may answer for one sample with others of its own, for instance where a file cannot be read.

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
