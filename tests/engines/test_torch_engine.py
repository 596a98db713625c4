"""The engine for devices gives the bytes of the reference, whatever the layout of a batch."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine_contract import EngineContract
from lightning_augmix import AugmentAndMixTransform, apply_plan, augmix_image, sample_plan
from lightning_augmix.engines import select_engine, torch_engine
from lightning_augmix.plans.hyperparameters import validate
from strategies import hyperparameters, keys

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
on_each_device = pytest.mark.parametrize("device", DEVICES)


class TestTorch(EngineContract):
    engine = "torch"


def batch(seed, number, channels, height, width, device="cpu"):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (number, channels, height, width), dtype=torch.uint8, generator=generator).to(device)


@on_each_device
@given(
    seed=st.integers(0, 2**30),
    number=st.integers(0, 5),
    channels=st.sampled_from([1, 3]),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    key=keys,
    arguments=hyperparameters,
)
def test_a_batch_of_tensors_is_augmented_as_the_arrays_are(device, seed, number, channels, size, key, arguments):
    images = batch(seed, number, channels, *size, device)
    some = np.arange(number, dtype=np.uint64) + np.uint64(key)
    arrays = np.ascontiguousarray(images.cpu().permute(0, 2, 3, 1).numpy())
    arrays = arrays[..., 0] if channels == 1 else arrays
    expected = select_engine("pillow").augment(arrays, some, validate(**arguments))
    before = images.clone()
    found = torch_engine.augment(images, some, validate(**arguments))
    assert found.device == images.device
    assert torch.equal(images, before)
    np.testing.assert_array_equal(found.cpu().permute(0, 2, 3, 1).numpy().reshape(expected.shape), expected)


@on_each_device
@pytest.mark.parametrize(
    "laid_out",
    [
        lambda images: images.contiguous(memory_format=torch.channels_last),
        lambda images: images.flip(3)[..., 1:],
        lambda images: images.transpose(2, 3),
        lambda images: images[::2],
        lambda images: images[:1].expand(4, -1, -1, -1),
    ],
    ids=["channels_last", "slice", "transposed", "every second", "expanded"],
)
def test_layouts_of_memory_make_no_difference(device, laid_out):
    images = laid_out(batch(1, 4, 3, 9, 12, device))
    some = np.arange(len(images), dtype=np.uint64)
    found = torch_engine.augment(images, some, validate(10, 3, -1, 1.0, "all"))
    plain = torch_engine.augment(images.contiguous().clone(), some, validate(10, 3, -1, 1.0, "all"))
    assert torch.equal(found, plain)
    assert found.stride() == torch.empty_like(images).stride()


@on_each_device
@pytest.mark.parametrize("engine", ["torch", "auto"])
def test_tensors_stay_where_they_are(device, engine):
    images = batch(2, 3, 3, 8, 11, device)
    plan = sample_plan([1, 2, 3], (8, 11))
    found = apply_plan(images, plan, engine=engine)
    assert found.device == images.device
    assert torch.equal(found.cpu(), apply_plan(images.cpu(), plan, engine="pillow"))
    for image in (images, images[0], images.float() / 255):
        outcomes = []
        for one, name in ((image, engine), (image.cpu(), "pillow")):
            torch.manual_seed(5)
            outcomes.append(augmix_image(one, engine=name))
            torch.manual_seed(5)
            assert torch.equal(AugmentAndMixTransform(engine=name)(one), outcomes[-1])
        assert outcomes[0].device == image.device
        assert torch.equal(outcomes[0].cpu(), outcomes[1])


@on_each_device
def test_deterministic_algorithms_stay_as_they_were(device):
    images, some = batch(3, 2, 3, 9, 7, device), np.arange(2, dtype=np.uint64)
    expected = torch_engine.augment(images, some, validate(3, 2, 2, 1.0, ["equalize"]))
    for mode in ({"mode": True}, {"mode": True, "warn_only": True}):
        torch.use_deterministic_algorithms(**mode)
        try:
            assert torch.equal(torch_engine.augment(images, some, validate(3, 2, 2, 1.0, ["equalize"])), expected)
            assert torch.are_deterministic_algorithms_enabled()
            assert torch.is_deterministic_algorithms_warn_only_enabled() == ("warn_only" in mode)
        finally:
            torch.use_deterministic_algorithms(False)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_host_never_waits_for_the_device():
    images, some = batch(4, 16, 3, 33, 47, "cuda"), np.arange(16, dtype=np.uint64)
    settings = validate(10, 3, -1, 1.0, "all")
    torch_engine.augment(images, some, settings)
    torch.cuda.set_sync_debug_mode("error")
    try:
        torch_engine.augment(images, some, settings)
    finally:
        torch.cuda.set_sync_debug_mode("default")
