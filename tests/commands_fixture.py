"""Runs the console commands within the test process."""

import sys

import pytest

from lightning_augmix.commands import train

#: Overrides of the commands that train and evaluate.
QUICK = ["trainer.enable_progress_bar=false", "trainer.accelerator=cpu", "data.num_workers=0"]
#: What Lightning says of such short runs, each in an output folder of its own.
QUIET = [
    pytest.mark.filterwarnings("ignore:.*litlogger"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
    pytest.mark.filterwarnings("ignore:The `.*_dataloader` does not have many workers"),
]


def fixture_of(name, main):
    """A fixture: a function that runs the command in an empty folder and returns what it printed."""

    @pytest.fixture
    def command(tmp_path, monkeypatch, capfd):
        def run(*arguments):
            monkeypatch.chdir(tmp_path)
            monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
            monkeypatch.setenv("COLUMNS", "120")
            main()
            printed = capfd.readouterr()
            return printed.out + printed.err

        return run

    return command


def train_in(folder, name, *arguments):
    """Trains for an epoch of a few digits; returns the last checkpoint of the run with this name in the folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        short = ["trainer.max_epochs=1", "data.train_images=128", f"hydra.run.dir={name}"]
        patch.setattr(sys, "argv", ["augmix-train", *arguments, *short, *QUICK])
        train.main()
    return folder / name / "checkpoints" / "last.ckpt"
