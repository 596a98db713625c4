import gc
import json
import logging
import subprocess
import sys
import weakref
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import CombinedLoader
from lightning_utilities.core import rank_zero
from torch.utils.data import DataLoader, IterableDataset, Subset, random_split
from torchvision import transforms

from kinds import Caching, Closure
from lightning_augmix import AugmentAndMixTransform, AugMixCallback
from lightning_augmix.pipeline import PlacementError
from toy import CERTAIN, Dim, Handles, Recorder, is_augmented, loader, open_handle, to_tensor, trainer

STAGES = ("train", "val", "test", "predict")
#: (workers, persistent)
WORKERS = [(0, False), pytest.param(2, False, marks=pytest.mark.slow), pytest.param(2, True, marks=pytest.mark.slow)]


def patched(run):
    return "process_dataloader" in vars(run.strategy) or "setup_data" in vars(run.fit_loop)


class Data(pl.LightningDataModule):
    """Train and validation parts of one dataset, as people write it; all four stages share the dataset."""

    def __init__(self, **settings):
        super().__init__()
        self.settings = settings
        self.dataset = Dim(to_tensor(), length=12)

    def setup(self, stage):
        self.train, self.val = random_split(self.dataset, [8, 4], torch.Generator().manual_seed(0))

    def train_dataloader(self):
        return loader(self.train, shuffle=True, **self.settings)

    def val_dataloader(self):
        return loader(self.val, **self.settings)

    test_dataloader = val_dataloader

    def predict_dataloader(self):
        return loader(self.train, **self.settings)


class Scheduled(Recorder):
    """Has its loaders made in `configure_optimizers`, before the loops know what a checkpoint says."""

    def configure_optimizers(self):
        assert self.trainer.estimated_stepping_batches
        return super().configure_optimizers()


def sources(source, settings):
    """A module, and what to pass to the Trainer for each function, for a source of loaders."""
    data = Data(**settings)
    if source == "datamodule":
        return Recorder(), {stage: {"datamodule": data} for stage in STAGES}
    data.setup("fit")
    hooks = {stage: getattr(data, f"{stage}_dataloader") for stage in STAGES}
    if source == "module":
        return Recorder(hooks), {stage: {} for stage in STAGES}
    passed = {stage: {"dataloaders": hook()} for stage, hook in hooks.items()}
    passed["train"] = {"train_dataloaders": hooks["train"](), "val_dataloaders": hooks["val"]()}
    return Recorder(), passed


@pytest.mark.parametrize(("workers", "persistent"), WORKERS)
@pytest.mark.parametrize("source", ["datamodule", "module", "passed"])
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


@pytest.mark.parametrize(
    "wrap", [lambda a, b: [a, b], lambda a, b: {"a": a, "b": b}, lambda a, b: CombinedLoader([a, b])]
)
def test_every_loader_of_several_is_augmented(wrap, tmp_path):
    class Several(Recorder):
        def training_step(self, batch, batch_idx):
            for part in batch.values() if isinstance(batch, dict) else batch:
                if part is not None:
                    self.record("train", part)
            return self.layer(torch.ones(1, 1)).sum()

    module = Several()
    loaders = wrap(loader(Dim(to_tensor(), 4)), loader(Dim(to_tensor(), 8)))
    trainer(AugMixCallback(**CERTAIN), root=tmp_path).fit(module, loaders)
    assert module.fraction("train") == [1.0, 1.0]


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
def test_everything_is_undone_on_exceptions_and_a_second_fit_works(error, tmp_path):
    class Failing(Recorder):
        def training_step(self, batch, batch_idx):
            if self.current_epoch == 1 and error is not None:
                raise error
            return super().training_step(batch, batch_idx)

    module, data = Failing(), Data()
    run = trainer(AugMixCallback(**CERTAIN), root=tmp_path, max_epochs=3)
    with pytest.raises((RuntimeError, SystemExit)):
        run.fit(module, datamodule=data)
    assert not patched(run)
    assert set(module.fraction("train")) == {1.0}
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


def test_two_fits_of_one_trainer(tmp_path):
    module, data = Recorder(), Data()
    run = trainer(AugMixCallback(**CERTAIN), root=tmp_path, max_epochs=1)
    run.fit(module, datamodule=data)
    run.fit_loop.max_epochs = 3
    run.fit(module, datamodule=data)
    assert module.fraction("train") == [1.0, 1.0, 1.0]


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


@pytest.mark.parametrize("reload", [1, 2])
def test_reloaded_loaders_are_augmented(reload, tmp_path):
    module = Recorder()
    run = trainer(AugMixCallback(**CERTAIN), root=tmp_path, max_epochs=4, reload_dataloaders_every_n_epochs=reload)
    run.fit(module, datamodule=Data())
    assert module.fraction("train") == [1.0] * 4
    assert set(module.fraction("val")) == {0.0}


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


def test_loaders_made_in_configure_optimizers_are_augmented(tmp_path):
    module = Scheduled()
    trainer(AugMixCallback(**CERTAIN), root=tmp_path).fit(module, datamodule=Data())
    assert module.fraction("train") == [1.0, 1.0]


def test_loaders_made_before_the_callback_could_act_are_an_error(tmp_path):
    class Early(pl.Callback):
        def setup(self, trainer, pl_module, stage):
            assert trainer.estimated_stepping_batches

    module = Recorder()
    with pytest.raises(PlacementError, match=r"made before AugMix.*configure_optimizers"):
        trainer(Early(), AugMixCallback(**CERTAIN), root=tmp_path).fit(module, datamodule=Data())
    assert not module.seen["train"]


class Tunable(Recorder):
    def __init__(self):
        super().__init__()
        self.batch_size = 2
        self.lr = 0.1


@pytest.mark.filterwarnings("ignore:.*batch size")
@pytest.mark.filterwarnings("ignore:.*cleared|.*num_training")
@pytest.mark.parametrize(
    "finder",
    [
        lambda: BatchSizeFinder(steps_per_trial=1, max_trials=2, init_val=2),
        lambda: LearningRateFinder(num_training_steps=4),
    ],
)
def test_finders_leave_validation_clean_and_training_augmented(finder, tmp_path):
    module = Tunable()
    run = trainer(finder(), AugMixCallback(**CERTAIN), root=tmp_path, enable_checkpointing=True)
    run.fit(module, datamodule=Data())
    assert set(module.fraction("train")) == {1.0}
    assert set(module.fraction("val")) == {0.0}


class Fetching(Recorder):
    def training_step(self, dataloader_iter):
        batch, _, _ = next(dataloader_iter)
        self.record("train", batch)
        return self.layer(batch[0].new_ones(1, 1)).sum()


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


def test_the_users_combined_loader_has_its_loaders_back_after_the_fit(tmp_path):
    original = loader(Dim(to_tensor()))
    combined = CombinedLoader([original])

    class Listed(Recorder):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch[0], batch_idx)

    module = Listed()
    trainer(AugMixCallback(**CERTAIN), root=tmp_path).fit(module, combined)
    assert module.fraction("train") == [1.0, 1.0]
    assert combined.flattened[0] is original


@pytest.mark.slow
@pytest.mark.parametrize("seed", [None, 1])
@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_the_users_worker_init_fn_finds_the_dataset(seed, context, tmp_path):
    module = Recorder()
    data = loader(Handles(to_tensor()), 1, worker_init_fn=open_handle, multiprocessing_context=context)
    trainer(AugMixCallback(**CERTAIN, seed=seed), root=tmp_path, max_epochs=1).fit(module, data)
    assert module.fraction("train") == [1.0]


def test_a_cache_of_transformed_samples_is_an_error_in_the_second_epoch(tmp_path):
    with pytest.raises(PlacementError, match="a cache of transformed samples"):
        trainer(AugMixCallback(), root=tmp_path).fit(Recorder(), loader(Caching(to_tensor())))


def test_two_callbacks_are_an_error(tmp_path):
    with pytest.raises(RuntimeError, match="more than one stateful callback of type `AugMixCallback`"):
        trainer(AugMixCallback(), AugMixCallback(), root=tmp_path)
    run = trainer(AugMixCallback(), root=tmp_path)
    run.callbacks.append(AugMixCallback())
    with pytest.raises(ValueError, match="Expected one AugMixCallback"):
        run.fit(Recorder(), datamodule=Data())


def test_an_opaque_pipeline_is_an_error_before_the_first_batch(tmp_path):
    data, module = Data(), Recorder()
    data.dataset.transform = lambda img: transforms.functional.to_tensor(img)
    run = trainer(AugMixCallback(), root=tmp_path)
    with pytest.raises(
        PlacementError, match=r"(?s)AugMix was not applied.*Subset\n    Dim\.transform: <function.*Write instead"
    ):
        run.fit(module, datamodule=data)
    assert not module.seen["train"]
    assert not patched(run)


def test_an_iterable_that_is_no_loader_is_an_error(tmp_path):
    with pytest.raises(PlacementError, match="training loader of type Batches"):
        trainer(AugMixCallback(), root=tmp_path).fit(Recorder(), Batches())


class Batches:
    def __iter__(self):
        return iter([(torch.zeros(2, 3, 4, 5), torch.arange(2))])


def test_a_dataset_that_does_not_call_its_transform_is_an_error_at_the_first_batch(tmp_path):
    module = Recorder()
    with pytest.raises(PlacementError, match="a sample was made without it"):
        trainer(AugMixCallback(), root=tmp_path).fit(module, loader(Closure(to_tensor())))
    assert not module.seen["train"]


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


def test_hyperparameters_go_to_the_logger(tmp_path):
    logger = CSVLogger(tmp_path)
    trainer(
        AugMixCallback(2, augmentation_set=["rotate"], seed=5), root=tmp_path, logger=logger, log_every_n_steps=1
    ).fit(Recorder(), datamodule=Data())
    assert logger.experiment.hparams["augmix"] == {
        "severity": 2.0,
        "width": 3,
        "depth": -1,
        "alpha": 1.0,
        "augmentation_set": ["rotate"],
        "engine": "auto",
        "seed": 5,
    }


@pytest.mark.parametrize("name", ["severity", "width", "depth", "alpha", "augmentation_set", "engine", "seed"])
def test_every_argument_is_validated_at_construction(name):
    with pytest.raises((TypeError, ValueError), match=f"argument `{name}`"):
        AugMixCallback(**{name: 1.5 if name == "seed" else -7})


# ---- Seeds ----------------------------------------------------------------------------------------------------------


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


class Stream(IterableDataset):
    def __init__(self):
        self.transform = to_tensor()

    def __iter__(self):
        return iter([Dim(self.transform)[index] for index in range(6)])


def test_iterable_datasets_are_augmented_and_refused_with_a_seed(tmp_path):
    module = Recorder()
    trainer(AugMixCallback(**CERTAIN), root=tmp_path).fit(module, loader(Stream()))
    assert module.fraction("train") == [1.0, 1.0]
    with pytest.raises(PlacementError, match=r"`seed=1`.*iterable.*Stream"):
        trainer(AugMixCallback(**CERTAIN, seed=1), root=tmp_path).fit(module, loader(Stream()))


DDP = """
import json, sys, warnings
warnings.simplefilter("ignore")
sys.path.insert(0, sys.argv[1])
from lightning_augmix import AugMixCallback
from toy import Dim, Recorder, loader, to_tensor, trainer
import lightning.pytorch as pl
from torch.utils.data import Subset

class Saved(Recorder):
    def on_train_end(self):
        path = f"{sys.argv[2]}/rank{self.global_rank}.json"
        json.dump([[epoch, index, image] for epoch, index, _, image in self.seen["train"]], open(path, "w"))

if __name__ == "__main__":
    seed = json.loads(sys.argv[3])
    pl.seed_everything(0)
    run = trainer(AugMixCallback(severity=10, seed=seed), root=sys.argv[2], devices=2, strategy=sys.argv[4])
    data = Subset(Dim(to_tensor(), 8), json.loads(sys.argv[5]))
    run.fit(Saved(), loader(data, batch_size=2, shuffle=True))
"""


def ddp_images(tmp_path, seed, strategy, indices):
    program = tmp_path / "program.py"
    program.write_text(DDP)
    command = [
        sys.executable,
        program,
        Path(__file__).parent,
        tmp_path,
        json.dumps(seed),
        strategy,
        json.dumps(indices),
    ]
    subprocess.run(command, check=True, timeout=300)
    return [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "ddp_spawn"])
def test_two_ranks_with_a_seed_show_the_images_of_one(strategy, tmp_path):
    ranks = [
        {(epoch, index): image for epoch, index, image in images}
        for images in ddp_images(tmp_path, 1, strategy, list(range(8)))
    ]
    alone = Recorder()
    run = trainer(AugMixCallback(severity=10, seed=1), root=tmp_path)
    run.fit(alone, loader(Dim(to_tensor(), 8), batch_size=2))
    assert {**ranks[0], **ranks[1]} == alone.images()
    assert not ranks[0].keys() & ranks[1].keys()


@pytest.mark.slow
def test_two_ranks_without_a_seed_share_no_draws_although_they_are_seeded_alike(tmp_path):
    # One image eight times, so that the same draws would show as the same image.
    first, second = ({image for _, _, image in images} for images in ddp_images(tmp_path, None, "ddp", [0] * 8))
    assert len(first) == len(second) == 8
    assert not first & second


@pytest.mark.parametrize(
    "settings", [{}, pytest.param({"workers": 2, "persistent_workers": True}, marks=pytest.mark.slow)]
)
def test_without_a_seed_no_two_samples_share_draws(settings, tmp_path):
    module = Recorder()
    data = loader(Subset(Dim(to_tensor()), [0] * 12), **settings)
    trainer(AugMixCallback(severity=10), root=tmp_path, max_epochs=3).fit(module, data)
    assert len({image for _, _, _, image in module.seen["train"]}) == 36


def test_the_loader_type_of_the_user_is_kept(tmp_path):
    class Mine(DataLoader):
        pass

    class Check(pl.Callback):
        def on_train_batch_start(self, trainer, *_):
            assert type(trainer.train_dataloader) is Mine

    trainer(AugMixCallback(), Check(), root=tmp_path).fit(Recorder(), Mine(Dim(to_tensor()), batch_size=2))
