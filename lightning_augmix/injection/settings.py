"""What the parts of injection ask of the callback."""

from typing import Any, Literal, Protocol

from lightning_augmix._errors import OnUnsupported
from lightning_augmix.injection.decide import ImageKey
from lightning_augmix.plans.schedule import Schedule
from lightning_augmix.transform import AugmentAndMixTransform

__all__ = ["Settings"]


class Settings(Protocol):
    """The callback, which explains each of these."""

    transform: AugmentAndMixTransform
    schedule: Schedule
    views: int
    seed: int | None
    image_key: ImageKey | None
    inject: bool
    on: Literal["workers", "device"]
    log_images: int
    on_unsupported: OnUnsupported

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the augmentation."""

    def tell(self, report: str) -> None:
        """Logs what was done to the data, once."""
