"""The matrix: in every way to run a Trainer all training images are augmented, and no others."""

import gc
import itertools
import multiprocessing
import warnings
import weakref

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder
from lightning.pytorch.strategies import SingleDeviceStrategy
from lightning.pytorch.tuner import Tuner
from lightning.pytorch.utilities import CombinedLoader
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from kinds import Caching, Closure, Plain, Stream
from lightning_augmix import AugmentAndMixTransform, AugMixCallback
from lightning_augmix._errors import PlacementError
from toy import (
    CERTAIN,
    Data,
    Dim,
    Handles,
    Recorder,
    Scheduled,
    Several,
    digest,
    dim_image,
    is_augmented,
    loader,
    open_handle,
    to_tensor,
    trainer,
)

pytestmark = pytest.mark.usefixtures("on")

STAGES = ("train", "val", "test", "predict")
#: (workers, persistent)
WORKERS = [(0, False), pytest.param(2, False, marks=pytest.mark.slow), pytest.param(2, True, marks=pytest.mark.slow)]


def patched(run):
    return "process_dataloader" in vars(run.strategy) or "setup_data" in vars(run.fit_loop)


# ---- Sources --------------------------------------------------------------------------------------------------------


def sources(source, settings):
    """A module, and what to pass to the Trainer for each function, for a source of loaders."""
    data = Data(**settings)
    if source == "datamodule":
        return Recorder(), {stage: {"datamodule": data} for stage in STAGES}
    data.setup("fit")
    if source == "from_datasets":
        datasets = {"train_dataset": data.train, "val_dataset": data.val, "test_dataset": data.val}
        made = pl.LightningDataModule.from_datasets(
            **datasets, predict_dataset=data.train, batch_size=4, num_workers=settings["workers"]
        )
        return Recorder(), {stage: {"datamodule": made} for stage in STAGES}
    hooks = {stage: getattr(data, f"{stage}_dataloader") for stage in STAGES}
    if source == "module":
        return Recorder(hooks), {stage: {} for stage in STAGES}
    passed = {stage: {"dataloaders": hook()} for stage, hook in hooks.items()}
    passed["train"] = {"train_dataloaders": hooks["train"](), "val_dataloaders": hooks["val"]()}
    return Recorder(), passed


@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true:UserWarning")
@pytest.mark.parametrize(("workers", "persistent"), WORKERS)
@pytest.mark.parametrize("source", ["datamodule", "from_datasets", "module", "passed"])
def test_all_training_images_are_augmented_and_no_others(source, workers, persistent, tmp_path):
    module, passed = sources(source, {"workers": workers, "persistent_workers": persistent})
    run = trainer(AugMixCallback(**CERTAIN), root=tmp_path, max_epochs=3)
    run.fit(module, **passed["train"])
    run.validate(module, **passed["val"])
    run.test(module, **passed["test"])
    run.predict(module, **passed["predict"])
    assert module.fraction("train") == [1.0, 1.0, 1.0]
    for stage in ("val", "test", "predict"):
        assert set(module.fraction(stage)) == {0.0}
        assert module.seen[stage]


COLLECTIONS = {
    "list": lambda a, b, c: [a, b, c],
    "dictionary": lambda a, b, c: {"a": a, "b": b, "c": c},
    "nested": lambda a, b, c: {"a": [a, b], "c": (c,)},
    **{
        f"CombinedLoader, {mode}": lambda a, b, c, mode=mode: CombinedLoader({"a": [a, b], "c": c}, mode)
        for mode in ("min_size", "max_size", "max_size_cycle")
    },
}


@pytest.mark.parametrize(("workers", "persistent"), WORKERS)
@pytest.mark.parametrize("collection", COLLECTIONS)
def test_every_loader_of_several_is_augmented(collection, workers, persistent, tmp_path):
    settings = {"workers": workers, "persistent_workers": persistent}
    loaders = [loader(Dim(to_tensor(), length), **settings) for length in (4, 8, 5)]
    for seed in (None, 1):
        module = Several()
        run = trainer(AugMixCallback(**CERTAIN, seed=seed), root=tmp_path)
        run.fit(module, COLLECTIONS[collection](*loaders))
        assert module.fraction("train") == [1.0, 1.0]
        assert len(module.seen["train"]) >= 24
    assert not any(is_augmented(data.dataset[index][0]) for data in loaders for index in range(4))


def test_several_loaders_share_no_draws_with_a_seed(tmp_path):
    module = Several()
    loaders = [loader(Dim(to_tensor())), loader(Dim(to_tensor()))]
    trainer(AugMixCallback(10, seed=1), root=tmp_path).fit(module, loaders)
    assert len({image for _, _, _, image in module.seen["train"]}) == 24


def test_a_combination_that_lightning_refuses_leaves_nothing_behind(tmp_path):
    run = trainer(AugMixCallback(), root=tmp_path)
    with pytest.raises(ValueError, match="sequential"):
        run.fit(Several(), CombinedLoader([loader(Dim(to_tensor()))], "sequential"))
    assert not patched(run)


def test_the_users_combined_loader_has_its_loaders_back_after_the_fit(tmp_path):
    original = loader(Dim(to_tensor()))
    combined = CombinedLoader([original])
    module = Several()
    trainer(AugMixCallback(**CERTAIN), root=tmp_path).fit(module, combined)
    assert module.fraction("train") == [1.0, 1.0]
    assert combined.flattened[0] is original


@pytest.mark.refused_on_device
def test_a_combined_loader_that_the_user_keeps_is_augmented_once_with_every_reload(tmp_path):
    class Kept(Several):
        def __init__(self):
            super().__init__()
            self.kept = CombinedLoader([loader(Dim(to_tensor())), loader(Dim(None), collate_fn=tensors)])

        def train_dataloader(self):
            return self.kept

    module = Kept()
    run = trainer(AugMixCallback(**CERTAIN), root=tmp_path, max_epochs=3, reload_dataloaders_every_n_epochs=1)
    run.fit(module)
    assert module.fraction("train") == [1.0, 1.0, 1.0]
    assert not is_augmented(module.kept.flattened[0].dataset[0][0])


def tensors(samples):
    return torch.stack([to_tensor()(img) for img, _ in samples]), torch.tensor([index for _, index in samples])


class Batches:
    def __iter__(self):
        return iter([(torch.zeros(2, 3, 4, 5), torch.arange(2))])


@pytest.mark.parametrize("loaders", [Batches(), [loader(Dim(to_tensor())), Batches()]])
def test_an_iterable_that_is_no_loader_is_an_error(loaders, tmp_path):
    module = Several()
    run = trainer(AugMixCallback(), root=tmp_path)
    with pytest.raises(PlacementError, match=r"training loader of type Batches.*`inject=False`.*on_unsupported=\"warn"):
        run.fit(module, loaders)
    assert not module.seen["train"]
    assert not patched(run)


def test_an_iterable_that_is_no_loader_is_left_out_with_a_warning(tmp_path):
    module = Several()
    with pytest.warns(UserWarning, match="Training goes on without AugMix, at least in part.*Batches"):
        trainer(AugMixCallback(**CERTAIN, on_unsupported="warn"), root=tmp_path).fit(module, Batches())
    assert module.fraction("train") == [0.0, 0.0]
    module = Several()
    loaders = CombinedLoader([loader(Dim(to_tensor()), batch_size=2), Batches()], "min_size")
    with pytest.warns(UserWarning, match="at least in part"):
        trainer(AugMixCallback(**CERTAIN, on_unsupported="warn"), root=tmp_path).fit(module, loaders)
    assert module.fraction("train") == [0.5, 0.5]


@pytest.mark.parametrize("on", ["workers"], indirect=True)
def test_an_iterable_that_is_no_loader_with_the_transform_put_in_by_hand(tmp_path):
    class Pipeline:
        def __init__(self, transform):
            self.dataset = Dim(lambda img: to_tensor()(transform(img)))

        def __iter__(self):
            return iter(loader(self.dataset))

    module = Recorder()
    callback = AugMixCallback(**CERTAIN, inject=False)
    trainer(callback, root=tmp_path).fit(module, Pipeline(callback.transform))
    assert module.fraction("train") == [1.0, 1.0]
    with pytest.raises(PlacementError, match=r"`inject=False`.*put the object itself"):
        trainer(callback, root=tmp_path).fit(module, Pipeline(AugmentAndMixTransform()))


def test_iterable_datasets_are_augmented_and_refused_with_a_seed(tmp_path):
    module = Recorder()
    trainer(AugMixCallback(**CERTAIN), root=tmp_path).fit(module, loader(Stream(to_tensor())))
    assert module.fraction("train") == [1.0, 1.0]
    with pytest.raises(PlacementError, match=r"`seed=1`.*iterable.*Stream"):
        trainer(AugMixCallback(**CERTAIN, seed=1), root=tmp_path).fit(module, loader(Stream(to_tensor())))


# ---- Runs -----------------------------------------------------------------------------------------------------------

RUNS = {
    "no sanity check": {"num_sanity_val_steps": 0},
    "a whole sanity check": {"num_sanity_val_steps": -1},
    "loaders made anew": {"reload_dataloaders_every_n_epochs": 1, "max_epochs": 4},
    "loaders made anew at times": {"reload_dataloaders_every_n_epochs": 2, "max_epochs": 5},
    "overfit a batch": {"overfit_batches": 1},
    "overfit a part": {"overfit_batches": 0.5},
    "a limited number": {"limit_train_batches": 1},
    "a limited part": {"limit_train_batches": 0.5},
    "fast_dev_run": {"fast_dev_run": True},
    "accumulated": {"accumulate_grad_batches": 2},
    "steps": {"max_epochs": -1, "max_steps": 3},
    "validation within the epoch": {"val_check_interval": 1},
    "validation now and then": {"check_val_every_n_epoch": 2, "max_epochs": 3},
}


@pytest.mark.filterwarnings("ignore:You requested to overfit:UserWarning")
@pytest.mark.parametrize(
    ("make", "workers", "persistent"),
    [
        (Recorder, 0, False),
        (Scheduled, 0, False),
        pytest.param(Recorder, 2, False, marks=pytest.mark.slow),
        pytest.param(Scheduled, 2, True, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("settings", RUNS)
def test_every_way_to_run(settings, make, workers, persistent, tmp_path):
    module, data = make(), Data(workers=workers, persistent_workers=persistent, batch_size=2)
    run = trainer(AugMixCallback(**CERTAIN), root=tmp_path, **RUNS[settings])
    run.fit(module, datamodule=data)
    assert not patched(run)
    assert set(module.fraction("train")) == {1.0}
    assert set(module.fraction("val")) <= {0.0}
    module.seen = {stage: [] for stage in STAGES}
    run.validate(module, dataloaders=run.train_dataloader)
    for function in (run.test, run.predict):
        function(module, dataloaders=loader(data.train, workers))
    for stage in ("val", "test", "predict"):
        assert set(module.fraction(stage)) == {0.0}


@pytest.mark.parametrize("settings", [{"max_epochs": 0}, {"limit_train_batches": 0}])
def test_no_training_at_all(settings, tmp_path):
    module = Recorder()
    run = trainer(AugMixCallback(**CERTAIN), root=tmp_path, **settings)
    run.fit(module, datamodule=Data())
    assert not patched(run)
    run.validate(module, datamodule=Data())
    assert not module.seen["train"]
    assert set(module.fraction("val")) == {0.0}


class Tunable(Recorder):
    def __init__(self):
        super().__init__()
        self.batch_size = 2
        self.lr = 0.1


TUNERS = {
    "BatchSizeFinder": lambda: BatchSizeFinder(steps_per_trial=1, max_trials=2, init_val=2),
    "LearningRateFinder": lambda: LearningRateFinder(num_training_steps=4),
    "Tuner.lr_find": lambda run, module, data: Tuner(run).lr_find(module, datamodule=data, num_training=4),
    "Tuner.scale_batch_size": lambda run, module, data: Tuner(run).scale_batch_size(
        module, datamodule=data, steps_per_trial=1, max_trials=2, init_val=2
    ),
}


@pytest.mark.filterwarnings("ignore:.*batch size|.*cleared|.*num_training")
@pytest.mark.parametrize("tuner", TUNERS)
@pytest.mark.parametrize(("workers", "persistent"), WORKERS)
def test_tuners(tuner, workers, persistent, tmp_path):
    module, data = Tunable(), Data(workers=workers, persistent_workers=persistent)
    finder = [TUNERS[tuner]()] if tuner.endswith("Finder") else []
    run = trainer(*finder, AugMixCallback(**CERTAIN), root=tmp_path, enable_checkpointing=True)
    if not finder:
        TUNERS[tuner](run, module, data)
        assert set(module.fraction("train")) == {1.0}
        assert not patched(run)
    run.fit(module, datamodule=data)
    assert not patched(run)
    assert len(module.seen["train"]) >= 16
    assert set(module.fraction("train")) == {1.0}
    assert set(module.fraction("val")) == {0.0}


def test_loaders_made_before_the_callback_could_act(tmp_path):
    class Early(pl.Callback):
        def setup(self, trainer, pl_module, stage):
            assert trainer.estimated_stepping_batches

    module = Recorder()
    with pytest.raises(PlacementError, match=r"made before AugMix.*configure_optimizers"):
        trainer(Early(), AugMixCallback(**CERTAIN), root=tmp_path).fit(module, datamodule=Data())
    assert not module.seen["train"]
    with pytest.warns(UserWarning, match=r"without AugMix.*made before AugMix"):
        trainer(Early(), AugMixCallback(**CERTAIN, on_unsupported="warn"), root=tmp_path).fit(module, datamodule=Data())
    assert module.fraction("train") == [0.0, 0.0]


class Fetching(Recorder):
    def training_step(self, dataloader_iter):
        batch, _, _ = next(dataloader_iter)
        self.record("train", batch)
        return self.layer(batch[0].new_ones(1, 1)).sum()


@pytest.mark.parametrize("on", ["workers"], indirect=True)
@pytest.mark.parametrize("batch_size", [3, 6])
@pytest.mark.filterwarnings("ignore:.*dataloader_iter")
def test_steps_that_fetch_their_batches(batch_size, tmp_path):
    for settings in (CERTAIN, {"severity": 10, "seed": 1}):
        module = Fetching()
        run = trainer(AugMixCallback(**settings), root=tmp_path)
        run.fit(module, loader(Dim(to_tensor()), batch_size=batch_size))
        assert len(module.images()) == 12
        if settings is CERTAIN:
            assert module.fraction("train") == [1.0, 1.0]
        else:
            assert len(set(module.images().values())) == 12
    with pytest.raises(PlacementError, match="made without it"):
        trainer(AugMixCallback(), root=tmp_path).fit(Fetching(), loader(Closure(to_tensor()), batch_size=batch_size))


def test_two_fits_of_one_trainer(tmp_path):
    module, data = Recorder(), Data()
    run = trainer(AugMixCallback(**CERTAIN), root=tmp_path, max_epochs=1)
    run.fit(module, datamodule=data)
    run.fit_loop.max_epochs = 3
    run.fit(module, datamodule=data)
    assert module.fraction("train") == [1.0, 1.0, 1.0]


def test_one_callback_in_two_trainers_one_after_the_other(tmp_path):
    callback = AugMixCallback(**CERTAIN)
    runs = [trainer(callback, root=tmp_path) for _ in range(2)]
    for run in (*runs, runs[0]):
        run.fit_loop.max_epochs += 1
        module = Recorder()
        run.fit(module, datamodule=Data())
        assert set(module.fraction("train")) == {1.0}


def test_one_callback_in_two_trainers_at_once_is_an_error(tmp_path):
    callback = AugMixCallback(**CERTAIN)

    class Within(pl.Callback):
        def on_train_batch_end(self, *_):
            trainer(callback, root=tmp_path).fit(Recorder(), datamodule=Data())

    with pytest.raises(RuntimeError, match="another Trainer uses it"):
        trainer(callback, Within(), root=tmp_path).fit(Recorder(), datamodule=Data())


def test_a_callback_that_comes_too_late_is_an_error(tmp_path):
    class Late(pl.Callback):
        def on_fit_start(self, trainer, pl_module):
            trainer.callbacks.append(AugMixCallback())

    module = Recorder()
    with pytest.raises(RuntimeError, match="added after `setup`"):
        trainer(Late(), root=tmp_path).fit(module, datamodule=Data())
    assert not module.seen["train"]


# ---- Workers --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("context", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize(("persistent", "reload", "prefetch"), [(False, 0, 1), (True, 0, 4), (True, 1, 2)])
def test_every_way_to_start_workers(context, persistent, reload, prefetch, tmp_path):
    module = Recorder()
    data = loader(
        Dim(to_tensor()), 1, persistent_workers=persistent, prefetch_factor=prefetch, multiprocessing_context=context
    )
    run = trainer(AugMixCallback(**CERTAIN), root=tmp_path, reload_dataloaders_every_n_epochs=reload)
    run.fit(module, data, loader(Dim(to_tensor())))
    assert module.fraction("train") == [1.0, 1.0]
    assert set(module.fraction("val")) == {0.0}


@pytest.mark.slow
def test_a_loader_whose_persistent_workers_are_alive(tmp_path):
    module = Recorder()
    data = loader(Dim(to_tensor()), 1, persistent_workers=True)
    next(iter(data))
    trainer(AugMixCallback(**CERTAIN), root=tmp_path).fit(module, data)
    assert module.fraction("train") == [1.0, 1.0]
    assert not any(is_augmented(img) for images, _ in data for img in images)


@pytest.mark.slow
@pytest.mark.parametrize("persistent", [False, True])
def test_no_worker_process_outlives_its_loader(persistent, tmp_path):
    alive = []

    class Count(pl.Callback):
        def on_train_batch_end(self, *_):
            alive.append(len(multiprocessing.active_children()))

    gc.collect()
    before = len(multiprocessing.active_children())
    settings = {"max_epochs": 5, "reload_dataloaders_every_n_epochs": 1, "limit_val_batches": 0}
    run = trainer(AugMixCallback(), Count(), root=tmp_path, **settings)
    run.fit(Recorder(), datamodule=Data(workers=2, persistent_workers=persistent))
    assert max(alive) <= before + 2
    if persistent:
        assert min(alive) == before + 2
    del run
    gc.collect()
    assert len(multiprocessing.active_children()) <= before


def test_datasets_of_replaced_loaders_are_let_go(tmp_path):
    made = weakref.WeakSet()
    alive = []

    class Fresh(Data):
        def train_dataloader(self):
            dataset = Dim(to_tensor(), 8)
            made.add(dataset)
            return loader(dataset)

    class Count(pl.Callback):
        def on_train_batch_end(self, *_):
            gc.collect()
            alive.append(len(made))

    run = trainer(AugMixCallback(), Count(), root=tmp_path, max_epochs=6, reload_dataloaders_every_n_epochs=1)
    run.fit(Recorder(), datamodule=Fresh())
    assert max(alive) <= 2


@pytest.mark.slow
@pytest.mark.parametrize("seed", [None, 1])
@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_the_users_worker_init_fn_finds_the_dataset(seed, context, tmp_path):
    module = Recorder()
    data = loader(Handles(to_tensor()), 1, worker_init_fn=open_handle, multiprocessing_context=context)
    trainer(AugMixCallback(**CERTAIN, seed=seed), root=tmp_path, max_epochs=1).fit(module, data)
    assert module.fraction("train") == [1.0]


# ---- What looks augmented and is not --------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_dataset_that_does_not_call_its_transform_is_an_error_at_the_first_batch(workers, tmp_path):
    module = Recorder()
    with pytest.raises(PlacementError, match="a sample was made without it"):
        trainer(AugMixCallback(), root=tmp_path).fit(module, loader(Closure(to_tensor()), workers))
    assert not module.seen["train"]


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_cache_of_transformed_samples_is_an_error_in_the_second_epoch(workers, tmp_path):
    data = loader(Caching(to_tensor()), workers, persistent_workers=workers > 0)
    with pytest.raises(PlacementError, match="a cache of transformed samples"):
        trainer(AugMixCallback(), root=tmp_path).fit(Recorder(), data)


class Bypassing(DataLoader):
    """Makes its batches without asking its dataset."""

    def __iter__(self):
        return iter([(torch.zeros(2, 3, 4, 5), torch.arange(2))])


def test_a_loader_that_does_not_ask_its_dataset_is_an_error_at_the_first_batch(tmp_path):
    module = Recorder()
    with pytest.raises(PlacementError, match="the loader does not take its samples"):
        trainer(AugMixCallback(), root=tmp_path).fit(module, Bypassing(Dim(to_tensor())))
    assert not module.seen["train"]


def test_a_loader_among_several_that_does_not_ask_its_dataset_is_an_error(tmp_path):
    module = Several()
    run = trainer(AugMixCallback(), root=tmp_path)
    with pytest.raises(PlacementError, match="the loader does not take its samples"):
        run.fit(module, [loader(Dim(to_tensor())), Bypassing(Dim(to_tensor()))])
    assert not module.seen["train"]


class Forever(torch.utils.data.Sampler):
    def __iter__(self):
        return itertools.cycle(range(6))


def test_a_sampler_without_a_length_is_refused_with_a_seed(tmp_path):
    data = loader(Dim(to_tensor()), sampler=Forever())
    with pytest.raises(PlacementError, match=r"`seed=1`.*the sampler \(Forever\) has no length"):
        trainer(AugMixCallback(seed=1), root=tmp_path, max_steps=9).fit(Recorder(), data)
    module = Recorder()
    trainer(AugMixCallback(**CERTAIN), root=tmp_path, max_steps=9, max_epochs=-1).fit(module, data)
    assert module.fraction("train") == [1.0]


class Keeping(DataLoader):
    """Keeps the batches of the first epoch."""

    def __iter__(self):
        self.batches = getattr(self, "batches", None) or list(super().__iter__())
        return iter(self.batches)


def test_a_loader_that_keeps_its_batches_is_an_error_in_the_third_epoch_at_the_latest(tmp_path):
    module = Recorder()
    with pytest.raises(PlacementError, match="the loader does not take its samples"):
        trainer(AugMixCallback(), root=tmp_path, max_epochs=5).fit(module, Keeping(Dim(to_tensor()), batch_size=2))
    assert len(module.fraction("train")) <= 2


@pytest.mark.parametrize("on", ["workers"], indirect=True)
@pytest.mark.filterwarnings("ignore:Training goes on without AugMix")
def test_what_cannot_be_augmented_is_left_out_with_a_warning(tmp_path):
    for data in (Closure(to_tensor()), Plain(lambda img, index: (to_tensor()(img), index))):
        module = Recorder()
        with pytest.warns(UserWarning, match="AugMix was not applied"):
            trainer(AugMixCallback(**CERTAIN, on_unsupported="warn"), root=tmp_path).fit(module, loader(data))
        assert module.fraction("train") == [0.0, 0.0]


class Overshooting(Dataset):
    """Images of floats, of which one has a level that AugMix does not take."""

    def __init__(self, inserted):
        self.transform = transforms.Compose([transforms.Normalize(0.0, 1.0)]) if inserted else None

    def __getitem__(self, index):
        img = transforms.functional.to_tensor(dim_image(index))
        img[:, 0, 0] = 9.0 if index == 5 else img[:, 0, 0]
        return (img if self.transform is None else self.transform(img)), index

    def __len__(self):
        return 8


@pytest.mark.parametrize("on", ["workers"], indirect=True)
@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("inserted", [True, False])
def test_an_image_in_mid_fit_that_augmix_does_not_take_ends_the_fit_or_stays_clean(inserted, workers, tmp_path):
    where = {} if inserted else {"image_key": 0}
    data = loader(Overshooting(inserted), workers)
    with pytest.raises(ValueError, match=r"values in \[0\.39\d*, 9\]"):
        trainer(AugMixCallback(**CERTAIN, **where), root=tmp_path).fit(Recorder(), data)
    module = Recorder()
    callback = AugMixCallback(**CERTAIN, **where, on_unsupported="warn")
    with warnings.catch_warnings(record=True) as caught:
        warnings.filterwarnings("always", "AugMix was not applied: .* values in")
        trainer(callback, root=tmp_path, max_epochs=1).fit(module, data)
    assert caught or workers  # which warn themselves
    clean = {index: digest(Overshooting(inserted)[index][0].numpy()) for index in range(8)}
    assert {index for (_, index), image in module.images().items() if image == clean[index]} == {5}


# ---- Nothing of the user's is changed -------------------------------------------------------------------------------


def test_nothing_of_the_users_is_changed_and_everything_is_undone(tmp_path):
    class Keep(pl.Callback):
        def on_train_start(self, trainer, pl_module):
            self.loader = trainer.train_dataloader

    data, module, keep = Data(), Recorder(), Keep()
    pipeline, steps = data.dataset.transform, list(data.dataset.transform.transforms)
    run = trainer(AugMixCallback(**CERTAIN), keep, root=tmp_path)
    run.fit(module, datamodule=data)
    assert not any(is_augmented(img) for images, _ in keep.loader for img in images)
    assert data.dataset.transform is pipeline
    assert pipeline.transforms == steps
    assert data.train.dataset is data.dataset
    assert not patched(run)
    run.validate(module, dataloaders=run.train_dataloader, verbose=False)
    assert set(module.fraction("val")) == {0.0}


def test_the_injected_copy_can_be_inspected_during_the_fit(tmp_path):
    class Inspect(pl.Callback):
        def on_train_batch_start(self, trainer, *_):
            self.pipeline = trainer.train_dataloader.dataset.dataset.transform

    for seed in (None, 1):
        inspect = Inspect()
        trainer(AugMixCallback(2, seed=seed), inspect, root=tmp_path).fit(Recorder(), datamodule=Data())
        step = inspect.pipeline.transforms[0]
        assert isinstance(step, AugmentAndMixTransform)
        assert step.hyperparameters.severity == 2


@pytest.mark.parametrize("error", [RuntimeError("in the middle"), KeyboardInterrupt()])
@pytest.mark.parametrize(("workers", "persistent"), WORKERS)
def test_everything_is_undone_on_exceptions_and_a_second_fit_works(error, workers, persistent, tmp_path):
    class Failing(Recorder):
        def training_step(self, batch, batch_idx):
            if self.current_epoch == 1 and batch_idx == 1 and error is not None:
                raise error
            return super().training_step(batch, batch_idx)

    module, data = Failing(), Data(workers=workers, persistent_workers=persistent)
    run = trainer(AugMixCallback(**CERTAIN), root=tmp_path, max_epochs=3)
    with pytest.raises((RuntimeError, SystemExit)):
        run.fit(module, datamodule=data)
    assert not patched(run)
    assert module.fraction("train") == [1.0, 1.0]
    run.validate(module, dataloaders=run.train_dataloader, verbose=False)
    assert set(module.fraction("val")) == {0.0}
    error, module.seen["train"] = None, []
    run = trainer(run.callbacks[0], root=tmp_path, max_epochs=2)
    run.fit(module, datamodule=data)
    assert module.fraction("train") == [1.0, 1.0]


def test_a_fit_that_ended_without_a_word_is_undone_at_the_next(tmp_path):
    class Rude(pl.Callback):
        def on_train_start(self, *_):
            raise RuntimeError("first")

        def on_exception(self, *_):
            raise RuntimeError("second")

    augmix = AugMixCallback(**CERTAIN)
    run = trainer(Rude(), augmix, root=tmp_path)
    with pytest.raises(RuntimeError, match="second"):
        run.fit(Recorder(), datamodule=Data())
    module = Recorder()
    trainer(augmix, root=tmp_path).fit(module, datamodule=Data())
    assert not patched(run)
    assert module.fraction("train") == [1.0, 1.0]


def test_a_strategy_that_was_wrapped_before_is_wrapped_after(tmp_path):
    run = trainer(AugMixCallback(**CERTAIN), root=tmp_path)
    calls = []
    own = run.strategy.process_dataloader
    run.strategy.process_dataloader = wrapped = lambda dataloader: calls.append(dataloader) or own(dataloader)
    module = Recorder()
    run.fit(module, datamodule=Data())
    assert module.fraction("train") == [1.0, 1.0]
    assert run.strategy.process_dataloader is wrapped
    assert calls


def test_who_wraps_what_was_wrapped_and_puts_it_back_later_finds_it_undone(tmp_path):
    run = trainer(AugMixCallback(**CERTAIN), root=tmp_path, max_epochs=1)

    class Wrapping(pl.Callback):
        def setup(self, trainer, pl_module, stage):
            if not hasattr(self, "before"):
                self.before = trainer.fit_loop.setup_data
                trainer.fit_loop.setup_data = lambda: self.before()

    wrapping = Wrapping()
    run.callbacks.append(wrapping)
    run.fit(Recorder(), datamodule=Data())
    run.fit_loop.setup_data = wrapping.before
    run.callbacks = [wrapping]
    run.fit_loop.max_epochs = 2
    module = Recorder()
    run.fit(module, datamodule=Data())
    assert set(module.fraction("train")) == {0.0}


class WrappedLoader:
    """What strategies for other devices hand to the loop."""

    def __init__(self, loader):
        self.loader = loader
        self.dataset = loader.dataset

    def __iter__(self):
        return iter(self.loader)

    def __len__(self):
        return len(self.loader)


class WrappingStrategy(SingleDeviceStrategy):
    def process_dataloader(self, dataloader):
        return WrappedLoader(dataloader)


def test_strategies_that_wrap_loaders(tmp_path):
    module = Recorder()
    run = trainer(AugMixCallback(**CERTAIN), root=tmp_path, strategy=WrappingStrategy(torch.device("cpu")))
    run.fit(module, datamodule=Data())
    assert module.fraction("train") == [1.0, 1.0]
    assert set(module.fraction("val")) == {0.0}
    run.validate(module, dataloaders=run.train_dataloader, verbose=False)
    assert set(module.fraction("val")) == {0.0}


def test_the_loader_type_of_the_user_is_kept(tmp_path):
    class Mine(DataLoader):
        pass

    class Check(pl.Callback):
        def on_train_batch_start(self, trainer, *_):
            assert type(trainer.train_dataloader) is Mine

    trainer(AugMixCallback(), Check(), root=tmp_path).fit(Recorder(), Mine(Dim(to_tensor()), batch_size=2))


# ---- What the mechanism relies on -----------------------------------------------------------------------------------


@pytest.mark.parametrize("reload", [0, 1])
def test_lightning_calls_in_the_order_that_the_callback_relies_on(reload, tmp_path):
    """If a new Lightning calls otherwise, the reasoning in the docstring of callback.py has to be redone."""
    order = []

    def tell(owner, name, label=None):
        method = getattr(owner, name)

        def telling(*args, **kwargs):
            order.append(label or name)
            return method(*args, **kwargs)

        setattr(owner, name, telling)

    class Iterated(DataLoader):
        def __iter__(self):
            order.append("iter")
            return super().__iter__()

    class Module(Recorder):
        def train_dataloader(self):
            order.append("train_dataloader")
            return Iterated(Dim(to_tensor()), batch_size=6)

        def training_step(self, batch, batch_idx):
            order.append("step")
            return super().training_step(batch, batch_idx)

    class Hooks(pl.Callback):
        def setup(self, trainer, pl_module, stage):
            order.append("setup")
            tell(trainer.strategy, "process_dataloader")

        def on_fit_start(self, *_):
            order.append("on_fit_start")

        def on_train_start(self, *_):
            order.append("on_train_start")

        def on_train_epoch_start(self, *_):
            order.append("on_train_epoch_start")

        def on_train_batch_start(self, *_):
            order.append("on_train_batch_start")

        def teardown(self, trainer, pl_module, stage):
            order.append("teardown")

    run = trainer(Hooks(), root=tmp_path, reload_dataloaders_every_n_epochs=reload)
    run.fit(Module())
    made = ["train_dataloader", "process_dataloader", "iter"]
    epoch = ["on_train_epoch_start", "on_train_batch_start", "step"]
    again = ["on_train_epoch_start", "iter", "on_train_batch_start", "step"]
    second = [*made, *again] if reload else again
    assert order == ["setup", "on_fit_start", *made, "on_train_start", *epoch, *second, "teardown"]
