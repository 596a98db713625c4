"""The classifier that ``augmix-train`` trains: a small ResNet, or any classification model of torchvision."""

import difflib
from typing import Any

import lightning.pytorch as pl
import torch
import torchvision
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

__all__ = ["Classifier", "SmallResNet"]


class _Block(nn.Module):
    """Two 3×3 convolutions beside a shortcut."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), nn.BatchNorm2d(channels_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.residual(x) + self.shortcut(x))


class SmallResNet(nn.Sequential):
    """A ResNet for small images: four stages of one block, the width doubled where the resolution halves.

    Source: He et al., "Deep Residual Learning for Image Recognition", 2015, https://arxiv.org/abs/1512.03385.

    Args:
        num_classes: Number of classes, at least 1.
        width: Number of channels of the first stage, at least 1.

    Shape:
        - Input: float ``[N, 3, H, W]``, H and W at least 8. Output: logits ``[N, num_classes]``.
    """

    def __init__(self, num_classes: int, width: int = 16) -> None:
        super().__init__(
            nn.Conv2d(3, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            _Block(width, width, stride=1),
            _Block(width, 2 * width, stride=2),
            _Block(2 * width, 4 * width, stride=2),
            _Block(4 * width, 8 * width, stride=2),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8 * width, num_classes),
        )


def _build(architecture: str, num_classes: int) -> nn.Module:
    if architecture == "small_resnet":
        return SmallResNet(num_classes)
    known = torchvision.models.list_models(module=torchvision.models)
    if architecture not in known:
        close = ", ".join(difflib.get_close_matches(architecture, known, n=3)) or "resnet18"
        raise ValueError(
            "Expected argument `architecture` to be small_resnet or the name of a classification model of torchvision; "
            f"got {architecture!r} (for instance {close})."
        )
    model: nn.Module = torchvision.models.get_model(architecture, weights=None, num_classes=num_classes)
    return model


class Classifier(pl.LightningModule):
    """Image classification by cross-entropy, SGD with Nesterov momentum, and a cosine learning rate per step.

    Args:
        num_classes: Number of classes, at least 1.
        architecture: ``"small_resnet"``, or the name of a torchvision classification model.
        learning_rate: Initial learning rate, above 0.
        momentum: Momentum, in [0, 1).
        weight_decay: Weight decay, at least 0.

    Raises:
        ValueError: If there is no such architecture, or a number is out of its range.
    """

    def __init__(
        self,
        num_classes: int,
        architecture: str = "small_resnet",
        learning_rate: float = 0.1,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
    ) -> None:
        super().__init__()
        for name, value, permitted, is_valid in (
            ("learning_rate", learning_rate, "above 0", learning_rate > 0),
            ("momentum", momentum, "in [0, 1)", 0 <= momentum < 1),
            ("weight_decay", weight_decay, "at least 0", weight_decay >= 0),
        ):
            if not is_valid:
                raise ValueError(f"Expected argument `{name}` to be {permitted}; got {value}.")
        self.save_hyperparameters()
        self.model = _build(architecture, num_classes)
        self.loss = nn.CrossEntropyLoss()
        self.accuracy = nn.ModuleDict(
            {stage: MulticlassAccuracy(num_classes, average="micro") for stage in ("val", "test")}
        )

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images)
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, targets = batch
        loss: Tensor = self.loss(self(images), targets)
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._measure("val", batch)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._measure("test", batch)

    def configure_optimizers(self) -> Any:
        h = self.hparams
        optimizer = torch.optim.SGD(
            self.parameters(),
            h["learning_rate"],
            h["momentum"],
            weight_decay=h["weight_decay"],
            nesterov=h["momentum"] > 0,
        )
        steps = max(1, int(self.trainer.estimated_stepping_batches))
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _measure(self, stage: str, batch: tuple[Tensor, Tensor]) -> None:
        images, targets = batch
        logits = self(images)
        accuracy: Any = self.accuracy[stage]
        accuracy.update(logits, targets)
        self.log(f"{stage}_loss", self.loss(logits, targets))
        self.log(f"{stage}_accuracy", accuracy, prog_bar=True)
