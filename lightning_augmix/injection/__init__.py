"""Injection: augmented copies of datasets and loaders; the originals stay as they are."""

from lightning_augmix.injection.loaders import augment_dataloader, augment_dataset

__all__ = ["augment_dataloader", "augment_dataset"]
