import numpy as np
import pytest
import torch
from torch.utils.data import (
    ChainDataset,
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    StackDataset,
    Subset,
    TensorDataset,
    random_split,
)
from torchvision import transforms as v1
from torchvision.datasets import FakeData, ImageFolder, VisionDataset
from torchvision.transforms import v2

from lightning_augmix import AugmentAndMixTransform, augment_dataloader, augment_dataset
from lightning_augmix.pipeline import PlacementError
from toy import CERTAIN, Dim, dim_image, is_augmented

TO_TENSOR = v1.Compose([v1.CenterCrop(8), v1.ToTensor()])


@pytest.fixture
def augmix():
    return AugmentAndMixTransform(**CERTAIN)


class DimVision(VisionDataset):
    """A VisionDataset, with `transform` or with joint `transforms`, called as torchvision's own do."""

    def __init__(self, joint_call=False, **kwargs):
        super().__init__(root=None, **kwargs)
        self.joint_call = joint_call

    def __getitem__(self, index):
        if self.joint_call:
            return self.transforms(dim_image(index), index)
        return (dim_image(index) if self.transform is None else self.transform(dim_image(index))), index

    def __len__(self):
        return 6


class Wrapped(Dataset):
    """A user's wrapper with a transform of its own, as people write for the parts of random_split."""

    def __init__(self, dataset, transform=None):
        self.dataset = dataset
        self.transform = transform

    def __getitem__(self, index):
        img, target = self.dataset[index]
        return (img if self.transform is None else self.transform(img)), target

    def __len__(self):
        return len(self.dataset)


class Delegating(Dataset):
    """Hands on every attribute of a dataset that it keeps under another name."""

    def __init__(self, base):
        self.base = base

    def __getattr__(self, name):
        return getattr(self.__dict__["base"], name)

    def __getitem__(self, index):
        return self.base[index]

    def __len__(self):
        return len(self.base)


class Tutorial(Dataset):
    """With joint transforms, as in torchvision's detection tutorial."""

    def __init__(self, transforms):
        self.transforms = transforms

    def __getitem__(self, index):
        return self.transforms(dim_image(index), index)

    def __len__(self):
        return 6


class ClassLevel(Dim):
    transform = TO_TENSOR

    def __init__(self):
        self.length = 6


class WithSlots(Dim):
    __slots__ = ("size",)

    def __init__(self, transform):
        super().__init__(transform)
        self.size = 6

    def __len__(self):
        return self.size


class Reference(Dim):
    """Has a pipeline of its own, and another dataset that is not the source of its images."""

    def __init__(self, transform):
        super().__init__(transform)
        self.reference = Dim(transform)


class Pair(Dataset):
    def __init__(self, images, others):
        self.images = images
        self.others = others


class Stream(IterableDataset):
    def __init__(self, transform):
        self.transform = transform

    def __iter__(self):
        return ((self.transform(dim_image(index)), index) for index in range(6))


class Slots(Dataset):
    __slots__ = ("transform",)

    def __init__(self):
        self.transform = TO_TENSOR


class Property(Dataset):
    def __init__(self):
        self._transform = TO_TENSOR

    @property
    def transform(self):
        return self._transform


def pil_to_uint8(img):
    return np.array(img)


def fraction(dataset):
    samples = list(dataset) if isinstance(dataset, IterableDataset) else [dataset[i] for i in range(len(dataset))]
    return sum(is_augmented(sample[0]) for sample in samples) / len(samples)


JOINT = v2.Compose([v2.CenterCrop(8), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])

PLACEABLE = {
    "transform": lambda: Dim(TO_TENSOR),
    "transform None": lambda: Dim(None),
    "VisionDataset": lambda: DimVision(transform=TO_TENSOR),
    "VisionDataset, no transform": lambda: DimVision(),
    "VisionDataset, called jointly": lambda: DimVision(True, transform=TO_TENSOR, target_transform=lambda t: t + 1),
    "VisionDataset, joint transforms": lambda: DimVision(True, transforms=JOINT),
    "Subset": lambda: Subset(Dim(TO_TENSOR), [3, 1]),
    "nested Subset": lambda: Subset(Subset(Dim(TO_TENSOR), [3, 1, 2]), [0, 2]),
    "random_split": lambda: random_split(Dim(TO_TENSOR), [4, 2])[0],
    "ConcatDataset": lambda: ConcatDataset([Dim(TO_TENSOR), Subset(DimVision(transform=v1.ToTensor()), [1])]),
    "ChainDataset": lambda: ChainDataset([Stream(TO_TENSOR), Stream(v1.ToTensor())]),
    "IterableDataset": lambda: Stream(TO_TENSOR),
    "transform in a wrapper": lambda: Wrapped(Subset(Dim(None), [3, 1]), TO_TENSOR),
    "no barrier inside, one outside": lambda: Wrapped(Dim(v1.CenterCrop(9)), TO_TENSOR),
    "opaque inside, barrier outside": lambda: Wrapped(Dim(pil_to_uint8), v1.ToTensor()),
    "barrier inside, steps outside": lambda: Wrapped(Dim(TO_TENSOR), v1.Normalize((0.0,) * 3, (1.0,) * 3)),
    "uint8 to the end": lambda: Wrapped(Dim(v1.CenterCrop(9)), v1.PILToTensor()),
    "uint8 to the end in a Concat": lambda: ConcatDataset([Dim(v1.PILToTensor()), Dim(None)]),
    "a dataset under another name": lambda: Delegating(Dim(TO_TENSOR)),
    "a dataset under another name, uint8 to the end": lambda: Delegating(Dim(v1.PILToTensor())),
    "joint transforms of a plain Dataset": lambda: Tutorial(JOINT),
    "a class attribute": lambda: ClassLevel(),
    "slots beside attributes": lambda: WithSlots(TO_TENSOR),
    "Concat inside, barrier outside": lambda: Wrapped(ConcatDataset([Dim(None), Dim(v1.CenterCrop(9))]), TO_TENSOR),
}


@pytest.mark.parametrize("case", PLACEABLE)
def test_the_copy_is_augmented_and_the_original_is_untouched(case, augmix):
    dataset = PLACEABLE[case]()
    before = list(inventory(dataset))
    augmented = augment_dataset(dataset, augmix)
    assert type(augmented) is type(dataset)
    assert fraction(augmented) == 1
    assert fraction(dataset) == 0
    assert list(inventory(dataset)) == before


def inventory(value):
    """Every object within a dataset, its containers and its pipelines, by identity."""
    yield id(value)
    if isinstance(value, list | tuple):
        parts = value
    else:
        parts = (
            vars(value).values() if hasattr(value, "__dict__") and not callable(getattr(value, "forward", None)) else ()
        )
    for part in parts:
        if isinstance(part, list | tuple | Dataset | v1.Compose):
            yield from inventory(part)
        else:
            yield id(part) if not isinstance(part, int) else part


def test_targets_stay(augmix):
    assert augment_dataset(PLACEABLE["VisionDataset, called jointly"](), augmix)[2][1] == 3
    assert augment_dataset(PLACEABLE["VisionDataset, joint transforms"](), augmix)[2][1] == 2


def test_a_dataset_shared_within_a_concat_stays_shared(augmix):
    shared = Dim(TO_TENSOR)
    augmented = augment_dataset(ConcatDataset([shared, Subset(shared, [0])]), augmix)
    assert augmented.datasets[0] is augmented.datasets[1].dataset


def test_datasets_of_torchvision(augmix, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        dim_image(0).save(tmp_path / name / "0.png")
    folder = augment_dataset(ImageFolder(tmp_path, TO_TENSOR), augmix)
    assert folder.classes == ["a", "b"]
    assert fraction(folder) == 1
    assert "AugmentAndMixTransform" in repr(folder)
    assert "AugmentAndMixTransform" in repr(augment_dataset(FakeData(3, transform=TO_TENSOR), augmix))


def test_data_is_shared_not_copied(augmix):
    dataset = Dim(TO_TENSOR)
    dataset.data = torch.zeros(1000)
    assert augment_dataset(dataset, augmix).data is dataset.data


class OwnCopy(Dim):
    def __copy__(self):
        raise AssertionError("would load the data again")


def test_the_datasets_own_ways_of_copying_are_not_called(augmix):
    assert fraction(augment_dataset(OwnCopy(TO_TENSOR), augmix)) == 1


REFUSED = {
    "a function": (lambda: Dim(pil_to_uint8), "may do anything", "Dim.transform: <function pil_to_uint8"),
    "a function inside": (lambda: Wrapped(Dim(pil_to_uint8), v1.CenterCrop(8)), "may do anything", "pil_to_uint8"),
    "a function inside, nothing outside": (lambda: Wrapped(Dim(pil_to_uint8)), "may do anything", "pil_to_uint8"),
    "nothing to reach": (lambda: TensorDataset(torch.zeros(2, 3, 4, 5)), "attribute `transform`", "TensorDataset"),
    "normalised inside, under another name": (
        lambda: ConcatDataset([Delegating(Dim(v1.Compose([v1.ToTensor(), AugmentAndMixTransform()])))]),
        "already",
        "Delegating",
    ),
    "two pipelines, one of a dataset that may be anything": (
        lambda: Reference(TO_TENSOR),
        "both Reference and the dataset in its attribute `reference`",
        "Reference.transform: Compose",
    ),
    "one of two datasets": (
        lambda: Pair(Dim(TO_TENSOR), Dim(None)),
        "some of the datasets in Pair",
        "Dim.transform: None",
    ),
    "a list": (lambda: [1, 2], "attribute `transform`", "list"),
    "StackDataset": (lambda: StackDataset(Dim(TO_TENSOR), Dim(None)), "attribute `transform`", "StackDataset"),
    "a part of a Concat": (
        lambda: ConcatDataset([Dim(TO_TENSOR), Dim(None)]),
        "some of the datasets",
        "Dim.transform: None",
    ),
    "slots": (Slots, "a property or a slot", "Slots.transform: Compose"),
    "a property": (Property, "property", "Property.transform: Compose"),
    "AugMix already": (lambda: Dim(v1.Compose([AugmentAndMixTransform(), v1.ToTensor()])), "already", "AugmentAndMix"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_certain_is_refused_with_the_pipeline_and_the_remedy(case, augmix):
    make, reason, seen = REFUSED[case]
    dataset = make()
    with pytest.raises(PlacementError) as error:
        augment_dataset(dataset, augmix)
    message = str(error.value)
    assert message.startswith(f"AugMix cannot be placed in {type(dataset).__name__}: ")
    assert reason in message.split("The pipeline it saw:")[0]
    assert seen in message.split("The pipeline it saw:")[1]
    assert "Write instead" in message


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
