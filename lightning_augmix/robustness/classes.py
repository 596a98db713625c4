"""The classes of test images, as far as their dataset tells: numbers and names, through subsets and wrappers."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import ConcatDataset, Subset

from lightning_augmix._checks import is_boolean
from lightning_augmix._text import printable

__all__ = ["Classes", "as_class", "classes_of", "renumbered", "stratified", "stratified_part"]

_TRIED = 16  # samples of a wrapper


@dataclass(frozen=True)
class Classes:
    """The classes of a dataset.

    Attributes:
        numbers: The number of each class, by its name; ``None`` if the dataset has no names.
        targets: The number of each image's class; ``None`` if they are not listed.
    """

    numbers: Mapping[str, int] | None
    targets: NDArray[np.int64] | None

    @property
    def names(self) -> Mapping[int, str]:
        """The name of each class, by its number; none if the dataset has no names."""
        return {number: name for name, number in (self.numbers or {}).items()}

    @property
    def counts(self) -> Mapping[Any, int] | None:
        """Number of images of each class, by its name, or by its number where there are no names."""
        if self.targets is None:
            return None
        names = self.names
        return Counter(names.get(number, number) for number in self.targets.tolist())


def as_class(target: Any) -> int:
    """The number of a class.

    Args:
        target: An integer, or a tensor or array with a single one.

    Raises:
        TypeError: If it is anything else.
    """
    value = _item(target)
    if is_boolean(value) or not isinstance(value, int):
        raise TypeError(
            "Expected the classes of the images to be integers; got "
            f"{printable(repr(target))[:80]} of type {type(target).__name__}."
        )
    return value


def classes_of(data: Any) -> Classes:
    """What a dataset tells of its classes: ``class_to_idx``, ``targets`` or ``labels``, and ``target_transform``.

    Args:
        data: A map-style dataset, also a ``Subset``, a ``ConcatDataset``, or a wrapper with the attribute ``dataset``;
            a wrapper that changes classes is noticed by some of its samples, and tells nothing.

    Raises:
        ValueError: If the parts of a ``ConcatDataset`` number a class differently.
    """
    if isinstance(data, Subset):
        whole = classes_of(data.dataset)
        return Classes(whole.numbers, None if whole.targets is None else whole.targets[np.asarray(data.indices, int)])
    if isinstance(data, ConcatDataset):
        return _joined([classes_of(part) for part in data.datasets])
    own = _own(data)
    if own.numbers is not None or own.targets is not None or not hasattr(data, "dataset"):
        return own
    inner = classes_of(data.dataset)
    return inner if inner.targets is None or _has_these(data, inner.targets) else Classes(None, None)


def _own(data: Any) -> Classes:
    # ImageNet's folders are named by WordNet's numbers, its class_to_idx has English names.
    names = getattr(data, "wnid_to_idx", getattr(data, "class_to_idx", None))
    listed = getattr(data, "targets", getattr(data, "labels", None))
    change: Callable[[Any], Any] = getattr(data, "target_transform", None) or (lambda number: number)
    try:
        numbers = {str(name): as_class(change(number)) for name, number in names.items()} if names else None
        targets = None if listed is None else np.array([as_class(change(_item(each))) for each in listed], np.int64)
    except (TypeError, ValueError, AttributeError):
        return Classes(None, None)  # of another meaning
    return Classes(numbers, targets if targets is not None and len(targets) == len(data) else None)


def _item(target: Any) -> Any:
    is_single = isinstance(target, torch.Tensor | np.ndarray | np.generic) and target.ndim == 0
    return target.item() if is_single else target


def _has_these(data: Any, targets: NDArray[np.int64]) -> bool:
    if len(data) != len(targets):
        return False
    try:
        return all(as_class(data[index][1]) == targets[index] for index in range(0, len(data), -(-len(data) // _TRIED)))
    except (TypeError, IndexError, KeyError):
        return False


def _joined(parts: Sequence[Classes]) -> Classes:
    numbers: dict[str, int] = {}
    for part in parts:
        for name, number in (part.numbers or {}).items():
            if numbers.setdefault(name, number) != number:
                raise ValueError(
                    f"Expected the parts of the ConcatDataset to number their classes alike; {printable(name)} is "
                    f"{numbers[name]} in one and {number} in another."
                )
    targets = [part.targets for part in parts if part.targets is not None]
    are_named = all(part.numbers is not None for part in parts)
    return Classes(numbers if are_named else None, np.concatenate(targets) if len(targets) == len(parts) else None)


def renumbered(corrupted: Classes, clean: Classes, where: str, where_clean: str) -> Mapping[int, int] | None:
    """The clean set's number for each number of a corrupted set, by the names of the classes.

    Args:
        corrupted: The classes of the corrupted set.
        clean: The classes of the clean set, whose numbers are those of the model's outputs.
        where: The name of the corrupted set, for messages.
        where_clean: The name of the clean set.

    Returns:
        The numbers; ``None`` if one of the sets does not name its classes.

    Raises:
        ValueError: If the two have other classes or, of equally many images, not equally many of a class.
    """
    numbers = None
    if corrupted.numbers is not None and clean.numbers is not None:
        present, expected = corrupted.counts or corrupted.numbers, clean.counts or clean.numbers
        different = sorted(set(map(str, present)) ^ set(map(str, expected)))
        if different:
            raise ValueError(
                "Expected clean and corrupted images to be of the same classes; "
                f"{printable(different[0])} is not in both {where_clean} and {where}: add or remove it."
            )
        numbers = {number: clean.numbers[name] for name, number in corrupted.numbers.items() if name in clean.numbers}
    if corrupted.targets is not None and clean.targets is not None:
        found = Counter(numbers[each] if numbers else each for each in corrupted.targets.tolist())
        expected_counts = Counter(clean.targets.tolist())
        are_as_many = found.total() == expected_counts.total()  # otherwise one of the two may be a part
        for number in sorted(found.keys() | expected_counts.keys()):
            if (are_as_many and found[number] != expected_counts[number]) or number not in expected_counts:
                name = printable(str(clean.names.get(number, number)))
                raise ValueError(
                    f"Expected clean and corrupted images to be the same images; of class {name} {where_clean} has "
                    f"{expected_counts[number]}, and {where} has {found[number]}."
                )
    return numbers


def stratified(count: int, length: int, targets: NDArray[np.int64] | None) -> NDArray[np.int64]:
    """The positions of a part of some images, with the classes in proportion, in ascending order.

    Args:
        count: Number of images in the part.
        length: Number of all images, at least as many.
        targets: The number of each image's class; ``None`` for images in no particular order.
    """
    by_class = np.arange(length) if targets is None else np.argsort(targets, kind="stable")
    return np.sort(by_class[(2 * np.arange(count) + 1) * length // (2 * count)])


def stratified_part(data: Any, count: int) -> Any:
    """Takes such a part of a dataset.

    Args:
        data: A map-style dataset; one that does not list its classes is taken to be in no particular order.
        count: Number of images.

    Returns:
        A ``Subset``; the dataset itself, if it has no more images.
    """
    if len(data) <= count:
        return data
    return Subset(data, stratified(count, len(data), classes_of(data).targets).tolist())
