import inspect
import subprocess
import sys
from dataclasses import MISSING, fields
from pathlib import Path

import lightning.pytorch as pl
import pytest
from hydra import compose, initialize_config_dir, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException
from hydra.utils import get_class, instantiate
from omegaconf import OmegaConf, ValidationError

from lightning_augmix import AugmentAndMixTransform, AugMixCallback
from lightning_augmix.commands.schemas import DataConfig, ModelConfig, register
from lightning_augmix.config import AugmentAndMixTransformConfig, AugMixCallbackConfig

ROOT = Path(__file__).parents[1]
COMMANDS = ROOT / "lightning_augmix" / "commands" / "configs"
OPTIONS = sorted(
    (path.parent.name, path.stem) for root in (ROOT / "configs", COMMANDS) for path in root.glob("*/*.yaml")
)


@pytest.fixture(autouse=True)
def configs():
    register()
    with initialize_config_module("lightning_augmix.commands.configs", version_base="1.3"):
        yield


@pytest.mark.parametrize("schema", [AugmentAndMixTransformConfig, AugMixCallbackConfig, DataConfig, ModelConfig])
def test_schemas_mirror_their_constructors(schema):
    defaults = {field.name: field.default for field in fields(schema) if not field.name.startswith("_")}
    assert MISSING not in defaults.values()
    parameters = inspect.signature(get_class(schema()._target_)).parameters.values()
    expected = {p.name: p.default for p in parameters if p.name != "num_classes"}
    assert defaults == expected


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_of_every_group_composes(group, option):
    cfg = compose("train", [f"{group}={option}"])
    is_off = (group, option) in (
        ("augmix", "off"),
        ("experiment", "fashion_mnist_standard"),
        ("experiment", "cifar10_standard"),
    )
    for node in [cfg.augmix, *([cfg.callbacks.augmix] if option.startswith("augmix") else [])]:
        assert isinstance(instantiate(node), AugMixCallback) is not is_off


@pytest.mark.parametrize(
    ("override", "epochs", "severities"),
    [
        ("augmix.warmup_epochs=2", [0, 1, 2], [1.5, 3, 3]),
        ("augmix.milestones={1: 5, 2: 0.5}", [0, 1, 2], [3, 5, 0.5]),
        ("augmix.clean_epochs=1", [0, 8, 9], [3, 3, 0]),
    ],
)
def test_schedules_can_be_overridden(override, epochs, severities):
    schedule = instantiate(compose("train", [override]).augmix).schedule
    assert [schedule.severity(3, epoch, 10) for epoch in epochs] == severities


def test_off_is_a_callback_that_does_nothing():
    off = instantiate(compose("train", ["augmix=off"]).augmix)
    assert type(off) is pl.Callback


def test_every_group_of_the_schema_is_there():
    groups = {"augmix", "callbacks", "cluster", "data", "experiment", "hparams_search", "logger", "model", "trainer"}
    assert {group for group, _ in OPTIONS} == groups


@pytest.mark.parametrize(
    ("experiment", "dataset", "architecture", "severity", "views"),
    [
        ("paper_cifar10", "cifar10", "wrn_40_2", 3, 2),
        ("paper_cifar100", "cifar100", "wrn_40_2", 3, 2),
        ("paper_imagenet", "image_folder", "resnet50", 1, 2),
        ("cifar10_augmix", "image_folder", "small_resnet", 3, 0),
        ("cifar10_jsd", "image_folder", "small_resnet", 3, 2),
        ("fashion_mnist_augmix", "fashion_mnist", "small_resnet", 3, 0),
        ("fashion_mnist_jsd", "fashion_mnist", "small_resnet", 3, 2),
    ],
)
def test_experiments(experiment, dataset, architecture, severity, views):
    cfg = compose("train", [f"experiment={experiment}"])
    assert (cfg.data.dataset, cfg.model.architecture) == (dataset, architecture)
    assert (cfg.augmix.severity, cfg.augmix.augmentation_set) == (severity, "safe")
    assert cfg.augmix.views == cfg.model.views == views


def test_the_loss_goes_with_the_views():
    assert compose("train", ["augmix=jsd"]).model.views == 2
    assert compose("train", ["augmix.views=3"]).model.views == 3
    assert compose("train", ["augmix=off"]).model.views == 0


@pytest.mark.parametrize("option", ["default", "safe"])
def test_the_callback_comes_from_the_configuration(option):
    overrides = ["augmix.severity=5", "augmix.depth=2", "augmix.seed=3", f"augmix={option}"]
    callback = instantiate(compose("train", overrides).augmix)
    assert isinstance(callback, AugMixCallback)
    expected = {"severity": 5.0, "width": 3, "depth": 2, "alpha": 1.0}
    expected["augmentation_set"] = "all" if option == "default" else "safe"
    assert callback.transform.hyperparameters.arguments() == expected
    assert callback.seed == 3


@pytest.mark.parametrize("given", ["photometric", "[rotate,shear_x]"])
def test_a_set_is_a_name_or_a_list(given):
    callback = instantiate(compose("train", [f"augmix.augmentation_set={given}"]).augmix)
    expected = {"photometric": "photometric", "[rotate,shear_x]": ["rotate", "shear_x"]}[given]
    assert callback.transform.hyperparameters.arguments()["augmentation_set"] == expected


def test_the_transform_has_a_schema_too():
    assert isinstance(instantiate(AugmentAndMixTransformConfig(severity=2)), AugmentAndMixTransform)
    with pytest.raises(ValidationError):
        OmegaConf.merge(AugmentAndMixTransformConfig, {"width": "wide"})


@pytest.mark.parametrize("override", ["augmix.sevrity=3", "augmix.severity=high", "augmix.width=2.5", "data.rooot=x"])
def test_misspelt_keys_and_values_of_the_wrong_type_are_refused(override):
    with pytest.raises(ConfigCompositionException):
        compose("train", [override])


@pytest.mark.slow
def test_an_application_of_ones_own_finds_the_configs(tmp_path):
    def run(*overrides):
        command = [sys.executable, ROOT / "examples" / "hydra_application" / "main.py", *overrides]
        return subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path).stdout

    assert "severity=2.0, width=3, depth=-1, alpha=1.0, augmentation_set='safe'" in run()
    assert "severity=5.0" in run("augmix.severity=5")
    assert "augmentation_set='all'" in run("augmix=default")
    assert "AugMix" not in run("augmix=off")


def test_a_callbacks_group_can_take_the_callback(tmp_path):
    (tmp_path / "callbacks").mkdir()
    (tmp_path / "callbacks" / "mine.yaml").write_text("defaults:\n  - augmix\ntimer:\n  interval: step\n")
    (tmp_path / "config.yaml").write_text("defaults:\n  - callbacks: mine\n")
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        cfg = compose("config", ["callbacks.augmix.severity=5"])
    assert cfg.callbacks.timer.interval == "step"
    assert instantiate(cfg.callbacks.augmix).transform.hyperparameters.severity == 5


def test_jobs_of_a_cluster_have_a_task_for_each_device():
    cfg = compose("train", ["cluster=slurm", "trainer.devices=4", "trainer.num_nodes=2"], return_hydra_config=True)
    launcher = OmegaConf.to_container(cfg.hydra.launcher, resolve=False)
    assert launcher["_target_"].endswith("SlurmLauncher")
    values = {name: cfg.hydra.launcher[name] for name in ("nodes", "tasks_per_node", "gpus_per_node", "cpus_per_task")}
    assert values == {"nodes": 2, "tasks_per_node": 4, "gpus_per_node": 4, "cpus_per_task": 2}
    assert (cfg.trainer.strategy, cfg.trainer.accelerator, cfg.trainer.num_nodes) == ("ddp", "gpu", 2)


def test_a_model_may_be_shared_out():
    trainer = compose("train", ["trainer=fsdp", "trainer.num_nodes=3"]).trainer
    assert (trainer.strategy, trainer.accelerator, trainer.devices, trainer.num_nodes) == ("fsdp", "gpu", -1, 3)
