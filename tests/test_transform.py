import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision import transforms as v1
from torchvision import tv_tensors
from torchvision.transforms import v2

from lightning_augmix import AugmentAndMixTransform
from toy import CERTAIN, is_augmented


@pytest.fixture
def dim():
    return np.random.default_rng(0).integers(100, 140, (24, 35, 3), dtype=np.uint8)


@pytest.fixture
def augmix():
    return AugmentAndMixTransform(**CERTAIN)


def tensor(array):
    return torch.from_numpy(array).permute(2, 0, 1)


def test_in_every_kind_of_pipeline(dim, augmix):
    img = Image.fromarray(dim)
    assert is_augmented(v1.Compose([v1.CenterCrop(8), augmix, v1.ToTensor()])(img))
    assert is_augmented(v2.Compose([v2.ToImage(), augmix, v2.ToDtype(torch.float32, scale=True)])(img))
    assert is_augmented(nn.Sequential(v1.CenterCrop(8), augmix, v1.ConvertImageDtype(torch.float32))(tensor(dim)))
    assert is_augmented(v2.Compose([v2.ToImage(), augmix])(img, 3)[0])


def test_samples_keep_their_structure_and_everything_but_the_image(dim, augmix):
    sample = {"image": Image.fromarray(dim), "label": 3, "extras": [torch.arange(4), np.zeros(2), "cat", None]}
    result = augmix(sample)
    assert is_augmented(result["image"])
    assert result["label"] == 3
    assert result["extras"][0] is sample["extras"][0]
    assert result["extras"][1] is sample["extras"][1]
    assert result["extras"][2:] == ["cat", None]
    assert not is_augmented(sample["image"])


def test_without_an_explicit_image_the_first_tensor_is_it(dim, augmix):
    image, other = augmix((tensor(dim), torch.arange(4)))
    assert is_augmented(image)
    assert torch.equal(other, torch.arange(4))
    image, other = augmix(np.asarray(dim), np.arange(4))
    assert is_augmented(image)
    assert (other == np.arange(4)).all()


def test_of_tensors_and_arrays_the_first_with_the_shape_of_an_image_is_it(dim, augmix):
    for label in (torch.tensor(3), torch.arange(4), np.zeros((4, 5)), torch.zeros(3, 4, 5, dtype=torch.int64)):
        for sample in ((dim, label), (label, dim), (label, tensor(dim)), (tensor(dim), label)):
            result = augmix(sample)
            assert [is_augmented(entry) for entry in result if entry is not label] == [True]
            assert any(entry is label for entry in result)
    assert is_augmented(augmix((dim, torch.rand(1, 24, 35)))[0])


def test_what_is_no_image_at_all_is_an_error_of_the_first(augmix):
    with pytest.raises(ValueError, match=r"shape \[4\]"):
        augmix((torch.arange(4), np.zeros(3)))


def test_explicit_images_are_all_augmented_and_share_their_choices(dim):
    augmix = AugmentAndMixTransform(severity=10)
    first, second, label = augmix((Image.fromarray(dim), tv_tensors.Image(tensor(dim)), torch.arange(3)))
    assert torch.equal(tensor(np.array(first)), second)
    assert torch.equal(label, torch.arange(3))


SPATIAL = {
    "boxes": tv_tensors.BoundingBoxes(torch.tensor([[1, 2, 3, 4]]), format="XYXY", canvas_size=(24, 35)),
    "mask": tv_tensors.Mask(torch.ones(24, 35, dtype=torch.uint8)),
    "keypoints": tv_tensors.KeyPoints(torch.tensor([[1, 2]]), canvas_size=(24, 35)),
}


@pytest.mark.parametrize("target", SPATIAL)
@pytest.mark.parametrize("convert", [Image.fromarray, tensor, lambda a: tv_tensors.Image(tensor(a))])
def test_spatial_targets_stay_true_under_photometric_sets_and_are_refused_otherwise(dim, target, convert):
    sample = (SPATIAL[target], convert(dim))
    photometric = AugmentAndMixTransform(**{**CERTAIN, "augmentation_set": "photometric"})
    result = photometric(sample)
    assert type(result[0]) is type(SPATIAL[target])
    assert torch.equal(result[0], SPATIAL[target])
    assert is_augmented(AugmentAndMixTransform(**CERTAIN)(sample)[1])
    with pytest.raises(ValueError, match=rf"{type(SPATIAL[target]).__name__}.*'all' moves.*use 'photometric'"):
        AugmentAndMixTransform()(sample)


def test_a_sample_without_an_image_is_an_error(augmix):
    for sample in [(3, "cat"), {}, SPATIAL["mask"]]:
        with pytest.raises(TypeError, match="no image in the sample"):
            augmix(sample)


def test_video_is_an_error(augmix):
    with pytest.raises(TypeError, match=r"tv_tensors\.Video"):
        augmix(tv_tensors.Video(torch.zeros(2, 3, 4, 5, dtype=torch.uint8)))


def test_it_survives_pickling(dim, augmix):
    loaded = pickle.loads(pickle.dumps(augmix))
    torch.manual_seed(1)
    first = augmix(dim)
    torch.manual_seed(1)
    assert (loaded(dim) == first).all()


def test_it_prints_its_hyperparameters():
    expected = "AugmentAndMixTransform(severity=2.0, width=3, depth=-1, alpha=1.0, augmentation_set='safe')"
    assert repr(AugmentAndMixTransform(2, augmentation_set="safe")) == expected


@pytest.mark.parametrize("name", ["severity", "width", "depth", "alpha", "augmentation_set", "engine"])
def test_every_argument_is_validated_at_construction(name):
    with pytest.raises((TypeError, ValueError), match=f"argument `{name}`"):
        AugmentAndMixTransform(**{name: -7})
