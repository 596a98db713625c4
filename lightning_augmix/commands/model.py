"""The classifier that ``augmix-train`` trains: a ResNet for small images, or any of torchvision or timm."""

import difflib
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import lightning.pytorch as pl
import torch
import torchvision
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from lightning_augmix._checks import number
from lightning_augmix.commands.console import UsageError
from lightning_augmix.commands.data import SMALL, ImageDataModule
from lightning_augmix.losses import JSDLoss

__all__ = ["Classifier", "SmallResNet", "WideResNet"]


class _Block(nn.Module):
    """Two 3×3 convolutions with a shortcut."""

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
    """A ResNet for small images: four stages of one block, doubling the width as the resolution halves.

    Source: He et al., "Deep Residual Learning for Image Recognition", 2015, https://arxiv.org/abs/1512.03385.

    Args:
        num_classes: Number of classes, at least 1.
        width: Number of channels in the first stage, at least 1.

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
        self.to(memory_format=torch.channels_last)  # a third faster, on CPUs and GPUs


class _PreactivationBlock(nn.Module):
    """Two 3×3 convolutions, each after normalisation and ReLU, with a shortcut."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.activation = nn.Sequential(nn.BatchNorm2d(channels_in), nn.ReLU(inplace=True))
        self.residual = nn.Sequential(
            nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False),
        )
        self.shortcut = (
            nn.Identity()
            if channels_in == channels_out
            else nn.Conv2d(channels_in, channels_out, 1, stride, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        activated = self.activation(x)
        shortcut = x if isinstance(self.shortcut, nn.Identity) else self.shortcut(activated)
        return self.residual(activated) + shortcut  # type: ignore[no-any-return]


class WideResNet(nn.Sequential):
    """A wide residual network for images of 32×32 pixels; depth 40 and width 2 is the WRN-40-2 of the AugMix paper.

    Source: Zagoruyko and Komodakis, "Wide Residual Networks", 2016, https://arxiv.org/abs/1605.07146.

    Args:
        num_classes: Number of classes, at least 1.
        depth: Number of layers with weights, 6 n + 4, at least 10.
        width: Multiplier of the number of channels, at least 1.

    Raises:
        ValueError: If ``depth`` is not of that form.

    Shape:
        - Input: float ``[N, 3, H, W]``, H and W at least 8. Output: logits ``[N, num_classes]``.
    """

    def __init__(self, num_classes: int, depth: int = 40, width: int = 2) -> None:
        if depth < 10 or depth % 6 != 4:
            raise ValueError(f"Expected argument `depth` to be 6 n + 4, at least 10; got {depth} (the paper uses 40).")
        channels = [16, 16 * width, 32 * width, 64 * width]
        blocks = []
        for stage in range(3):
            for position in range((depth - 4) // 6):
                channels_in = channels[stage] if position == 0 else channels[stage + 1]
                stride = 2 if position == 0 and stage > 0 else 1
                blocks.append(_PreactivationBlock(channels_in, channels[stage + 1], stride))
        super().__init__(
            nn.Conv2d(3, 16, 3, padding=1, bias=False),
            *blocks,
            nn.BatchNorm2d(channels[3]),
            nn.ReLU(inplace=True),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(channels[3], num_classes),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.to(memory_format=torch.channels_last)


_SMALL_ARCHITECTURES: dict[str, Callable[[int], nn.Module]] = {"small_resnet": SmallResNet, "wrn_40_2": WideResNet}


_WITH_AUXILIARY_CLASSIFIERS = ("googlenet", "inception_v3")


def _build(architecture: str, num_classes: int) -> nn.Module:
    if architecture in _SMALL_ARCHITECTURES:
        return _SMALL_ARCHITECTURES[architecture](num_classes)
    known = torchvision.models.list_models(module=torchvision.models)
    model: nn.Module
    if architecture in known:
        plain = {"aux_logits": False, "init_weights": False} if architecture in _WITH_AUXILIARY_CLASSIFIERS else {}
        model = torchvision.models.get_model(architecture, weights=None, num_classes=num_classes, **plain)
        return model
    remedy = "timm is not installed"
    if find_spec("timm") is not None:
        import timm

        name = architecture.removeprefix("timm/")
        if timm.is_model(name):
            model = timm.create_model(name, pretrained=False, num_classes=num_classes)
            return model
        known += [f"timm/{name}" for name in timm.list_models()] if name != architecture else timm.list_models()
        remedy = ""
    names = dict.fromkeys([*_SMALL_ARCHITECTURES, *known])
    close = ", ".join(difflib.get_close_matches(architecture, names, n=3)) or "resnet18"
    raise ValueError(
        f"Expected argument `architecture` to be {', '.join(_SMALL_ARCHITECTURES)} or the name of a classification "
        f"model of torchvision or timm; got {architecture!r} (for instance {close}{remedy and f'; {remedy}'})."
    )


class Classifier(pl.LightningModule):
    """Image classification with cross-entropy, SGD with Nesterov momentum, and a cosine learning rate schedule.

    Args:
        num_classes: Number of classes, at least 1.
        architecture: ``"small_resnet"``, ``"wrn_40_2"``, or the name of a classification model of torchvision or, where
            it is installed, timm; ``"timm/resnet18"`` is timm's where both have one.
        views: Augmented views of each training image, as for ``AugMixCallback``; above 0, the loss is ``JSDLoss``.
        consistency_weight: The ``weight`` of ``JSDLoss``, at least 0.
        learning_rate: Initial learning rate, above 0.
        momentum: Momentum, in [0, 1).
        weight_decay: Weight decay, at least 0.

    Raises:
        TypeError: If a number has the wrong type.
        ValueError: If there is no such architecture, or a number is out of range.
    """

    def __init__(
        self,
        num_classes: int,
        architecture: str = "small_resnet",
        views: int = 0,
        consistency_weight: float = 12.0,
        learning_rate: float = 0.1,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
    ) -> None:
        super().__init__()
        number("learning_rate", learning_rate, above=0)
        number("momentum", momentum, at_least=0, below=1)
        number("weight_decay", weight_decay, at_least=0)
        self.save_hyperparameters()
        self.model = _build(architecture, num_classes)
        self.loss = JSDLoss(consistency_weight, views) if views else nn.CrossEntropyLoss()
        self.accuracy = nn.ModuleDict(
            {stage: MulticlassAccuracy(num_classes, average="micro") for stage in ("val", "test")}
        )

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images)
        return logits

    def setup(self, stage: str) -> None:
        """Tries the size of the images before a fit.

        Raises:
            UsageError: If the architecture cannot take it.
        """
        data = getattr(self.trainer, "datamodule", None)
        if stage == "fit" and isinstance(data, ImageDataModule):
            self._try(self.hparams["architecture"], data.hparams["image_size"])

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, targets = batch
        loss: Tensor = self.loss(self(images), targets)
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def on_train_epoch_end(self) -> None:
        # A metric, because strategies that train in other processes bring back the metrics alone.
        self.log("epochs", float(self.current_epoch + 1), logger=False, sync_dist=True)

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
        # As a real number: Lightning takes the mean over the processes, and rounds that of whole numbers down.
        images_here: Any = float(len(targets))
        self.log(f"{stage}_loss", self.loss(logits, targets), batch_size=images_here, sync_dist=True)
        self.log(f"{stage}_accuracy", accuracy, prog_bar=True)

    def _try(self, architecture: str, size: int) -> None:
        if architecture in _SMALL_ARCHITECTURES and size > SMALL:
            rank_zero_info(
                f"{architecture} is meant for images of up to {SMALL} pixels, these have {size}: "
                "model.architecture=resnet18 suits them better."
            )
        self.eval()
        try:
            with torch.no_grad():
                logits = self(torch.zeros(1, 3, size, size))
        except (AssertionError, RuntimeError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise UsageError(
                f"model.architecture={architecture} does not take images of data.image_size={size} ({reason}): choose "
                "another size, such as 224, or another architecture."
            ) from error
        if not isinstance(logits, Tensor) or logits.shape != (1, self.hparams["num_classes"]):
            raise UsageError(f"model.architecture={architecture} does not classify: choose another.")
        self.train()
