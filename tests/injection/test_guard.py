import copy
import pickle
from collections import namedtuple

import numpy as np
import pytest
import torch
from torch.utils.data import ChainDataset, ConcatDataset, DataLoader, Subset
from torchvision import tv_tensors
from torchvision.transforms import v2

from kinds import Caching, Closure, ClosureStream, Plain, PlainStream, Reading, Retrying, Stream, Threaded
from lightning_augmix import AugmentAndMixTransform, augment_dataset, augmix_image
from lightning_augmix._errors import PlacementError
from lightning_augmix.injection.entries import entries_of
from lightning_augmix.injection.guard import Guard, guarded
from lightning_augmix.injection.loaders import inject
from lightning_augmix.injection.samples import augment_field, augment_leaf, only_image, position_of
from lightning_augmix.plans.keys import RunKeys
from toy import CERTAIN, Dim, dim_image, is_augmented, to_tensor

Named = namedtuple("Named", ["image", "label"])
FLOATS = v2.functional.to_dtype(v2.functional.to_image(dim_image(0)), torch.float32, scale=True)


@pytest.fixture
def augmix():
    return AugmentAndMixTransform(**CERTAIN)


@pytest.fixture
def seeded():
    augmix = AugmentAndMixTransform(severity=10)
    augmix.keys = RunKeys(1, 0)
    return augmix


@pytest.mark.parametrize(
    ("sample", "image_key"),
    [
        ((dim_image(0), 3), 0),
        ([dim_image(0), 3], 0),
        ((3, dim_image(0)), -1),
        ({"image": dim_image(0), "label": 3}, "image"),
        (Named(dim_image(0), 3), 0),
        ({"image": tv_tensors.Image(FLOATS), "mask": dim_image(1)}, "image"),
        ((FLOATS, FLOATS), 1),
        ({0: np.array(dim_image(0))}, 0),
    ],
)
def test_a_field_is_augmented_and_the_sample_stays_as_it_is(sample, image_key, augmix):
    keys = list(sample) if isinstance(sample, dict) else range(len(sample))
    augmented = augment_field(sample, augmix, image_key)
    assert type(augmented) is type(sample)
    assert is_augmented(augmented[image_key])
    assert not is_augmented(sample[image_key])
    position = image_key % len(sample) if isinstance(image_key, int) else image_key
    assert all(augmented[key] is sample[key] for key in keys if key != position)


@pytest.mark.parametrize(
    ("sample", "image_key", "message"),
    [
        ((dim_image(0), 3), 2, "no field `image_key=2`, it is of type tuple"),
        ((dim_image(0), 3), "image", "no field `image_key='image'`"),
        ({"img": dim_image(0)}, "image", r"of keys \['img'\]"),
        (dim_image(0), 0, "of type Image"),
        ((dim_image(0), torch.tensor(3)), 1, r"shape \[\]"),
        ((dim_image(0), "cat"), 1, "no image"),
        ((v2.functional.normalize(FLOATS, [0.5] * 3, [0.5] * 3), 1), 0, "Normalize"),
        ((dim_image(0), tv_tensors.Mask(torch.zeros(12, 10))), 0, "Mask"),
    ],
)
def test_fields_that_are_no_images_are_refused(sample, image_key, message):
    with pytest.raises((TypeError, ValueError), match=message):
        augment_field(sample, AugmentAndMixTransform(), image_key)


def test_the_image_is_found_in_any_nesting(augmix):
    sample = {"inner": [("name", tv_tensors.Image(np.array(dim_image(0)).transpose(2, 0, 1)))], "label": torch.zeros(3)}
    position = position_of(sample, only_image(entries_of(sample)))
    augmented = augment_leaf(sample, position, augmix)
    assert is_augmented(augmented["inner"][0][1])
    assert not is_augmented(sample["inner"][0][1])


@pytest.mark.parametrize("kind", [Closure, Caching])
def test_a_sample_that_was_made_without_augmix_is_an_error(kind, augmix):
    dataset = augment_dataset(ConcatDataset([Dim(to_tensor()), kind(to_tensor())]), augmix)
    for index in range(6):
        assert is_augmented(dataset[index][0])
    with pytest.raises(PlacementError, match=r"(?s)does not call the transform it holds.*ConcatDataset\n    Dim\.tr"):
        [dataset[6] for _ in range(2)]


def test_a_member_of_a_chain_that_ignores_its_transform_is_an_error(augmix):
    dataset = augment_dataset(ChainDataset([Stream(to_tensor()), ClosureStream(to_tensor())]), augmix)
    samples = iter(dataset)
    assert all(is_augmented(next(samples)[0]) for _ in range(6))
    with pytest.raises(PlacementError, match="does not call the transform"):
        next(samples)


@pytest.mark.parametrize("dataset", [Plain, PlainStream])
def test_a_dataset_that_applies_augmix_itself_is_an_error(dataset, augmix):
    augmented = augment_dataset(dataset(lambda img, index: augmix_image(img)), augmix)
    with pytest.raises(PlacementError, match="applies AugMix itself"):
        next(iter(augmented)) if dataset is PlainStream else augmented[0]


def test_one_that_answers_with_another_of_its_samples_is_augmented_once(seeded):
    for transform in (to_tensor(), None):
        augmented = augment_dataset(Retrying(transform), seeded)
        before = seeded.keys.audit.drawn
        augmented[2]
        assert seeded.keys.audit.drawn == before + 1


def test_threads_of_the_dataset(augmix):
    assert is_augmented(augment_dataset(Threaded(to_tensor()), augmix)[0][0])
    assert all(is_augmented(img) for img, _ in augment_dataset(Reading(to_tensor()), augmix))


def test_a_warning_and_the_sample_as_it_is_where_that_is_wanted(augmix):
    for dataset in (Closure(to_tensor()), Plain(lambda img, index: (FLOATS, index))):
        augmented = inject(dataset, augmix, on_unsupported="warn").dataset
        with pytest.warns(UserWarning, match="AugMix was not applied"):
            img, _ = augmented[0]
        assert not is_augmented(img)


def test_the_same_index_of_any_kind_gives_the_same_image(seeded):
    dataset = augment_dataset(Dim(to_tensor()), seeded)
    first = dataset[2][0]
    assert torch.equal(dataset[np.int64(2)][0], first)
    assert torch.equal(dataset[torch.tensor(2)][0], first)
    assert not torch.equal(dataset[3][0], first)


def test_it_is_of_the_type_of_the_dataset_with_its_attributes(augmix):
    dataset = augment_dataset(Dim(to_tensor()), augmix)
    assert isinstance(dataset, Dim)
    assert type(dataset).__name__ == "Dim"
    assert len(dataset) == dataset.length == 6
    dataset.length = 3
    assert len(dataset) == 3
    assert not hasattr(dataset, "__getitems__")
    assert is_augmented(augment_dataset(Subset(Dim(None), [1]), augmix).__getitems__([0])[0][0])


class OwnPickle(Dim):
    """Leaves something behind when it is pickled, as datasets with open files do."""

    def __getstate__(self):
        return {**self.__dict__, "handle": None}


@pytest.mark.parametrize("transform", [to_tensor(), None])
def test_copies_and_pickles_go_the_datasets_own_way_and_still_answer(transform, augmix):
    dataset = OwnPickle(transform)
    dataset.handle = open  # cannot stay
    augmented = augment_dataset(dataset, augmix)
    for loaded in (pickle.loads(pickle.dumps(augmented)), copy.copy(augmented), copy.deepcopy(augmented)):
        assert type(loaded) is type(augmented)
        assert is_augmented(loaded[0][0])
    assert pickle.loads(pickle.dumps(augmented)).handle is None


def test_batches_of_indices_make_batches_of_images(augmix):
    images = torch.stack([v2.functional.pil_to_tensor(dim_image(index)) for index in range(6)])
    dataset = augment_dataset(torch.utils.data.TensorDataset(images, torch.arange(6)), augmix)
    sampler = torch.utils.data.BatchSampler(range(6), 4, drop_last=False)
    for batch, _ in DataLoader(dataset, sampler=sampler, batch_size=None):
        assert all(is_augmented(img) for img in batch)


def announced(dataset, keys, on_unsupported="raise"):
    transform = AugmentAndMixTransform()
    transform.keys = keys
    return guarded(dataset, Guard("by hand", transform, on_unsupported=on_unsupported))


def test_announced_samples_have_the_keys_of_their_index(seeded):
    dataset = announced(Plain(lambda img, index: seeded(img)), seeded.keys)
    assert dataset[3] == dataset[3] != dataset[4]
    retrying = announced(Retrying(seeded), seeded.keys)
    assert np.array_equal(retrying[2][0], retrying[2][0])


def test_announced_samples_without_augmix_are_an_error_or_a_warning():
    keys = RunKeys(None, 0)
    with pytest.raises(PlacementError, match=r"(?s)made without it.*`callback.transform`"):
        announced(Plain(lambda img, index: img), keys)[0]
    with pytest.warns(UserWarning, match="made without it"):
        announced(Plain(lambda img, index: img), keys, "warn")[0]
    assert len(list(announced(PlainStream(lambda img, index: img), keys))) == 6


class Batched(Dim):
    """Makes samples in batches, and one alone as a batch of one."""

    def __getitem__(self, index):
        return self.__getitems__([index])[0]

    def __getitems__(self, indices):
        return [Dim.__getitem__(self, index) for index in indices]


class OnlyBatched(torch.utils.data.Dataset):
    def __init__(self, transform):
        self.transform = transform

    def __getitems__(self, indices):
        return [(self.transform(dim_image(index)), index) for index in indices]

    def __len__(self):
        return 6


@pytest.mark.parametrize("kind", [Batched, OnlyBatched])
def test_datasets_that_make_batches(kind, augmix):
    dataset = augment_dataset(kind(to_tensor()), augmix)
    assert is_augmented(dataset[1][0])
    for images, _ in DataLoader(dataset, batch_size=4):
        assert all(is_augmented(img) for img in images)


def test_a_float_array_may_be_the_image_that_a_mask_belongs_to(augmix):
    data = Plain(lambda img, index: (np.array(img, dtype=np.float32), np.zeros((12, 10), np.uint8)))
    with pytest.raises(PlacementError, match="2 entries of the sample"):
        augment_dataset(data, augmix)[0]
