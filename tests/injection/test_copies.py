import copy
import gc
import pickle
from dataclasses import dataclass
from typing import ClassVar

import pytest
from torch.utils.data import Dataset, Subset

from lightning_augmix import AugmentAndMixTransform, augment_dataset
from lightning_augmix._errors import PlacementError
from lightning_augmix.injection.copies import copy_dataset
from toy import CERTAIN, Dim, is_augmented, to_tensor


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


def test_caches_are_not_shared():
    dataset = Dim(to_tensor())
    dataset.cache, dataset.kept = {1: "one"}, [None, 2]
    copied = copy_dataset(dataset)
    copied.cache[2] = copied.kept[0] = "two"
    assert (dataset.cache, dataset.kept) == ({1: "one"}, [None, 2])


class Opened(Dim):
    """Closes its file at its end, as datasets of HDF5 and LMDB do."""

    def __init__(self, transform, path):
        super().__init__(transform)
        self.file = path.open("rb")

    def __getitem__(self, index):
        self.file.seek(0)
        return super().__getitem__(index)

    def __del__(self):
        self.file.close()


@pytest.mark.parametrize("wrap", [lambda dataset: dataset, lambda dataset: Subset(dataset, range(6))])
@pytest.mark.parametrize("transform", [None, to_tensor()])
def test_files_of_the_original_stay_open(wrap, transform, tmp_path):
    (tmp_path / "file").write_text("")
    original = Opened(transform, tmp_path / "file")
    augmented = augment_dataset(wrap(original), AugmentAndMixTransform(**CERTAIN))
    assert is_augmented(augmented[1][0])
    del augmented
    gc.collect()
    assert not original.file.closed
    original.file.close()


class Registered(Dim):
    names: ClassVar = []

    def __init_subclass__(cls, *, name):
        Registered.names.append(name)


class Mine(Registered, name="mine"):
    pass


class Forwarding(Dim):
    """Hands on what is set to the dataset within."""

    def __init__(self, base):
        vars(self).update(base=base, length=6)

    def __setattr__(self, name, value):
        setattr(self.base, name, value)

    def __getitem__(self, index):
        return self.base[index]


@dataclass(frozen=True)
class Frozen(Dataset):
    transform: object

    def __getitem__(self, index):
        return Dim.__getitem__(self, index)

    def __len__(self):
        return 6


KINDS = [Mine, lambda transform: Forwarding(Dim(transform)), Frozen]


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize("transform", [None, to_tensor()])
def test_classes_with_ways_of_their_own(make, transform):
    dataset = make(transform)
    kinds = type(dataset), type(getattr(dataset, "base", None))
    augmented = augment_dataset(dataset, AugmentAndMixTransform(**CERTAIN))
    for made in (augmented, pickle.loads(pickle.dumps(augmented)), copy.deepcopy(augmented)):
        assert is_augmented(made[1][0])
        assert isinstance(made, kinds[0])
    assert (type(dataset), type(getattr(dataset, "base", None))) == kinds
    assert not is_augmented(dataset[1][0])
    assert Registered.names == ["mine"]


def test_types_that_cannot_be_copied_in_part_are_refused():
    with pytest.raises(PlacementError, match="Numbers cannot be copied in part"):
        copy_dataset(Numbers())
