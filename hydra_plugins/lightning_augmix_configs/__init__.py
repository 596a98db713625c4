"""Makes the configs of lightning-augmix visible to every Hydra application in whose environment it is installed.

Hydra imports this in each of them, so it must stay light: no torch, no Lightning.
"""

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

from lightning_augmix.config import register

__all__ = ["LightningAugmixSearchPathPlugin"]


class LightningAugmixSearchPathPlugin(SearchPathPlugin):
    """Appends ``lightning_augmix.configs`` to the search path, behind the application's own configs."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Appends the path and registers the schemas that the configs name."""
        register()
        search_path.append(provider="lightning-augmix", path="pkg://lightning_augmix.configs")
