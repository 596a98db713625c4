import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms as v1
from torchvision import tv_tensors
from torchvision.transforms import v2

from lightning_augmix import AugmentAndMixTransform
from lightning_augmix.injection.lookup import LookUp, by_level
from lightning_augmix.injection.pipeline import find_place, insert
from strategies import arrays

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TAILS = {
    "ToTensor": [v1.ToTensor()],
    "v1": [v1.ToTensor(), v1.Normalize(MEAN, STD)],
    "v1 with PILToTensor": [v1.PILToTensor(), v1.ConvertImageDtype(torch.float32), v1.Normalize(MEAN, STD)],
    "v2": [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)],
    "v2, plain": [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD), v2.ToPureTensor()],
    "unscaled": [v2.ToImage(), v2.ToDtype(torch.float32)],
    "one mean": [v1.ToTensor(), v1.Normalize([0.5], [0.25])],
    "twice": [v1.ToTensor(), v1.Normalize([0.5], [0.25]), v1.Normalize([-0.1], [3.0])],
    "half": [v2.ToImage(), v2.ToDtype(torch.float16, scale=True)],
    "double": [v2.ToImage(), v2.ToDtype(torch.float64, scale=True)],
    "uint8": [v2.ToImage()],
}
tails = pytest.mark.parametrize("steps", TAILS.values(), ids=TAILS)


def look_up(steps, container=v1.Compose):
    return LookUp(steps, container)


def images(array):
    """An array as everything that conversions take."""
    yield Image.fromarray(array)
    tensor = torch.from_numpy(array.reshape(*array.shape[:2], -1)).permute(2, 0, 1)
    yield tensor
    yield tv_tensors.Image(tensor)


def outcome(function, *inputs):
    try:
        return function(*inputs)
    except (TypeError, ValueError, RuntimeError) as error:
        return type(error)


def assert_same(found, expected):
    assert type(found) is type(expected)
    if isinstance(expected, torch.Tensor):
        assert found.dtype == expected.dtype
        assert torch.equal(found, expected)
    else:
        assert found == expected


@tails
@settings(max_examples=30)
@given(array=arrays())
def test_it_does_what_the_steps_do_to_the_bit(steps, array):
    both, conversion = v1.Compose(steps), look_up(steps)
    for img in images(array):
        for _ in range(2):
            assert_same(outcome(conversion, img), outcome(both, img))


@tails
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_batch_is_what_the_images_are_one_by_one(steps, mode):
    rng, conversion = np.random.default_rng(0), look_up(steps)
    several = [Image.fromarray(rng.integers(0, 256, (5, 7, 3), np.uint8)).convert(mode) for _ in range(3)]
    each = [outcome(v1.Compose(steps), img) for img in several]
    # `Normalize` makes three channels of one, if it has three means.
    if isinstance(each[0], torch.Tensor) and each[0].dtype == torch.float32 and len(each[0]) == len(mode):
        assert torch.equal(conversion.later(several).batch(several), torch.stack(each))
    else:
        assert outcome(conversion.later, several) in (None, each[0])


def test_what_is_not_alike_is_converted_now():
    conversion, img = look_up(TAILS["v1"]), Image.new("RGB", (4, 3))
    assert conversion.later([img, img]).batch([img]).shape == (1, 3, 3, 4)
    for other in (Image.new("L", (4, 3)), torch.zeros(3, 3, 4, dtype=torch.uint8), 7):
        assert conversion.later([img, other]) is None
    assert conversion.later([7, 7]) is None
    assert conversion.later([img]).batch([img, Image.new("RGB", (3, 4))]) is None
    hooked = look_up(TAILS["v2"])
    hooked.steps[0].register_forward_hook(lambda *_: None)
    assert hooked.later([img]) is None


@pytest.mark.parametrize("container", [v2.Compose, torch.nn.Sequential])
def test_samples_and_what_has_no_levels_go_through_the_steps(container):
    steps = TAILS["v2"]
    both = container(steps) if container is v2.Compose else container(*steps)
    conversion = LookUp(steps, v2.Compose)
    img = tv_tensors.Image(torch.arange(90, dtype=torch.uint8).reshape(3, 5, 6))
    mask = tv_tensors.Mask(torch.ones(5, 6, dtype=torch.uint8))
    for inputs in [(img,), (img / 255,), (img[None],), (img.float(),)]:
        assert_same(outcome(conversion, *inputs), outcome(both, *inputs))
    if container is v2.Compose:
        found, expected = conversion(img, mask), both(img, mask)
        assert len(found) == 2
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
        assert_same(conversion({"image": img})["image"], both({"image": img})["image"])


def test_results_are_new_and_may_be_written_to():
    conversion, img = look_up(TAILS["v1"]), Image.new("RGB", (4, 3), (9, 8, 7))
    first = conversion(img)
    expected = first.clone()
    first.zero_()
    assert torch.equal(conversion(img), expected)


def test_a_step_that_is_changed_is_followed():
    steps = [v1.ToTensor(), v1.Normalize([0.5, 0.5, 0.5], [0.25, 0.25, 0.25])]
    conversion, img = look_up(steps), Image.new("RGB", (4, 3), (9, 8, 7))
    for change in (
        lambda: setattr(steps[1], "mean", [0.1, 0.2, 0.3]),
        lambda: steps[1].std.__setitem__(0, 7.0),
        lambda: setattr(steps[1], "mean", (0.0, 0.0, 0.0)),
    ):
        conversion(img)
        change()
        assert torch.equal(conversion(img), v1.Compose(steps)(img))


def test_another_default_dtype_is_the_steps():
    conversion, img = look_up(TAILS["ToTensor"]), Image.new("L", (4, 3), 9)
    fixed = look_up(TAILS["v2, plain"])
    before = torch.get_default_dtype()
    assert conversion(img).dtype == before
    torch.set_default_dtype(torch.float64)
    try:
        assert conversion(img).dtype == torch.float64
        assert fixed(img.convert("RGB")).dtype == torch.float32
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize("kind", [torch.tensor, np.array])
def test_settings_that_are_tensors_or_arrays_are_followed(kind):
    mean = kind([0.5, 0.5, 0.5])
    steps = [v1.ToTensor(), v1.Normalize(mean, [0.25] * 3)]
    conversion, img = look_up(steps), Image.new("RGB", (4, 3), (9, 8, 7))
    conversion(img)
    mean *= 2
    assert torch.equal(conversion(img), v1.Compose(steps)(img))
    steps[1].mean = kind([0.1, 0.2, 0.3])
    assert torch.equal(conversion(img), v1.Compose(steps)(img))


def test_hooks_that_come_later_are_called():
    steps = [v1.ToTensor(), v1.Normalize([0.5], [0.25])]
    conversion, img = look_up(steps), Image.new("RGB", (4, 3), (9, 8, 7))
    conversion(img)
    steps[1].register_forward_hook(lambda module, inputs, output: output * 2)
    assert torch.equal(conversion(img), v1.Compose(steps)(img))


def doubled():
    pipeline = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    pipeline.register_forward_hook(lambda module, inputs, output: output * 2)
    return pipeline


def test_hooks_of_the_pipeline_are_called_once():
    pipeline, img = doubled(), Image.new("RGB", (4, 3), (90, 80, 70))
    augmented = insert(pipeline, find_place(pipeline), AugmentAndMixTransform(severity=0))
    assert torch.equal(augmented(img), pipeline(img))


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])
def test_copies_do_the_same(copied):
    conversion, img = look_up(TAILS["v1"]), Image.new("RGB", (4, 3), (9, 8, 7))
    expected = conversion(img)
    assert torch.equal(copied(conversion)(img), expected)
    assert len(pickle.dumps(conversion)) < 5000


class Subclass(v1.ToTensor):
    pass


def hooked():
    step = v2.ToDtype(torch.float32, scale=True)
    step.register_forward_hook(lambda module, inputs, output: output + 1)
    return step


def patched(name, step=None):
    step = step or v1.Normalize([0.5], [0.5])
    setattr(step, name, lambda img, *_: (img - img.mean()) / img.std())
    return step


@pytest.mark.parametrize(
    ("steps", "count"),
    [
        ([], 0),
        (TAILS["v1"], 2),
        ([*TAILS["v1"], v1.RandomErasing(1.0), v1.Normalize(0.0, 1.0)], 2),
        ([v1.RandomErasing(1.0), *TAILS["v1"]], 0),
        ([v1.Normalize([0.5], [0.5])], 0),
        ([v1.Normalize([0.5], [0.5]), v2.Normalize([0.5], [0.5])], 0),
        ([Subclass(), v1.Normalize([0.5], [0.5])], 0),
        ([v2.ToImage(), hooked()], 1),
        ([v1.ToTensor(), lambda img: img], 1),
        ([v1.ToTensor(), abs], 1),  # has no attributes
        ([v1.ToTensor(), patched("forward")], 1),
        ([v2.ToImage(), v2.ToDtype(torch.float32), patched("forward", v2.Normalize([0.5], [0.5]))], 2),
        ([patched("transform", v2.ToDtype(torch.float32))], 0),
    ],
)
def test_which_steps_depend_on_levels_alone(steps, count):
    assert by_level(steps) == count


def test_its_steps_are_seen():
    assert repr(look_up([v1.ToTensor()])) == "LookUp(ToTensor())"


@given(level=st.integers(0, 255), channel=st.integers(0, 2))
def test_a_level_of_one_channel_is_that_of_the_formula(level, channel):
    array = np.zeros((2, 3, 3), np.uint8)
    array[..., channel] = level
    found = look_up(TAILS["v1"])(Image.fromarray(array))[channel, 1, 2].item()
    expected = (np.float32(level) / np.float32(255) - np.float32(MEAN[channel])) / np.float32(STD[channel])
    assert found == expected
