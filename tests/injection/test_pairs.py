"""Images with and without AugMix, made from the same draws."""

import numpy as np
import pytest
import torch
from torch.utils.data import IterableDataset, Subset
from torchvision import transforms

from lightning_augmix import AugmentAndMixTransform, PlacementError
from lightning_augmix.injection.pairs import pairs
from toy import CERTAIN, Dim, dim_image, is_augmented, to_tensor

AUGMIX = AugmentAndMixTransform(10, **CERTAIN)


def test_images_are_spaced_over_the_data_once_clean_and_once_augmented():
    clean, augmented = pairs(Subset(Dim(to_tensor(), 12), range(9)), AUGMIX, 3)
    expected = [transforms.functional.to_tensor(dim_image(index)) for index in (0, 4, 8)]
    torch.testing.assert_close(clean, expected, rtol=0, atol=0)
    assert [is_augmented(image) for image in augmented] == [True] * 3


def test_there_are_no_more_than_the_data_have():
    clean, augmented = pairs(Dim(to_tensor(), 2), AUGMIX, 5)
    assert (len(clean), len(augmented)) == (2, 2)


def test_both_meet_the_same_draws_and_generators_stay_as_they_were():
    crop = transforms.Compose([transforms.RandomCrop(6), transforms.RandomHorizontalFlip(), transforms.ToTensor()])
    torch.manual_seed(0)
    before = torch.get_rng_state()
    clean, same = pairs(Dim(crop), AugmentAndMixTransform(0), 6)
    torch.testing.assert_close(clean, same, rtol=0, atol=0)
    again, _ = pairs(Dim(crop), AugmentAndMixTransform(10), 6)
    torch.testing.assert_close(clean, again, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), before)
    # The first image is cropped as without AugMix.
    torch.testing.assert_close(clean[0], Dim(crop)[0][0], rtol=0, atol=0)


def test_samples_of_any_kind():
    class Fields(Dim):
        def __getitem__(self, index):
            return {"label": int(index), "picture": np.array(dim_image(int(index)))}

    clean, augmented = pairs(Fields(None), AUGMIX, 6, image_key="picture")
    assert [is_augmented(image) for image in clean + augmented] == [False] * 6 + [True] * 6


def test_the_first_of_an_iterable():
    class Stream(IterableDataset):
        def __init__(self):
            self.transform = to_tensor()

        def __iter__(self):
            return ((self.transform(dim_image(index)), index) for index in range(100))

    clean, augmented = pairs(Stream(), AUGMIX, 2)
    assert [is_augmented(image) for image in clean + augmented] == [False] * 2 + [True] * 2


def test_what_cannot_be_augmented_is_refused():
    with pytest.raises(PlacementError, match="twice"):
        pairs(Dim(transforms.Compose([AugmentAndMixTransform(), transforms.ToTensor()])), AUGMIX, 2)


def test_samples_without_a_picture_are_told():
    flat = transforms.Compose([transforms.ToTensor(), transforms.Lambda(torch.flatten)])
    with pytest.raises(
        PlacementError, match=r"No entry of the sample is a picture:\n  sample\[0\]: float32 tensor \[360\]"
    ):
        pairs(Dim(flat), AUGMIX, 2)
