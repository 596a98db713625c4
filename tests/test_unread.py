"""AugMix that is configured and not read: the fit is refused."""

import os
import subprocess
import sys

import pytest
from torch.utils.data import DataLoader
from torchvision.transforms import ToTensor

from lightning_augmix import AugmentAndMixTransform, AugMixCallback, augment_dataloader, augment_dataset, unread
from toy import CERTAIN, Data, Dim, Recorder, trainer

APPLICATION = """
import sys

import hydra
from hydra.utils import instantiate

from toy import Data, Recorder, is_augmented, trainer

class Watching(Recorder):
    def training_step(self, batch, batch_idx):
        print("batch augmented" if all(map(is_augmented, batch[0])) else "batch clean")
        return super().training_step(batch, batch_idx)

@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg):
    callbacks = [instantiate(node) for node in (cfg.callbacks or {}).values()]
    trainer(*callbacks, root=".", max_epochs=1).fit(Watching(), Data())
    return cfg.callbacks.get("augmix", {}).get("severity", 0)

main()
"""
SURE = ["augmix.alpha=1000000", "augmix.augmentation_set=[autocontrast]"]


@pytest.fixture
def run(tmp_path):
    """Runs an application that reads its callbacks alone."""
    (tmp_path / "conf" / "callbacks").mkdir(parents=True)
    (tmp_path / "conf" / "config.yaml").write_text("defaults: [{callbacks: default}]\n")
    (tmp_path / "conf" / "callbacks" / "default.yaml").write_text(
        "timer: {_target_: lightning.pytorch.callbacks.Timer}\n"
    )
    (tmp_path / "main.py").write_text(APPLICATION)

    def run(*overrides):
        command = [sys.executable, "main.py", *overrides]
        environment = {**os.environ, "PYTHONPATH": os.path.dirname(__file__)}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        return done.stdout + done.stderr, done.returncode

    return run


@pytest.mark.slow
def test_an_application_that_reads_its_callbacks_alone(run):
    printed, failed = run("+augmix=default")
    assert failed
    assert "The configuration has AugMixCallback at `augmix`" in printed
    assert "callbacks=[default,augmix]" in printed
    assert "add '~hydra.callbacks.lightning_augmix' on the command line" in printed
    assert "batch" not in printed
    printed, failed = run("+augmix=default", "~hydra.callbacks.lightning_augmix")  # as the message says
    assert not failed, printed
    assert "batch clean" in printed
    printed, failed = run("callbacks=[default,augmix]", *(f"callbacks.{each}" for each in SURE))
    assert not failed
    assert "batch augmented" in printed
    assert "batch clean" not in printed
    for overrides in ([], ["+augmix=off"], ["+augmix@callbacks.augmix=off"]):
        printed, failed = run(*overrides)
        assert not failed, printed
        assert "batch augmented" not in printed


@pytest.mark.slow
def test_optunas_sweeper_over_the_severity(run):
    printed, failed = run(
        "--multirun", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=1",
        "callbacks=[default,augmix]", "callbacks.augmix.severity=interval(1,5)", *(f"callbacks.{e}" for e in SURE),
    )  # fmt: skip
    assert not failed
    assert printed.count("batch augmented") == 3 * 2  # two batches each
    assert "Best parameters: {'callbacks.augmix.severity'" in printed


@pytest.fixture
def expecting():
    unread.expect(["augmix"], lambda: True)
    yield
    unread.was_read()


TRANSFORM = AugmentAndMixTransform(**CERTAIN)


@pytest.mark.usefixtures("expecting")
@pytest.mark.parametrize(
    "make",
    [
        lambda: AugmentAndMixTransform(severity=2),
        lambda: augment_dataset(Dim(ToTensor()), TRANSFORM),
        lambda: augment_dataloader(DataLoader(Dim(ToTensor())), TRANSFORM),
    ],
    ids=["transform", "dataset", "dataloader"],
)
def test_an_application_may_read_the_values_itself(make, tmp_path):
    make()
    assert unread.callbacks() == []
    trainer(root=tmp_path).fit(Recorder(), Data())


@pytest.mark.usefixtures("expecting")
def test_what_does_not_train_is_not_refused(tmp_path):
    run = trainer(root=tmp_path)
    run.callbacks += unread.callbacks()
    run.validate(Recorder(), Data(), verbose=False)
    with pytest.raises(ValueError, match="at `augmix`"):
        run.fit(Recorder(), Data())
    AugMixCallback()
    run.fit(Recorder(), Data())
    assert unread.callbacks() == []


class Lazy(Recorder):
    """Makes its own training data, with AugMix, when the fit asks for them."""

    def train_dataloader(self):
        return DataLoader(augment_dataset(Dim(ToTensor()), AugmentAndMixTransform(**CERTAIN)))


CALLBACK = AugMixCallback(**CERTAIN)


@pytest.mark.usefixtures("expecting")
@pytest.mark.parametrize("late", [(Lazy(), []), (Recorder(), [CALLBACK])], ids=["in the loader", "made before the job"])
def test_what_is_read_before_the_first_step_counts(late, tmp_path):
    module, callbacks = late
    run = trainer(*callbacks, root=tmp_path)
    run.callbacks += unread.callbacks()
    run.fit(module, *([Data()] if callbacks else []))
    assert unread.callbacks() == []


def test_nothing_is_added_to_a_trainer_otherwise():
    assert unread.callbacks() == []
    unread.expect(["augmix"], lambda: False)  # of a job that ended
    assert unread.callbacks() == []
