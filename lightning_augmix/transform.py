"""AugMix as a torchvision transform."""

import time
from typing import Any

import numpy as np
import PIL.Image
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from lightning_augmix import unread
from lightning_augmix._compiling import runs_as_it_is
from lightning_augmix._device import Pending, Settings, check_for_device
from lightning_augmix._errors import OnUnsupported, PlacementError, refuse
from lightning_augmix._images import SPATIAL_TARGETS, UnsupportedImageError, may_be_image
from lightning_augmix._views import Views, copied
from lightning_augmix.engines import select_engine
from lightning_augmix.functional import augmix_with_keys
from lightning_augmix.operations import AugmentationSet
from lightning_augmix.plans.hyperparameters import Hyperparameters, validate
from lightning_augmix.plans.keys import GeneratorKeys, KeySource

__all__ = ["AugmentAndMixTransform"]


class AugmentAndMixTransform(v2.Transform):  # type: ignore[misc]  # torchvision ships no types
    """AugMix for ``torchvision.transforms.Compose``, ``v2.Compose`` and ``nn.Sequential``.

    It accepts an image or a sample: any nesting of tuples, lists and dicts. In a sample it augments PIL images and
    ``tv_tensors.Image``; if there are none, the first plain tensor or array with the shape and dtype of an image.
    Images of one sample share their random choices. Masks must be ``tv_tensors.Mask``, as for all v2 transforms: every
    PIL image is augmented. Place it after resizing, cropping and flipping, and before the conversion to floating point.

    Source: Hendrycks et al., "AugMix", ICLR 2020, https://arxiv.org/abs/1912.02781.

    Args:
        severity: Upper bound of the intensity of the operations, a real number in [0, 10]; 0 leaves images unchanged.
        width: Number of chains, at least 1.
        depth: Operations per chain, at least 1, or −1 to draw 1, 2 or 3 for each chain.
        alpha: Parameter of the Dirichlet distribution of the chain weights and of the Beta distribution of the
            mixing weight, above 0. 1 makes both uniform; larger values favour equal weights.
        augmentation_set: ``"all"``, ``"safe"`` (no overlap with the corruptions of CIFAR-C and ImageNet-C),
            ``"original"``, ``"photometric"`` (moves no pixels), or a sequence of operation names or operations.
        engine: ``"numba"``, ``"pillow"``, ``"torch"``, ``"triton"`` (for tensors on CUDA devices), or ``"auto"``:
            ``numba``, and for tensors on a CUDA device, where they stay, ``triton``, or ``torch`` where it does not
            work. All produce the same bytes.

    Attributes:
        hyperparameters: The validated hyperparameters.
        keys: Where the keys of plans come from; torch's default generator unless replaced.
        views: 0, or the number of augmented views that an image becomes beside itself; see
            :class:`~lightning_augmix.AugMixCallback`, which sets it.
        on_device: Whether images are left for the batch to augment, see :class:`~lightning_augmix.AugMixCallback`.
        on_unsupported: Whether an image that AugMix does not take is an error, or a warning and left as it is; set
            likewise.

    Shape:
        - PIL images ``RGB`` and ``L``; arrays ``[H, W]``, ``[H, W, 1]``, ``[H, W, 3]``, uint8; tensors ``[C, H, W]``
          and batches ``[N, C, H, W]`` with C of 1 or 3, uint8, or floating-point in [0, 1]. The output has the type,
          dtype, shape and device of the input.

    Raises:
        TypeError: If an argument has the wrong type; on a call, if the sample has no image.
        ValueError: If an argument is out of range; on a call, a :class:`PlacementError` if the sample has boxes, masks
            or keypoints and the set moves pixels.

    Example:
        >>> import torch
        >>> from torchvision import transforms
        >>> pipeline = transforms.Compose([
        ...     transforms.RandomCrop(24),
        ...     AugmentAndMixTransform(severity=3, augmentation_set="safe"),
        ...     transforms.ConvertImageDtype(torch.float32),
        ... ])
        >>> pipeline(torch.zeros(3, 32, 48, dtype=torch.uint8)).shape
        torch.Size([3, 24, 24])
    """

    def __init__(
        self,
        severity: float = 3,
        width: int = 3,
        depth: int = -1,
        alpha: float = 1.0,
        augmentation_set: AugmentationSet = "all",
        *,
        engine: str = "auto",
    ) -> None:
        super().__init__()
        self.hyperparameters = validate(severity, width, depth, alpha, augmentation_set)
        select_engine(engine)
        self.engine = engine
        self.keys: KeySource = GeneratorKeys()
        self.views = 0
        self.on_device = False
        self.on_unsupported: OnUnsupported = "raise"
        unread.was_read()

    @runs_as_it_is
    def forward(self, *inputs: Any) -> Any:
        """Augments an image, or the images of a sample."""
        # torchvision's way through samples takes as long as AugMix on a small image.
        if len(inputs) == 1 and isinstance(inputs[0], PIL.Image.Image):
            return self.transform(inputs[0], self.make_params(list(inputs)))
        return super().forward(*inputs)

    def check_inputs(self, flat_inputs: list[Any]) -> None:
        """Rejects samples whose targets would not match the augmented image."""
        for entry in flat_inputs:
            if isinstance(entry, tv_tensors.Video):
                raise TypeError("AugMix takes images; got a tv_tensors.Video: pass its frames as a batch of images.")
            if self.hyperparameters.moves_pixels and isinstance(entry, SPATIAL_TARGETS):
                raise PlacementError(
                    f"The sample has {type(entry).__name__}, which AugMix does not move, but augmentation_set="
                    f"{self.hyperparameters.augmentation_set!r} moves pixels: use 'photometric'."
                )

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draws the keys of the sample, one for each view."""
        if not flat_inputs:
            raise TypeError(
                "AugMix found no image in the sample: it looks for PIL images, tv_tensors.Image, tensors and arrays in "
                "tuples, lists and dicts. Apply it where the sample contains an image."
            )
        return {"keys": [self.keys.draw() for _ in range(1 if self.keys.stand_in else max(1, self.views))]}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Augments one image of the sample."""
        keys, is_alone = params["keys"], self.keys.stand_in is not None
        hyperparameters = self._hyperparameters_now()
        tally, began = self.keys.audit.tally, time.perf_counter_ns()
        if is_alone or hyperparameters.severity == 0:
            tally = None
        try:
            if self.on_device and not is_alone:
                check_for_device(inpt)
                if tally is not None:
                    tally.add(len(keys))
                # A copy, because the image is the dataset's own, which may change or close it.
                return Pending(copied(inpt), keys, Settings(hyperparameters, self.engine, self.views))
            augmented = augmix_with_keys(inpt, keys, hyperparameters, self.engine)
        except UnsupportedImageError as error:
            if self.on_unsupported == "raise":
                raise
            refuse(str(error), "warn")
            augmented = [inpt] * len(keys)
        else:
            if tally is not None:
                in_it = len(inpt) if getattr(inpt, "ndim", 3) == 4 else 1
                tally.add(in_it * len(keys), time.perf_counter_ns() - began)
        return Views([inpt, *augmented]) if self.views and not is_alone else augmented[0]

    def _hyperparameters_now(self) -> Hyperparameters:
        severity = self.keys.severity
        return self.hyperparameters if severity is None else self.hyperparameters.with_severity(severity)

    def _needs_transform_list(self, flat_inputs: list[Any]) -> list[bool]:
        # torchvision's own rule passes masks and boxes to every transform and skips arrays.
        explicit = [isinstance(entry, PIL.Image.Image | tv_tensors.Image) for entry in flat_inputs]
        if any(explicit):
            return explicit
        plain = [
            isinstance(entry, torch.Tensor | np.ndarray) and not isinstance(entry, tv_tensors.TVTensor)
            for entry in flat_inputs
        ]
        likely = [may_be_image(entry) for entry in flat_inputs]
        # If none looks like an image, take the first: `as_pixels` says what is wrong with it.
        chosen = likely if any(likely) else plain
        return [position == chosen.index(True) for position in range(len(chosen))] if any(chosen) else chosen

    def extra_repr(self) -> str:
        """The hyperparameters, as printed within pipelines."""
        return f"{self.hyperparameters}, views={self.views}" if self.views else str(self.hyperparameters)
