"""Injection: augmented copies of datasets and loaders; the originals stay as they are."""

from lightning_augmix.injection.loaders import augment_batch, augment_dataloader, augment_dataset

__all__ = ["augment_batch", "augment_dataloader", "augment_dataset"]
