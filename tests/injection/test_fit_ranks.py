"""Two ranks, each a process of its own, with gloo."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_augmix import AugMixCallback
from toy import CERTAIN, Dim, Recorder, loader, to_tensor, trainer

pytestmark = pytest.mark.slow

PROGRAM = """
import json, sys, warnings
warnings.simplefilter("ignore")
sys.path.insert(0, sys.argv[1])
settings = json.loads(sys.argv[3])
import lightning.pytorch as pl
from lightning_augmix import AugMixCallback
from toy import Dim, Recorder, loader, to_tensor, trainer
from torch.utils.data import DistributedSampler, Subset

class Ranks(Recorder):
    def train_dataloader(self):
        data = Subset(Dim(to_tensor(), 8), settings["indices"])
        options = {"batch_size": 2, "workers": settings["workers"], "persistent_workers": settings["workers"] > 0}
        if settings["sampler"] == "lightning":
            return loader(data, shuffle=True, **options)
        return loader(data, sampler=DistributedSampler(data, 2, self.global_rank, shuffle=True), **options)

    def val_dataloader(self):
        return loader(Dim(to_tensor(), 8), batch_size=2)

    def on_fit_end(self):
        path = f"{sys.argv[2]}/rank{self.global_rank}.json"
        json.dump(self.seen, open(path, "w"))

if __name__ == "__main__":
    pl.seed_everything(0, workers=settings["seed_workers"])
    trainer(
        AugMixCallback(**settings["augmix"]),
        root=sys.argv[2],
        devices=2,
        strategy=settings["strategy"],
        use_distributed_sampler=settings["sampler"] == "lightning",
    ).fit(Ranks())
"""

ALL = list(range(8))


def ranks(folder, augmix, strategy="ddp", sampler="lightning", indices=ALL, workers=0, seed_workers=False):
    """What each of two ranks saw, by stage."""
    settings = {
        "augmix": augmix,
        "strategy": strategy,
        "sampler": sampler,
        "indices": indices,
        "workers": workers,
        "seed_workers": seed_workers,
    }
    program = folder / "program.py"
    program.write_text(PROGRAM)
    command = [sys.executable, program, Path(__file__).parents[1], folder, json.dumps(settings)]
    subprocess.run(command, check=True, timeout=300)
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize(
    ("strategy", "sampler", "workers"),
    [("ddp", "lightning", 0), ("ddp", "user's", 1), ("ddp_spawn", "lightning", 1), ("ddp_spawn", "user's", 0)],
)
def test_all_training_images_of_two_ranks_are_augmented_and_no_others(strategy, sampler, workers, tmp_path):
    for seen in ranks(tmp_path, CERTAIN, strategy, sampler, workers=workers):
        assert [augmented for _, _, augmented, _ in seen["train"]] == [True] * 8
        assert [augmented for _, _, augmented, _ in seen["val"]].count(True) == 0
        assert seen["val"]


@pytest.mark.parametrize(
    ("strategy", "sampler", "workers"),
    [("ddp", "lightning", 0), ("ddp", "user's", 1), ("ddp_spawn", "lightning", 1)],
)
def test_two_ranks_with_a_seed_show_the_images_of_one(strategy, sampler, workers, tmp_path):
    seen = ranks(tmp_path, {"severity": 10, "seed": 1}, strategy, sampler, workers=workers)
    first, second = ({(epoch, index): image for epoch, index, _, image in rank["train"]} for rank in seen)
    alone = Recorder()
    trainer(AugMixCallback(severity=10, seed=1), root=tmp_path).fit(alone, loader(Dim(to_tensor(), 8), batch_size=2))
    assert {**first, **second} == alone.images()
    assert not first.keys() & second.keys()


@pytest.mark.parametrize("seed_workers", [False, True])
@pytest.mark.parametrize("workers", [0, 1])
def test_two_ranks_without_a_seed_share_no_draws_although_they_are_seeded_alike(seed_workers, workers, tmp_path):
    # One image eight times, so that the same draws would show as the same image.
    seen = ranks(tmp_path, {"severity": 10}, indices=[0] * 8, workers=workers, seed_workers=seed_workers)
    first, second = ({image for _, _, _, image in rank["train"]} for rank in seen)
    assert len(first) == len(second) == 8
    assert not first & second


@pytest.mark.parametrize("workers", [0, 2])
def test_ranks_see_on_the_device_what_they_see_in_workers(workers, tmp_path):
    seen = {}
    for on in ("device", "workers"):
        (tmp_path / on).mkdir()
        seen[on] = ranks(tmp_path / on, {"severity": 10, "seed": 1, "on": on}, workers=workers)
    assert seen["device"] == seen["workers"]
