"""Severities that follow the epochs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lightning_augmix._checks import integer, number

__all__ = ["Schedule"]


@dataclass(frozen=True)
class Schedule:
    """How the severity follows the epochs.

    Args:
        warmup_epochs: See :class:`~lightning_augmix.AugMixCallback`.
        milestones: See there.
        clean_epochs: See there.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of range.
    """

    warmup_epochs: int = 0
    milestones: Mapping[int, float] = field(default_factory=dict)
    clean_epochs: int = 0

    def __post_init__(self) -> None:
        integer("warmup_epochs", self.warmup_epochs, at_least=0)
        integer("clean_epochs", self.clean_epochs, at_least=0)
        if not isinstance(self.milestones, Mapping):
            raise TypeError(
                "Expected argument `milestones` to be a mapping from epochs to severities, such as {30: 5}; got "
                f"{self.milestones!r}."
            )
        for epoch, severity in self.milestones.items():
            integer("milestones", epoch, at_least=0, remedy="epochs are counted from 0")
            number("milestones", severity, at_least=0, at_most=10, remedy="of a severity, such as {30: 5}")

    def __bool__(self) -> bool:
        return bool(self.warmup_epochs or self.milestones or self.clean_epochs)

    def severity(self, base: float, epoch: int, max_epochs: int | None) -> float:
        """The severity in an epoch.

        Args:
            base: The severity without a schedule.
            epoch: The epoch, from 0.
            max_epochs: The number of epochs; ``None`` where there is no limit.

        Example:
            >>> schedule = Schedule(warmup_epochs=2, milestones={4: 5}, clean_epochs=1)
            >>> [schedule.severity(3.0, epoch, 6) for epoch in range(6)]
            [1.5, 3.0, 3.0, 3.0, 5.0, 0.0]
        """
        if self.clean_epochs and max_epochs is not None and epoch >= max_epochs - self.clean_epochs:
            return 0.0
        passed = [milestone for milestone in self.milestones if milestone <= epoch]
        severity = float(self.milestones[max(passed)]) if passed else base
        return severity * min(1.0, (epoch + 1) / self.warmup_epochs) if self.warmup_epochs else severity

    def arguments(self) -> dict[str, Any]:
        """The arguments that are not at their defaults, for loggers and YAML."""
        every = {
            "warmup_epochs": self.warmup_epochs,
            "milestones": dict(self.milestones),
            "clean_epochs": self.clean_epochs,
        }
        return {name: value for name, value in every.items() if value}
