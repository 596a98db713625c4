import pytest
import torch
import torchvision
from lightning.pytorch import Trainer
from torch import nn

from lightning_augmix.commands import model
from lightning_augmix.commands.console import UsageError
from lightning_augmix.commands.data import ImageDataModule
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


def test_without_timm_the_error_says_so(monkeypatch):
    monkeypatch.setattr(model, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"got 'timm/resnet10t' \(for instance .*; timm is not installed\)"):
        Classifier(5, "timm/resnet10t")


@pytest.mark.parametrize(
    ("given", "near"),
    [("resnet10", "resnet10t, resnet101"), ("timm/resnet10", "timm/resnet10t"), ("wrn_40", "wrn_40_2")],
)
def test_near_misses_are_from_all_libraries(given, near):
    with pytest.raises(ValueError, match=f"got '{given}' .for instance .*{near}"):
        Classifier(5, given)


@pytest.mark.parametrize("architecture", ["resnet10t", "timm/resnet10t", "timm/resnet18", "resnet10t.c3_in1k"])
def test_architectures_of_timm(architecture):
    classifier = Classifier(5, architecture)
    assert type(classifier.model).__module__.startswith("timm.")
    assert classifier(torch.zeros(2, 3, 64, 64)).shape == (2, 5)


def test_torchvision_comes_first():
    assert type(Classifier(5, "resnet18").model).__module__.startswith("torchvision.")


def test_auxiliary_classifiers_are_left_out():
    with torch.device("meta"):
        for architecture in ("googlenet", "inception_v3"):
            assert Classifier(5, architecture).train()(torch.zeros(2, 3, 128, 128)).shape == (2, 5)


@pytest.mark.slow
def test_all_of_torchvision_can_be_trained():
    for architecture in torchvision.models.list_models(module=torchvision.models):
        if not architecture.startswith("regnet"):  # whose constructor reads what is computed
            with torch.device("meta"):
                assert Classifier(5, architecture).train()(torch.zeros(2, 3, 224, 224)).shape == (2, 5)


def fit(architecture, **arguments):
    data = ImageDataModule(num_workers=0, train_images=4, batch_size=4, **arguments)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    Trainer(fast_dev_run=1, **quiet).fit(Classifier(10, architecture), datamodule=data)


@pytest.mark.parametrize("architecture", ["vit_b_32", "timm/vit_tiny_patch16_224", "squeezenet1_0"])
def test_a_size_that_a_model_does_not_take_is_an_error_before_training(architecture):
    with pytest.raises(UsageError, match=rf"architecture={architecture} does not take images of data.image_size=16"):
        fit(architecture, image_size=16)


def test_what_is_for_small_images_says_so_of_large_ones(caplog):
    caplog.set_level("INFO")
    fit("small_resnet", image_size=96)
    assert "suits them better" not in caplog.text
    fit("small_resnet", image_size=104)
    assert "small_resnet is meant for images of up to 96 pixels, these have 104" in caplog.text
    assert "model.architecture=resnet18 suits them better" in caplog.text


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
