import pytest
import torch
from torch import nn

from lightning_augmix.commands.model import Classifier, SmallResNet, WideResNet


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
    with pytest.raises(ValueError, match=r"`architecture` to be small_resnet, wrn_40_2 or.*got 'resnet'.*resnet"):
        Classifier(5, "resnet")


def test_the_wide_resnet_of_the_paper():
    model = WideResNet(10)
    # WRN-40-2 has 2.2 million parameters (Zagoruyko and Komodakis, table 5).
    assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(2.2e6, rel=0.03)
    assert sum(isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3) for module in model.modules()) == 37
    assert model(torch.rand(2, 3, 32, 24)).shape == (2, 10)
    assert Classifier(7, "wrn_40_2")(torch.rand(2, 3, 32, 24)).shape == (2, 7)


@pytest.mark.parametrize("depth", [3, 4, 9, 41, 45])
def test_other_depths_than_6n_plus_4_are_an_error(depth):
    with pytest.raises(ValueError, match=f"`depth` to be 6 n . 4, at least 10; got {depth}"):
        WideResNet(10, depth)


def test_with_views_the_loss_is_jsd():
    model = Classifier(4, views=2, consistency_weight=3)
    assert repr(model.loss) == "JSDLoss(weight=3, views=2, label_smoothing=0)"
    model.log = lambda *args, **kwargs: None
    loss = model.training_step((torch.rand(6, 3, 16, 12), torch.tensor([0, 1])), 0)
    loss.backward()
    assert loss.isfinite()
