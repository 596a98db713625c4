"""AugMix on the device of the model: a plain loop, and Fabric."""

import torch
from lightning.fabric import Fabric
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import FakeData

from lightning_augmix import AugmentAndMixTransform, augment_batch, augment_dataloader


def main() -> None:
    transform = transforms.Compose(
        [transforms.RandomCrop(24), transforms.ToTensor(), transforms.Normalize([0.5], [0.25])]
    )
    data = FakeData(64, image_size=(3, 32, 32), num_classes=10, transform=transform)
    clean = DataLoader(data, batch_size=16, shuffle=True)
    # Workers deliver images in 8 bits; AugMix, ToTensor and Normalize come with `augment_batch`.
    loader = augment_dataloader(clean, AugmentAndMixTransform(severity=3), on="device")

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 24 * 24, 10)).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for batch in loader:
        images, labels = augment_batch(batch, device)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    fabric = Fabric(devices=1)
    model, optimizer = fabric.setup(model, optimizer)
    for batch in fabric.setup_dataloaders(loader):
        images, labels = augment_batch(batch)  # Fabric has moved the batch
        optimizer.zero_grad()
        fabric.backward(torch.nn.functional.cross_entropy(model(images), labels))
        optimizer.step()
    print(f"Trained on {tuple(images.shape)} images of {images.dtype} on {images.device}.")


if __name__ == "__main__":
    main()
