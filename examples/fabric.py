"""AugMix in a loop of Lightning Fabric's, with the consistency loss."""

import torch
from lightning.fabric import Fabric
from torch import nn
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import FakeData

from lightning_augmix import AugmentAndMixTransform, JSDLoss, augment_dataloader


def main() -> None:
    fabric = Fabric(devices=1)
    fabric.launch()
    data = FakeData(64, image_size=(3, 32, 48), num_classes=10, transform=transforms.ToTensor())
    clean = DataLoader(data, batch_size=16, shuffle=True)
    loader = fabric.setup_dataloaders(augment_dataloader(clean, AugmentAndMixTransform(severity=3), views=2))
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 48, 10))
    model, optimizer = fabric.setup(network, torch.optim.SGD(network.parameters(), lr=0.01))
    loss_of = JSDLoss(weight=12, views=2)
    for images, targets in loader:  # three times as many images as targets
        loss = loss_of(model(images), targets)
        optimizer.zero_grad()
        fabric.backward(loss)
        optimizer.step()
        print(tuple(images.shape), f"loss {loss.item():.3f}")


if __name__ == "__main__":
    main()
