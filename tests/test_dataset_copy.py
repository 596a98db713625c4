import pytest

from lightning_augmix.dataset_copy import copy_dataset
from lightning_augmix.pipeline import PlacementError
from toy import Dim, to_tensor


class Loaded(Dim):
    """Its own ways of copying would load the data again."""

    __slots__ = ("size",)

    def __init__(self, transform):
        super().__init__(transform)
        self.size = 3

    def __copy__(self):
        raise AssertionError

    __reduce__ = __copy__


class Numbers(list):
    pass


def test_copies_are_shallow_and_made_without_the_datasets_own_ways():
    dataset = Loaded(to_tensor())
    copied = copy_dataset(dataset)
    assert type(copied) is Loaded
    assert vars(copied) == vars(dataset)
    assert copied.size == 3
    copied.transform = None
    assert dataset.transform is not None


def test_types_that_cannot_be_copied_in_part_are_refused():
    with pytest.raises(PlacementError, match="Numbers cannot be copied in part"):
        copy_dataset(Numbers())
