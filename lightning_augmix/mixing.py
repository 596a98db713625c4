"""The convex combination of the image and its chains; the only place that rounds."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

__all__ = ["mix"]


def mix(
    image: NDArray[np.uint8], chains: Iterable[NDArray[np.uint8]], weights: NDArray[np.float32]
) -> NDArray[np.uint8]:
    """Computes ``(1 − m)·image + m·Σ wᵢ·chainᵢ`` in float32, rounded to nearest (ties to even).

    Rounding, where other implementations truncate, keeps a constant image constant. Products and sums are taken in
    the order in which they are written, so that every engine can give the same bytes.

    Args:
        image: uint8, any shape.
        chains: The image after each chain, uint8, of the same shape.
        weights: float32 ``[1 + number of chains]``: m, then w₁, w₂, …

    Returns:
        The mixed image, uint8, of the same shape.
    """
    mixing_weight, *chain_weights = weights
    mixed = np.zeros(image.shape, np.float32)
    for chain, weight in zip(chains, chain_weights, strict=True):
        mixed += weight * chain.astype(np.float32)
    mixed *= mixing_weight
    mixed += (np.float32(1) - mixing_weight) * image.astype(np.float32)
    return np.clip(np.rint(mixed, out=mixed), 0, 255, out=mixed).astype(np.uint8)
