import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision import transforms as v1
from torchvision import tv_tensors
from torchvision.models import ResNet18_Weights
from torchvision.transforms import v2

from lightning_augmix import AugmentAndMixTransform
from lightning_augmix._errors import PlacementError
from lightning_augmix.injection.lookup import LookUp
from lightning_augmix.injection.pipeline import (
    changes_dtype,
    describe,
    find_place,
    has_augmix,
    insert,
    returns_to_uint8,
)

AUGMIX = AugmentAndMixTransform(augmentation_set=["autocontrast"], alpha=1e6)
NORMALIZE = ((0.5,) * 3, (0.5,) * 3)
FLOAT = {"dtype": torch.float32, "scale": True}


def names(pipeline):
    if isinstance(pipeline, v1.Compose | v2.Compose | nn.Sequential):
        steps = pipeline if isinstance(pipeline, nn.Sequential) else pipeline.transforms
        within = [step.steps if isinstance(step, LookUp) else [step] for step in steps]
        return [names(step) for several in within for step in several]
    return type(pipeline).__name__.replace("AugmentAndMixTransform", "AugMix")


def levels_of(img):
    return img.numpy() if isinstance(img, torch.Tensor) else np.array(img)


class MyStep:
    def __call__(self, img):
        return img


class MyToTensor:
    def __call__(self, img):
        return v1.functional.to_tensor(img)


class MyCompose(v1.Compose):
    def __call__(self, img):
        return img


AT_BARRIER = {
    "v1": (
        v1.Compose([v1.RandomResizedCrop(8), v1.RandomHorizontalFlip(), v1.ToTensor(), v1.Normalize(*NORMALIZE)]),
        ["RandomResizedCrop", "RandomHorizontalFlip", "AugMix", "ToTensor", "Normalize"],
    ),
    "v1 with PILToTensor": (
        v1.Compose([v1.CenterCrop(8), v1.PILToTensor(), v1.ConvertImageDtype(torch.float32), v1.Normalize(*NORMALIZE)]),
        ["CenterCrop", "AugMix", "PILToTensor", "ConvertImageDtype", "Normalize"],
    ),
    "torchvision's recommended v2 order": (
        v2.Compose(
            [
                v2.ToImage(),
                v2.RandomResizedCrop(8),
                v2.RandomHorizontalFlip(),
                v2.ToDtype(**FLOAT),
                v2.Normalize(*NORMALIZE),
            ]
        ),
        ["ToImage", "RandomResizedCrop", "RandomHorizontalFlip", "AugMix", "ToDtype", "Normalize"],
    ),
    "the same with ToDtype(uint8), which is no barrier": (
        v2.Compose([v2.ToImage(), v2.ToDtype(torch.uint8, scale=True), v2.CenterCrop(8), v2.ToDtype(**FLOAT)]),
        ["ToImage", "ToDtype", "CenterCrop", "AugMix", "ToDtype"],
    ),
    "v2 on PIL": (
        v2.Compose([v2.CenterCrop(8), v2.ToImage(), v2.ToDtype(**FLOAT)]),
        ["CenterCrop", "AugMix", "ToImage", "ToDtype"],
    ),
    "several conversions": (
        v2.Compose([v2.CenterCrop(8), v2.PILToTensor(), v2.ToImage(), v2.ToPureTensor(), v2.ToDtype(**FLOAT)]),
        ["CenterCrop", "AugMix", "PILToTensor", "ToImage", "ToPureTensor", "ToDtype"],
    ),
    "nested": (
        v1.Compose([v1.Compose([v1.CenterCrop(8), v1.Compose([v1.ToTensor()])]), v1.Normalize(*NORMALIZE)]),
        [["CenterCrop", ["AugMix", "ToTensor"]], "Normalize"],
    ),
    "a conversion in another container than the barrier": (
        v2.Compose([v2.Compose([v2.CenterCrop(8), v2.ToImage()]), v2.Compose([v2.ToDtype(**FLOAT)])]),
        [["CenterCrop", "AugMix", "ToImage"], ["ToDtype"]],
    ),
    "nn.Sequential": (
        nn.Sequential(v1.CenterCrop(8), nn.Sequential(v1.ConvertImageDtype(torch.float32), v1.Normalize(*NORMALIZE))),
        ["CenterCrop", ["AugMix", "ConvertImageDtype", "Normalize"]],
    ),
    "an opaque step before the barrier": (
        v1.Compose([MyStep(), v1.ToTensor()]),
        ["MyStep", "AugMix", "ToTensor"],
    ),
    "a step of random choice before the barrier": (
        v1.Compose([v1.RandomApply([v1.ColorJitter()]), v1.ToTensor()]),
        ["RandomApply", "AugMix", "ToTensor"],
    ),
    "only Normalize": (v1.Compose([MyToTensor(), v1.Normalize(*NORMALIZE)]), ["MyToTensor", "AugMix", "Normalize"]),
    "a bare v1 step": (v1.ToTensor(), ["AugMix", "ToTensor"]),
    "a bare v2 step": (v2.ToDtype(**FLOAT), ["AugMix", "ToDtype"]),
    "a dictionary of dtypes for images": (
        v2.Compose([v2.CenterCrop(8), v2.ToDtype({tv_tensors.Image: torch.float32, "others": None})]),
        ["CenterCrop", "AugMix", "ToDtype"],
    ),
    "a dictionary of dtypes for others": (
        v2.Compose([v2.CenterCrop(8), v2.ToDtype({tv_tensors.Mask: torch.int64, "others": torch.float32})]),
        ["CenterCrop", "AugMix", "ToDtype"],
    ),
    "a dictionary of dtypes for targets is no barrier": (
        v2.Compose([v2.ToDtype({tv_tensors.Image: None, "others": torch.float32}), v2.Normalize(*NORMALIZE)]),
        ["ToDtype", "AugMix", "Normalize"],
    ),
    "back to PIL before the end": (
        v1.Compose([v1.ToTensor(), v1.ToPILImage(), v1.CenterCrop(8), v1.ToTensor()]),
        ["ToTensor", "ToPILImage", "CenterCrop", "AugMix", "ToTensor"],
    ),
    "ConvertImageDtype(uint8) is no barrier": (
        v1.Compose([v1.ConvertImageDtype(torch.uint8), v1.ConvertImageDtype(torch.float32)]),
        ["ConvertImageDtype", "AugMix", "ConvertImageDtype"],
    ),
}


def inserted(pipeline):
    return insert(pipeline, find_place(pipeline), AUGMIX)


@pytest.mark.parametrize("case", AT_BARRIER)
def test_directly_before_the_image_stops_being_uint8(case):
    pipeline, expected = AT_BARRIER[case]
    before = names(pipeline)
    assert changes_dtype(pipeline)
    assert find_place(pipeline).only_normalizes == (barrier(pipeline) == "Normalize")
    assert names(inserted(pipeline)) == expected
    assert names(pipeline) == before


def barrier(pipeline):
    """The name of the first step behind AugMix that is no conversion."""
    steps = flat(names(inserted(pipeline)))
    conversions = ("PILToTensor", "ToImage", "ToPureTensor")
    return next(name for name in steps[steps.index("AugMix") + 1 :] if name not in conversions)


def flat(nested):
    return [name for item in nested for name in (flat(item) if isinstance(item, list) else [item])]


@pytest.mark.parametrize("case", AT_BARRIER)
def test_the_new_pipeline_runs_and_augments(case):
    pipeline, _ = AT_BARRIER[case]
    levels = np.random.default_rng(0).integers(100, 140, (12, 16, 3), dtype=np.uint8)
    img = torch.from_numpy(levels).permute(2, 0, 1)
    starts_with_tensor = isinstance(pipeline, nn.Sequential) or "dtype" in case.lower() or case == "a bare v2 step"
    img = tv_tensors.Image(img) if starts_with_tensor else Image.fromarray(levels)
    if case == "a dictionary of dtypes for targets is no barrier":
        img = tv_tensors.Image(img / 255)
    augmented, clean = (levels_of(steps(img)) for steps in (inserted(pipeline), pipeline))
    assert np.ptp(augmented) > 1.5 * np.ptp(clean)


@pytest.mark.parametrize(
    ("pipeline", "returns"),
    [
        (v2.Compose([v2.ToImage(), v2.ToDtype(**FLOAT), v2.CenterCrop(8), v2.ToDtype(torch.uint8, scale=True)]), True),
        (v2.Compose([v2.ToDtype(**FLOAT), v2.ToDtype({tv_tensors.Image: torch.uint8, "others": None})]), True),
        (v1.Compose([v1.ToTensor(), v1.ToPILImage()]), True),
        (v2.Compose([v2.ToDtype({tv_tensors.Mask: torch.uint8})]), False),
        (v1.Compose([v1.CenterCrop(8), v1.PILToTensor()]), False),
        (v1.Compose([]), False),
        (None, False),
        (lambda img: img, False),
        (MyStep(), False),
        (MyCompose([v1.ToTensor()]), False),
        (v1.Compose([v1.CenterCrop(8), v1.Lambda(lambda img: img)]), False),
        (ResNet18_Weights.DEFAULT.transforms(), False),
        (v2.GaussianNoise(), False),
        (v1.RandomApply([MyStep()]), False),
    ],
)
def test_there_is_no_place_where_no_step_shows_it(pipeline, returns):
    assert find_place(pipeline) is None
    assert returns_to_uint8(pipeline) == changes_dtype(pipeline) == returns


@pytest.mark.parametrize("container", [v1.RandomApply, v1.RandomOrder, v2.RandomChoice])
def test_a_barrier_that_random_choice_decides_on_is_refused(container):
    pipeline = v1.Compose([container([v1.Compose([container([v1.ToTensor()])])]), v1.Normalize(*NORMALIZE)])
    assert changes_dtype(pipeline)
    with pytest.raises(PlacementError, match="at random"):
        find_place(pipeline)


class AugMixAugment:
    """As another library's."""

    def __call__(self, img):
        return img


@pytest.mark.parametrize("other", [AugmentAndMixTransform, v1.AugMix, v2.AugMix, AugMixAugment])
def test_a_second_augmix_is_seen(other):
    assert has_augmix(v1.Compose([v1.Compose([other()]), v1.ToTensor()]))
    assert has_augmix(v1.RandomApply([other()]))
    assert not has_augmix(v1.Compose([v1.AutoAugment(), v1.ToTensor()]))


def test_containers_are_copied_and_steps_are_shared():
    pipeline = nn.Sequential(v1.CenterCrop(8), v1.Normalize(*NORMALIZE))
    changed = inserted(pipeline)
    assert list(pipeline) == [pipeline[0], pipeline[1]]
    assert len(pipeline) == 2
    assert changed[0] is pipeline[0]
    assert changed[1] is AUGMIX


def test_descriptions_are_one_line():
    pipeline = v2.Compose([v2.CenterCrop(8), v2.RandomApply([v2.ColorJitter()]), nn.Sequential(v2.ToImage())])
    assert "\n" not in describe(pipeline)
    assert describe(pipeline).endswith("Sequential(ToImage()))")
