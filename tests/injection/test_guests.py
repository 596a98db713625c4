"""Data, callbacks and Trainers that do not behave as most do: augmented as any, or refused in words that fit."""

import copy
import logging
import pickle
import re

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning_utilities.core import rank_zero
from timm.data import create_loader
from torch.utils.data import BatchSampler, ConcatDataset, DataLoader, Dataset, Subset
from torch.utils.data.datapipes.iter import IterableWrapper
from torchvision import transforms as v1

from judge import Witness, check_batches, fitted, loaded, same
from lightning_augmix import AugmentAndMixTransform, AugMixCallback, PlacementError, augment_dataset
from toy import CERTAIN, Dim, Recorder, dim_image, is_augmented, loader, to_tensor, trainer

WORKERS = [0, pytest.param(2, marks=pytest.mark.slow)]


def is_patched(run):
    return "process_dataloader" in vars(run.strategy) or "setup_data" in vars(run.fit_loop)


class ModuleOnly(Recorder):
    validation_step = None


# ---- IterDataPipe ---------------------------------------------------------------------------------------------------


def uint8_sample(index):
    return v1.functional.pil_to_tensor(dim_image(index)), index


def float_sample(index):
    return v1.functional.to_tensor(dim_image(index)), index


PIPES = {
    "map": lambda make: IterableWrapper(range(6)).map(make),
    "shuffle": lambda make: IterableWrapper(range(6)).map(make).shuffle(),
    "shuffle and shard": lambda make: IterableWrapper(range(6)).shuffle().sharding_filter().map(make),
}


@pytest.mark.filterwarnings("ignore:Your `IterableDataset` has `__len__` defined:UserWarning")
@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("make", [uint8_sample, float_sample])
@pytest.mark.parametrize("arguments", [{}, {"image_key": 0}, {"views": 2}])
@pytest.mark.parametrize("pipe", PIPES)
def test_a_pipe_is_augmented_or_refused_with_remedies_that_work(pipe, arguments, make, workers, tmp_path):
    def fit(make, **arguments):
        callback = AugMixCallback(**CERTAIN, **arguments)
        made = make(callback.transform) if not callback.inject else make
        for images, labels in fitted(tmp_path, loaded(PIPES[pipe](made), workers=workers), callback):
            assert len(images) == len(labels) * (1 + callback.views)
            assert all(map(is_augmented, images[len(labels) * bool(callback.views) :]))

    def by_hand(transform):
        def make_sample(index):
            return v1.functional.to_tensor(transform(dim_image(index))), index

        return make_sample

    try:
        fit(make, **arguments)
    except PlacementError as error:
        message = str(error)
        assert "image_key=" in message or "inject=False" in message  # both are permitted
        if "inject=False" in message:
            fit(by_hand, inject=False)
        if "pass `image_key=`" in message:
            fit(make, image_key=0)


# ---- timm's PrefetchLoader ------------------------------------------------------------------------------------------


def prefetching(callback, workers):
    """As timm's training script makes it, here on the CPU."""
    dataset = Dim(None)
    settings = {"is_training": True, "no_aug": True, "mean": (0.0,) * 3, "std": (1.0,) * 3, "persistent_workers": False}
    data = create_loader(dataset, (3, 12, 10), 3, num_workers=workers, device=torch.device("cpu"), **settings)
    dataset.transform.transforms.insert(-1, callback.transform)
    return data


@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true:UserWarning")
@pytest.mark.parametrize("workers", WORKERS)
def test_timms_prefetch_loader_with_a_seed_works_or_is_told_of_it(workers, tmp_path):
    images = []
    for _ in range(2):
        callback = AugMixCallback(**CERTAIN, inject=False, seed=1)
        witness = Witness()
        try:
            trainer(callback, root=tmp_path).fit(witness, prefetching(callback, workers))
        except PlacementError as error:
            assert re.search("seed.*PrefetchLoader|PrefetchLoader.*seed", str(error))  # noqa: PT017  # both are permitted
            assert not witness.batches
            return
        batches = witness.batches
        assert all(is_augmented(image) for batch, _ in batches for image in batch)
        order = torch.cat([labels for _, labels in batches]).reshape(2, -1).argsort(1)
        images.append(torch.cat([batch for batch, _ in batches]).reshape(2, -1, 3, 12, 10)[[[0], [1]], order])
    assert torch.equal(*images)


@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true:UserWarning")
def test_timms_prefetch_loader_without_a_seed(tmp_path):
    callback = AugMixCallback(**CERTAIN, inject=False)
    batches = fitted(tmp_path, prefetching(callback, 0), callback)
    assert all(is_augmented(image) for batch, _ in batches for image in batch)


class Around:
    """A loader that is none, around one."""

    def __init__(self, loader):
        self.loader = loader

    def __iter__(self):
        return iter(self.loader)


def test_an_iterable_around_a_loader_with_a_seed_works_or_is_told_of_it(tmp_path):
    callback = AugMixCallback(**CERTAIN, inject=False, seed=1)
    witness = Witness()
    data = Around(loaded(Dim(v1.Compose([callback.transform, v1.ToTensor()]))))
    try:
        trainer(callback, root=tmp_path).fit(witness, data)
    except PlacementError as error:
        assert re.search("seed.*Around|Around.*seed", str(error))  # noqa: PT017  # both are permitted
        assert not witness.batches
    else:
        assert all(is_augmented(image) for batch, _ in witness.batches for image in batch)


# ---- Datasets that make batches, with views -------------------------------------------------------------------------


class OfLists(Dim):
    def __getitem__(self, indices):
        return torch.stack([self.transform(dim_image(index)) for index in indices]), torch.tensor(indices)


class OfListsUint8(OfLists):
    def __init__(self):
        super().__init__(None)

    def __getitem__(self, indices):
        images = [v1.functional.pil_to_tensor(dim_image(index)) for index in indices]
        return torch.stack(images), torch.tensor(indices)


class OnlyBatched(Dataset):
    def __init__(self):
        self.transform = to_tensor()

    def __getitems__(self, indices):
        return [(self.transform(dim_image(index)), index) for index in indices]

    def __len__(self):
        return 6


OF_LISTS = {"sampler": BatchSampler(range(6), 3, drop_last=False), "batch_size": None}
BATCHED = {
    "lists of indices": (lambda: OfLists(to_tensor()), OF_LISTS),
    "lists of indices, uint8": (OfListsUint8, OF_LISTS),
    "a list of samples": (OnlyBatched, {"batch_size": 3}),
}


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("image_key", [None, 0])
@pytest.mark.parametrize("case", BATCHED)
def test_datasets_that_make_batches_have_views_or_are_refused_in_words_that_name_them(
    case, image_key, workers, tmp_path
):
    make, loading = BATCHED[case]
    clean = fitted(tmp_path, loaded(make(), workers=workers, **loading))
    callback, witness = AugMixCallback(**CERTAIN, views=2, image_key=image_key), Witness()
    try:
        trainer(callback, root=tmp_path).fit(witness, loaded(make(), workers=workers, **loading))
    except PlacementError as error:
        assert "views" in str(error)  # noqa: PT017  # both are permitted
        assert not witness.batches
    else:
        check_batches(witness.batches, clean, 0, 2)


# ---- Numbers of NumPy's ---------------------------------------------------------------------------------------------

NUMBERS = {
    "severity": np.float32(4),
    "width": np.int64(2),
    "depth": np.int32(-1),
    "alpha": np.float64(2),
    "views": np.int64(0),
    "some views": np.int64(1),
    "seed": np.uint32(1),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_checkpoints_with_numbers_of_numpy_load_and_resume(name, tmp_path):
    def fit(epochs, ckpt_path=None):
        saving = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
        callback = AugMixCallback(**{name.removeprefix("some "): NUMBERS[name]})
        run = trainer(callback, saving, root=tmp_path, max_epochs=epochs, enable_checkpointing=True)
        witness = Witness()
        run.fit(witness, loaded(Dim(to_tensor())), ckpt_path=ckpt_path)
        return witness.batches

    path = tmp_path / "epoch=0.ckpt"
    assert len(fit(1)) == 2
    [state] = [
        state
        for key, state in torch.load(path, weights_only=True)["callbacks"].items()
        if key.startswith("AugMixCallback")
    ]
    value = state[name.removeprefix("some ")]
    assert type(value) in (int, float)
    assert value == NUMBERS[name]
    assert len(fit(2, path)) == 2


# ---- A class that cannot be subclassed ------------------------------------------------------------------------------


class Final(type):
    def __new__(cls, name, bases, namespace):
        if any(isinstance(base, Final) for base in bases):
            raise RuntimeError(f"{bases[0].__name__} is final")
        return super().__new__(cls, name, bases, namespace)


class FinalDim(Dim, metaclass=Final):
    pass


def test_a_class_that_cannot_be_subclassed_is_augmented_or_refused(tmp_path):
    for arguments in ({}, {"image_key": 0}):
        with pytest.raises(PlacementError, match="FinalDim"):
            augment_dataset(FinalDim(to_tensor()), AugmentAndMixTransform(), **arguments)
    for arguments in ({}, {"image_key": 0}, {"inject": False}):
        witness = Witness()
        with pytest.raises(PlacementError, match="FinalDim"):
            trainer(AugMixCallback(**arguments), root=tmp_path).fit(witness, loaded(FinalDim(to_tensor())))
        assert not witness.batches


# ---- Callbacks beside ours ------------------------------------------------------------------------------------------


def test_two_callbacks_given_to_the_constructor_are_our_error(tmp_path):
    def fit():
        trainer(AugMixCallback(), AugMixCallback(2), root=tmp_path).fit(Witness(), loaded(Dim(to_tensor())))

    with pytest.raises(ValueError, match="Expected one AugMixCallback"):
        fit()


class Removing(pl.Callback):
    """Removes AugMix in mid-fit."""

    def __init__(self, hook):
        setattr(self, hook, self.remove)

    def remove(self, trainer, *_):
        trainer.callbacks = [callback for callback in trainer.callbacks if callback is self]


@pytest.mark.parametrize("hook", ["on_train_start", "on_train_epoch_start", "on_train_batch_end", "on_train_epoch_end"])
@pytest.mark.parametrize("settings", [{}, {"seed": 1}, {"views": 1}])
@pytest.mark.parametrize("is_before", [False, True])
def test_a_callback_that_is_removed_in_mid_fit_leaves_nothing_behind(hook, settings, is_before, tmp_path):
    callbacks = [Removing(hook), AugMixCallback(**CERTAIN, **settings)]
    run = trainer(*(callbacks if is_before else reversed(callbacks)), root=tmp_path, max_epochs=4)
    data, witness = loaded(Dim(to_tensor())), Witness()
    with pytest.warns(UserWarning, match="AugMix"):
        run.fit(witness, data)
    assert not is_patched(run)
    clean = fitted(tmp_path, loaded(Dim(to_tensor())), max_epochs=4)
    assert len(witness.batches) == len(clean) == 8
    assert same(witness.batches[-6:], clean[-6:])
    assert not any(is_augmented(image) for images, _ in run.train_dataloader for image in images)
    again = trainer(callbacks[1], root=tmp_path, max_epochs=1)
    batches = Witness()
    again.fit(batches, data)
    check_batches(batches.batches, clean[:2], 0, callbacks[1].views)


class Rude(pl.Callback):
    """Raises on an exception, so that the callbacks after it do not hear of that."""

    def on_train_batch_end(self, *_):
        raise RuntimeError("first")

    def on_exception(self, *_):
        raise RuntimeError("second")


@pytest.mark.parametrize("workers", [{}, pytest.param({"workers": 2}, marks=pytest.mark.slow)])
@pytest.mark.parametrize("settings", [{}, {"views": 2}, {"inject": False}])
def test_another_callback_that_raises_on_an_exception_leaves_nothing_wrapped(settings, workers, tmp_path):
    callback = AugMixCallback(**CERTAIN, **settings)
    keys = callback.transform.keys
    pipeline = to_tensor() if callback.inject else v1.Compose([callback.transform, v1.ToTensor()])
    run = trainer(Rude(), callback, root=tmp_path)
    with pytest.raises(RuntimeError, match="second"):
        run.fit(Witness(), loaded(Dim(pipeline), **workers))
    assert not is_patched(run)
    assert callback.transform.keys is keys
    if callback.inject:
        assert not any(is_augmented(image) for images, _ in run.train_dataloader for image in images)


class Copying(pl.Callback):
    """Copies its Trainer in a hook, and pickles it."""

    def __init__(self, hook, how):
        setattr(self, hook, self.act)
        self.how = how
        self.made = None

    def act(self, trainer, *_, **__):
        if self.made is None:
            self.made = "in work"
            self.made = COPIES[self.how](trainer)


COPIES = {"deepcopy": copy.deepcopy, "pickle": lambda run: pickle.loads(pickle.dumps(run))}
HOOKS = ["setup", "on_fit_start", "on_train_start", "on_train_epoch_end"]


@pytest.mark.filterwarnings("ignore:.*checkpoint:UserWarning")
@pytest.mark.parametrize("is_before", [False, True])
@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("how", COPIES)
def test_trainers_are_copied_during_a_fit_as_without(how, hook, is_before, tmp_path):
    def fit(*callbacks):
        copying = Copying(hook, how)
        callbacks = [copying, *callbacks] if is_before else [*callbacks, copying]
        witness = Witness()
        try:
            trainer(*callbacks, root=tmp_path).fit(witness, loaded(Dim(to_tensor())))
        except (TypeError, AttributeError, pickle.PicklingError) as error:
            return witness.batches, copying.made, type(error)
        return witness.batches, copying.made, None

    clean, _, expected = fit()
    batches, made, error = fit(AugMixCallback(**CERTAIN))
    assert error is expected
    if error is not None:
        return
    check_batches(batches, clean, 0)
    assert isinstance(made, pl.Trainer)
    if hook in HOOKS[:2]:
        witness = Witness()
        made.fit(witness, loaded(Dim(to_tensor())))
        check_batches(witness.batches, clean, 0)
        assert not is_patched(made)


# ---- Words ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("reload", [0, 1])
def test_an_insertion_into_a_shared_base_is_reported_once(reload, workers, tmp_path, caplog):
    base = Dim(to_tensor())
    data = ConcatDataset([Subset(base, [0, 1]), Subset(base, [2, 3]), base])
    with caplog.at_level(logging.INFO, logger=rank_zero.log.name):
        run = trainer(AugMixCallback(**CERTAIN), root=tmp_path, reload_dataloaders_every_n_epochs=reload)
        run.fit(ModuleOnly(), loader(data, workers))
    assert caplog.text.count("AugMix was inserted into") == 1


def test_two_bases_are_reported_each(tmp_path, caplog):
    data = ConcatDataset([Dim(to_tensor()), Dim(v1.ToTensor())])
    with caplog.at_level(logging.INFO, logger=rank_zero.log.name):
        trainer(AugMixCallback(**CERTAIN), root=tmp_path).fit(ModuleOnly(), loader(data))
    assert caplog.text.count("AugMix was inserted into") == 2


class Keyed(Dim):
    def __init__(self, *keys):
        super().__init__(to_tensor())
        self.keys = keys

    def __getitem__(self, index):
        return {**dict.fromkeys(self.keys, self.transform(dim_image(index))), "label": index}


@pytest.mark.parametrize(
    ("image_key", "meant"),
    [("image", "img"), ("Image", "image"), ("imgs", "img"), ("pixel_value", "pixel_values"), ("x", "image")],
)
def test_a_key_that_is_not_there_is_answered_with_the_one_that_was_meant(image_key, meant, tmp_path):
    with pytest.raises(PlacementError, match=rf"(?i)did you mean '{meant}'\?"):
        augment_dataset(Keyed(meant), AugmentAndMixTransform(), image_key=image_key)[0]
    witness = Witness()
    with pytest.raises(PlacementError, match=rf"(?i)did you mean '{meant}'\?"):
        trainer(AugMixCallback(image_key=image_key), root=tmp_path).fit(witness, DataLoader(Keyed(meant), 3))
    assert not witness.batches


def test_a_key_that_is_not_there_where_no_entry_is_an_image_is_answered_with_no_guess():
    class NoImage(Dim):
        def __getitem__(self, index):
            return {"label": index}

    with pytest.raises(PlacementError, match="image_key='image'") as error:
        augment_dataset(NoImage(None), AugmentAndMixTransform(), image_key="image")[0]
    assert "did you mean" not in str(error.value)
