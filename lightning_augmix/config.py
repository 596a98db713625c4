"""Hydra schemas: the constructors' typed parameters, for YAML and the command line."""

from dataclasses import dataclass
from functools import cache
from typing import Any

from hydra.core.config_store import ConfigStore

__all__ = ["AugMixCallbackConfig", "AugmentAndMixTransformConfig", "DataConfig", "ModelConfig", "register"]


@dataclass
class AugmentAndMixTransformConfig:
    """Schema of :class:`lightning_augmix.AugmentAndMixTransform`, which documents the fields."""

    _target_: str = "lightning_augmix.AugmentAndMixTransform"
    _convert_: str = "all"
    severity: float = 3
    width: int = 3
    depth: int = -1
    alpha: float = 1.0
    augmentation_set: Any = "all"  # a name or a list of names; OmegaConf has no unions with lists
    engine: str = "auto"


@dataclass
class AugMixCallbackConfig(AugmentAndMixTransformConfig):
    """Schema of :class:`lightning_augmix.AugMixCallback`, which documents the fields."""

    _target_: str = "lightning_augmix.AugMixCallback"
    views: int = 0
    seed: int | None = None
    image_key: Any = None  # a key or a position; OmegaConf has no union of the two
    inject: bool = True
    on_unsupported: str = "raise"


@dataclass
class DataConfig:
    """Schema of :class:`lightning_augmix.commands.data.ImageDataModule`, which documents the fields."""

    _target_: str = "lightning_augmix.commands.data.ImageDataModule"
    dataset: str = "digits"
    root: str = "data"
    image_size: int = 32
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


@cache
def register() -> None:
    """Registers the schemas as ``augmix_schema`` in the config groups augmix, transform, data and model.

    The name is specific because all Hydra applications in a process share the store.
    """
    schemas = {
        "augmix": AugMixCallbackConfig,
        "transform": AugmentAndMixTransformConfig,
        "data": DataConfig,
        "model": ModelConfig,
    }
    for group, schema in schemas.items():
        ConfigStore.instance().store(group=group, name="augmix_schema", node=schema, provider="lightning_augmix")
