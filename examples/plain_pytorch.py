"""Uses AugMix without a Trainer: in your own pipeline, or inserted into an existing loader."""

import torch
from torch.utils.data import DataLoader
from torchvision.datasets import FakeData
from torchvision.transforms import v2

from lightning_augmix import AugmentAndMixTransform, augment_dataloader


def main() -> None:
    augmix = AugmentAndMixTransform(severity=3, width=3, depth=-1, alpha=1.0, augmentation_set="safe")

    own_pipeline = v2.Compose([v2.RandomCrop(32), augmix, v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    images = FakeData(64, image_size=(3, 40, 56), transform=own_pipeline)
    print("in a pipeline:", images[0][0].shape)

    clean = v2.Compose([v2.ToImage(), v2.RandomCrop(32), v2.ToDtype(torch.float32, scale=True)])
    loader = DataLoader(FakeData(64, image_size=(3, 40, 56), transform=clean), batch_size=16)
    augmented = augment_dataloader(loader, augmix)
    print("in a loader:", augmented.dataset.transform)  # type: ignore[attr-defined]
    for batch, _ in augmented:
        print("batch:", tuple(batch.shape))


if __name__ == "__main__":
    main()
