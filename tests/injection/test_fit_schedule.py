"""Severities that follow the epochs, in fits."""

import csv
import itertools

import numpy as np
import pytest
from lightning.pytorch.loggers import CSVLogger
from timm.data.loader import MultiEpochsDataLoader
from torch.utils.data import IterableDataset
from torchvision import transforms

from lightning_augmix import AugMixCallback, PlacementError, apply_plan, sample_plan
from lightning_augmix.plans.keys import fold_in
from toy import CERTAIN, Data, Dim, Recorder, Scheduled, digest, dim_image, is_augmented, loader, to_tensor, trainer

OPERATIONS = {"augmentation_set": ["rotate", "solarize"], "alpha": 1e6}


def expected(epoch, index, severity, seed=7):
    plan = sample_plan(fold_in(seed, epoch, index, 0), (12, 10), severity, **OPERATIONS)
    img = apply_plan(dim_image(index), plan) if severity else dim_image(index)
    return digest(transforms.functional.to_tensor(img).numpy())


WORKERS = [
    {},
    pytest.param({"workers": 2, "persistent_workers": True}, marks=pytest.mark.slow),
    pytest.param({"workers": 1, "persistent_workers": False}, marks=pytest.mark.slow),
    pytest.param(
        {"workers": 1, "persistent_workers": True, "multiprocessing_context": "spawn"}, marks=pytest.mark.slow
    ),
]


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.usefixtures("on")
def test_each_epoch_has_its_severity_in_running_workers_too(workers, tmp_path):
    schedule = {"warmup_epochs": 2, "milestones": {3: 10}, "clean_epochs": 1}
    module = Recorder({"train": lambda: loader(Dim(to_tensor(), 8), **workers)})
    trainer(AugMixCallback(4, **OPERATIONS, seed=7, **schedule), root=tmp_path, max_epochs=5).fit(module)
    severities = [2.0, 4.0, 4.0, 10.0, 0.0]
    seen = module.images()
    assert len(seen) == 5 * 8
    for (epoch, index), image in seen.items():
        assert image == expected(epoch, index, severities[epoch])


def test_a_resume_goes_on_with_the_schedule(tmp_path):
    def fit(max_epochs, ckpt_path=None):
        module = Recorder({"train": lambda: loader(Dim(to_tensor(), 8))})
        callback = AugMixCallback(4, **OPERATIONS, seed=7, warmup_epochs=4)
        run = trainer(callback, root=tmp_path, max_epochs=max_epochs)
        run.fit(module, ckpt_path=ckpt_path, weights_only=False)
        run.save_checkpoint(tmp_path / "last.ckpt")
        return module.images()

    fit(2)
    seen = fit(4, tmp_path / "last.ckpt")
    assert {epoch for epoch, _ in seen} == {2, 3}
    for (epoch, index), image in seen.items():
        assert image == expected(epoch, index, [1.0, 2.0, 3.0, 4.0][epoch])


def test_loaders_that_are_reloaded_have_the_severity_of_their_epoch(tmp_path):
    module = Recorder()
    run = trainer(
        AugMixCallback(10, **CERTAIN, milestones={2: 0}),
        root=tmp_path,
        max_epochs=4,
        reload_dataloaders_every_n_epochs=1,
    )
    run.fit(module, datamodule=Data())
    assert module.fraction("train") == [1.0, 1.0, 0.0, 0.0]


def test_the_end_is_clean_with_views_and_by_hand(tmp_path):
    callback = AugMixCallback(10, **CERTAIN, clean_epochs=1, inject=False)
    pipeline = transforms.Compose([callback.transform, transforms.ToTensor()])
    module = Recorder({"train": lambda: loader(Dim(pipeline, 8))})
    trainer(callback, root=tmp_path).fit(module)
    assert module.fraction("train") == [1.0, 0.0]

    class Views(Recorder):
        def training_step(self, batch, batch_idx):
            images, indices = batch
            return super().training_step((images[len(indices) :], np.tile(indices, 2)), batch_idx)

    module = Views()
    trainer(AugMixCallback(10, **CERTAIN, clean_epochs=1, views=2), root=tmp_path).fit(module, datamodule=Data())
    assert module.fraction("train") == [1.0, 0.0]


def test_checkpoints_and_loggers_tell_the_schedule(tmp_path):
    logger = CSVLogger(tmp_path, "", "run")
    run = trainer(
        AugMixCallback(4, **OPERATIONS, warmup_epochs=2, milestones={1: 6}),
        root=tmp_path,
        logger=logger,
        log_every_n_steps=1,
    )
    run.fit(Recorder(), datamodule=Data())
    run.save_checkpoint(tmp_path / "last.ckpt")
    with (tmp_path / "run" / "metrics.csv").open() as file:
        logged = [float(row["augmix/current_severity"]) for row in csv.DictReader(file)]
    assert logged == [2.0, 6.0]
    again = trainer(AugMixCallback(4, **OPERATIONS, warmup_epochs=3), root=tmp_path, max_epochs=3)
    message = r"warmup_epochs from 2 to 3, milestones from \{1: 6\} to None"
    with pytest.warns(UserWarning, match=message):
        again.fit(Recorder(), datamodule=Data(), ckpt_path=tmp_path / "last.ckpt", weights_only=False)


@pytest.mark.parametrize(("clean_epochs", "max_epochs"), [(2, 2), (3, 2), (1, -1)])
def test_clean_epochs_need_others_before_them(clean_epochs, max_epochs, tmp_path):
    module = Recorder()
    run = trainer(AugMixCallback(clean_epochs=clean_epochs), root=tmp_path, max_epochs=max_epochs)
    with pytest.raises(
        ValueError, match=rf"`clean_epochs` to be below .*got {clean_epochs} and max_epochs={max_epochs}"
    ):
        run.fit(module, datamodule=Data())
    assert not module.seen["train"]


def test_a_schedule_needs_a_severity():
    with pytest.raises(ValueError, match=r"`severity` to be above 0 with .*such as \{0: 0, 10: 3\}"):
        AugMixCallback(0, warmup_epochs=3)


@pytest.mark.parametrize("seed", [None, 7])
def test_a_resume_whose_loaders_are_made_early_goes_on_with_the_schedule(seed, tmp_path):
    ckpt_path = None
    for epochs in (1, 2, 3):
        module = Scheduled()
        callback = AugMixCallback(10, **CERTAIN, seed=seed, milestones={2: 0})
        run = trainer(callback, root=tmp_path, max_epochs=epochs)
        run.fit(module, datamodule=Data(), ckpt_path=ckpt_path, weights_only=False)
        assert set(module.fraction("train")) == {1.0 if epochs < 3 else 0.0}
        ckpt_path = tmp_path / f"{epochs}.ckpt"
        run.save_checkpoint(ckpt_path)


def test_pictures_for_loggers_have_the_severity_without_a_schedule(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr("lightning_augmix.injection.telling.tiled_pairs", lambda *both: made.append(both))
    callback = AugMixCallback(10, **CERTAIN, log_images=4, milestones={0: 0, 1: 3})
    trainer(callback, root=tmp_path, logger=CSVLogger(tmp_path), log_every_n_steps=1).fit(Recorder(), datamodule=Data())
    ((clean, augmented),) = made
    assert [is_augmented(image) for image in clean + augmented] == [False] * 4 + [True] * 4


def test_a_training_that_ends_before_its_clean_epochs_is_told_so(tmp_path):
    run = trainer(AugMixCallback(10, **CERTAIN, clean_epochs=2), root=tmp_path, max_epochs=9, max_steps=3)
    with pytest.warns(UserWarning, match="ended before the last clean_epochs=2 of max_epochs=9: all of it had AugMix"):
        run.fit(Recorder(), datamodule=Data())


def test_a_quick_trial_runs(tmp_path):
    module = Recorder()
    trainer(AugMixCallback(10, **CERTAIN, clean_epochs=3), root=tmp_path, fast_dev_run=True).fit(
        module, datamodule=Data()
    )
    assert module.fraction("train") == [1.0]


class Endless(IterableDataset):
    def __init__(self):
        self.transform = to_tensor()

    def __iter__(self):
        return ((self.transform(dim_image(index % 8)), index % 8) for index in itertools.count())


def test_epochs_that_may_never_end_are_told(tmp_path):
    module = Recorder({"train": lambda: loader(Endless())})
    run = trainer(AugMixCallback(10, **CERTAIN, warmup_epochs=3), root=tmp_path, max_epochs=-1, max_steps=3)
    with pytest.warns(UserWarning, match="which do not end if Endless, without a length, does not"):
        run.fit(module)


@pytest.mark.slow
def test_loaders_that_load_ahead_are_refused(tmp_path):
    module = Recorder({"train": lambda: MultiEpochsDataLoader(Dim(to_tensor()), num_workers=1)})
    run = trainer(AugMixCallback(10, **CERTAIN, clean_epochs=1), root=tmp_path)
    with pytest.raises(PlacementError, match="a severity that follows the epochs needs worker processes"):
        run.fit(module)
