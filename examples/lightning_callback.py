"""Adds AugMix to an ordinary Lightning training run: one callback, nothing else changes."""

import lightning.pytorch as pl
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
        loss: Tensor = nn.functional.cross_entropy(self.model(images), targets)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.01)


def main() -> None:
    pipeline = transforms.Compose(
        [transforms.RandomHorizontalFlip(), transforms.ToTensor(), transforms.Normalize((0.5,) * 3, (0.5,) * 3)]
    )
    images = FakeData(256, image_size=(3, 32, 48), num_classes=10, transform=pipeline)
    trainer = pl.Trainer(
        callbacks=[AugMixCallback(severity=3, augmentation_set="safe", seed=0)],
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
    )
    trainer.fit(LinearClassifier(), DataLoader(images, batch_size=32, shuffle=True))


if __name__ == "__main__":
    main()
