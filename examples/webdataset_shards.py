"""AugMix on images that webdataset streams from tar files. Needs `pip install webdataset`."""

import io
import tempfile

import torch
import webdataset
from torch.utils.data import DataLoader
from torchvision.datasets import FakeData
from torchvision.transforms import functional

from lightning_augmix import AugmentAndMixTransform, augment_dataloader


def write_shard(path: str) -> None:
    with webdataset.TarWriter(path) as shard:
        for number, (image, label) in enumerate(FakeData(32, image_size=(3, 32, 48), num_classes=10)):
            content = io.BytesIO()
            image.save(content, format="png")
            shard.write({"__key__": f"{number:04d}", "png": content.getvalue(), "cls": label})


def to_tensors(samples: list[tuple[object, int]]) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = zip(*samples, strict=True)
    return torch.stack([functional.to_tensor(image) for image in images]), torch.tensor(labels)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_shard(f"{folder}/images-0.tar")
        # AugMix is applied to the PIL images of the samples; the collate function converts them after that.
        data = webdataset.WebDataset(f"{folder}/images-0.tar", shardshuffle=False).decode("pil").to_tuple("png", "cls")
        clean = DataLoader(data, batch_size=8, collate_fn=to_tensors)
        for images, labels in augment_dataloader(clean, AugmentAndMixTransform(severity=3, augmentation_set="safe")):
            print(tuple(images.shape), labels.tolist())


if __name__ == "__main__":
    main()
