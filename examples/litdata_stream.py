"""AugMix on images that litdata streams from chunks. Needs `pip install litdata`."""

import tempfile
from typing import Any

import litdata
import numpy as np
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import transforms

from lightning_augmix import AugmentAndMixTransform, augment_dataloader


def image_of(index: int) -> dict[str, Any]:
    levels = np.random.default_rng(index).integers(256, size=(32, 48, 3), dtype=np.uint8)
    return {"image": Image.fromarray(levels), "label": index % 10}


class Images(litdata.StreamingDataset):  # type: ignore[misc]  # litdata ships no types
    """Applies transforms to the images."""

    def __init__(self, folder: str) -> None:
        super().__init__(folder)
        self.pipeline = transforms.Compose([transforms.RandomCrop(32), transforms.ToTensor()])

    def __getitem__(self, index: int) -> tuple[Any, int]:
        sample = super().__getitem__(index)
        return self.pipeline(sample["image"]), sample["label"]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        litdata.optimize(image_of, list(range(32)), output_dir=folder, chunk_size=16, num_workers=1)
        clean: DataLoader[Any] = DataLoader(Images(folder), batch_size=8)
        for images, labels in augment_dataloader(clean, AugmentAndMixTransform(severity=3)):
            print(tuple(images.shape), labels.tolist())


if __name__ == "__main__":
    main()
