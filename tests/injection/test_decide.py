import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import (
    ChainDataset,
    ConcatDataset,
    Dataset,
    IterableDataset,
    StackDataset,
    Subset,
    TensorDataset,
    random_split,
)
from torchvision import transforms as v1
from torchvision.datasets import FakeData, ImageFolder, wrap_dataset_for_transforms_v2
from torchvision.models import ResNet18_Weights
from torchvision.transforms import v2

from kinds import (
    TO_TENSOR,
    ClassLevel,
    Computed,
    Delegating,
    DimVision,
    Kept,
    MyAugMixDataset,
    OtherName,
    Pair,
    Plain,
    PlainStream,
    Property,
    Reference,
    Slots,
    Stream,
    Tutorial,
    WithSlots,
    Wrapped,
)
from lightning_augmix import AugmentAndMixTransform, augment_dataset
from lightning_augmix._errors import PlacementError
from toy import CERTAIN, Dim, dim_image, is_augmented

TO_FLOAT = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
JOINT = v2.Compose([v2.CenterCrop(8), *TO_FLOAT.transforms])
NORMALIZE = v1.Normalize((0.0,) * 3, (1.0,) * 3)


@pytest.fixture
def augmix():
    return AugmentAndMixTransform(**CERTAIN)


def to_array(img):
    return np.array(img)


def to_pil(img):
    return v1.functional.to_pil_image(img)


def uint8_tensor(img):
    return torch.from_numpy(np.array(img)).permute(2, 0, 1)


def uint8_images():
    return torch.stack([uint8_tensor(dim_image(index)) for index in range(6)])


def image_of(sample):
    if isinstance(sample, dict):
        sample = sample.get("image", sample.get("inner"))
    while isinstance(sample, tuple | list):
        sample = sample[0]
    return sample


def fraction(dataset):
    samples = list(dataset) if isinstance(dataset, IterableDataset) else [dataset[i] for i in range(len(dataset))]
    assert samples
    return sum(is_augmented(image_of(sample)) for sample in samples) / len(samples)


def inventory(value):
    """Every object within a dataset, its containers and its pipelines, by identity."""
    yield id(value)
    if isinstance(value, list | tuple):
        parts = value
    else:
        is_step = callable(getattr(value, "forward", None))
        parts = vars(value).values() if hasattr(value, "__dict__") and not is_step else ()
    for part in parts:
        if isinstance(part, list | tuple | Dataset | v1.Compose):
            yield from inventory(part)
        else:
            yield id(part) if not isinstance(part, int) else part


PLACEABLE = {
    "transform": lambda: Dim(TO_TENSOR),
    "VisionDataset": lambda: DimVision(transform=TO_TENSOR),
    "VisionDataset, called jointly": lambda: DimVision(True, transform=TO_TENSOR, target_transform=lambda t: t + 1),
    "VisionDataset, joint transforms": lambda: DimVision(True, transforms=JOINT),
    "Subset": lambda: Subset(Dim(TO_TENSOR), [3, 1]),
    "nested Subset": lambda: Subset(Subset(Dim(TO_TENSOR), [3, 1, 2]), [0, 2]),
    "random_split": lambda: random_split(Dim(TO_TENSOR), [4, 2])[0],
    "ConcatDataset": lambda: ConcatDataset([Dim(TO_TENSOR), Subset(DimVision(transform=v1.ToTensor()), [1])]),
    "ChainDataset": lambda: ChainDataset([Stream(TO_TENSOR), Stream(v1.ToTensor())]),
    "StackDataset": lambda: StackDataset(Dim(TO_TENSOR), TensorDataset(torch.zeros(6, 3))),
    "StackDataset of a dictionary": lambda: StackDataset(image=Dim(TO_TENSOR), label=list(range(6))),
    "IterableDataset": lambda: Stream(TO_TENSOR),
    "transform in a wrapper": lambda: Wrapped(Subset(Dim(None), [3, 1]), TO_TENSOR),
    "no barrier inside, one outside": lambda: Wrapped(Dim(v1.CenterCrop(9)), TO_TENSOR),
    "opaque inside, barrier outside": lambda: Wrapped(Dim(to_array), v1.ToTensor()),
    "barrier inside, steps outside": lambda: Wrapped(Dim(TO_TENSOR), NORMALIZE),
    "back to uint8 outside": lambda: Wrapped(Dim(v1.ToTensor()), v1.Compose([v1.ToPILImage(), TO_TENSOR])),
    "a dataset under another name": lambda: Delegating(Dim(TO_TENSOR)),
    "joint transforms of a plain Dataset": lambda: Tutorial(JOINT),
    "a class attribute": lambda: ClassLevel(),
    "slots beside attributes": lambda: WithSlots(TO_TENSOR),
    "Concat inside, barrier outside": lambda: Wrapped(ConcatDataset([Dim(None), Dim(v1.CenterCrop(9))]), TO_TENSOR),
    "transforms under another name": lambda: OtherName(preprocess=TO_TENSOR),
    "several under other names": lambda: OtherName(crop=v1.CenterCrop(8), to_tensor=v1.ToTensor(), norm=NORMALIZE),
    "a property of an attribute": lambda: Property(TO_TENSOR),
    "a pipeline that takes PIL images": lambda: Reference(TO_TENSOR),
    "a PIL image again, unseen": lambda: Dim(
        v1.Compose([v1.ToTensor(), v1.Lambda(to_pil), v1.CenterCrop(8), v1.ToTensor()])
    ),
    "a PIL image again, unseen, outside": lambda: Wrapped(Dim(v1.ToTensor()), v1.Compose([to_pil, TO_TENSOR])),
    "pipelines of others beside it": lambda: OtherName(
        transform=TO_TENSOR, mask_transform=v1.ToTensor(), only=["transform"]
    ),
    "a wrapper that normalises": lambda: Kept(subset=Dim(TO_TENSOR), transform=NORMALIZE),
    "a tensor pipeline": lambda: OtherName(read=uint8_tensor, transform=v2.ToDtype(torch.float32, scale=True)),
    "[0, 1] before Normalize": lambda: OtherName(read=v1.functional.to_tensor, transform=NORMALIZE),
}

#: No transform shows where the image stops being uint8, and the samples show that it did not.
IN_SAMPLES = {
    "no transform": lambda: Dim(None),
    "VisionDataset, no transform": lambda: DimVision(),
    "a function": lambda: Dim(to_array),
    "a lambda": lambda: Dim(lambda img: img.convert("L")),
    "a function in a Subset": lambda: Subset(Dim(to_array), [1, 2]),
    "nothing to see": lambda: Plain(lambda img, index: {"image": img, "label": index}),
    "nothing to see, iterable": lambda: PlainStream(lambda img, index: {"image": uint8_tensor(img), "label": index}),
    "TensorDataset": lambda: TensorDataset(uint8_images(), torch.arange(6)),
    "uint8 to the end": lambda: Wrapped(Dim(v1.CenterCrop(9)), v1.PILToTensor()),
    "uint8 to the end in a Concat": lambda: ConcatDataset([Dim(v1.PILToTensor()), Dim(None)]),
    "uint8 to the end under another name": lambda: Delegating(Dim(v1.PILToTensor())),
    "back to uint8": lambda: Wrapped(Dim(v1.ToTensor()), v1.ToPILImage()),
    "StackDataset, no transform": lambda: StackDataset(inner=Dim(None), other=list(range(6))),
    "nested": lambda: Plain(lambda img, index: {"inner": [{"image": img}["image"], "name"], "label": [index]}),
}


@pytest.mark.parametrize("make", [*PLACEABLE.values(), *IN_SAMPLES.values()], ids=[*PLACEABLE, *IN_SAMPLES])
def test_the_copy_is_augmented_and_the_original_is_untouched(make, augmix):
    dataset = make()
    before = list(inventory(dataset))
    augmented = augment_dataset(dataset, augmix)
    assert isinstance(augmented, type(dataset))
    assert fraction(augmented) == 1
    assert fraction(dataset) == 0
    assert list(inventory(dataset)) == before


def test_targets_stay(augmix):
    assert augment_dataset(PLACEABLE["VisionDataset, called jointly"](), augmix)[2][1] == 3
    assert augment_dataset(PLACEABLE["VisionDataset, joint transforms"](), augmix)[2][1] == 2
    assert augment_dataset(PLACEABLE["StackDataset of a dictionary"](), augmix)[2]["label"] == 2


def test_a_dataset_shared_within_a_concat_stays_shared(augmix):
    shared = Dim(TO_TENSOR)
    augmented = augment_dataset(ConcatDataset([shared, Subset(shared, [0])]), augmix)
    assert augmented.datasets[0] is augmented.datasets[1].dataset


def test_one_dataset_in_two_attributes_stays_one(augmix):
    shared = Dim(TO_TENSOR)
    augmented = augment_dataset(Pair(Subset(shared, [0]), shared), augmix)
    assert augmented.images.dataset is augmented.others is not shared


def test_datasets_that_know_each_other_end(augmix):
    first, second = Dim(TO_TENSOR), Subset(Dim(None), [1])
    first.part, second.whole = second, first
    with pytest.raises(PlacementError, match="some of the datasets"):
        augment_dataset(second, augmix)


def test_datasets_of_torchvision(augmix, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        dim_image(0).save(tmp_path / name / "0.png")
    folder = augment_dataset(ImageFolder(tmp_path, TO_TENSOR), augmix)
    assert folder.classes == ["a", "b"]
    assert fraction(folder) == 1
    assert "AugmentAndMixTransform" in repr(folder)
    assert "AugmentAndMixTransform" in repr(augment_dataset(FakeData(3, transform=TO_TENSOR), augmix))
    for settings in ({"transform": JOINT}, {"transform": None}):
        folder = ImageFolder(tmp_path, **settings)
        folder.transforms = folder.transforms or JOINT
        wrapped = augment_dataset(wrap_dataset_for_transforms_v2(folder), augmix)
        assert isinstance(wrapped, ImageFolder)
        assert fraction(wrapped) == fraction(pickle.loads(pickle.dumps(wrapped))) == 1


REFUSED = {
    "one of two datasets": (
        lambda: Pair(Dim(TO_TENSOR), Dim(None)),
        "some of the datasets in Pair",
        "Dim.transform: None",
    ),
    "both of two datasets": (lambda: Pair(Dim(TO_TENSOR), Dim(TO_TENSOR)), "several of the datasets in Pair", "Pair"),
    "two of a StackDataset": (
        lambda: StackDataset(image=Dim(TO_TENSOR), mask=Dim(TO_TENSOR)),
        "several of the datasets in StackDataset",
        "StackDataset",
    ),
    "a part of a Concat": (
        lambda: ConcatDataset([Dim(TO_TENSOR), Dim(None)]),
        "some of the datasets in ConcatDataset",
        "Dim.transform: None",
    ),
    "two pipelines, one of a dataset that may be anything": (
        lambda: Reference(v2.ToDtype(torch.float32, scale=True)),
        "both Reference and the dataset in its attribute `reference`",
        "Reference.transform: ToDtype",
    ),
    "two pipelines of one dataset": (
        lambda: OtherName(weak=TO_TENSOR, strong=JOINT),
        "`weak` and `strong` of OtherName",
        "OtherName.weak: Compose",
    ),
    "two that normalise": (
        lambda: OtherName(first=NORMALIZE, second=NORMALIZE),
        "`first` and `second` of OtherName",
        "OtherName.first: Normalize",
    ),
    "two pipelines in an order that does not show": (
        lambda: OtherName(convert=v1.ToTensor(), back=v1.ToPILImage()),
        "`convert` and `back` of OtherName",
        "OtherName.convert: ToTensor",
    ),
    "a mask beside a hidden image": (
        lambda: StackDataset(image=Dim(v1.functional.to_tensor), mask=Dim(TO_TENSOR)),
        "some of the datasets in StackDataset",
        "StackDataset",
    ),
    "another dataset beside a hidden image": (
        lambda: Kept(backgrounds=Dim(TO_TENSOR), transform=v1.functional.to_tensor),
        "its attribute `backgrounds` have transforms",
        "Kept.transform: <function to_tensor",
    ),
    "another transform beside a hidden one": (
        lambda: OtherName(img_transform=to_array, aug_transform=TO_TENSOR),
        "may pass through `img_transform` instead",
        "OtherName.aug_transform",
    ),
    "a dataset of AugMix": (
        lambda: MyAugMixDataset(Dim(TO_TENSOR)),
        "MyAugMixDataset applies AugMix itself",
        "Dim.transform: Compose",
    ),
    "random": (lambda: Dim(v1.RandomApply([v1.ToTensor()])), "at random", "RandomApply"),
    "slots": (Slots, "a property or a slot", "Slots.transform: Compose"),
    "a property that computes": (Computed, "a property or a slot", "Computed.transform: Compose"),
    "AugMix already": (
        lambda: Dim(v1.Compose([AugmentAndMixTransform(), v1.ToTensor()])),
        "Dim.transform has AugMix already",
        "AugmentAndMix",
    ),
    "AugMix already, inside": (
        lambda: ConcatDataset([Delegating(Dim(v1.Compose([v1.ToTensor(), AugmentAndMixTransform()])))]),
        "already",
        "Delegating",
    ),
    "AugMix already, outside": (
        lambda: Wrapped(Dim(v1.ToTensor()), v1.Compose([v1.CenterCrop(8), v2.AugMix()])),
        "Wrapped.transform has AugMix already",
        "Wrapped",
    ),
    "AugMix already, under another name": (
        lambda: OtherName(augment=AugmentAndMixTransform(), transform=v1.ToTensor()),
        "OtherName.augment has AugMix already",
        "OtherName",
    ),
    "a list": (lambda: [1, 2], "list cannot be copied", "list"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_certain_is_refused_with_the_data_and_the_remedy(case, augmix):
    make, reason, seen = REFUSED[case]
    dataset = make()
    with pytest.raises(PlacementError) as error:
        augment_dataset(dataset, augmix)
    message = str(error.value)
    assert message.startswith(f"AugMix cannot be placed in {type(dataset).__name__}: ")
    assert reason in message.split("The data it saw:")[0]
    assert seen in message.split("The data it saw:")[1]
    assert "Write instead" in message


#: What only the samples show.
REFUSED_AT_THE_SAMPLE = {
    "a mask's pipeline beside a hidden image": (
        lambda: OtherName(read=v1.functional.to_tensor, mask_transform=TO_TENSOR, only=["read"]),
        "torch.float32",
        "OtherName",
    ),
    "a function that makes floats": (lambda: Dim(v1.functional.to_tensor), "torch.float32", "Dim.transform: <function"),
    "a function that makes floats, inside": (
        lambda: Wrapped(Dim(v1.functional.to_tensor), v1.CenterCrop(8)),
        "torch.float32",
        "<function to_tensor",
    ),
    "the transforms of torchvision's weights": (
        lambda: Dim(ResNet18_Weights.DEFAULT.transforms()),
        "torch.float32",
        "ImageClassification",
    ),
    "floats": (lambda: TensorDataset(uint8_images() / 255), "torch.float32", "TensorDataset"),
    "no image": (lambda: TensorDataset(torch.zeros(6, 5), torch.arange(6)), "no entries", "TensorDataset"),
    "two images": (lambda: Plain(lambda img, _: (img, img.convert("L"))), "2 entries", "Plain"),
    "an image and a mask that could be one": (
        lambda: Plain(lambda img, _: (img, uint8_tensor(img)[:1])),
        "2 entries",
        "Plain",
    ),
    "a mode AugMix does not take": (lambda: Plain(lambda img, _: img.convert("RGBA")), "mode RGBA", "Plain"),
    "floats in a stream": (lambda: PlainStream(lambda img, _: v1.functional.to_tensor(img)), "float32", "PlainStream"),
}


#: `image_key=` is no way out: there is no image, AugMix does not take it, or the sample has no keys.
WITHOUT_KEY = {
    "the transforms of torchvision's weights",
    "no image",
    "a mode AugMix does not take",
    "floats in a stream",
}


@pytest.mark.parametrize("case", REFUSED_AT_THE_SAMPLE)
def test_a_sample_that_is_not_certain_is_refused_with_the_data_and_the_remedy(case, augmix):
    make, reason, seen = REFUSED_AT_THE_SAMPLE[case]
    dataset = make()
    augmented = augment_dataset(dataset, augmix)
    with pytest.raises(PlacementError) as error:
        fraction(augmented)
    message = str(error.value)
    assert message.startswith("AugMix was not applied: ")
    assert reason in message.split("The data it saw:")[0]
    assert seen in message.split("The data it saw:")[1]
    assert ("`image_key=`" in message) is (case not in WITHOUT_KEY)
