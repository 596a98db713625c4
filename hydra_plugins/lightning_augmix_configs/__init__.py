"""Makes AugMix's configs visible to every Hydra application in whose environment it is installed.

Hydra imports this in each of them, so it must stay light: no torch, no Lightning.
"""

from hydra.core.config_search_path import ConfigSearchPath, SearchPathElement
from hydra.plugins.search_path_plugin import SearchPathPlugin

from lightning_augmix.config import register

__all__ = ["LightningAugmixSearchPathPlugin"]

_STORE = "structured://"


class LightningAugmixSearchPathPlugin(SearchPathPlugin):
    """Appends ``configs/`` to the search path, after all that the application has: its own configs always hold."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Appends the path and registers the schema that the configs name."""
        register()
        path = _OursLast(search_path.get_path())
        path += [
            SearchPathElement("schema", _STORE),
            SearchPathElement("lightning-augmix", "pkg://lightning_augmix.configs"),
        ]
        search_path.config_search_path = path  # type: ignore[attr-defined]


class _OursLast(list[SearchPathElement]):
    """A search path that keeps the application's store, and then ours, after what is appended later.

    Hydra appends its store after all plugins, and the folders of ``hydra.searchpath`` only then.
    """

    def append(self, element: SearchPathElement) -> None:
        others = (position for position, present in enumerate(self) if present.path == _STORE)
        last = element.path == _STORE or element.provider == "lightning-augmix"
        self.insert(len(self) if last else next(others, len(self)), element)
