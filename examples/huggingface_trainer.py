"""AugMix with Hugging Face's datasets and Trainer. Needs `pip install datasets transformers accelerate`."""

import tempfile
from typing import Any

import numpy as np
import torch
from datasets import Dataset, Features, Image, Value
from PIL.Image import fromarray
from torchvision import transforms
from transformers import ResNetConfig, ResNetForImageClassification, Trainer, TrainingArguments

from lightning_augmix import AugmentAndMixTransform

PIPELINE = transforms.Compose(
    [
        transforms.RandomCrop(32),
        AugmentAndMixTransform(severity=3, augmentation_set="safe"),
        transforms.ToTensor(),
        transforms.Normalize((0.5,) * 3, (0.5,) * 3),
    ]
)


def random_images() -> Dataset:
    levels = np.random.default_rng(0).integers(256, size=(32, 40, 48, 3), dtype=np.uint8)
    content = {"image": [fromarray(each) for each in levels], "label": [number % 10 for number in range(32)]}
    return Dataset.from_dict(content, Features({"image": Image(), "label": Value("int64")}))


def augmented(rows: dict[str, Any]) -> dict[str, Any]:
    return {"pixel_values": [PIPELINE(image) for image in rows["image"]], "labels": rows["label"]}


def main() -> None:
    images = random_images()
    images.set_transform(augmented)  # each time a row is read, so that each epoch has other augmentations
    config: Any = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    config.num_labels = 10
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            folder,
            num_train_epochs=1,
            per_device_train_batch_size=8,
            remove_unused_columns=False,  # or the column that is transformed is removed
            report_to="none",
            use_cpu=not torch.cuda.is_available(),
        )
        Trainer(ResNetForImageClassification(config), settings, train_dataset=images).train()


if __name__ == "__main__":
    main()
