import copy
import pickle
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree
from torchvision import transforms as v1
from torchvision import tv_tensors
from torchvision.transforms import v2

from lightning_augmix import AugmentAndMixTransform
from lightning_augmix._randomness import replays
from lightning_augmix._views import (
    EachView,
    Views,
    check_views,
    differ,
    leaves_and_structure,
)
from lightning_augmix.injection.pipeline import describe, find_place, insert
from lightning_augmix.plans.keys import RunKeys
from toy import CERTAIN, dim_image, is_augmented


def with_views(views, **settings):
    transform = AugmentAndMixTransform(**settings)
    transform.views = views
    return transform


def augmix(views=2):
    return with_views(views, **CERTAIN)


def draws():
    return torch.rand(()).item(), np.random.rand(), random.random()


def test_replays_meet_the_same_draws_and_leave_those_of_the_first():
    def seed():
        torch.manual_seed(0)
        np.random.seed(0)
        random.seed(0)

    seed()
    expected, following = draws(), draws()
    for times in (1, 2, 4):
        seed()
        assert [draws() for _ in replays(times)] == [expected] * times
        assert draws() == following


def test_an_image_becomes_its_views():
    image = dim_image(0)
    views = augmix(3)(image)
    assert isinstance(views, Views)
    assert views.images[0] is image
    assert [is_augmented(view) for view in views.images] == [False, True, True, True]


def test_views_have_plans_of_their_own():
    views = with_views(2, severity=10)(dim_image(0))
    assert views.images[1] != views.images[2]


def test_the_images_of_a_sample_become_views_and_nothing_else():
    target = {"boxes": torch.zeros(2, 4), "label": 3}
    image, label = augmix()((dim_image(0), target))
    assert isinstance(image, Views)
    assert label["boxes"] is target["boxes"]


@pytest.mark.parametrize(
    "ask",
    [
        lambda views: views.float(),
        lambda views: views[0],
        lambda views: v1.functional.to_tensor(views),
        lambda views: v1.Normalize(0.5, 0.5)(views),
        lambda views: v2.Normalize([0.5], [0.5])(views),
        lambda views: v2.RandomErasing(p=1)(views, 3),
        lambda views: pytree.tree_leaves((views, 3)),
        lambda views: views + 1,
    ],
)
def test_nobody_takes_views_for_an_image(ask):
    with pytest.raises((AttributeError, TypeError)):
        ask(augmix()(dim_image(0)))


def test_views_can_be_copied_and_pickled():
    views = augmix()(torch.zeros(3, 4, 5, dtype=torch.uint8))
    for other in (copy.deepcopy(views), pickle.loads(pickle.dumps(views))):
        assert all(torch.equal(a, b) for a, b in zip(views.images, other.images, strict=True))


class NormalizeAndErase(v1.Normalize):
    def forward(self, image):
        return v1.RandomErasing()(super().forward(image))


PIPELINES = [
    v1.Compose([v1.RandomCrop(8), v1.ToTensor(), v1.Normalize(0.5, 0.5), v1.RandomErasing()]),
    v1.Compose([v1.Compose([v1.RandomCrop(8), v1.ToTensor()]), v1.Normalize(0.5, 0.5), v1.RandomErasing()]),
    v2.Compose([v2.RandomCrop(8), v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.RandomErasing()]),
    v1.Compose([v1.PILToTensor(), nn.Sequential(v1.RandomCrop(8), v1.ConvertImageDtype(torch.float32))]),
    v1.Compose([v1.ToTensor(), NormalizeAndErase(0.5, 0.5)]),
    v1.ToTensor(),
]


@pytest.mark.parametrize("pipeline", PIPELINES, ids=describe)
def test_the_clean_view_is_what_the_pipeline_gives_and_the_others_meet_the_same_draws(pipeline):
    augmix = with_views(2, **CERTAIN)
    augmix.keys = RunKeys(0, 0)
    transform = insert(pipeline, find_place(pipeline), augmix)
    for seed in range(8):
        torch.manual_seed(seed)
        expected, following = pipeline(dim_image(seed)), torch.rand(3)
        torch.manual_seed(seed)
        with augmix.keys.sample(seed):
            views = transform(dim_image(seed))
        assert torch.equal(torch.rand(3), following)
        assert torch.equal(views.images[0], expected)
        for view in views.images[1:]:
            assert view.shape == expected.shape
            assert not torch.equal(view, expected)
            if expected.is_floating_point():
                # What was erased is erased in every view: no level of the clean image is 0.
                assert torch.equal(view == 0, expected == 0)


def test_joint_transforms_of_images_and_targets():
    pipeline = v2.Compose(
        [
            v2.RandomHorizontalFlip(1),
            v2.ToImage(),
            v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}, scale=True),
        ]
    )
    settings = {**CERTAIN, "augmentation_set": ["autocontrast"]}
    transform = insert(pipeline, find_place(pipeline), with_views(2, **settings))
    boxes = tv_tensors.BoundingBoxes([[0, 0, 2, 3]], format="XYXY", canvas_size=(12, 10))
    image, target = transform(dim_image(0), {"boxes": boxes, "labels": torch.tensor([3])})
    assert [tuple(view.shape) for view in image.images] == [(3, 12, 10)] * 3
    assert target["boxes"].tolist() == [[8, 0, 10, 3]]
    assert target["labels"].tolist() == [3]


def test_a_step_that_gives_more_than_it_takes_is_an_error():
    with pytest.raises(TypeError, match="as many entries as they take: they took 1 and returned 2"):
        EachView(lambda image: (image, image))(augmix()(dim_image(0)))


def test_descriptions_and_structures():
    assert repr(augmix()).endswith("views=2)")
    pipeline = insert(v1.ToTensor(), find_place(v1.ToTensor()), augmix())
    assert describe(pipeline).endswith("views=2), EachView(ToTensor()))")
    entries, structure = leaves_and_structure((augmix()(dim_image(0)), {"label": 1}))
    assert len(entries) == 2
    assert isinstance(pytree.tree_unflatten(entries, structure)[0], Views)


class Hooked(v1.Normalize):
    """Of torchvision's own type, with a hook that draws."""

    def __new__(cls):
        step = v1.Normalize(0.5, 0.5)
        step.register_forward_hook(lambda module, inputs, output: output + torch.rand(()))
        return step


class Noisy(nn.Sequential):
    def __call__(self, image):
        return super().__call__(image) + torch.rand(())


class NoisyCompose(v2.Compose):
    def __call__(self, image):
        return super().__call__(image) + torch.rand(())


class NoisyForward(v2.Compose):
    def forward(self, image):
        return super().forward(image) + torch.rand(())


FLOAT = v2.ToDtype(torch.float32, scale=True)


@pytest.mark.parametrize(
    "pipeline",
    [
        v1.Compose([v1.ToTensor(), Hooked()]),
        v1.Compose([v1.ToTensor(), Noisy(v1.Normalize(0.5, 0.5))]),
        v2.Compose([v2.ToImage(), FLOAT, NoisyCompose([FLOAT])]),
        v2.Compose([v2.ToImage(), FLOAT, NoisyForward([FLOAT])]),
    ],
)
def test_views_meet_the_same_draws_of_hooks_and_of_subclasses_of_containers(pipeline):
    transform = insert(pipeline, find_place(pipeline), with_views(2, severity=0))
    views = transform(dim_image(0)).images
    assert torch.equal(views[0], views[1])
    assert torch.equal(views[0], views[2])


class Boxes:
    """Cannot be compared."""

    def __eq__(self, other):
        return torch.zeros(2) == torch.zeros(2)


@pytest.mark.parametrize("target", [np.array([np.nan, 1.0]), float("nan"), object(), Boxes(), None])
def test_targets_that_cannot_be_told_from_their_copies_are_no_difference(target):
    assert not differ(target, copy.deepcopy(target))
    image, found = EachView(lambda image, target: (image, target))(augmix()(dim_image(0)), target)
    assert isinstance(image, Views)
    assert found is target


@pytest.mark.parametrize(
    ("one", "other"), [(1, 2), (None, 3), ("a", "b"), (torch.zeros(2), torch.zeros(3)), (np.zeros(2), np.ones(2))]
)
def test_what_differs(one, other):
    assert differ(one, other)


@pytest.mark.parametrize(
    ("views", "kind"), [(-1, ValueError), (1.0, TypeError), (True, TypeError), (np.True_, TypeError), ("2", TypeError)]
)
def test_bad_numbers_of_views(views, kind):
    with pytest.raises(kind, match="Expected argument `views` to be"):
        check_views(views)


@pytest.mark.parametrize("views", [0, 2, np.int64(0), np.uint8(2)])
def test_numbers_of_views_become_plain_ones(views):
    assert check_views(views) == views
    assert type(check_views(views)) is int


def with_image_first(sample):
    return sample["image"], sample["label"]


@pytest.mark.parametrize("step", [with_image_first, lambda sample: tuple(sample.values())[::-1]])
def test_a_step_that_puts_the_label_where_the_image_was_is_an_error(step):
    pipeline = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True), step])
    transform = insert(pipeline, find_place(pipeline), augmix())
    with pytest.raises(TypeError, match="must keep the entries of a sample in their order"):
        transform({"label": 3, "image": dim_image(0)})


def test_targets_that_a_step_changes_in_place_are_changed_once():
    def scale(image, target):
        target["boxes"].mul_(10)
        return image, target

    target = {"boxes": torch.ones(2, 4)}
    image, changed = EachView(scale)(augmix()(dim_image(0)), target)
    assert isinstance(image, Views)
    assert changed["boxes"] is target["boxes"]
    assert changed["boxes"].unique().tolist() == [10]


def test_a_step_without_views_is_applied_as_ever():
    assert EachView(v1.ToTensor())(dim_image(0)).shape == (3, 12, 10)
