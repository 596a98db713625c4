"""The callback in a LightningCLI."""

import inspect
import re

import pytest
import yaml
from lightning.pytorch.cli import LightningCLI

from lightning_augmix import AugMixCallback
from toy import Data, Recorder


class Module(Recorder):
    def __init__(self):
        super().__init__()


class DataModule(Data):
    def __init__(self, workers: int = 0):
        super().__init__(workers=workers)


@pytest.fixture
def run(tmp_path, monkeypatch):
    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["main.py", "fit", *arguments])
        return cli(tmp_path)

    return run


def cli(root):
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    return LightningCLI(
        Module,
        DataModule,
        save_config_callback=None,
        seed_everything_default=0,
        trainer_defaults={**quiet, "max_epochs": 2, "enable_model_summary": False, "default_root_dir": str(root)},
    )


def callback_of(made):
    [callback] = [callback for callback in made.trainer.callbacks if isinstance(callback, AugMixCallback)]
    return callback


NAME = "--trainer.callbacks=lightning_augmix.AugMixCallback"


def test_command_line(run):
    made = run(
        NAME,
        "--trainer.callbacks.severity=4",
        "--trainer.callbacks.augmentation_set=[autocontrast]",
        "--trainer.callbacks.alpha=1000000",
        "--trainer.callbacks.seed=1",
        "--trainer.callbacks.on_unsupported=warn",
    )
    callback = callback_of(made)
    assert (callback.transform.hyperparameters.severity, callback.seed, callback.on_unsupported) == (4, 1, "warn")
    assert made.model.fraction("train") == [1.0, 1.0]
    assert set(made.model.fraction("val")) == {0.0}


def test_yaml(run, tmp_path):
    arguments = {"severity": 4, "augmentation_set": ["autocontrast"], "alpha": 1e6}
    callbacks = [{"class_path": "lightning_augmix.AugMixCallback", "init_args": arguments}]
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"trainer": {"callbacks": callbacks, "max_epochs": 1}}))
    made = run(f"--config={path}")
    assert made.model.fraction("train") == [1.0]
    made = run(f"--config={path}", "--trainer.callbacks.severity=2", "--trainer.callbacks.image_key=0")
    assert callback_of(made).transform.hyperparameters.severity == 2
    assert callback_of(made).image_key == 0


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("severity=high", "severity"),
        ("severity=11", "Expected argument `severity` to be a real number in"),
        ("severty=3", "severty"),
        ("on_unsupported=ignore", "on_unsupported"),
    ],
)
def test_mistakes_are_told(argument, message, run, capsys):
    with pytest.raises((SystemExit, ValueError)) as error:
        run(NAME, f"--trainer.callbacks.{argument}")
    assert message in capsys.readouterr().err + str(error.value)


def test_help_explains_the_arguments(run, capsys):
    with pytest.raises(SystemExit):
        run("--trainer.callbacks.help=lightning_augmix.AugMixCallback")
    printed = " ".join(capsys.readouterr().out.split())
    helps = dict(
        re.findall(r"--trainer\.callbacks\.(\w+) (?:[A-Z_]+|{\S+})(?:, --\S+ [A-Z_]+)? (.+?) \(type: ", printed)
    )
    assert helps.keys() == inspect.signature(AugMixCallback).parameters.keys()
    assert helps["severity"].startswith("Upper bound of the intensity of the operations")
    assert "See above" not in printed
    assert all(len(text.split()) > 4 and text.endswith(".") for text in helps.values()), helps
