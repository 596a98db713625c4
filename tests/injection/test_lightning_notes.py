"""Loaders that Lightning builds anew from the arguments that it has noted."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import lightning.pytorch as pl
import pytest
import pytorch_lightning
import torch
from lightning.fabric import Fabric
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, default_collate

from kinds import TO_TENSOR
from lightning_augmix import AugmentAndMixTransform, augment_dataloader
from toy import CERTAIN, Dim, is_augmented, trainer


class Renamed(DataLoader):
    """Has names of its own for the arguments."""

    def __init__(self, samples, join=None, **kwargs):
        super().__init__(samples, collate_fn=join, **kwargs)


class Opening(DataLoader):
    """Makes its dataset itself."""

    def __init__(self, length, **kwargs):
        super().__init__(Dim(TO_TENSOR, length), **kwargs)


def swapped(samples):
    images, indices = default_collate(samples)
    return [images.flip(-1), indices]


LOADERS = {
    "keywords": lambda: DataLoader(dataset=Dim(TO_TENSOR, 8), batch_size=4, shuffle=True),
    "a position": lambda: DataLoader(Dim(TO_TENSOR, 8), batch_size=4, shuffle=True),
    "a collate function": lambda: DataLoader(Dim(TO_TENSOR, 8), batch_size=4, shuffle=True, collate_fn=swapped),
    "other names": lambda: Renamed(Dim(TO_TENSOR, 8), batch_size=4, shuffle=True),
    "other names, and a collate function by position": lambda: Renamed(
        Dim(TO_TENSOR, 8), swapped, batch_size=4, shuffle=True
    ),
    "a dataset of its own": lambda: Opening(8, batch_size=4, shuffle=True),
}


def augmented(make, views=0):
    return augment_dataloader(make(), AugmentAndMixTransform(**CERTAIN), views=views)


def check(batches, views, flipped=False):
    """All images of batches of N samples are augmented, save the clean views."""
    count = 4
    assert batches
    for images, indices in batches:
        assert (len(images), len(indices)) == ((1 + views) * count, count)
        clean = count if views else 0
        assert [is_augmented(img) for img in images] == [False] * clean + [True] * (len(images) - clean)
        if clean:
            for image, index in zip(images, indices, strict=False):
                expected = Dim(TO_TENSOR)[int(index)][0]
                assert torch.equal(image, expected.flip(-1) if flipped else expected)


class Keeping:
    """Makes an augmented loader in its hook, and keeps the batches of training."""

    def __init__(self, make, views=0):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.make, self.views, self.batches = make, views, []

    def train_dataloader(self):
        return augmented(self.make, self.views)

    def training_step(self, batch, batch_idx):
        self.batches.append(batch)
        return self.layer(torch.ones(1, 1)).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.0)


class Batches(Keeping, pl.LightningModule):
    pass


@pytest.mark.filterwarnings("ignore:You requested to overfit")
@pytest.mark.parametrize("views", [0, 2])
@pytest.mark.parametrize("kind", LOADERS)
def test_overfitting_a_batch(kind, views, tmp_path):
    module = Batches(LOADERS[kind], views)
    trainer(root=tmp_path, overfit_batches=1, max_epochs=1).fit(module)
    assert not isinstance(module.trainer.train_dataloader.sampler, RandomSampler)  # it was built anew
    check(module.batches, views, flipped="collate" in kind)


class BatchesOfTheOtherPackage(Keeping, pytorch_lightning.LightningModule):
    pass


@pytest.mark.filterwarnings("ignore:You requested to overfit")
def test_overfitting_a_batch_with_the_other_package(tmp_path):
    module = BatchesOfTheOtherPackage(LOADERS["keywords"], 2)
    trainer(root=tmp_path, package=pytorch_lightning, overfit_batches=1, max_epochs=1).fit(module)
    check(module.batches, 2)


class Stream(IterableDataset):
    def __init__(self, transform):
        self.data = Dim(transform, 8)

    def __iter__(self):
        return iter(self.data[index] for index in range(8))


@pytest.mark.parametrize("views", [0, 2])
@pytest.mark.parametrize("kind", [*LOADERS, "a stream"])
def test_predicting_with_a_loader_made_in_a_hook(kind, views, tmp_path):
    make = LOADERS.get(kind, lambda: DataLoader(Stream(TO_TENSOR), batch_size=4))

    class Predicted(Batches):
        def predict_dataloader(self):
            return augmented(self.make, self.views)

        def predict_step(self, batch, batch_idx):
            self.batches.append(batch)
            return 0

    module = Predicted(make, views)
    trainer(root=tmp_path).predict(module)
    check(module.batches, views, flipped="collate" in kind)


@pytest.mark.parametrize("views", [0, 2])
def test_fabric_on_one_device(views):
    def load(fabric):
        return list(fabric.setup_dataloaders(augmented(LOADERS["keywords"], views)))

    check(Fabric(accelerator="cpu", devices=1).launch(load), views)
    check(load(Fabric(accelerator="cpu", devices=1)), views)


@pytest.mark.filterwarnings("ignore:You requested to overfit")
def test_the_users_loader_stays_as_it_is(tmp_path):
    kept = []

    class Customised(Batches):
        def train_dataloader(self):
            loader = LOADERS["keywords"]()
            loader.collate_fn = swapped  # Lightning notes this as well
            kept.append((loader, copy.copy(vars(loader))))
            kept[-1][1]["__pl_attrs_record"] = list(vars(loader)["__pl_attrs_record"])
            return augment_dataloader(loader, AugmentAndMixTransform(**CERTAIN), views=2)

    module = Customised(None, 2)
    trainer(root=tmp_path, overfit_batches=1, max_epochs=1).fit(module)
    check(module.batches, 2, flipped=True)
    [(loader, before)] = kept
    assert vars(loader) == before


def test_what_is_assigned_to_the_copy_later_holds(tmp_path):
    class Assigning(Batches):
        def train_dataloader(self):
            loader = augmented(self.make, self.views)
            loader.collate_fn = swapped
            return loader

    module = Assigning(LOADERS["keywords"])
    with pytest.warns(UserWarning, match="You requested to overfit"):
        trainer(root=tmp_path, overfit_batches=1, max_epochs=1).fit(module)
    assert module.trainer.train_dataloader.collate_fn is swapped
    check(module.batches, 0)


PROGRAM = """
import json, sys, warnings
warnings.simplefilter("ignore")
sys.path.insert(0, sys.argv[1])
folder, way, views = sys.argv[2], sys.argv[3], int(sys.argv[4])
import torch
from lightning.fabric import Fabric
from lightning_augmix import AugmentAndMixTransform, augment_dataloader
from torch.utils.data import DataLoader
from toy import CERTAIN, Dim, Recorder, is_augmented, to_tensor, trainer

def augmented():
    loader = DataLoader(Dim(to_tensor(), 8), 2, shuffle=True)
    return augment_dataloader(loader, AugmentAndMixTransform(**CERTAIN), views=views)

def write(rank, batches):
    seen = [([is_augmented(image) for image in images], indices.tolist()) for images, indices in batches]
    json.dump(seen, open(f"{folder}/rank{rank}.json", "w"))

class Ranks(Recorder):
    def train_dataloader(self):
        self.batches = []
        return augmented()

    def training_step(self, batch, batch_idx):
        self.batches.append(batch)
        return self.layer(torch.ones(1, 1)).sum()

    def on_fit_end(self):
        write(self.global_rank, self.batches)

def load(fabric):
    write(fabric.global_rank, list(fabric.setup_dataloaders(augmented())))

if __name__ == "__main__":
    if way == "trainer":
        trainer(root=folder, devices=2, strategy="ddp", max_epochs=1).fit(Ranks())
    else:
        Fabric(devices=2, accelerator="cpu").launch(load)
"""


@pytest.mark.slow
@pytest.mark.parametrize("views", [0, 2])
@pytest.mark.parametrize("way", ["trainer", "fabric"])
def test_two_ranks(way, views, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    command = [sys.executable, program, Path(__file__).parents[1], tmp_path, way, str(views)]
    subprocess.run(command, check=True, timeout=300)
    seen = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2)]
    clean = [False] * 2 if views else []
    for batches in seen:
        assert [flags for flags, _ in batches] == [clean + [True] * 2 * max(1, views)] * 2
    assert sorted(index for batches in seen for _, indices in batches for index in indices) == list(range(8))
