"""Trains as jobs of a cluster, or, where there is none, as processes of this machine. Needs `pip install submitit`."""

import tempfile

import lightning.pytorch as pl
import submitit
import torch
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
        loss = nn.functional.cross_entropy(self.model(images), targets)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.01)


def train(severity: float) -> float:
    images = FakeData(64, image_size=(3, 32, 48), num_classes=10, transform=transforms.ToTensor())
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        devices=1,
        callbacks=[AugMixCallback(severity, augmentation_set="safe", seed=0)],
        logger=False,
        enable_checkpointing=False,
    )
    trainer.fit(LinearClassifier(), DataLoader(images, batch_size=16, shuffle=True))
    return float(trainer.callback_metrics["loss"])


def main() -> None:
    severities = [1, 3, 5]
    with tempfile.TemporaryDirectory() as folder:
        executor = submitit.AutoExecutor(folder)  # Slurm's, where it is
        executor.update_parameters(timeout_min=10, slurm_gpus_per_node=1, slurm_array_parallelism=2)
        jobs = executor.map_array(train, severities)
        for severity, job in zip(severities, jobs, strict=True):
            print(f"severity {severity}: loss {job.result():.3f}")


if __name__ == "__main__":
    main()
