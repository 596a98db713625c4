"""AugMix for object detection: with the set `photometric`, which moves no pixels, boxes stay true."""

from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.models.detection import ssdlite320_mobilenet_v3_large
from torchvision.transforms import v2

from lightning_augmix import AugMixCallback


class Squares(Dataset[Any]):
    """A bright square on noise, and its box."""

    def __init__(self) -> None:
        # As an attribute, where AugMixCallback finds it.
        self.transforms = v2.Compose([v2.RandomHorizontalFlip(), v2.ToDtype(torch.float32, scale=True)])

    def __getitem__(self, index: int) -> tuple[Any, dict[str, Any]]:
        generator = torch.Generator().manual_seed(index)
        levels = torch.randint(0, 100, (3, 96, 128), generator=generator, dtype=torch.uint8)
        left, top = (int(torch.randint(0, 64, (), generator=generator)) for _ in range(2))
        levels[:, top : top + 30, left : left + 30] = 200
        boxes = tv_tensors.BoundingBoxes([[left, top, left + 30, top + 30]], format="XYXY", canvas_size=(96, 128))
        image, target = self.transforms(tv_tensors.Image(levels), {"boxes": boxes, "labels": torch.tensor([1])})
        return image, target

    def __len__(self) -> int:
        return 8


class Detector(pl.LightningModule):
    """torchvision's SSDLite."""

    def __init__(self) -> None:
        super().__init__()
        self.model = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=2)

    def training_step(self, batch: tuple[list[Tensor], list[dict[str, Tensor]]], batch_idx: int) -> Tensor:
        images, targets = batch
        losses: dict[str, Tensor] = self.model(images, targets)
        return torch.stack(list(losses.values())).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.001)


def main() -> None:
    trainer = pl.Trainer(
        callbacks=[AugMixCallback(severity=3, augmentation_set="photometric")],
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
    )
    loader = DataLoader(Squares(), batch_size=4, collate_fn=lambda samples: tuple(zip(*samples, strict=True)))
    trainer.fit(Detector(), loader)


if __name__ == "__main__":
    main()
