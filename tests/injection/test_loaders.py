import pytest
import torch
from torch.utils.data import DataLoader
from torchvision import transforms as v1

from kinds import TO_TENSOR
from lightning_augmix import AugmentAndMixTransform, augment_dataloader, augment_dataset
from lightning_augmix._errors import PlacementError
from lightning_augmix.injection.loaders import inject
from toy import CERTAIN, Dim, is_augmented


@pytest.fixture
def augmix():
    return AugmentAndMixTransform(**CERTAIN)


def test_data_is_shared_not_copied(augmix):
    dataset = Dim(TO_TENSOR)
    dataset.data = torch.zeros(1000)
    assert augment_dataset(dataset, augmix).data is dataset.data


def test_the_report_says_what_was_done(augmix):
    report = inject(Dim(v1.ToTensor()), augmix).report
    assert report.startswith(
        "AugMix was inserted into Dim.transform\n  before: ToTensor()\n  after:  Compose(AugmentAndMixTransform("
    )
    assert inject(Dim(None), augmix).report.startswith("AugMix is applied to the samples of Dim: no transform")
    assert inject(Dim(None), augmix, image_key=0).report == "AugMix is applied to the field 0 of the samples of Dim"


@pytest.mark.parametrize("workers", [0, 2])
def test_loaders(augmix, workers):
    loader = DataLoader(Dim(TO_TENSOR), batch_size=4, num_workers=workers, persistent_workers=workers > 0)
    original = [is_augmented(img) for images, _ in loader for img in images]
    augmented = augment_dataloader(loader, augmix)
    assert type(augmented) is DataLoader
    assert all(is_augmented(img) for _ in range(2) for images, _ in augmented for img in images)
    assert not any(is_augmented(img) for images, _ in loader for img in images)
    assert not any(original)
    assert augmented._iterator is not loader._iterator or workers == 0
    assert augmented.sampler is loader.sampler


class EagerLoader(DataLoader):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.__dict__["iterator"] = super().__iter__()


def test_loaders_that_start_their_workers_at_construction_are_refused(augmix):
    with pytest.raises(PlacementError, match=r"EagerLoader started its workers.*persistent_workers"):
        augment_dataloader(EagerLoader(Dim(TO_TENSOR), num_workers=1), augmix)


def test_a_loader_must_be_a_loader(augmix):
    with pytest.raises(TypeError, match=r"`loader` to be a torch.*got list"):
        augment_dataloader([torch.zeros(1)], augmix)


def test_the_arguments_must_be_a_dataset_and_a_transform(augmix):
    with pytest.raises(TypeError, match=r"`dataset` to be a dataset; got a DataLoader: use `augment_dataloader`"):
        augment_dataset(DataLoader(Dim(TO_TENSOR)), augmix)
    with pytest.raises(TypeError, match=r"`transform` to be an AugmentAndMixTransform; got 'all'"):
        augment_dataset(Dim(TO_TENSOR), "all")
    with pytest.raises(TypeError, match=r"`transform` to be an AugmentAndMixTransform; got 'all'"):
        augment_dataloader(DataLoader(Dim(TO_TENSOR)), "all", views=2)
    with pytest.raises(TypeError, match=r"`image_key` to be the key \(a string\) or position.*got 1\.5"):
        augment_dataset(Dim(TO_TENSOR), augmix, image_key=1.5)
