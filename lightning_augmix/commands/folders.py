"""Folders of images: ``train`` and, where they are there, ``val`` and ``test``, each with one folder per class."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median_low
from typing import Any

from PIL import Image, ImageOps
from torchvision import datasets

from lightning_augmix.commands.console import UsageError

__all__ = ["ClassFolders", "ImageError", "class_names", "load_image", "some", "typical_side"]


class ImageError(UsageError):
    """An image cannot be read; the message names the file.

    Args:
        message: What is wrong; or the text that torch makes of it in a worker process, with the whole traceback.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message.rpartition("ImageError: ")[2].strip())


class ClassFolders(datasets.ImageFolder):  # type: ignore[misc]  # torchvision ships no types
    """Images in one folder per class, as pairs of an RGB image, the right way up, and the number of its class.

    Args:
        folder: The folder with the folders of the classes; some may be missing or empty.
        classes: The names of the classes, in the order of their numbers.
        transform: Applied to the PIL image.

    Raises:
        UsageError: If the folder has other classes, or no images.
    """

    def __init__(self, folder: Path, classes: Sequence[str], transform: Callable[[Any], Any] | None = None) -> None:
        self._numbers = {name: number for number, name in enumerate(classes)}
        super().__init__(folder, transform, loader=load_image, allow_empty=True)
        if not self.samples:
            raise UsageError(f"{folder} has no images: put them into one folder per class.")

    def find_classes(self, directory: Any) -> tuple[list[str], dict[str, int]]:
        """The names of the classes and their numbers, which do not depend on the folder."""
        others = sorted(set(class_names(Path(directory))) - set(self._numbers))
        if others:
            raise UsageError(
                f"{directory} has classes that training does not have: {some(others)} (training has "
                f"{some(list(self._numbers))}): rename or remove these folders."
            )
        return list(self._numbers), self._numbers

    @property
    def missing(self) -> list[str]:
        """The classes without images."""
        present = set(self.targets)
        return [name for name, number in self._numbers.items() if number not in present]


def class_names(folder: Path) -> list[str]:
    """The names of the folders in a folder, sorted; hidden ones are left out."""
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def load_image(path: str | Path) -> Image.Image:
    """Loads an image as RGB, turned as its EXIF orientation says, and on white where it is transparent.

    Args:
        path: The file.

    Raises:
        ImageError: If the file is damaged or enormous, or its levels have more than eight bits.
    """
    with _opened(path) as image:
        mode = image.mode
        ImageOps.exif_transpose(image, in_place=True)
        if image.has_transparency_data:
            white = Image.new("RGBA", image.size, "white")
            loaded = Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
        else:
            loaded = image.convert("RGB")
    if mode.startswith(("I", "F")):
        raise ImageError(f"{path} has levels of more than eight bits (mode {mode}): convert it to eight bits.")
    return loaded


@contextmanager
def _opened(path: str | Path) -> Iterator[Image.Image]:
    try:
        with Image.open(path) as image:
            yield image
    except Exception as error:  # Pillow's plugins raise nearly any
        raise ImageError(f"{path} cannot be read as an image ({error}): replace or remove it.") from None


def typical_side(images: ClassFolders) -> int:
    """The median of the images' shorter sides in pixels, from the headers of up to 100 files."""
    sides = []
    for path, _ in images.samples[:: -(-len(images.samples) // 100)]:
        with _opened(path) as image:
            sides.append(min(image.size))
    return median_low(sides)


def some(names: Sequence[str]) -> str:
    """The first names of a list, and how many more there are."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
