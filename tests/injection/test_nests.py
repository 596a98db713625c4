"""Random nests of datasets and transforms: augmented once, at the right place, or refused."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import PIL.Image
import torch
from hypothesis import event, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import ChainDataset, ConcatDataset, IterableDataset, StackDataset, Subset
from torchvision import transforms as v1
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from kinds import Delegating, DimVision, OtherName, Property, Stream, Wrapped
from lightning_augmix import AugmentAndMixTransform, augment_dataset
from lightning_augmix._errors import PlacementError
from lightning_augmix.plans.keys import KeySource
from toy import Dim, dim_image

# What an image is, between the steps of its way.
PIL_IMAGE, UINT8, UNIT, NORMALIZED = "a PIL image", "a uint8 tensor", "in [0, 1]", "normalised"


@dataclass(frozen=True)
class Step:
    """A transform that gives the same for the same image."""

    transform: Any
    before: str
    after: str
    opaque: bool = False  # nothing shows what it does


def steps_that_move_pixels(state):
    return [
        Step(transform, state, state)
        for transform in (
            v1.CenterCrop((9, 8)),
            v2.CenterCrop((8, 7)),
            v1.RandomHorizontalFlip(1.0),
            v2.RandomVerticalFlip(1.0),
            v2.Pad((1, 2)),
            v1.RandomChoice([v1.CenterCrop((7, 8))]),
            v2.RandomApply([v2.Pad(1)], 1.0),
        )
    ]


def flipped(img):
    return functional.horizontal_flip(img)


def to_unit(img):
    return functional.to_dtype(functional.to_image(img), torch.float32, scale=True).as_subclass(torch.Tensor)


def normalized(img):
    return functional.normalize(img, [0.5] * 3, [0.25] * 3)


STEPS = [
    *(step for state in (PIL_IMAGE, UINT8, UNIT, NORMALIZED) for step in steps_that_move_pixels(state)),
    *(Step(flipped, state, state, opaque=True) for state in (PIL_IMAGE, UINT8, UNIT, NORMALIZED)),
    *(Step(transform, PIL_IMAGE, UINT8) for transform in (v1.PILToTensor(), v2.PILToTensor(), v2.ToImage())),
    Step(functional.pil_to_tensor, PIL_IMAGE, UINT8, opaque=True),
    Step(v1.ToTensor(), PIL_IMAGE, UNIT),
    Step(v1.RandomApply([v1.ToTensor()], 1.0), PIL_IMAGE, UNIT, opaque=True),
    Step(to_unit, PIL_IMAGE, UNIT, opaque=True),
    Step(v2.ToDtype(torch.uint8, scale=True), UINT8, UINT8),
    Step(v2.ToPureTensor(), UINT8, UINT8),
    Step(v1.ConvertImageDtype(torch.float32), UINT8, UNIT),
    Step(v2.ToDtype(torch.float32, scale=True), UINT8, UNIT),
    Step(to_unit, UINT8, UNIT, opaque=True),
    *(Step(transform, UINT8, PIL_IMAGE) for transform in (v1.ToPILImage(), v2.ToPILImage())),
    Step(functional.to_pil_image, UINT8, PIL_IMAGE, opaque=True),
    Step(v2.ToPureTensor(), UNIT, UNIT),
    Step(v1.ToPILImage(), UNIT, PIL_IMAGE),
    Step(v2.ToDtype(torch.uint8, scale=True), UNIT, UINT8),
    *(Step(kind((0.5,) * 3, (0.25,) * 3), UNIT, NORMALIZED) for kind in (v1.Normalize, v2.Normalize)),
    Step(normalized, UNIT, NORMALIZED, opaque=True),
]


@dataclass
class Nest:
    """A dataset, the way of each of its images, and whether every place is to be seen in it."""

    dataset: Any
    ways: list[tuple[Any, tuple[Step, ...]]]
    certain: bool = True
    state: str | None = field(default=None)


@st.composite
def ways(draw, state, max_size=4):
    """Steps that fit one after the other."""
    steps = []
    for _ in range(draw(st.integers(0, max_size))):
        fitting = [step for step in STEPS if step.before == state]
        # As many steps that change what the image is as steps that do not, with few of either kind opaque.
        changing = [step for step in fitting if step.after != state] or fitting
        seen = [step for step in fitting if not step.opaque]
        steps.append(draw(st.one_of(*map(st.sampled_from, (changing, seen, fitting)))))
        state = steps[-1].after
    return tuple(steps), state


@st.composite
def pipelines(draw, steps):
    """The steps in containers, nested at random."""
    transforms = [step.transform for step in steps]
    if len(transforms) == 1 and draw(st.booleans()):
        return transforms[0]
    if not transforms:
        return draw(st.sampled_from([None, v1.Compose([])]))
    while len(transforms) > 1 and draw(st.booleans()):
        start = draw(st.integers(0, len(transforms) - 1))
        stop = draw(st.integers(start + 1, len(transforms)))
        transforms[start:stop] = [draw(containers(transforms[start:stop]))]
    return draw(containers(transforms))


def containers(transforms):
    kinds = [v1.Compose, v2.Compose]
    if all(isinstance(transform, nn.Module) for transform in transforms):
        kinds.append(lambda steps: nn.Sequential(*steps))
    return st.sampled_from(kinds).map(lambda kind: kind(transforms))


def leaves(length=3):
    @st.composite
    def build(draw):
        steps, state = draw(ways(PIL_IMAGE))
        certain = not any(step.opaque for step in steps)
        kind = draw(st.sampled_from(["transform", "VisionDataset", "joint", "property", "attributes"]))
        if kind == "attributes":
            named = {f"step_{number}": step.transform for number, step in enumerate(steps)}
            dataset, certain = OtherName(**named), certain and len(steps) < 2
        else:
            pipeline = draw(pipelines(steps))
            if kind == "joint" and steps and all(map(is_joint, steps)):
                dataset = DimVision(True, transforms=v2.Compose([step.transform for step in steps]))
            elif kind == "VisionDataset":
                dataset = DimVision(transform=pipeline)
            else:
                dataset = Property(pipeline) if kind == "property" else Dim(pipeline)
        return Nest(dataset, [(dim_image(index), steps) for index in range(6)], certain, state)

    return build()


def is_joint(step):
    return isinstance(step.transform, v2.Transform) and not isinstance(step.transform, v2.RandomApply)


@st.composite
def outer(draw, inner):
    nest = draw(inner)
    kind = draw(st.sampled_from(["wrapper", "wrapper", "wrapper", "subset", "concat", "delegating"]))
    if kind == "wrapper" and nest.state is not None:
        steps, state = draw(ways(nest.state))
        pipeline = draw(pipelines(steps))
        certain = nest.certain and not any(step.opaque for step in steps)
        return Nest(Wrapped(nest.dataset, pipeline), [(img, (*way, *steps)) for img, way in nest.ways], certain, state)
    if kind == "subset":
        indices = draw(st.lists(st.integers(0, len(nest.ways) - 1), min_size=1, max_size=4))
        return Nest(Subset(nest.dataset, indices), [nest.ways[index] for index in indices], nest.certain, nest.state)
    if kind == "concat":
        other = draw(inner)
        state = nest.state if nest.state == other.state else None
        return Nest(ConcatDataset([nest.dataset, other.dataset]), nest.ways + other.ways, False, state)
    return Nest(Delegating(nest.dataset), nest.ways, nest.certain, nest.state)


@st.composite
def streams(draw):
    parts = []
    for _ in range(draw(st.integers(1, 2))):
        steps, _ = draw(ways(PIL_IMAGE))
        pipeline = draw(pipelines(steps))
        certain = not any(step.opaque for step in steps)
        dataset = Stream(pipeline or v1.Compose([]))
        parts.append(Nest(dataset, [(dim_image(index), steps) for index in range(6)], certain))
    if len(parts) == 1:
        return parts[0]
    return Nest(ChainDataset([part.dataset for part in parts]), [way for part in parts for way in part.ways], False)


@st.composite
def nests(draw):
    nest = draw(st.one_of(st.recursive(leaves(), outer, max_leaves=6), streams()))
    if not isinstance(nest.dataset, IterableDataset) and draw(st.booleans()):
        labels = list(range(len(nest.ways)))
        return Nest(StackDataset(image=nest.dataset, label=labels), nest.ways, nest.certain)
    return nest


class SameKey(KeySource):
    def _draw(self, sample):
        return 7


def levels(img):
    return np.asarray(img) if isinstance(img, PIL.Image.Image) else img.detach().numpy()


def image_of(sample):
    img, _ = sample["image"] if isinstance(sample, dict) else sample
    return levels(img)


def samples(nest):
    dataset = nest.dataset
    return list(dataset) if isinstance(dataset, IterableDataset) else [dataset[i] for i in range(len(nest.ways))]


def right_images(img, way, augmix):
    """The image as it is augmented at the last place where it is uint8.

    Where nothing shows how it leaves uint8 there, it may also be augmented in [0, 1], right before it is normalised.
    """
    states = [PIL_IMAGE, *(step.after for step in way)]
    last = max(position for position, state in enumerate(states) if state in (PIL_IMAGE, UINT8))
    places = {last}
    if last < len(way) and way[last].opaque:
        places |= {position for position, step in enumerate(way) if step.after == NORMALIZED != step.before}
    for place in places:
        augmented = img
        for position, step in enumerate(way):
            augmented = step.transform(augmix(augmented) if position == place else augmented)
        yield levels(augmix(augmented) if place == len(way) else augmented)


@settings(max_examples=400)
@given(nests())
def test_a_nest_is_augmented_once_at_the_right_place_or_refused(nest):
    augmix = AugmentAndMixTransform(10)
    augmix.keys = SameKey()
    clean = [image_of(sample) for sample in samples(nest)]
    try:
        augmented = Nest(augment_dataset(nest.dataset, augmix), nest.ways)
        images = [image_of(sample) for sample in samples(augmented)]
    except PlacementError:
        event("refused")
        assert not nest.certain
    else:
        event("augmented")
        assert augmix.keys.audit.drawn == len(images)
        for image, (img, way) in zip(images, nest.ways, strict=True):
            assert any(
                image.shape == right.shape and np.allclose(image, right, atol=1e-5)
                for right in right_images(img, way, augmix)
            )
    for image, before in zip((image_of(sample) for sample in samples(nest)), clean, strict=True):
        assert np.array_equal(image, before)
