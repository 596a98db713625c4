"""Trains with the consistency loss, then measures the classifier on common corruptions of its test images."""

from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from lightning_augmix import AugMixCallback, JSDLoss, compute_corruptions, evaluate_robustness

TO_INPUT = v2.Compose([v2.Resize((16, 16)), v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.ToPureTensor()])


class Digits(Dataset[Any]):
    """scikit-learn's handwritten digits, of which every fifth is for testing."""

    def __init__(self, train: bool, transform: Any = None) -> None:
        digits = load_digits()
        chosen = (np.arange(len(digits.target)) % 5 > 0) == train
        self.images = np.rint(digits.images[chosen] * (255 / 16)).astype(np.uint8)
        self.targets = digits.target[chosen].tolist()
        self.transform = transform

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image = Image.fromarray(self.images[index])
        return image if self.transform is None else self.transform(image), self.targets[index]

    def __len__(self) -> int:
        return len(self.targets)


class DigitClassifier(pl.LightningModule):
    """Two convolutions, enough for digits."""

    def __init__(self) -> None:
        super().__init__()
        convolutions = nn.Conv2d(1, 16, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3), nn.ReLU()
        self.layers = nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(32 * 5 * 5, 10))
        self.loss = JSDLoss(weight=12, views=2)  # in place of nn.CrossEntropyLoss()

    def forward(self, images: Tensor) -> Any:
        return self.layers(images)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, targets = batch  # three times as many images as targets: clean ones first
        loss: Tensor = self.loss(self(images), targets)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 2e-3)


def main() -> None:
    pl.seed_everything(0, workers=True)
    model = DigitClassifier()
    trainer = pl.Trainer(
        max_epochs=5,
        accelerator="cpu",
        callbacks=[AugMixCallback(augmentation_set="safe", views=2)],
        logger=False,
        enable_checkpointing=False,
    )
    trainer.fit(model, DataLoader(Digits(train=True, transform=TO_INPUT), 64, shuffle=True))

    names = ("gaussian_noise", "defocus_blur", "contrast")
    corrupted = compute_corruptions(Digits(train=False), "digits-c", names)
    report = evaluate_robustness(
        model, Digits(train=False, transform=TO_INPUT), corrupted, TO_INPUT, corruptions=names, augmentation_set="safe"
    )
    print(report)


if __name__ == "__main__":
    main()
