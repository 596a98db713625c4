"""Trains with the consistency loss: each image comes with two augmented views, which are to be classified alike."""

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import FakeData

from lightning_augmix import AugMixCallback, JSDLoss


class Classifier(pl.LightningModule):
    """A classifier whose loss is JSDLoss in place of CrossEntropyLoss."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 48, 10))
        self.loss = JSDLoss(weight=12, views=2)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, targets = batch  # three times as many images as targets, all clean ones first
        logits = self.model(images)
        accuracy = (logits[: len(targets)].argmax(dim=1) == targets).float().mean()
        self.log("train_accuracy", accuracy, prog_bar=True)
        loss: Tensor = self.loss(logits, targets)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, targets = batch  # as usual: here, the loss is plain cross-entropy
        self.log("val_loss", self.loss(self.model(images), targets))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.01)


def main() -> None:
    images = FakeData(128, image_size=(3, 32, 48), num_classes=10, transform=transforms.ToTensor())
    trainer = pl.Trainer(
        callbacks=[AugMixCallback(augmentation_set="safe", views=2, seed=0)],
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
    )
    trainer.fit(Classifier(), DataLoader(images, 32, shuffle=True), DataLoader(images, 32))


if __name__ == "__main__":
    main()
