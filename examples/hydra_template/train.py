"""An application in the layout of lightning-hydra-template: callbacks are a group of configs, AugMix among them.

python train.py
python train.py callbacks.augmix.severity=5
python train.py experiment=strong
python train.py callbacks=model_summary  # without AugMix
"""

import hydra
import lightning.pytorch as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import FakeData


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


@hydra.main(version_base="1.3", config_path="configs", config_name="train")
def main(cfg: DictConfig) -> None:
    images = FakeData(64, image_size=(3, 32, 48), num_classes=10, transform=transforms.ToTensor())
    callbacks = [instantiate(callback) for callback in cfg.callbacks.values() if "_target_" in callback]
    trainer = instantiate(cfg.trainer, callbacks=callbacks)
    trainer.fit(LinearClassifier(), DataLoader(images, batch_size=16, shuffle=True))


if __name__ == "__main__":
    main()
