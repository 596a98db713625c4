"""Hydra schemas: the constructors' typed parameters, for YAML and the command line."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict

from lightning_augmix import unread

__all__ = ["AugMixCallbackConfig", "AugmentAndMixTransformConfig", "Watch", "register"]


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
    on: str = "workers"
    warmup_epochs: int = 0
    milestones: Any = None  # a mapping; OmegaConf merges no override into an optional one
    clean_epochs: int = 0
    log_images: int = 0
    on_unsupported: str = "raise"


def register() -> None:
    """Registers the schema that the configs of ``configs/`` build on, in no group: Hydra lists groups alone."""
    schema = OmegaConf.structured(AugMixCallbackConfig)
    with open_dict(schema):
        schema.defaults = ["/lightning_augmix_watch@_global_.hydra.callbacks.lightning_augmix", "_self_"]
    watch = {"_target_": f"{Watch.__module__}.{Watch.__name__}"}
    for name, node in (("lightning_augmix_callback", schema), ("lightning_augmix_watch", watch)):
        ConfigStore.instance().store(name, node, provider="lightning-augmix")


class Watch(Callback):
    """A Hydra callback that comes with the published configs, see :mod:`lightning_augmix.unread`."""

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Notes where the configuration of the job has AugMixCallback."""
        running = HydraConfig.instance().cfg
        keys = list(_callbacks_in(OmegaConf.to_container(config), ""))
        unread.expect(keys, lambda: HydraConfig.instance().cfg is running)


def _callbacks_in(node: Any, key: str) -> Iterator[str]:
    if isinstance(node, dict):
        if node.get("_target_") == AugMixCallbackConfig._target_:
            yield key
        for name, part in node.items():
            yield from _callbacks_in(part, f"{key}.{name}".removeprefix("."))
