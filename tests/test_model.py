import pytest
import torch

from lightning_augmix.apps.model import Classifier, SmallResNet


@pytest.mark.parametrize("size", [(8, 8), (32, 32), (30, 44)])
def test_the_small_resnet_takes_small_images_of_any_shape(size):
    assert SmallResNet(7)(torch.zeros(2, 3, *size)).shape == (2, 7)


@pytest.mark.parametrize("architecture", ["small_resnet", "resnet18", "mobilenet_v3_small"])
def test_architectures(architecture):
    assert Classifier(5, architecture)(torch.zeros(2, 3, 64, 96)).shape == (2, 5)


@pytest.mark.parametrize(("name", "value"), [("learning_rate", -1), ("momentum", 1), ("weight_decay", -0.1)])
def test_numbers_out_of_range_are_errors_that_name_them(name, value):
    with pytest.raises(ValueError, match=rf"argument `{name}` to be .*; got {value}"):
        Classifier(5, **{name: value})


def test_an_unknown_architecture_is_an_error_with_near_misses():
    with pytest.raises(ValueError, match=r"`architecture` to be small_resnet or.*got 'resnet'.*resnet"):
        Classifier(5, "resnet")
