"""What to write where AugMix cannot be placed: only ways that are open for the data that was seen."""

from collections.abc import Sequence

import numpy as np
import torch

from lightning_augmix.injection.entries import Entry, candidates

__all__ = ["BY_HAND", "PHOTOMETRIC", "write_instead"]

#: What `inject=False` asks of the user.
BY_HAND = (
    "With `inject=False` the callback's `transform` is yours to apply: put the object itself (`callback.transform`) "
    "into the transforms of all training data, or leave out `inject=False`."
)

PHOTOMETRIC = '`augmentation_set="photometric"`, which moves no pixel'

_PIPELINE = (
    "a `transforms.Compose` or `v2.Compose` of torchvision's transforms that shows where the image becomes "
    "floating-point, for instance Compose([…, ToTensor(), Normalize(…)])"
)
_APPLY = (
    "apply AugmentAndMixTransform yourself where the image is still uint8 (with AugMixCallback, its attribute "
    "`transform`, and pass `inject=False`)"
)


def write_instead(
    entries: Sequence[Entry] | None = None, *, over_image: bool = False, has_pipeline: bool = False
) -> str:
    """What to write instead.

    Args:
        entries: Those of a sample that was seen; ``None`` where none was.
        has_pipeline: Whether a pipeline that shows the place is there already.
        over_image: Whether the trouble is an entry that lies over the image, so that no other place would do.
    """
    if over_image:
        return f"Write instead {PHOTOMETRIC}; or {_APPLY}, and to that entry what fits it."
    if entries is None:
        by_key = (
            "pass `image_key=`, the key or position of the image in the samples, if the dataset returns it as uint8, "
            "or in [0, 1] and not normalised"
        )
        return f"Write instead {_PIPELINE}; or {by_key}; or {_APPLY}."
    ways = [_APPLY]
    keys = [key for entry in candidates(entries) if _is_in_range(entry.value) if (key := _key(entry))]
    if keys:
        ways.insert(0, f"pass `image_key=`, the key or position of the image ({' or '.join(keys)})")
    if not has_pipeline:
        ways.insert(0, _PIPELINE)
    return f"Write instead {'; or '.join(ways)}."


def _key(entry: Entry) -> str | None:
    """The ``image_key`` of an entry, if it is at the top of the sample."""
    path = entry.path
    if path.count("[") == 1 and path.startswith("[") and path.endswith("]"):
        return f"image_key={path[1:-1]}"
    return None


def _is_in_range(value: object) -> bool:
    if isinstance(value, np.ndarray):
        return bool(value.dtype == np.uint8)
    if not isinstance(value, torch.Tensor) or not value.is_floating_point():
        return True
    return value.numel() > 0 and float(value.min()) >= 0 and float(value.max()) <= 1
