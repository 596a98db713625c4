"""What a seed promises: images that depend on the seed, the epoch and the index alone; and what holds without one."""

import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import Subset

from lightning_augmix import AugMixCallback
from toy import Data, Dim, Recorder, Scheduled, loader, to_tensor, trainer

pytestmark = pytest.mark.usefixtures("on")


def seeded_images(root, epochs=3, settings=None, seed=1, **kwargs):
    """Digests of the training images by (epoch, index), with a loader order that differs from run to run."""
    module = Recorder()
    run = trainer(AugMixCallback(severity=10, seed=seed), root=root, max_epochs=epochs, limit_val_batches=0, **kwargs)
    run.fit(module, datamodule=Data(**(settings or {})))
    images = module.images()
    assert len(images) == 8 * epochs
    return images


def test_the_seed_fixes_every_image_whatever_the_order_and_differs_between_epochs(tmp_path):
    torch.manual_seed(1)
    first = seeded_images(tmp_path)
    torch.manual_seed(2)
    assert seeded_images(tmp_path) == first
    assert seeded_images(tmp_path, reload_dataloaders_every_n_epochs=1) == first
    other = seeded_images(tmp_path, seed=2)
    assert len(set(first.values()) | set(other.values())) > 44
    assert len({first[epoch, index] for epoch, index in first}) > 22


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"workers": 1},
        {"workers": 3},
        {"workers": 3, "persistent_workers": True},
        {"workers": 2, "multiprocessing_context": "spawn", "persistent_workers": True},
        {"workers": 2, "multiprocessing_context": "forkserver", "persistent_workers": True, "prefetch_factor": 3},
    ],
)
def test_the_seed_gives_the_same_images_with_any_workers(settings, tmp_path):
    assert seeded_images(tmp_path, settings=settings) == seeded_images(tmp_path)


CHECKPOINTS = [
    {"save_last": True},
    {"save_on_train_epoch_end": True},
    {"save_on_train_epoch_end": False},
    {"every_n_train_steps": 2},
    {"every_n_train_steps": 1},
]


@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
@pytest.mark.parametrize("unit", ["epochs", "steps"])
@pytest.mark.parametrize("make", [Recorder, Scheduled])
@pytest.mark.parametrize(
    "settings", [{}, pytest.param({"workers": 2, "persistent_workers": True}, marks=pytest.mark.slow)]
)
def test_a_resumed_run_shows_the_images_of_the_uninterrupted_one(checkpoint, unit, make, settings, tmp_path):
    def fit(folder, length, ckpt_path=None):
        limit = {"max_epochs": length} if unit == "epochs" else {"max_epochs": -1, "max_steps": 2 * length}
        module = make()
        saving = pl.callbacks.ModelCheckpoint(tmp_path / folder, filename="{step}", save_top_k=-1, **checkpoint)
        run = trainer(AugMixCallback(10, seed=1), saving, root=tmp_path, enable_checkpointing=True, **limit)
        run.fit(module, datamodule=Data(**settings), ckpt_path=ckpt_path)
        return [(index, image) for _, index, _, image in module.seen["train"]]

    whole = fit("whole", 4)
    fit("parts", 2)
    resumed = fit("parts", 4, tmp_path / "parts" / "step=4.ckpt")
    # Lightning labels the first resumed epoch differently from case to case; what counts is the pass over the data.
    assert set(resumed[:8]) == set(whole[16:24])
    assert set(resumed[8:16]) == set(whole[24:32])


def test_a_run_resumed_within_an_epoch_goes_on_with_the_images_of_that_epoch(tmp_path):
    whole = seeded_images(tmp_path, epochs=2)
    saving = pl.callbacks.ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    for ckpt_path in (None, tmp_path / "step=3.ckpt"):
        module = Recorder()
        run = trainer(AugMixCallback(10, seed=1), saving, root=tmp_path, enable_checkpointing=True)
        run.fit(module, datamodule=Data(), ckpt_path=ckpt_path)
    assert module.images()
    assert module.images().items() <= whole.items()


def test_without_a_seed_the_default_generator_decides(tmp_path):
    def images(seed):
        torch.manual_seed(seed)
        return seeded_images(tmp_path, seed=None)

    assert images(3) == images(3) != images(4)


@pytest.mark.parametrize(
    "settings", [{}, pytest.param({"workers": 2, "persistent_workers": True}, marks=pytest.mark.slow)]
)
def test_without_a_seed_no_two_samples_share_draws(settings, tmp_path):
    module = Recorder()
    data = loader(Subset(Dim(to_tensor()), [0] * 12), **settings)
    # No plan leaves the image as it is.
    always = AugMixCallback(10, alpha=10, augmentation_set=["shear_x"])
    trainer(always, root=tmp_path, max_epochs=3).fit(module, data)
    assert len({image for _, _, _, image in module.seen["train"]}) == 36
