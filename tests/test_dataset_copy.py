import copy
import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import Subset

from lightning_augmix import AugmentAndMixTransform, augment_dataset
from lightning_augmix.dataset_copy import copy_dataset, index_dataset
from lightning_augmix.keys import RunKeys
from lightning_augmix.pipeline import PlacementError
from toy import Dim, to_tensor


class OwnPickle(Dim):
    """Leaves something behind when it is pickled, as datasets with open files do."""

    def __getstate__(self):
        return {**self.__dict__, "handle": None}


class Numbers(list):
    pass


@pytest.fixture
def indexed():
    augmix = AugmentAndMixTransform(severity=10)
    augmix.keys = RunKeys(1, 0)
    return index_dataset(augment_dataset(Dim(to_tensor()), augmix))


def test_the_same_index_of_any_kind_gives_the_same_image(indexed):
    first = indexed[2][0]
    assert torch.equal(indexed[np.int64(2)][0], first)
    assert torch.equal(indexed[torch.tensor(2)][0], first)
    assert not torch.equal(indexed[3][0], first)


def test_it_is_of_the_type_of_the_dataset_with_its_attributes(indexed):
    assert isinstance(indexed, Dim)
    assert type(indexed).__name__ == "Dim"
    assert len(indexed) == indexed.length == 6
    indexed.length = 3
    assert len(indexed) == 3
    assert not index_dataset(Subset(Dim(None), [1])).__getitems__


def test_copies_and_pickles_go_the_datasets_own_way_and_stay_indexed():
    dataset = OwnPickle(to_tensor())
    dataset.handle = open  # cannot stay
    for loaded in (pickle.loads(pickle.dumps(index_dataset(dataset))), copy.copy(index_dataset(dataset))):
        assert isinstance(loaded, OwnPickle)
        assert type(loaded) is not OwnPickle
    assert pickle.loads(pickle.dumps(index_dataset(dataset))).handle is None


@pytest.mark.parametrize("index", [[0, 1], "cat", 1.5, None])
def test_indices_that_are_no_integers_are_refused(index, indexed):
    with pytest.raises(TypeError, match="must be an integer"):
        indexed[index]


def test_types_that_cannot_be_copied_in_part_are_refused():
    with pytest.raises(PlacementError, match="Numbers cannot be copied in part"):
        copy_dataset(Numbers())
