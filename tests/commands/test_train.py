import csv
import re

import pytest
from test_data import write_fashion_mnist, write_image_folder

from commands_fixture import fixture_of
from lightning_augmix.commands import train

QUICK = ["trainer.max_epochs=1", "data.num_workers=0", "trainer.enable_progress_bar=false", "trainer.accelerator=cpu"]
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*litlogger"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),  # every run has its own output folder
    pytest.mark.filterwarnings("ignore:The `.*_dataloader` does not have many workers"),
]


command = fixture_of("augmix-train", train.main)


def outputs(tmp_path):
    return sorted(tmp_path.glob("outputs/*/*"))


def last(path, column):
    with (path / "logs" / "metrics.csv").open() as file:
        return [row[column] for row in csv.DictReader(file) if row[column]][-1]


@pytest.mark.slow
def test_the_default_run_learns_digits_with_augmix(command, tmp_path):
    printed = command("trainer.max_epochs=5", *QUICK[1:])
    assert "AugMix was inserted into Digits.transform" in printed
    assert (
        "AugmentAndMixTransform(severity=3.0, width=3, depth=-1, alpha=1.0, augmentation_set='all'), ToImage()"
        in printed
    )
    assert "Clean accuracy" in printed
    assert "severity 3, set all" in printed
    (output,) = outputs(tmp_path)
    assert float(last(output, "test_accuracy")) > 0.8
    assert (output / "checkpoints" / "last.ckpt").is_file()
    assert "severity: 3.0" in (output / "logs" / "hparams.yaml").read_text()
    assert "AugMix was inserted" in (output / "train.log").read_text()


def test_overrides_reach_the_run(command):
    printed = command("augmix.severity=5", "augmix.augmentation_set=safe", "data.train_images=128", *QUICK)
    assert "AugmentAndMixTransform(severity=5.0, width=3, depth=-1, alpha=1.0, augmentation_set='safe')" in printed
    assert "severity 5, set safe" in printed


def test_off_is_off(command):
    printed = command("augmix=off", "model.momentum=0", "data.train_images=128", *QUICK)
    assert "AugMix was inserted" not in printed
    assert "off" in printed


def test_a_multirun_is_one_run_per_value(command, tmp_path):
    printed = command("--multirun", "augmix.severity=1,3", "data.train_images=128", *QUICK)
    assert "severity 1, set all" in printed
    assert "severity 3, set all" in printed
    assert len(list(tmp_path.glob("multirun/*/*/[01]/logs/metrics.csv"))) == 2


def test_fashion_mnist_from_gzipped_files(command, tmp_path):
    write_fashion_mnist(tmp_path)
    assert "fashion_mnist" in command("data=fashion_mnist", f"data.root={tmp_path}", *QUICK)


def test_image_folder_with_a_torchvision_model(command, tmp_path):
    write_image_folder(tmp_path)
    overrides = [f"data.root={tmp_path}", "data.image_size=64", "model.architecture=mobilenet_v3_small"]
    assert "mobilenet_v3" in command("data=image_folder", *overrides, *QUICK)


def test_a_run_can_be_resumed(command, tmp_path):
    command("data.train_images=128", *QUICK)
    (output,) = outputs(tmp_path)
    checkpoint = output / "checkpoints" / "last.ckpt"
    # Not in the folder of the first run, which Hydra names by the second.
    folder = f"hydra.run.dir={tmp_path / 'resumed'}"
    printed = command(f"ckpt_path={checkpoint}", "data.train_images=128", *QUICK, "trainer.max_epochs=2", folder)
    assert "Restored all states" in printed


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["augmix.severity=11"], "`severity` to be a real number in [0, 10]; got 11.0"),
        (["augmix.severity=abc"], "could not be converted to Float"),
        (["data=nope"], "Could not find 'data/nope'"),
        (["data=cifar10", "data.download=false", "data.root=nowhere"], "data.root=nowhere does not have the data"),
        (["model.architecture=resnet"], "got 'resnet'"),
        (["trainer.max_epochs=abc"], "`trainer.max_epochs` to be an integer, at least 0; got 'abc'"),
        (["trainer.max_epochs=-1"], "`trainer.max_epochs` to be an integer, at least 0; got -1"),
        (["seed=abc"], "`seed` to be an integer, at least 0; got 'abc'"),
        (["seed=true"], "`seed` to be an integer, at least 0; got True of type bool"),
        (["augmix.views=-1"], "`views` to be an integer, at least 0; got -1"),
        (["model.momentum=1"], "`momentum` to be a real number in [0, 1); got 1.0"),
        (["callbacks=augmix"], "callbacks=augmix is for your own applications"),
        (["trainer.accelerator=quantum"], "got 'quantum'|quantum"),
        (["+trainer.nope=1"], "TypeError: Trainer.__init__() got an unexpected keyword argument 'nope'"),
        (["ckpt_path=nope.ckpt"], "ckpt_path to be the path of a checkpoint file; got 'nope.ckpt'"),
    ],
)
def test_bad_values_end_with_one_line(command, arguments, words, capfd):
    with pytest.raises(SystemExit) as stopped:
        command(*arguments)
    assert stopped.value.code.startswith("augmix-train: ")
    assert re.search("|".join(map(re.escape, words.split("|"))), stopped.value.code)
    assert "\n" not in stopped.value.code
    printed = capfd.readouterr()
    assert "Traceback" not in printed.err
    assert "Error executing job" not in printed.err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--help"], "augmix-train augmix.severity=5 augmix.augmentation_set=safe trainer.max_epochs=3"),
        (["--cfg", "job"], "_target_: lightning_augmix.AugMixCallback"),
    ],
)
def test_flags(command, flags, words, capfd):
    try:
        printed = command(*flags)
    except SystemExit as stopped:
        assert not stopped.code  # noqa: PT017
        printed = capfd.readouterr().out
    assert words in printed
