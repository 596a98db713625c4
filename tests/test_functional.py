import numpy as np
import pytest
import torch
from hypothesis import given
from PIL import Image
from torchvision import tv_tensors

from lightning_augmix import AugmentAndMixTransform, apply_plan, augmix_image, sample_plan
from lightning_augmix.functional import augmix_with_keys
from lightning_augmix.plans.hyperparameters import validate
from strategies import arrays, hyperparameters, keys

HYPERPARAMETERS = validate(3, 3, -1, 1.0, "all")


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (24, 35, 3), dtype=np.uint8)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def test_every_input_type_gives_the_same_pixels(image):
    tensor = torch.from_numpy(image).permute(2, 0, 1)
    expected = augmix_image(image, generator=seeded(3))
    assert (expected != image).any()
    assert (np.asarray(augmix_image(Image.fromarray(image), generator=seeded(3))) == expected).all()
    assert (augmix_image(tensor, generator=seeded(3)).permute(1, 2, 0).numpy() == expected).all()
    as_float = augmix_image(tensor / 255, generator=seeded(3))
    assert ((as_float * 255).round().permute(1, 2, 0).numpy() == expected).all()
    assert type(augmix_image(tv_tensors.Image(tensor))) is tv_tensors.Image


def test_each_image_of_a_batch_has_its_own_plan(image):
    batch = torch.from_numpy(image).permute(2, 0, 1).expand(6, -1, -1, -1)
    augmented = augmix_image(batch)
    assert augmented.shape == batch.shape
    assert len({bytes(one.numpy()) for one in augmented}) == 6


def test_a_batch_is_its_images_under_the_plans_of_its_keys(image):
    batch = torch.from_numpy(image).permute(2, 0, 1)[None].repeat(4, 1, 1, 1)
    plans = sample_plan([1, 2, 3, 4], (24, 35))
    for one, plan, result in zip(batch, plans, apply_plan(batch, plans), strict=True):
        assert torch.equal(apply_plan(one, plan), result)


@given(arrays(), keys, hyperparameters)
def test_a_key_fixes_the_result(image, key, arguments):
    valid = validate(**arguments)
    (result,) = augmix_with_keys(image, [key], valid, "auto")
    assert (result.dtype, result.shape) == (image.dtype, image.shape)
    np.testing.assert_array_equal(result, augmix_with_keys(image, [key], valid, "auto")[0])


def test_a_generator_of_its_own_leaves_the_default_one_alone(image):
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first, second = (augmix_image(image, generator=seeded(3)) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert (first == second).all()
    python_state, numpy_state = __import__("random").getstate(), np.random.get_state()[1].copy()
    augmix_image(image)
    assert not torch.equal(torch.get_rng_state(), state)
    assert __import__("random").getstate() == python_state
    assert (np.random.get_state()[1] == numpy_state).all()


def test_the_default_generator_makes_runs_repeatable(image):
    torch.manual_seed(7)
    first = [augmix_image(image) for _ in range(3)]
    torch.manual_seed(7)
    assert all((augmix_image(image) == one).all() for one in first)
    assert (first[0] != first[1]).any()


@pytest.mark.parametrize(
    "convert", [lambda a: a, Image.fromarray, torch.from_numpy, lambda a: torch.rand(3, 4, 5) ** 3]
)
def test_severity_zero_returns_an_equal_image_that_is_its_own(image, convert):
    given = convert(image.transpose(2, 0, 1).copy() if convert is torch.from_numpy else image)
    same = augmix_image(given, severity=0)
    assert same is not given
    assert type(same) is type(given)
    assert torch.equal(same, given) if isinstance(same, torch.Tensor) else (np.array(same) == np.array(given)).all()
    assert type(augmix_image(tv_tensors.Image(torch.zeros(3, 4, 5)), severity=0)) is tv_tensors.Image


@pytest.mark.parametrize("name", ["severity", "width", "depth", "alpha", "augmentation_set", "engine", "generator"])
def test_every_argument_is_validated(image, name):
    with pytest.raises((TypeError, ValueError), match=f"argument `{name}`"):
        augmix_image(image, **{name: -7})


def test_an_empty_batch_stays_empty():
    assert augmix_image(torch.zeros(0, 3, 4, 5)).shape == (0, 3, 4, 5)
    assert augmix_with_keys(torch.zeros(0, 1, 4, 5), [1], HYPERPARAMETERS, "auto")[0].shape == (0, 1, 4, 5)


@pytest.mark.parametrize(
    ("key", "size", "shape", "words"),
    [
        (1, (5, 4), (3, 4, 5), r"\(4, 5\).*plan for \(5, 4\)"),
        ([1, 2], (4, 5), (3, 4, 5), "the plan of one image.*got a batch of 2 plans"),
        (1, (4, 5), (2, 3, 4, 5), "a batch of 2 plans.*got the plan of one image"),
        ([1, 2, 3], (4, 5), (2, 3, 4, 5), "a batch of 2 plans.*got a batch of 3 plans"),
    ],
)
def test_plan_and_image_must_fit(key, size, shape, words):
    with pytest.raises(ValueError, match=f"`plan`.*{words}"):
        apply_plan(torch.zeros(shape, dtype=torch.uint8), sample_plan(key, size))


def test_a_plan_must_be_a_plan(image):
    with pytest.raises(TypeError, match=r"`plan` to be an AugMixPlan.*got int"):
        apply_plan(image, 3)


def test_torch_compile_passes_around_it():
    plan, off = sample_plan(7, (5, 6)), AugmentAndMixTransform(severity=0)

    def augmented(image):
        return apply_plan(augmix_image(image), plan).float() * 2 + off(image)

    compiled, alone, pipeline = (torch.compile(each, backend="eager") for each in (augmented, augmix_image, off))
    for seed in (0, 1):
        image = torch.randint(256, (3, 5, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
        torch.manual_seed(2)
        found = compiled(image)
        torch.manual_seed(2)
        assert torch.equal(found, augmented(image))
        assert torch.equal(alone(image, 0), image)
        assert torch.equal(pipeline(image), image)


def test_a_full_graph_is_refused_with_the_reason():
    torch._dynamo.reset()  # what was compiled before in parts is not compiled again
    transform = AugmentAndMixTransform()
    for function in (augmix_image, transform, lambda image: transform(image) + 1):
        compiled = torch.compile(function, backend="eager", fullgraph=True)
        with pytest.raises(torch._dynamo.exc.Unsupported, match="compile the model, and leave AugMix in the data"):
            compiled(torch.zeros(3, 5, 6, dtype=torch.uint8))
