"""Sequences of perturbed test images, from files in the published formats or computed, for the rate of flips.

Source: Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations",
ICLR 2019, https://arxiv.org/abs/1903.12261.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.datasets import DatasetFolder

from lightning_augmix._checks import integer, one_of
from lightning_augmix._extras import require
from lightning_augmix.robustness.computed import as_array, strengths_for
from lightning_augmix.robustness.published import STRENGTHS, load_array, source_of

__all__ = ["PERTURBATIONS", "PerturbedData", "compute_perturbations", "open_perturbations"]

#: The perturbations, in their published order.
PERTURBATIONS = (
    *("gaussian_noise", "shot_noise", "motion_blur", "zoom_blur"),
    *("snow", "brightness", "translate", "rotate", "tilt", "scale"),
)
# CIFAR-10-P is published with the same, but its authors' mean has spatter in the place of snow.
_OF_CIFAR = tuple("spatter" if name == "snow" else name for name in PERTURBATIONS)

_Transform = Callable[[Image.Image], Any]


class PerturbedData(ABC):
    """For each perturbation, a dataset of sequences of the same images.

    Args:
        source: Where they come from, in words.
        perturbations: The names of the perturbations.

    Attributes:
        source: Where they come from, in words.
        perturbations: The names of the perturbations.
        noises: Those of which each frame is compared with the first, which is clean; of others with the one before.
    """

    def __init__(self, source: str, perturbations: Sequence[str]) -> None:
        self.source, self.perturbations = source, tuple(perturbations)
        self.noises = tuple(name for name in self.perturbations if name.endswith("noise"))

    def dataset(self, perturbation: str, transform: _Transform) -> Dataset[Tensor]:
        """Opens the sequences of a perturbation.

        Args:
            perturbation: The name of the perturbation.
            transform: Converts a PIL image to an input of the classifier.

        Returns:
            A dataset of tensors ``[F, ...]``, F inputs in a sequence.

        Raises:
            ValueError: If a file is missing, truncated or malformed; the message names it.
        """
        return _Sequences(self._frames(perturbation), transform)

    @abstractmethod
    def _frames(self, perturbation: str) -> "Dataset[NDArray[np.uint8]]":
        """A dataset of arrays ``[F, H, W, 3]`` or ``[F, H, W]``."""


class _Sequences(Dataset[Tensor]):
    def __init__(self, frames: Any, transform: _Transform) -> None:
        self.frames, self.transform = frames, transform
        self.count = len(frames[0]) if len(frames) else 0

    def __getitem__(self, index: int) -> Tensor:
        frames = self.frames[index]
        if len(frames) != self.count or self.count < 2:
            raise ValueError(
                f"Expected sequences of as many frames as the first, at least 2; sequence {index} has {len(frames)}, "
                f"the first {self.count}."
            )
        return torch.stack([torch.as_tensor(self.transform(Image.fromarray(frame))) for frame in frames])

    def __len__(self) -> int:
        return len(self.frames)


def open_perturbations(folder: str | Path) -> PerturbedData:
    """Opens sequences in the format of CIFAR-10-P and CIFAR-100-P, or of ImageNet-P.

    Args:
        folder: A folder with ``<perturbation>.npy`` files, uint8 ``[N, F, H, W, 3]``, as in CIFAR-10-P (spatter in the
            place of snow, as its authors' mean has it; the files are memory-mapped, and nothing in them is executed);
            or with folders ``<perturbation>/<class>/`` of ``.mp4`` files, as in ImageNet-P, also in folders of
            perturbations, such as ``noise/<perturbation>`` (read by OpenCV, of the extra ``robustness``).

    Returns:
        The sequences.

    Raises:
        ImportError: If OpenCV is needed and not installed.
        ValueError: If the folder is neither, or lacks one of the perturbations; the message names it.
    """
    path = Path(folder)
    if any(path.glob("*.npy")):
        return _Arrays(path)
    if any(path.glob("*/*/*.mp4")) or any(path.glob("*/*/*/*.mp4")):
        require("Reading videos", "robustness", "imagecorruptions-imaug")  # which brings OpenCV
        return _Videos(path)
    raise ValueError(
        "Expected a folder with <perturbation>.npy (CIFAR-10-P's format), or with folders <perturbation>/<class> of "
        f".mp4 files (ImageNet-P's); {path} {'has neither' if path.is_dir() else 'is not a folder'}."
    )


class _Arrays(PerturbedData):
    def __init__(self, folder: Path) -> None:
        super().__init__(source_of(folder, "CIFAR-10-P"), _OF_CIFAR)
        self.folder = folder

    def _frames(self, perturbation: str) -> Any:
        return _ArraySequences(self.folder / f"{perturbation}.npy")


class _ArraySequences(Dataset[Any]):
    def __init__(self, path: Path) -> None:
        self.path, self.array = path, load_array(path)
        if self.array.dtype != np.uint8 or self.array.ndim != 5 or self.array.shape[4] != 3 or not len(self.array):
            raise ValueError(
                f"Expected {path} to hold uint8 sequences of images [N, F, H, W, 3]; got {self.array.dtype} "
                f"{list(self.array.shape)}."
            )

    def __reduce__(self) -> tuple[Any, ...]:
        # Pickling a mapped array copies its content; a spawned process maps the file itself.
        return type(self), (self.path,)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        return np.asarray(self.array[index])

    def __len__(self) -> int:
        return len(self.array)


class _Videos(PerturbedData):
    def __init__(self, folder: Path) -> None:
        super().__init__(source_of(folder, "ImageNet-P"), PERTURBATIONS)
        self.folder = folder
        self._folders = {each.name: each for each in (*folder.glob("*/*"), *folder.glob("*")) if each.is_dir()}

    def _frames(self, perturbation: str) -> Any:
        path = self._folders.get(perturbation, self.folder / perturbation)
        try:
            return _VideoSequences(str(path), _read_video, (".mp4",))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise ValueError(f"The sequences lack {path}, or videos in it ({error}).") from None


class _VideoSequences(DatasetFolder):  # type: ignore[misc]  # torchvision ships no types
    def __getitem__(self, index: int) -> Any:
        return super().__getitem__(index)[0]


def _read_video(path: str) -> NDArray[np.uint8]:
    import cv2

    video, frames = cv2.VideoCapture(path), []
    while (read := video.read())[0]:
        frames.append(cv2.cvtColor(read[1], cv2.COLOR_BGR2RGB))
    video.release()
    if not frames:
        raise ValueError(f"{path} is truncated or not a video: fetch it again.")
    return np.stack(frames)


def compute_perturbations(
    data: Dataset[Any],
    perturbations: Sequence[str] = PERTURBATIONS,
    *,
    strengths: str = "auto",
    seed: int = 0,
) -> PerturbedData:
    """Computes sequences of perturbed test images, where none are published.

    They are computed as they are read, and kept nowhere: for 10,000 images of 32×32 pixels they would fill 9 GB. What
    comes in from outside an image is black. (Published sequences of larger images were cropped afterwards, and the
    motion blur of Tiny ImageNet-P came before the images were made small: computed, both are stronger.)

    Args:
        data: A map-style dataset of pairs (image, class), as for ``compute_corruptions``.
        perturbations: The perturbations to compute, from ``PERTURBATIONS``.
        strengths: As for ``compute_corruptions``: those of CIFAR-10-P, Tiny ImageNet-P and ImageNet-P.
        seed: Seed of the random perturbations, an integer, at least 0.

    Returns:
        The sequences.

    Raises:
        ImportError: If ``imagecorruptions-imaug`` is not installed.
        TypeError: If ``seed`` is not an integer.
        ValueError: If it is too small, if there are no such strengths or no such perturbation, or if there are no
            images.
    """
    require("Computing perturbations", "robustness", "imagecorruptions-imaug")
    unknown = [name for name in perturbations if name not in PERTURBATIONS]
    if unknown or not perturbations:
        raise ValueError(
            f"Expected argument `perturbations` to be of: {', '.join(PERTURBATIONS)}; got {unknown or 'none'}."
        )
    one_of("strengths", strengths, ["auto", *STRENGTHS])
    seed = integer("seed", seed, at_least=0)
    images: Any = data
    if not len(images):
        raise ValueError("Expected argument `data` to have images; got none.")
    if strengths == "auto":
        strengths = strengths_for(max(as_array(images[0][0], 0).shape[:2]))
    return _Computed(data, perturbations, strengths, seed)


class _Computed(PerturbedData):
    def __init__(self, data: Any, perturbations: Sequence[str], strengths: str, seed: int) -> None:
        like = STRENGTHS[strengths].removesuffix("C") + "P"
        super().__init__(f"computed at {like}'s strengths, seed {seed}", perturbations)
        self.data, self.strengths, self.seed = data, strengths, seed

    def _frames(self, perturbation: str) -> Any:
        return _ComputedSequences(self.data, perturbation, self.strengths, self.seed)


class _ComputedSequences(Dataset[Any]):
    def __init__(self, data: Any, perturbation: str, strengths: str, seed: int) -> None:
        self.data, self.perturbation, self.strengths, self.seed = data, perturbation, strengths, seed

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        from lightning_augmix.robustness.perturbations import perturb

        image = as_array(self.data[index][0], index)
        seeds = np.random.SeedSequence([self.seed, PERTURBATIONS.index(self.perturbation), index])
        return perturb(image, self.perturbation, self.strengths, seeds)

    def __len__(self) -> int:
        return len(self.data)
