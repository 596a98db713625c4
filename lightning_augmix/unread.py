"""A configuration that has AugMix in an application that does not read it there: the fit is refused.

``+augmix=default`` composes in any Hydra application, also in one that reads only ``callbacks`` and would train without
AugMix. The published configs note that a job has them (:class:`lightning_augmix.config.Watch`), and Lightning asks for
callbacks of every Trainer at its entry point ``callbacks_factory``: there is one if the job has made no AugMix until
then, be it of these configs or of their values.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import lightning.pytorch as pl

__all__ = ["callbacks", "expect", "was_read"]

# Where the configuration of a job has AugMixCallback, until AugMix is made; each with what tells whether the job runs.
_unread: list[tuple[str, Callable[[], bool]]] = []


def expect(keys: Sequence[str], runs: Callable[[], bool]) -> None:
    """Notes where the configuration of a job has AugMixCallback.

    Args:
        keys: The keys of its nodes; none if it has none.
        runs: Tells whether the job still runs.
    """
    _unread[:] = [(key, runs) for key in keys]


def was_read() -> None:
    """Notes that the job trains with AugMix: an AugmentAndMixTransform was made, or put into data."""
    _unread.clear()


def _unread_key() -> str | None:
    return next((key for key, runs in _unread if runs()), None)


def callbacks() -> "list[pl.Callback]":
    """What Lightning adds to every Trainer: nothing, unless AugMix is configured and not made."""
    if _unread_key() is None:
        return []
    import lightning.pytorch as pl

    class AugMixIsUnread(pl.Callback):
        """Refuses a fit."""

        def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            key = _unread_key()
            if key is not None:
                raise ValueError(
                    f"The configuration has AugMixCallback at `{key}`, and the application makes none of it: it would "
                    "train without AugMix. Write `callbacks=[default,augmix]` instead, for applications that "
                    f"instantiate their group `callbacks`; or give the Trainer `hydra.utils.instantiate(cfg.{key})`; "
                    "or leave it out. If this fit is meant to be without AugMix, and a later one with it, add "
                    "'~hydra.callbacks.lightning_augmix' on the command line."
                )

    return [AugMixIsUnread()]
