import lightning.pytorch as pl
import pytest
from torch.utils.data import DataLoader
from torchvision.transforms import ToTensor

from lightning_augmix import AugMixCallback
from lightning_augmix.commands.saving import SaveWhenInterrupted
from toy import Dim, Recorder, trainer

EPOCHS, VALIDATED = 3, 3


class Validated(Recorder):
    """Is interrupted in validation, in one epoch at one batch."""

    def __init__(self, interrupted_at=None):
        super().__init__()
        self.interrupted_at = interrupted_at
        self.validated = []

    def validation_step(self, batch, batch_idx):
        if (self.current_epoch, batch_idx) == self.interrupted_at:
            raise KeyboardInterrupt
        self.validated.append((self.current_epoch, batch_idx))


def fit(model, folder, ckpt_path=None):
    run = trainer(
        AugMixCallback(seed=0), SaveWhenInterrupted(str(folder)), root=folder, max_epochs=EPOCHS, num_sanity_val_steps=0
    )
    loaders = DataLoader(Dim(ToTensor()), 4), DataLoader(Dim(ToTensor()), 2, sampler=range(2 * VALIDATED))
    run.fit(model, *loaders, ckpt_path=ckpt_path)
    return run


@pytest.mark.parametrize("batch", range(VALIDATED))
def test_a_run_that_is_interrupted_in_validation_goes_on_there(batch, tmp_path):
    whole, first, second = Validated(), Validated((1, batch)), Validated()
    fit(whole, tmp_path / "whole")
    with pytest.raises(SystemExit):
        fit(first, tmp_path)
    assert fit(second, tmp_path, tmp_path / "last.ckpt").current_epoch == EPOCHS
    assert first.images() | second.images() == whole.images()
    assert not first.images().keys() & second.images().keys()
    assert second.validated == [(epoch, each) for epoch in (1, 2) for each in range(VALIDATED)]


class Interrupted(pl.Callback):
    """Is interrupted before anything was trained."""

    def on_sanity_check_end(self, trainer, pl_module):
        raise KeyboardInterrupt


def test_nothing_is_kept_before_the_first_step(tmp_path):
    run = trainer(SaveWhenInterrupted(str(tmp_path)), Interrupted(), root=tmp_path, num_sanity_val_steps=1)
    with pytest.raises(SystemExit):
        run.fit(Recorder(), DataLoader(Dim(ToTensor())), DataLoader(Dim(ToTensor())))
    assert not (tmp_path / "last.ckpt").exists()
