"""Trains on a folder with one folder of images per class, as ImageNet has, in two processes.

python image_folder_ddp.py FOLDER; without FOLDER, on a few photographs of scikit-learn's.
"""

import sys
import tempfile
from pathlib import Path

import lightning.pytorch as pl
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import models, transforms
from torchvision.datasets import ImageFolder

from lightning_augmix import AugMixCallback

PIPELINE = transforms.Compose(
    [
        transforms.RandomResizedCrop(64),  # 224 for ImageNet
        transforms.RandomHorizontalFlip(),
        # AugMix is inserted here.
        transforms.ToTensor(),
        transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ]
)


class ResNet(pl.LightningModule):
    """A ResNet-18 with cross-entropy and SGD."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.model = models.resnet18(num_classes=classes)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, targets = batch
        return nn.functional.cross_entropy(self.model(images), targets)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1, momentum=0.9)


def write_photographs(folder: str) -> None:
    for name, levels in zip(("temple", "flower"), load_sample_images().images, strict=True):
        (Path(folder) / name).mkdir()
        for number in range(8):
            Image.fromarray(levels).resize((96, 64 + number)).save(Path(folder) / name / f"{number}.jpg")


def main(folder: str) -> None:
    images = ImageFolder(folder, PIPELINE)
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",  # on a machine with GPUs: accelerator="gpu", devices=-1, strategy="ddp"
        devices=2,
        strategy="ddp_spawn",
        callbacks=[AugMixCallback(severity=3, augmentation_set="safe", seed=0)],
        logger=False,
        enable_checkpointing=False,
    )
    trainer.fit(ResNet(len(images.classes)), DataLoader(images, batch_size=4, shuffle=True))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        if not sys.argv[1:]:
            write_photographs(scratch)
        main(sys.argv[1] if sys.argv[1:] else scratch)
