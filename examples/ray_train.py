"""Trains with Ray Train: two workers on the CPU, each with a rank of its own, and AugMix in both.

Needs `pip install "ray[train]"`.
"""

import tempfile
from typing import Any

import lightning.pytorch as pl
import ray
import torch
from ray.train import RunConfig, ScalingConfig
from ray.train.lightning import RayDDPStrategy, RayLightningEnvironment, prepare_trainer
from ray.train.torch import TorchTrainer
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import FakeData

from lightning_augmix import AugMixCallback


class LinearClassifier(pl.LightningModule):
    """A minimal classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 48, 10))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, targets = batch
        return nn.functional.cross_entropy(self.model(images), targets)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.01)


def train_on_each_worker(settings: dict[str, Any]) -> None:
    images = FakeData(64, image_size=(3, 32, 48), num_classes=10, transform=transforms.ToTensor())
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        devices="auto",
        strategy=RayDDPStrategy(),  # type: ignore[no-untyped-call]
        plugins=[RayLightningEnvironment()],  # type: ignore[no-untyped-call]
        callbacks=[AugMixCallback(**settings)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    prepare_trainer(trainer).fit(LinearClassifier(), DataLoader(images, batch_size=8, shuffle=True))


def main() -> None:
    ray.init(num_cpus=2, include_dashboard=False)
    with tempfile.TemporaryDirectory() as folder:
        trainer = TorchTrainer(
            train_on_each_worker,
            train_loop_config={"severity": 3, "augmentation_set": "safe", "seed": 0},
            scaling_config=ScalingConfig(num_workers=2),
            run_config=RunConfig(storage_path=folder),
        )
        trainer.fit()
    ray.shutdown()


if __name__ == "__main__":
    main()
