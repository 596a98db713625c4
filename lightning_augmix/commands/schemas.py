"""Hydra schemas of what the commands build: the constructors' typed parameters."""

from dataclasses import dataclass

from hydra.core.config_store import ConfigStore

__all__ = ["DataConfig", "ModelConfig", "register"]


@dataclass
class DataConfig:
    """Schema of :class:`lightning_augmix.commands.data.ImageDataModule`, which documents the fields."""

    _target_: str = "lightning_augmix.commands.data.ImageDataModule"
    _convert_: str = "all"
    dataset: str = "digits"
    root: str = "data"
    image_size: int | None = 32
    crop: str | None = None
    classes: list[str] | None = None
    batch_size: int = 128
    num_workers: int = 2
    train_images: int | None = None
    download: bool = True
    seed: int = 0


@dataclass
class ModelConfig:
    """Schema of :class:`lightning_augmix.commands.model.Classifier`, which documents the fields."""

    _target_: str = "lightning_augmix.commands.model.Classifier"
    architecture: str = "small_resnet"
    views: int = 0
    consistency_weight: float = 12.0
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4


def register() -> None:
    """Registers the schemas, on which the configs of the groups data and model are built."""
    for name, schema in (("data", DataConfig), ("model", ModelConfig)):
        ConfigStore.instance().store(name, schema, "schema", provider="lightning-augmix")
