"""The callback's arguments, messages and checkpoints; test_fit.py has the matrix of what it augments."""

import logging

import lightning.pytorch as pl
import pytest
import torch
from lightning_utilities.core import rank_zero
from torch.utils.data import ConcatDataset
from torchvision import transforms

from kinds import Plain
from lightning_augmix import AugMixCallback
from lightning_augmix._errors import PlacementError
from lightning_augmix.plans.keys import GeneratorKeys
from toy import CERTAIN, Data, Dim, Recorder, is_augmented, loader, to_tensor, trainer

WORKERS = [{}, pytest.param({"workers": 1, "persistent_workers": True}, marks=pytest.mark.slow)]

# ---- Arguments ------------------------------------------------------------------------------------------------------

WRONG = {
    "severity": -7,
    "width": -7,
    "depth": -7,
    "alpha": -7,
    "augmentation_set": -7,
    "engine": -7,
    "seed": 1.5,
    "image_key": 1.5,
    "inject": "no",
    "log_images": -1,
    "on_unsupported": "ignore",
}


@pytest.mark.parametrize("name", WRONG)
def test_every_argument_is_validated_at_construction(name):
    with pytest.raises((TypeError, ValueError), match=f"argument `{name}`.*{WRONG[name]}"):
        AugMixCallback(**{name: WRONG[name]})


@pytest.mark.parametrize(
    ("name", "given", "without"),
    [("image_key", 0, None), ("views", 2, 0), ("on", "device", "workers"), ("log_images", 4, 0)],
)
def test_what_needs_a_place_contradicts_no_injection(name, given, without):
    with pytest.raises(
        ValueError, match=rf"`{name}` to be {without!r} with `inject=False`.*got {given!r}: leave out one"
    ):
        AugMixCallback(**{name: given}, inject=False)


def test_two_callbacks_are_an_error(tmp_path):
    run = trainer(AugMixCallback(), root=tmp_path)
    run.callbacks.append(AugMixCallback())
    for either in (run, trainer(AugMixCallback(), AugMixCallback(), root=tmp_path)):
        module = Recorder()
        with pytest.raises(ValueError, match="Expected one AugMixCallback"):
            either.fit(module, datamodule=Data())
        assert not module.seen["train"]


def scaled(img, index):
    return {"image": transforms.functional.to_tensor(img), "label": index}


class Fields(Recorder):
    def training_step(self, batch, batch_idx):
        return super().training_step((batch["image"], batch["label"]), batch_idx)


@pytest.mark.parametrize("workers", WORKERS)
def test_image_key_names_the_image(workers, tmp_path):
    module = Fields()
    run = trainer(AugMixCallback(**CERTAIN, image_key="image", seed=1), root=tmp_path)
    run.fit(module, loader(Plain(scaled), **workers))
    assert module.fraction("train") == [1.0, 1.0]
    with pytest.raises(PlacementError, match=r"no field `image_key='img'`, it is of keys \['image', 'label'\]"):
        trainer(AugMixCallback(image_key="img"), root=tmp_path).fit(Fields(), loader(Plain(scaled), **workers))


class ByHand(Data):
    """Training data that apply the transform they are given where nobody else can see it."""

    def __init__(self, transform, **settings):
        super().__init__(**settings)
        self.clean = self.dataset
        self.dataset = Dim(Hidden(transform), length=12)

    def val_dataloader(self):
        return loader(self.clean, **self.settings)


class Hidden:
    def __init__(self, transform):
        self.transform = transform

    def __call__(self, img):
        return transforms.functional.to_tensor(self.transform(img))


@pytest.mark.parametrize("workers", WORKERS)
def test_the_transform_put_in_by_hand_gives_the_same_images(workers, tmp_path):
    injected = Recorder()
    trainer(AugMixCallback(10, seed=1), root=tmp_path).fit(injected, datamodule=Data())
    for _ in range(2):
        callback, module = AugMixCallback(10, seed=1, inject=False), Recorder()
        data = ByHand(callback.transform, **workers)
        trainer(callback, root=tmp_path).fit(module, datamodule=data)
        assert module.images() == injected.images()
        assert set(module.fraction("val")) == {0.0}


def test_the_transform_put_in_by_hand_works_outside_of_fits(tmp_path):
    callback = AugMixCallback(**CERTAIN, seed=1, inject=False)
    data = ByHand(callback.transform)
    for _ in range(2):
        assert is_augmented(data.dataset[0][0])
        trainer(callback, root=tmp_path).fit(Recorder(), datamodule=data)


@pytest.mark.parametrize("seed", [None, 1])
def test_the_transform_that_was_not_put_in_is_an_error(seed, tmp_path):
    module = Recorder()
    with pytest.raises(PlacementError, match=r"yours to apply.*\(`callback.transform`\).*leave out `inject=False`"):
        trainer(AugMixCallback(seed=seed, inject=False), root=tmp_path).fit(module, datamodule=Data())
    assert not module.seen["train"]


class Shared(Data):
    """Training and validation parts of one dataset that the transform was put into by hand."""

    def __init__(self, transform, **settings):
        super().__init__(**settings)
        self.dataset = Dim(Hidden(transform), length=12)


@pytest.mark.parametrize("workers", WORKERS)
def test_the_transform_put_into_validation_data_is_an_error(workers, tmp_path):
    callback = AugMixCallback(inject=False)
    with pytest.raises(RuntimeError, match="AugMix was called outside the training dataset"):
        trainer(callback, root=tmp_path).fit(Recorder(), datamodule=Shared(callback.transform, **workers))


def test_the_transform_put_into_a_part_of_the_training_data_is_an_error(tmp_path):
    callback = AugMixCallback(inject=False)
    data = ConcatDataset([Dim(Hidden(callback.transform)), Dim(to_tensor())])
    with pytest.raises(PlacementError, match="a sample was made without it"):
        trainer(callback, root=tmp_path).fit(Recorder(), loader(data))


def test_the_keys_that_the_transform_had_are_back_after_the_fit(tmp_path):
    callback = AugMixCallback(inject=False)
    callback.transform.keys = keys = GeneratorKeys(torch.Generator())
    trainer(callback, root=tmp_path).fit(Recorder(), datamodule=ByHand(callback.transform))
    assert callback.transform.keys is keys


# ---- Messages -------------------------------------------------------------------------------------------------------


def test_it_tells_once_where_it_was_inserted(tmp_path):
    told = []

    class Listener(logging.Handler):
        def emit(self, record):
            if "AugMix was inserted" in record.getMessage():
                told.append(record)

    listener = Listener(logging.INFO)
    rank_zero.log.addHandler(listener)  # of the package of Lightning that was imported last
    try:
        run = trainer(AugMixCallback(), root=tmp_path, max_epochs=3, reload_dataloaders_every_n_epochs=1)
        run.fit(Recorder(), datamodule=Data())
    finally:
        rank_zero.log.removeHandler(listener)
    assert [record.levelno for record in told] == [logging.INFO]
    message = told[0].getMessage()
    assert "Dim.transform\n  before: Compose(ToTensor())\n  after:  Compose(AugmentAndMixTransform(" in message


def test_an_opaque_pipeline_is_an_error_before_the_first_batch(tmp_path):
    data, module = Data(), Recorder()
    data.dataset.transform = lambda img: transforms.functional.to_tensor(img)
    run = trainer(AugMixCallback(), root=tmp_path)
    with pytest.raises(
        PlacementError, match=r"(?s)AugMix was not applied.*Subset\n    Dim\.transform: <function.*Write instead"
    ):
        run.fit(module, datamodule=data)
    assert not module.seen["train"]


# ---- Checkpoints ----------------------------------------------------------------------------------------------------


def fit_with_checkpoint(root, *callbacks, ckpt_path=None, epochs=2):
    saving = pl.callbacks.ModelCheckpoint(root, filename="{epoch}", save_top_k=-1)
    module = Recorder()
    run = trainer(*callbacks, saving, root=root, enable_checkpointing=True, max_epochs=epochs)
    run.fit(module, datamodule=Data(), ckpt_path=ckpt_path)
    return module


def test_checkpoints_hold_the_hyperparameters_and_load_with_weights_only(tmp_path):
    fit_with_checkpoint(tmp_path, AugMixCallback(2, augmentation_set=["rotate"], seed=5))
    checkpoint = torch.load(tmp_path / "epoch=0.ckpt", weights_only=True)
    assert checkpoint["callbacks"]["AugMixCallback"] == {
        "severity": 2.0,
        "width": 3,
        "depth": -1,
        "alpha": 1.0,
        "augmentation_set": ["rotate"],
        "views": 0,
        "seed": 5,
    }


def test_a_resume_with_the_same_hyperparameters_does_not_warn(tmp_path):
    fit_with_checkpoint(tmp_path, AugMixCallback(**CERTAIN), epochs=1)
    module = fit_with_checkpoint(tmp_path, AugMixCallback(**CERTAIN), ckpt_path=tmp_path / "epoch=0.ckpt")
    assert module.fraction("train") == [1.0]


def test_a_resume_with_other_hyperparameters_warns_and_takes_them(tmp_path):
    fit_with_checkpoint(tmp_path, AugMixCallback(0), epochs=1)
    with pytest.warns(UserWarning, match=r"other augmentation.*severity from 0\.0 to 3\.0, alpha from 1\.0 to 1000000"):
        module = fit_with_checkpoint(tmp_path, AugMixCallback(**CERTAIN), ckpt_path=tmp_path / "epoch=0.ckpt")
    assert module.fraction("train") == [1.0]


def test_a_checkpoint_that_was_written_without_the_callback_loads_with_it(tmp_path):
    fit_with_checkpoint(tmp_path, epochs=1)
    with pytest.warns(UserWarning, match="written without AugMixCallback"):
        module = fit_with_checkpoint(tmp_path, AugMixCallback(**CERTAIN), ckpt_path=tmp_path / "epoch=0.ckpt")
    assert module.fraction("train") == [1.0]


def test_a_checkpoint_that_was_written_with_the_callback_loads_without_it(tmp_path):
    fit_with_checkpoint(tmp_path, AugMixCallback(**CERTAIN), epochs=1)
    with pytest.warns(UserWarning, match="AugMixCallback"):  # Lightning's
        module = fit_with_checkpoint(tmp_path, ckpt_path=tmp_path / "epoch=0.ckpt")
    assert module.fraction("train") == [0.0]
    loaded = Recorder.load_from_checkpoint(tmp_path / "epoch=0.ckpt")
    assert torch.equal(loaded.layer.weight, torch.load(tmp_path / "epoch=0.ckpt")["state_dict"]["layer.weight"])


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks used:UserWarning")
def test_evaluation_of_a_checkpoint_with_other_hyperparameters_does_not_warn(tmp_path):
    fit_with_checkpoint(tmp_path, AugMixCallback(**CERTAIN), epochs=1)
    run = trainer(AugMixCallback(2), root=tmp_path)
    run.validate(Recorder(), datamodule=Data(), ckpt_path=tmp_path / "epoch=0.ckpt", verbose=False)
