import csv
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch
import yaml
from test_data import write_fashion_mnist, write_image_folder, write_parts

from commands_fixture import QUICK, QUIET, fixture_of
from lightning_augmix import AugMixCallback, __version__
from lightning_augmix.commands import train
from lightning_augmix.commands.logs import AppendingCSVLogger
from lightning_augmix.commands.model import Classifier
from lightning_augmix.commands.sweeps import new_folder

ONCE = ["trainer.max_epochs=1", *QUICK]
pytestmark = QUIET


command = fixture_of("augmix-train", train.main)


def outputs(tmp_path):
    return sorted(tmp_path.glob("outputs/*/*"))


def last(path, column):
    with (path / "logs" / "metrics.csv").open() as file:
        return [row[column] for row in csv.DictReader(file) if row[column]][-1]


@pytest.mark.slow
def test_the_default_run_learns_digits_with_augmix(command, tmp_path):
    printed = command("trainer.max_epochs=5", *QUICK)
    assert "AugMix was inserted into Digits.transform" in printed
    assert (
        "AugmentAndMixTransform(severity=3.0, width=3, depth=-1, alpha=1.0, augmentation_set='all'), ToImage()"
        in printed
    )
    assert "The last weights" in printed
    assert "severity 3, set all" in printed
    (output,) = outputs(tmp_path)
    assert float(last(output, "test_accuracy")) > 0.8
    assert (output / "checkpoints" / "last.ckpt").is_file()
    logged = {name: yaml.safe_load((output / "logs" / f"{name}.yaml").read_text()) for name in ("augmix", "hparams")}
    assert AugMixCallback(**logged["augmix"]).settings == AugMixCallback().settings
    assert "augmix" not in logged["hparams"]
    assert "AugMix was inserted" in (output / "train.log").read_text()


def test_overrides_reach_the_run(command):
    printed = command("augmix.severity=5", "augmix.augmentation_set=safe", "data.train_images=128", *ONCE)
    assert "AugmentAndMixTransform(severity=5.0, width=3, depth=-1, alpha=1.0, augmentation_set='safe')" in printed
    assert "severity 5, set safe" in printed


def test_off_is_off(command):
    printed = command("augmix=off", "model.momentum=0", "data.train_images=128", *ONCE)
    assert "AugMix was inserted" not in printed
    assert "off" in printed


def test_a_multirun_is_one_run_per_value(command, tmp_path):
    printed = command("--multirun", "augmix.severity=1,3", "data.train_images=128", *ONCE)
    assert "severity 1, set all" in printed
    assert "severity 3, set all" in printed
    assert len(list(tmp_path.glob("multirun/*/*/[01]/logs/metrics.csv"))) == 2


def test_fashion_mnist_from_gzipped_files(command, tmp_path):
    write_fashion_mnist(tmp_path)
    assert "fashion_mnist" in command("data=fashion_mnist", f"data.root={tmp_path}", *ONCE)


def test_image_folder_with_a_torchvision_model(command, tmp_path):
    write_image_folder(tmp_path)
    overrides = [f"data.root={tmp_path}", "data.image_size=64", "model.architecture=mobilenet_v3_small"]
    assert "mobilenet_v3" in command("data=image_folder", *overrides, *ONCE)


@pytest.mark.parametrize(
    ("parts", "figure"), [(["train", "test"], "test accuracy"), (["train", "valid"], "valid accuracy")]
)
def test_the_table_says_which_folder_and_which_weights_were_measured(parts, figure, command, tmp_path):
    write_parts(tmp_path, **dict.fromkeys(parts, "abc"))
    printed = command("data=image_folder", f"data.root={tmp_path}", "augmix=off", *ONCE)
    assert "The last weights" in printed
    assert re.search(r"[\w-]+ accuracy(?= ┃\n)", printed)[0] == figure
    assert "Images of 32 pixels: data.image_size=32, data.crop=pad." in printed
    (output,) = outputs(tmp_path)
    with (output / "logs" / "metrics.csv").open() as file:
        assert ("test_accuracy" in next(csv.reader(file))) is (figure == "test accuracy")
    assert "image_size: 32" in (output / "logs" / "hparams.yaml").read_text()


@pytest.mark.slow
def test_the_best_weights_and_the_last_are_kept(command, tmp_path, monkeypatch):
    accuracies = iter([0.2, 0.9, 0.5, 0.5])
    monkeypatch.setattr(
        Classifier,
        "validation_step",
        lambda self, batch, index: self.log("val_accuracy", torch.tensor(next(accuracies))),
    )
    arguments = ["trainer.max_epochs=3", "data.batch_size=256", "+trainer.num_sanity_val_steps=0"]
    printed = command("augmix=off", "data.train_images=64", *arguments, *QUICK)
    assert "Highest validation accuracy: 90.00%, of the weights in best.ckpt" in printed
    (output,) = outputs(tmp_path)
    epochs = {name: torch.load(output / "checkpoints" / f"{name}.ckpt")["epoch"] for name in ("best", "last")}
    assert epochs == {"best": 1, "last": 2}
    hyperparameters = torch.load(output / "checkpoints" / "last.ckpt")["datamodule_hyper_parameters"]
    assert hyperparameters["classes"] == list("0123456789")


def test_without_validation_the_last_weights_are_kept(command, tmp_path):
    with pytest.warns(UserWarning, match="could not find the monitored key"):
        command("augmix=off", "data.train_images=64", "trainer.limit_val_batches=0", *ONCE)
    (output,) = outputs(tmp_path)
    assert (output / "checkpoints" / "last.ckpt").exists()


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("augmix", ["default", "off"])
def test_a_damaged_image_ends_the_run_with_one_line(workers, augmix, command, tmp_path):
    write_parts(tmp_path, train="ab", test="ab")
    path = tmp_path / "train" / "a" / "0.png"
    path.write_bytes(path.read_bytes()[:-30])
    others = [f"data.num_workers={workers}", f"augmix={augmix}", "+trainer.num_sanity_val_steps=0", "data.seed=1"]
    with pytest.raises(SystemExit) as stopped:
        command("data=image_folder", f"data.root={tmp_path}", *ONCE, *others)
    assert stopped.value.code.startswith(f"augmix-train: {path} cannot be read as an image")
    assert "\n" not in stopped.value.code


def test_a_class_that_training_does_not_have_ends_the_run_before_it(command, tmp_path):
    write_parts(tmp_path, train="ab", test="abz")
    with pytest.raises(SystemExit, match=r"augmix-train: .*test has classes that training does not have: z"):
        command("data=image_folder", f"data.root={tmp_path}", *ONCE)
    assert not list(tmp_path.glob("outputs/*/*/checkpoints"))


def test_a_run_can_be_resumed(command, tmp_path):
    command("data.train_images=128", *ONCE)
    (output,) = outputs(tmp_path)
    checkpoint = output / "checkpoints" / "last.ckpt"
    # Not in the folder of the first run, which Hydra names by the second.
    folder = f"hydra.run.dir={tmp_path / 'resumed'}"
    printed = command(f"ckpt_path={checkpoint}", "data.train_images=128", *ONCE, "trainer.max_epochs=2", folder)
    assert "Restored all states" in printed


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["augmix.severity=11"], "`severity` to be a real number in [0, 10]; got 11.0"),
        (["augmix.severity=abc"], "could not be converted to Float"),
        (["data=nope"], "There is no data=nope; permitted are "),
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
        (["augmix=null"], "override must be a string or a list"),
        (["augmix.inject=false"], "augmix.inject=false is for code of your own"),
        (
            ["augmix=jsd", "model.views=0"],
            "Expected model.views, with which the loss is JSDLoss, to be augmix",
        ),
        (["+epochs=3"], "There is no key 'epochs'; the keys are augmix, callbacks"),
        (["+seeds=3"], "There is no key 'seeds' (did you mean seed?)"),
        (["objective=accuracy"], "`objective` to be one of val_accuracy, corrupted_accuracy; got 'accuracy'|objective"),
        (["logger=tensorbord"], "There is no logger=tensorbord; permitted are csv, "),
        (["model.learningrate=1"], "There is no key 'model.learningrate' (did you mean model.learning_rate?): --help"),
        (
            ["augmix.seveirty=1"],
            "There is no key 'augmix.seveirty' (did you mean augmix.severity?): --help lists them.",
        ),
        (["roots=x"], "There is no key 'roots': --help lists them."),
        (
            ["trainer.max_epoch=3"],
            "There is no key 'trainer.max_epoch' (did you mean trainer.max_epochs?): --help lists them, or "
            "+trainer.max_epoch=… to pass it on.",
        ),
        (["nope.ckpt"], "Expected key=value; got 'nope.ckpt': --help lists the keys."),
        (["data=image_folder", "data.root=nowhere"], "there is no folder nowhere): set data.root to a folder with a"),
        (["hydra.run.dir=/proc/x"], "/proc/x"),
        (["trainer.accelerator=gpu"], "augmix-train: No supported gpu backend found|gpu"),
        (["+trainer.nope=1"], "TypeError: Trainer.__init__() got an unexpected keyword argument 'nope'"),
        (
            ["ckpt_path=nope.ckpt"],
            "Expected ckpt_path to be a checkpoint file of augmix-train, such as outputs/…/checkpoints/last.ckpt; got "
            "'nope.ckpt', which does not exist.",
        ),
        (["ckpt_path=3"], "Expected ckpt_path to be a checkpoint file of augmix-train"),
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


# ---- Runs -----------------------------------------------------------------------------------------------------------


SMALL = ["data.train_images=128", *ONCE]


def start(tmp_path, *arguments, **settings):
    command = [sys.executable, "-m", "lightning_augmix.commands.train", *arguments]
    return subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **settings
    )


def test_a_sweep_goes_on_after_a_bad_run_and_ends_with_a_table(command, tmp_path, capfd):
    with pytest.raises(SystemExit) as stopped:
        command("--multirun", "augmix.severity=1,11,2", *SMALL)
    assert stopped.value.code == "1 of 3 runs failed."
    printed = capfd.readouterr()
    assert "augmix-train: Expected argument `severity`" in printed.err
    assert "Traceback" not in printed.err
    table = printed.out[printed.out.rindex("Runs  ") :]
    assert re.search(r"augmix.severity=1 .*%.*\n.*augmix.severity=11.*failed.*\n.*augmix.severity=2 .*%", table)
    assert "trainer.max_epochs" not in table
    assert len(list(tmp_path.glob("multirun/*/*/*/run-*.json"))) == 3


def test_runs_at_once_have_folders_of_their_own(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = [new_folder("outputs/now") for _ in range(3)]
    assert names == ["outputs/now", "outputs/now-2", "outputs/now-3"]
    assert all((tmp_path / name).is_dir() for name in names)


@pytest.mark.slow
def test_runs_of_one_second_do_not_share_a_folder(tmp_path):
    override = "hydra.run.dir=${new_folder:outputs/here}"
    runs = [start(tmp_path, *SMALL, override, f"seed={seed}") for seed in range(3)]
    printed = [run.communicate(timeout=300)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0, 0], printed
    folders = sorted(tmp_path.glob("outputs/*"))
    assert len(folders) == 3
    seeds = {(folder / ".hydra" / "overrides.yaml").read_text().split("seed=")[1].strip() for folder in folders}
    assert seeds == {"0", "1", "2"}


def test_a_resume_in_the_folder_of_the_run_keeps_its_log(command, tmp_path):
    folder = f"hydra.run.dir={tmp_path / 'run'}"
    command(*SMALL, folder, "trainer.log_every_n_steps=1")
    before = (tmp_path / "run" / "logs" / "metrics.csv").read_text()
    checkpoint = f"ckpt_path={tmp_path / 'run' / 'checkpoints' / 'last.ckpt'}"
    command(*SMALL, folder, checkpoint, "trainer.max_epochs=2", "trainer.log_every_n_steps=1")
    after = (tmp_path / "run" / "logs" / "metrics.csv").read_text()
    assert after.startswith(before)
    assert len(after) > len(before)


def test_a_log_that_a_kill_left_aside_is_found(tmp_path):
    (tmp_path / "logs").mkdir()
    (tmp_path / "metrics.part").write_text("epoch,step\n0,0")  # the kill was between the two moves, and in a line
    logger = AppendingCSVLogger(tmp_path, "logs", "")
    logger.log_metrics({"epoch": 1}, step=1)
    logger.save()
    assert (tmp_path / "logs" / "metrics.csv").read_text().split() == ["epoch,step", "0,0", "1,1"]
    assert not (tmp_path / "metrics.part").exists()


@pytest.mark.slow
def test_a_resume_in_the_folder_of_the_run_goes_on_with_its_best_weights(command, tmp_path, monkeypatch):
    accuracies = iter([0.2, 0.3, 0.9, 0.9, 0.5, 0.5])  # each epoch's, and that after the training
    monkeypatch.setattr(
        Classifier,
        "validation_step",
        lambda self, batch, index: self.log("val_accuracy", torch.tensor(next(accuracies))),
    )
    arguments = [*SMALL, "augmix=off", "data.batch_size=256", "+trainer.num_sanity_val_steps=0", "hydra.run.dir=run"]
    checkpoints = tmp_path / "run" / "checkpoints"
    command(*arguments)
    printed = command(*arguments, f"ckpt_path={checkpoints / 'last.ckpt'}", "trainer.max_epochs=2")
    assert "Highest validation accuracy: 90.00%, of the weights in best.ckpt" in printed
    printed = command(*arguments, f"ckpt_path={checkpoints / 'last.ckpt'}", "trainer.max_epochs=3")
    assert "Highest validation accuracy: 90.00%, of the weights in best.ckpt" in printed
    assert torch.load(checkpoints / "best.ckpt")["epoch"] == 1
    assert sorted(path.name for path in checkpoints.glob("*est*.ckpt")) == ["best.ckpt"]

    accuracies = iter([0.6, 0.6])
    (tmp_path / "run").rename(tmp_path / "moved")
    arguments[-1] = "hydra.run.dir=moved"
    printed = command(*arguments, "ckpt_path=moved/checkpoints/last.ckpt", "trainer.max_epochs=4")
    assert "Highest validation accuracy: 90.00%, of the weights in best.ckpt" in printed
    assert torch.load(tmp_path / "moved" / "checkpoints" / "best.ckpt")["epoch"] == 1


@pytest.mark.parametrize("resumed", [False, True], ids=["fresh", "resumed from elsewhere"])
def test_the_folder_of_another_run_is_refused_and_left_as_it_is(resumed, command, tmp_path):
    command(*SMALL, "augmix=off", "hydra.run.dir=run", "seed=1")
    command(*SMALL, "augmix=off", "hydra.run.dir=other")

    def content():
        return {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}

    before = content()
    arguments = ["ckpt_path=other/checkpoints/last.ckpt", "trainer.max_epochs=2"] if resumed else []
    with pytest.raises(SystemExit, match="augmix-train: run is the folder of another run: choose another") as stopped:
        command(*SMALL, "augmix=off", "hydra.run.dir=run", "seed=2", *arguments)
    assert "resume the run that is there with ckpt_path=run/checkpoints/last.ckpt" in stopped.value.code
    assert content() == before


def test_a_checkpoint_of_a_part_does_not_open_the_folder_around_it(command, tmp_path):
    command(*SMALL, "augmix=off", "hydra.run.dir=run")
    command(*SMALL, "augmix=off", "hydra.run.dir=run/part")
    with pytest.raises(SystemExit, match="augmix-train: run is the folder of another run"):
        command(*SMALL, "augmix=off", "hydra.run.dir=run", "ckpt_path=run/part/checkpoints/last.ckpt")


@pytest.mark.slow
def test_two_runs_that_start_together_do_not_share_a_folder(tmp_path):
    both = [start(tmp_path, *SMALL, "augmix=off", "hydra.run.dir=run") for _ in range(2)]
    printed = [run.communicate(timeout=300)[0] for run in both]
    assert sorted(run.returncode for run in both) == [0, 1], printed
    [refused] = [text for run, text in zip(both, printed, strict=True) if run.returncode]
    assert refused == "augmix-train: run is in use by another process: choose another hydra.run.dir.\n"


def test_a_sweep_does_not_go_into_the_folders_of_runs(command, tmp_path):
    command(*SMALL, "augmix=off", "hydra.run.dir=sweep/0", "seed=3")
    with pytest.raises(SystemExit, match="sweep has the runs of another sweep"):
        command("--multirun", *SMALL, "augmix=off", "hydra.sweep.dir=sweep", "seed=1,2")
    assert "seed=3" in (tmp_path / "sweep" / "0" / ".hydra" / "overrides.yaml").read_text()


def test_other_files_are_no_records_of_runs(command, tmp_path):
    (tmp_path / "sweep" / "notes").mkdir(parents=True)
    (tmp_path / "sweep" / "notes" / "run-config.json").write_text("{}")
    (tmp_path / "sweep" / "old" / "deeper").mkdir(parents=True)
    (tmp_path / "sweep" / "old" / "deeper" / "run-0.json").write_text("{}")
    printed = command("--multirun", *SMALL, "augmix=off", "hydra.sweep.dir=sweep", "seed=1,2")
    assert printed[printed.rindex("Runs  ") :].count("seed=") == 2


def test_processes_that_would_run_the_sweep_anew_are_refused(command, capfd):
    ranks = ["trainer.strategy=ddp", "trainer.devices=2"]
    with pytest.raises(SystemExit, match=r"1 of 1 runs failed\."):
        command("--multirun", *SMALL, "augmix=off", *ranks)
    assert "use trainer.strategy=ddp_spawn." in capfd.readouterr().err


def test_runs_of_a_sweep_do_not_share_a_folder(command, tmp_path, capfd):
    folders = ["hydra.sweep.dir=sweep", "hydra.sweep.subdir=same"]
    with pytest.raises(SystemExit, match=r"1 of 2 runs failed\."):
        command("--multirun", "augmix=off", "seed=1,2", *folders, *SMALL)
    printed = capfd.readouterr()
    assert "sweep/same is the folder of another run" in printed.err
    assert re.search(r"seed=1 .*%.*\n.*seed=2.*failed", printed.out)


def test_a_sweep_does_not_go_into_the_folder_of_another(command, tmp_path):
    arguments = ["--multirun", "augmix=off", "hydra.sweep.dir=sweep", *SMALL]
    command(*arguments, "seed=1,2")
    with pytest.raises(SystemExit, match="augmix-train: sweep has the runs of another sweep: choose another hydra"):
        command(*arguments, "seed=3,4")
    assert "seed=1" in (tmp_path / "sweep" / "0" / ".hydra" / "overrides.yaml").read_text()


def test_a_sweep_goes_on_after_an_error_of_any_kind(command, monkeypatch, capfd):
    def out_of_memory(self, batch, index):
        if self.hparams["learning_rate"] == 2:
            raise RuntimeError("out of memory")

    monkeypatch.setattr(Classifier, "on_train_batch_start", out_of_memory)
    with pytest.raises(SystemExit, match=r"1 of 3 runs failed\."):
        command("--multirun", "augmix=off", "model.learning_rate=1,2,0.1", *SMALL)
    printed = capfd.readouterr()
    assert printed.err.count("Traceback") == 1
    assert "augmix-train: RuntimeError: out of memory" in printed.err
    assert re.search(r"rate=1 .*%.*\n.*rate=2 .*failed.*\n.*rate=0.1 .*%", printed.out[printed.out.rindex("Runs  ") :])


def test_a_resume_numbers_the_classes_as_before(command, tmp_path):
    write_parts(tmp_path / "data", train="abc", test="abc")
    arguments = ["data=image_folder", "data.root=data", "augmix=off", *ONCE]
    command(*arguments, "hydra.run.dir=run")
    (tmp_path / "data" / "train" / "b").rename(tmp_path / "data" / "train" / "d")
    with pytest.raises(SystemExit, match="classes that training does not have: d"):
        command(*arguments, "ckpt_path=run/checkpoints/last.ckpt", "trainer.max_epochs=2")


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("model.architecture=wrn_40_2", "Expected model.architecture to be that of run/checkpoints/last.ckpt, small_"),
        ("data.classes=[b,a]", "Expected data.classes to be that of run/checkpoints/last.ckpt, ['0', '1'"),
    ],
)
def test_a_resume_of_another_model_is_one_line(argument, words, command):
    command(*SMALL, "augmix=off", "hydra.run.dir=run")
    with pytest.raises(SystemExit, match=re.escape(words)):
        command(*SMALL, "augmix=off", argument, "ckpt_path=run/checkpoints/last.ckpt")


def test_fewer_epochs_than_the_checkpoint_has_are_one_line(command, tmp_path, capfd):
    command(*SMALL, f"hydra.run.dir={tmp_path / 'run'}", "trainer.max_epochs=3")
    checkpoint = f"ckpt_path={tmp_path / 'run' / 'checkpoints' / 'last.ckpt'}"
    with pytest.raises(SystemExit, match="augmix-train: You restored a checkpoint with current_epoch=2"):
        command(*SMALL, checkpoint)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["trainer.limit_test_batches=0"], "held-out"),
        (["trainer.limit_val_batches=0", "~callbacks"], "test"),
        (["callbacks.checkpoint=null"], "test"),
        (["trainer.fast_dev_run=true"], "test"),
        (["~logger"], "test"),
    ],
)
def test_what_is_left_out_is_no_error(arguments, words, command):
    assert words in command(*SMALL, *arguments).partition("The last weights")[2]


@pytest.mark.parametrize("logger", ["tensorboard", "[csv,tensorboard]"])
def test_other_loggers(logger, command, tmp_path):
    command(*SMALL, f"logger={logger}")
    assert list(tmp_path.glob("outputs/*/*/tensorboard/events*"))
    assert bool(list(tmp_path.glob("outputs/*/*/logs/metrics.csv"))) is ("csv" in logger)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "ddp_spawn", "ddp_fork"])
def test_two_processes_measure_each_image_once(strategy, command, tmp_path):
    write_parts(tmp_path, train="abcde", val="abcde", test="abcde")
    for part in ("val", "test"):
        (tmp_path / part / "a" / "0.png").unlink()  # 19 images: ten, and nine
    data = ["data=image_folder", f"data.root={tmp_path}", "data.batch_size=3"]  # four batches, and three
    arguments = [*data, *QUICK, "trainer.max_epochs=2"]
    strategies = [f"trainer.strategy={strategy}", "trainer.devices=2", "+trainer.num_sanity_val_steps=0"]
    run = start(tmp_path, *arguments, *strategies, "hydra.run.dir=two")
    printed = run.communicate(timeout=300)[0]
    assert run.returncode == 0, printed
    assert re.search(r"set all .*│ 2 +│ \d", printed.replace("set all\n", "set all ")) or "│ 2  " in printed
    assert printed.count("The last weights") == 1
    assert "sync_dist" not in printed
    command(*arguments, "hydra.run.dir=one", "ckpt_path=two/checkpoints/last.ckpt")
    two, one = (
        [float(last(tmp_path / folder, name)) for name in ("val_accuracy", "val_loss", "test_accuracy")]
        for folder in ("two", "one")
    )
    assert two == pytest.approx(one, rel=1e-5)
    assert two[::2] == one[::2]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize(
    ("number", "status", "words"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
@pytest.mark.parametrize("send", ["kill", "killpg"])  # the process alone, or its workers too
def test_an_interrupt_is_one_line_and_leaves_a_checkpoint_and_no_process(send, number, status, words, tmp_path):
    settings = ["trainer.max_epochs=500", "data.num_workers=2", "trainer.enable_progress_bar=false"]
    run = start(tmp_path, *settings, "hydra.run.dir=run", start_new_session=True)
    checkpoint = tmp_path / "run" / "checkpoints" / "last.ckpt"
    deadline = time.monotonic() + 120
    while not checkpoint.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(1)
    written = checkpoint.stat().st_mtime_ns
    getattr(os, send)(run.pid, number)
    printed = run.communicate(timeout=60)[0]
    assert run.returncode == status, printed
    advice = f"to go on, add ckpt_path={checkpoint} to the command"
    assert printed.splitlines()[-1] == f"augmix-train: {words}; {advice}."
    assert "Traceback" not in printed
    assert checkpoint.stat().st_mtime_ns > written
    with pytest.raises(ProcessLookupError):
        os.killpg(run.pid, 0)


@pytest.mark.slow
def test_optuna_looks_for_the_best_validation(tmp_path):
    run = start(tmp_path, "hparams_search=optuna", "hydra.sweeper.n_trials=2", *SMALL)
    printed = run.communicate(timeout=300)[0]
    assert run.returncode == 0, printed
    assert printed.count("The last weights") == 2
    assert "Best parameters: {'augmix.severity'" in printed
    assert "Runs  " in printed


@pytest.mark.slow
def test_a_sweep_can_maximise_the_accuracy_on_corruptions(command, tmp_path):
    arguments = ["objective=corrupted_accuracy", "augmix=off", *SMALL]
    printed = command("--multirun", *arguments, "data.seed=0,1", "hydra.sweep.dir=sweep")
    assert printed.count("corrupted accuracy") == 3
    runs = [json.loads(path.read_text()) for path in tmp_path.glob("sweep/*/run-*.json")]
    assert all(0 < run["measures"]["corrupted accuracy"] < 1 for run in runs)
    assert len(list(tmp_path.glob("data/corrupted/validation-*"))) == 2


def test_corruptions_that_cannot_be_had_end_the_run_before_the_training(command, tmp_path, capfd):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "corrupted").write_text("")
    with pytest.raises(SystemExit, match=r"augmix-train: .*data/corrupted"):
        command("objective=corrupted_accuracy", *SMALL)
    assert "Trainable params" not in capfd.readouterr().out


def test_the_version_is_that_of_the_package(command):
    assert command("--version") == f"augmix-train {__version__}\n"


def test_help_says_what_each_value_means(command):
    printed = command("--help")
    values = re.findall(
        r"^  ([\w.]+)=\S*(.*)\n(?=(.*))", printed.partition("Values (key=value)")[2], flags=re.MULTILINE
    )
    assert {"seed", "data.root", "model.momentum", "augmix.severity", "trainer.strategy"} <= {
        name for name, *_ in values
    }
    assert [name for name, text, after in values if not text.strip() and not after.strip()] == []
    for word in ("augmix_schema", "See above", "None", "``", "schema/"):
        assert word not in printed
    for option in ("logger=csv", "trainer=ddp", "hparams_search=optuna", "augmix=jsd", "data=image_folder"):
        assert option in printed


def test_help_takes_a_folder_of_configs(command, tmp_path):
    (tmp_path / "it's mine" / "experiment").mkdir(parents=True)
    path = tmp_path / "it's mine" / "experiment" / "short.yaml"
    path.write_text("# @package _global_\n# My own.\ntrainer: {max_epochs: 1}\n")
    for arguments in (["--help", "experiment=short", "--config-dir", path.parents[1], "seed=7"], ["--help", "seed=7"]):
        printed = command(*arguments)
        assert "  seed=7 " in printed
        assert bool(re.search("experiment=short +My own", printed)) is ("--config-dir" in arguments)
        assert ("trainer.max_epochs=1 " in printed) is ("--config-dir" in arguments)
    assert "  seed=0 " in command("--help", "--config-name", "train")
    with pytest.raises(SystemExit, match="augmix-train: Expected --config-dir to be a folder; got 'nowhere'"):
        command("--config-dir", "nowhere", "--help")


@pytest.mark.slow
def test_help_ends_quietly_where_nobody_reads_on(tmp_path):
    done = subprocess.run(
        f"{sys.executable} -m lightning_augmix.commands.train --help | head -1",
        shell=True, cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout == "augmix-train trains an image classifier with AugMix.\n"
    assert done.stderr == ""


def test_no_advertisement_reaches_the_user(command):
    printed = command(*SMALL)
    for word in ("Tip", "litlogger", "LeafSpec", "num_workers"):
        assert word not in printed
