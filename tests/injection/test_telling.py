"""What a fit tells: how many images were augmented, how long steps wait for data, and what to do about it."""

import csv
import logging
import re
import time
from contextlib import ExitStack

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from PIL import Image
from torch import nn
from torch.utils.data import IterableDataset
from torchvision import transforms

from lightning_augmix import AugMixCallback
from lightning_augmix.injection.waiting import Loading, Waiting, advice
from lightning_augmix.plans.audit import Tally
from toy import CERTAIN, Data, Dim, Recorder, Several, dim_image, loader, to_tensor, trainer


def told(caplog, start):
    """The lines that start with these words."""
    return [line for record in caplog.records for line in record.getMessage().splitlines() if line.startswith(start)]


@pytest.fixture
def fit(tmp_path, caplog):
    """A function that fits with a callback, and returns what was told of the number of images."""
    caplog.set_level(logging.INFO)

    def fit(callback, module=None, data=None, **settings):
        run = trainer(callback, root=tmp_path, **settings)
        run.fit(module or Recorder(), datamodule=data)
        return told(caplog, "AugMix augmented")[-1]

    return fit


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("seed", [None, 3])
def test_the_images_of_all_processes_are_counted(workers, seed, fit):
    callback = AugMixCallback(10, **CERTAIN, seed=seed)
    assert fit(callback, data=Data(workers=workers)) == "AugMix augmented 16 images with the engine numba."
    assert fit(callback, data=Data(workers=workers)) == "AugMix augmented 16 images with the engine numba."


@pytest.mark.slow
@pytest.mark.parametrize("context", ["spawn", "forkserver"])
def test_processes_that_are_not_forked_count_too(context, fit):
    data = Data(workers=1, multiprocessing_context=context, persistent_workers=True)
    assert fit(AugMixCallback(10, **CERTAIN), data=data).startswith("AugMix augmented 16 images")


class Views(Recorder):
    def training_step(self, batch, batch_idx):
        return self.layer(batch[0].new_ones(1, 1)).sum()


def test_views_are_images(fit):
    assert fit(AugMixCallback(10, **CERTAIN, views=2), Views(), Data()).startswith("AugMix augmented 32 images")


def test_images_on_the_device_are_counted_and_its_engine_named(fit):
    callback = AugMixCallback(10, **CERTAIN, on="device", engine="torch", views=2)
    assert fit(callback, Views(), Data()) == "AugMix augmented 32 images with the engine torch."


def test_images_that_are_augmented_by_hand_are_counted(fit):
    callback = AugMixCallback(10, **CERTAIN, inject=False)
    pipeline = transforms.Compose([callback.transform, transforms.ToTensor()])
    module = Recorder({"train": lambda: loader(Dim(pipeline, 8))})
    assert fit(callback, module).startswith("AugMix augmented 16 images")


class Tensors(Dim):
    """Makes a batch at once."""

    def __getitems__(self, indices):
        images = torch.stack([transforms.functional.pil_to_tensor(dim_image(index)) for index in indices])
        return list(zip(self.transform(images), indices, strict=True))

    def __getitem__(self, index):
        return self.__getitems__([index])[0]


def test_images_of_a_tensor_are_counted_each(fit):
    module = Recorder({"train": lambda: loader(Tensors(transforms.ConvertImageDtype(torch.float32), 8))})
    assert fit(AugMixCallback(10, **CERTAIN), module).startswith("AugMix augmented 16 images")


class Stream(IterableDataset):
    def __init__(self):
        self.transform = to_tensor()

    def __iter__(self):
        return ((self.transform(dim_image(index)), index) for index in range(8))


def test_images_of_an_iterable_are_counted(fit):
    module = Recorder({"train": lambda: loader(Stream())})
    assert fit(AugMixCallback(10, **CERTAIN), module).startswith("AugMix augmented 16 images")


def test_pictures_for_loggers_are_not_counted(fit, tmp_path):
    callback = AugMixCallback(10, **CERTAIN, log_images=4)
    logger = CSVLogger(tmp_path)
    assert fit(callback, data=Data(), logger=logger, log_every_n_steps=1).startswith("AugMix augmented 16 images")


class Large(Dim):
    """Images on which the engine pillow takes milliseconds, and everything else next to nothing."""

    def __getitem__(self, index):
        return self.transform(Image.fromarray(np.full((128, 120, 3), 100, np.uint8))), int(index)


class Quick(pl.LightningModule):
    """Takes as long as it is told for a step."""

    def __init__(self, seconds):
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.seconds = seconds

    def training_step(self, batch, batch_idx):
        time.sleep(self.seconds)
        return self.layer(torch.ones(1, 1)).sum()

    def train_dataloader(self):
        return loader(Large(transforms.Compose([transforms.ToTensor()]), 60), batch_size=2)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.0)


def logged(folder):
    with (folder / "metrics.csv").open() as file:
        found = [row.get("augmix/data_wait_fraction") for row in csv.DictReader(file)]
    return [float(value) for value in found if value]


@pytest.mark.parametrize(
    ("seconds", "engine", "width", "is_bound"), [(0.0, "pillow", 6, True), (0.1, "numba", 1, False)]
)
def test_a_training_that_waits_for_augmix_is_told_so_once(seconds, engine, width, is_bound, fit, tmp_path, caplog):
    csv_logger = CSVLogger(tmp_path, "", "run")
    callback = AugMixCallback(3, engine=engine, width=width, depth=width)
    fit(callback, Quick(seconds), logger=csv_logger, log_every_n_steps=1, max_epochs=1)
    (fraction,) = logged(tmp_path / "run")
    assert (fraction > 0.5) is is_bound
    slowed = told(caplog, "AugMix slows")
    assert len(slowed) == is_bound
    if is_bound:
        share = re.fullmatch(
            r"AugMix slows this training down by some \d+%: a step waits [\d.e+]+ of [\d.e+]+ ms for data, and AugMix "
            r"is (\d+)% of loading\. Try engine=\"auto\" \(now 'pillow'; the same images, faster\).*\.",
            slowed[0],
        )
        assert int(share[1]) > 50


def test_a_fit_too_short_to_tell_is_told_nothing(fit, tmp_path, caplog):
    csv_logger = CSVLogger(tmp_path, "", "run")
    fit(AugMixCallback(10, **CERTAIN, engine="pillow"), data=Data(), logger=csv_logger, log_every_n_steps=1)
    assert not told(caplog, "AugMix slows")
    assert "data_wait" not in "".join(path.read_text() for path in (tmp_path / "run").glob("*"))


class Clock:
    """A clock that moves when it is told to, in place of the module time."""

    def __init__(self):
        self.now = 1.0

    def perf_counter(self):
        return self.now


class Loop:
    def _on_before_fetch(self):
        pass

    _on_after_fetch = _on_before_fetch


@pytest.fixture
def steps(monkeypatch):
    """A function that measures steps, the first of an epoch, that wait, take, and augment so long."""
    clock = Clock()
    monkeypatch.setattr("lightning_augmix.injection.waiting.time", clock)

    def steps(number, wait, step, augmenting=0.0, first_wait=5.0, device="cpu"):
        loop, ends, tally = Loop(), [], Tally()
        waiting = Waiting(loop, tally, torch.device(device), ExitStack())
        for position in range(number):
            loop._on_before_fetch()
            clock.now += wait if position else first_wait
            tally.add(1, int(1e9 * (augmenting if position else 100)))
            loop._on_after_fetch()
            clock.now += step
            ends.append(waiting.end_step())
            clock.now += 100  # validation, say
        return waiting, ends, loop

    return steps


def test_the_first_step_of_an_epoch_and_what_lies_between_steps_are_left_out(steps):
    waiting, ends, _ = steps(31, wait=0.25, step=0.75, augmenting=0.5)
    assert (waiting.fraction, waiting.steps, any(ends)) == (0.25, 30, False)
    assert waiting.augmenting == pytest.approx(15)
    assert steps(20, 0.25, 0.75)[0].fraction is None  # 19 say too little


def test_measuring_ends(steps):
    waiting, ends, loop = steps(250, wait=1.0, step=1.0)
    assert [position for position, is_last in enumerate(ends) if is_last] == [200]
    assert waiting.steps == 200
    assert not vars(loop)


def test_on_a_device_fewer_steps_are_measured_and_each_is_waited_for(steps, monkeypatch):
    waits = []
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda: waits.append(None))
    waiting, _, loop = steps(250, wait=1.0, step=1.0, device="cuda")
    assert (waiting.steps, len(waits)) == (50, 51)
    assert not vars(loop)


@pytest.mark.parametrize(
    ("wait", "step", "augmenting", "loading", "expected"),
    [
        # Two workers load a batch in the time of a step and a wait, half of it is AugMix: twice the workers.
        (
            0.5,
            0.5,
            1.0,
            Loading(2, 8, "numba", False),
            "by some 50%: a step waits 500 of 1e+03 ms for data, and AugMix is 50% of loading. "
            "Try num_workers=4 (now 2, with 8 processors).",
        ),
        # All processors are at work, or more workers are no remedy.
        (0.5, 0.5, 4.0, Loading(8, 8, "numba", False), "50% of loading. Try a smaller width or depth."),
        (0.5, 0.5, 0.5, Loading(0, 0, "numba", False), "100% of loading. Try a smaller width or depth."),
        (
            0.5,
            0.5,
            4.0,
            Loading(8, 8, "pillow", True),
            "50% of loading. Try engine=\"auto\" (now 'pillow'; the same images, faster), or "
            'on="device" (now "workers").',
        ),
        # Without workers, a step waits for all of its batch: a quarter of it is AugMix.
        (
            0.4,
            0.6,
            0.1,
            Loading(0, 8, "numba", False),
            "by some 10%: a step waits 400 of 1e+03 ms for data, and AugMix is 25% of loading. "
            "Try num_workers=1 (now 0, with 8 processors).",
        ),
        # Files or the collate function are slow, AugMix is not.
        (0.9, 0.1, 0.08, Loading(2, 8, "pillow", True), None),
        # Nothing waits.
        (0.02, 0.98, 1.8, Loading(2, 8, "pillow", True), None),
        # AugMix takes most of loading, but no more than what is waited for could be saved.
        (0.1, 0.9, 3.6, Loading(4, 8, "numba", False), "by some 10%"),
    ],
)
def test_advice(wait, step, augmenting, loading, expected, steps):
    line = advice(steps(50, wait, step, augmenting)[0], loading)
    assert line is None if expected is None else expected in line


def test_a_short_fit_is_told_nothing(steps):
    assert advice(steps(10, 0.9, 0.1, 0.9)[0], Loading(0, 8, "pillow", True)) is None


def test_several_loaders_count_each_for_itself():
    tally = Tally()
    for position in (0, 1, 2):
        tally.of_loader(position).add(10 + position, 1_000_000_000)
    assert (tally.images, tally.seconds) == (33, 3.0)


@pytest.mark.slow
def test_images_of_several_loaders_with_workers_are_counted(fit):
    class Both(Several):
        def train_dataloader(self):
            return [loader(Dim(to_tensor(), 400), workers=1), loader(Dim(to_tensor(), 400), workers=1)]

    assert fit(AugMixCallback(10, **CERTAIN), Both({}), max_epochs=1).startswith("AugMix augmented 800 images")


@pytest.mark.slow
def test_time_in_the_collate_function_is_not_augmixs(fit, caplog):
    def slow(samples):
        time.sleep(0.1)
        return torch.utils.data.default_collate(samples)

    class Slow(Quick):
        def train_dataloader(self):
            pipeline = transforms.Compose([transforms.ToTensor()])
            return loader(Large(pipeline, 60), batch_size=2, collate_fn=slow, workers=1)

    fit(AugMixCallback(3, width=1, depth=1), Slow(0.0), max_epochs=1)
    assert not told(caplog, "AugMix slows")


@pytest.mark.parametrize(
    ("width", "epochs", "reasons"),
    [
        (1, 2, "small models (this one trains 2 parameters) and short trainings (this one has max_epochs=2)"),
        (1, 30, "small models (this one trains 2 parameters)"),
        (1000, 2, "short trainings (this one has max_epochs=2)"),
        (1000, 30, None),
    ],
)
def test_small_models_and_short_trainings_are_told_what_they_may_lose(width, epochs, reasons, fit, caplog):
    class Wide(Recorder):
        def __init__(self):
            super().__init__()
            if width > 1:
                self.wide = nn.Linear(width, width)

    fit(AugMixCallback(10, **CERTAIN), Wide(), Data(), max_epochs=epochs)
    fit(AugMixCallback(0), Wide(), Data(), max_epochs=1)  # which loses nothing
    expected = [f"AugMix is a regulariser: {reasons} can lose accuracy on clean images."] if reasons else []
    assert told(caplog, "AugMix is a regulariser") == expected
