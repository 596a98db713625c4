"""AugMix in a LightningCLI: everything is configured on the command line, or in YAML.

python lightning_cli.py fit --trainer.callbacks lightning_augmix.AugMixCallback --trainer.callbacks.severity 5
"""

import sys

import lightning.pytorch as pl
import torch
from lightning.pytorch.cli import LightningCLI
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import FakeData

WITHOUT_ARGUMENTS = [
    "fit",
    "--trainer.callbacks=lightning_augmix.AugMixCallback",
    "--trainer.callbacks.severity=3",
    "--trainer.callbacks.augmentation_set=safe",
    "--trainer.max_epochs=1",
    "--trainer.logger=false",
    "--trainer.enable_checkpointing=false",
]


class LinearClassifier(pl.LightningModule):
    """A minimal classifier.

    Args:
        learning_rate: Of SGD.
    """

    def __init__(self, learning_rate: float = 0.01) -> None:
        super().__init__()
        self.learning_rate = learning_rate
        self.model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 48, 10))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, targets = batch
        return nn.functional.cross_entropy(self.model(images), targets)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), self.learning_rate)


class Images(pl.LightningDataModule):
    """Random images.

    Args:
        batch_size: Images in a batch.
    """

    def __init__(self, batch_size: int = 32) -> None:
        super().__init__()
        self.batch_size = batch_size

    def train_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        images = FakeData(128, image_size=(3, 32, 48), num_classes=10, transform=transforms.ToTensor())
        return DataLoader(images, self.batch_size, shuffle=True)


def main() -> None:
    LightningCLI(LinearClassifier, Images, args=sys.argv[1:] or WITHOUT_ARGUMENTS, save_config_callback=None)


if __name__ == "__main__":
    main()
