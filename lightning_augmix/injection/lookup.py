"""Conversions after AugMix, such as ``ToTensor`` and ``Normalize``, in one pass over the image."""

from collections.abc import Callable, Hashable, Sequence
from itertools import takewhile
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torchvision import transforms as v1
from torchvision import tv_tensors
from torchvision.transforms import v2

from lightning_augmix._batches import empty_batch
from lightning_augmix._device import Pending
from lightning_augmix._errors import PlacementError
from lightning_augmix.injection.entries import Entry
from lightning_augmix.kernels.jit import IS_COMPILED
from lightning_augmix.kernels.lookup import look_up_channel, look_up_pixels

__all__ = ["BY_LEVEL", "Conversion", "Later", "LookUp", "by_level", "has_hooks", "is_by_level", "warm_up"]

#: What makes of each pixel something that depends on its level and its channel alone, without random draws.
BY_LEVEL = (
    *(v1.ToTensor, v1.PILToTensor, v1.ConvertImageDtype, v1.Normalize),
    *(v2.ToTensor, v2.PILToTensor, v2.ConvertImageDtype, v2.Normalize, v2.ToImage, v2.ToDtype, v2.ToPureTensor),
)
_SETTINGS = ("mean", "std", "dtype", "scale")


def by_level(steps: Sequence[Any]) -> int:
    """The number of steps, from the first on, whose results depend on the level and the channel of a pixel alone.

    Args:
        steps: The steps after AugMix; what ``Normalize`` alone takes has no levels.
    """
    first = list(takewhile(is_by_level, steps))
    return len(first) if any(not isinstance(step, v1.Normalize | v2.Normalize) for step in first) else 0


def is_by_level(step: Any) -> bool:
    """Whether a step is one of torchvision's that look at nothing else, and nobody changed what it does.

    Args:
        step: Any step.
    """
    if type(step) not in BY_LEVEL or has_hooks(step):
        return False
    return not any(callable(value) and hasattr(type(step), name) for name, value in vars(step).items())


def has_hooks(step: Any) -> bool:
    """Whether a step is a module with hooks of its own.

    Args:
        step: Any step.
    """
    return isinstance(step, nn.Module) and bool(step._forward_hooks or step._forward_pre_hooks)


def warm_up() -> None:
    """Compiles the kernels, or loads their machine code from disk, so that worker processes need not."""
    for mode in ("RGB", "L"):
        LookUp([v1.ToTensor()], v1.Compose)(Image.new(mode, (1, 1)))


class Conversion:
    """What the steps made of images of one kind when they were asked: later changes of the steps do not matter to it.

    Args:
        table: What they make of each level of each channel, ``[C, 256]``.
        made: The type of what they make.
    """

    def __init__(self, table: Tensor, made: type[Tensor]) -> None:
        self.table, self.made = table, made

    def __deepcopy__(self, memo: object) -> "Conversion":
        return self  # a batch is converted at once if its images have the same one

    @property
    def kind(self) -> tuple[type[Tensor], torch.dtype, int]:
        """The type, dtype and number of dimensions of what is made."""
        return self.made, self.table.dtype, 3

    def __call__(self, img: Any) -> Tensor:
        """Converts an image, to float32."""
        converted = torch.empty(len(self.table), *_size(img), dtype=torch.float32, device="cpu")
        _convert(img, self.table.numpy(), converted)
        return converted if self.made is Tensor else tv_tensors.Image(converted)

    def batch(self, images: Sequence[Any]) -> Tensor | None:
        """Converts images straight into a batch; returns ``None`` where their sizes differ.

        Args:
            images: At least one image.
        """
        if len(set(map(_size, images))) > 1:
            return None
        batch = empty_batch((len(images), len(self.table), *_size(images[0])), torch.float32)
        for img, converted in zip(images, batch, strict=True):
            _convert(img, self.table.numpy(), converted)
        return batch


class LookUp(nn.Module):
    """Does what such steps do, by tables of what they make of each level, where they make plain float32 images.

    Args:
        steps: The steps.
        container: ``v1.Compose`` or ``v2.Compose``; with the steps, it does what is no single image of eight bits.
    """

    def __init__(self, steps: Sequence[Any], container: Callable[[list[Any]], Any]) -> None:
        super().__init__()
        self.steps, self.container = list(steps), container(list(steps))
        self._known: dict[Hashable, tuple[Any, Conversion | None]] = {}

    def forward(self, *inputs: Any) -> Any:
        """Converts an image, or a sample."""
        conversion = self._compiled(inputs[0]) if len(inputs) == 1 else None
        return self.container(*inputs) if conversion is None else conversion(inputs[0])

    def later(self, images: Sequence[Any]) -> Conversion | None:
        """What the steps do to each of several images, if it may be done later; ``None`` where they have to do it.

        Args:
            images: At least one image.
        """
        return self._compiled(images[0]) if len(set(map(_kind, images))) == 1 else None

    def _compiled(self, img: Any) -> Conversion | None:
        """The conversion, where the kernels can do it."""
        conversion = self.conversion(img) if IS_COMPILED else None
        return conversion if conversion is not None and conversion.table.dtype == torch.float32 else None

    def conversion(self, img: Any) -> Conversion | None:
        """What the steps do to such images; ``None`` if that is not the same for each level of a channel.

        Args:
            img: An image of the kind.
        """
        kind = _kind(img)
        if kind is None or any(map(has_hooks, self.steps)):
            return None
        settings = [_constant(vars(step).get(name)) for step in self.steps for name in _SETTINGS]
        settings.append(torch.get_default_dtype())
        if kind not in self._known or self._known[kind][0] != settings:  # somebody may set a step's attribute
            self._known[kind] = settings, self._made(img)
        return self._known[kind][1]

    def after(self, conversion: Conversion) -> Conversion | None:
        """Another conversion and then the steps; ``None`` if they do not keep the shape.

        Args:
            conversion: The other.
        """
        levels = conversion.table[:, None].as_subclass(conversion.made)
        return _conversion(self.container(levels), levels.shape)

    def _made(self, img: Any) -> Conversion | None:
        levels = torch.arange(256, dtype=torch.uint8, device="cpu").repeat(_channels(img), 1, 1)
        if isinstance(img, Image.Image):
            made = self.container(Image.fromarray(levels[0].numpy()).convert(img.mode))
        else:
            made = self.container(levels if type(img) is Tensor else tv_tensors.Image(levels))
        return _conversion(made, levels.shape)

    def extra_repr(self) -> str:
        """The steps."""
        return ", ".join(" ".join(repr(step).split()) for step in self.steps)


class Later(nn.Module):
    """Leaves a conversion after AugMix to the batch.

    Args:
        step: The conversion.
    """

    def __init__(self, step: LookUp) -> None:
        super().__init__()
        self.step = step

    def forward(self, *inputs: Any) -> Any:
        """Notes the conversion of an image; what is not to be augmented by the batch is converted now.

        Raises:
            PlacementError: If the steps do not keep the shape of the image, and its channels apart.
        """
        if len(inputs) > 1 or not isinstance(pending := inputs[0], Pending):
            return self.step(*inputs)
        [image] = pending.unconverted
        conversion = self.step.after(pending.conversion) if pending.conversion else self.step.conversion(image)
        if conversion is None:
            raise PlacementError(
                f'with `on="device"`, what comes after AugMix must keep the shape of an image and its channels apart; '
                f'{self.step} does not for a {Entry("", (), image)}: use on="workers"'
            )
        return Pending(image, pending.keys, pending.settings, conversion)


def _conversion(made: Any, shape: torch.Size) -> Conversion | None:
    """The conversion that makes this of an image with all levels; ``None`` if its shape is another."""
    if type(made) not in (Tensor, tv_tensors.Image) or made.shape != shape:
        return None
    return Conversion(made.as_subclass(Tensor)[:, 0].detach().clone(memory_format=torch.contiguous_format), type(made))


def _constant(setting: Any) -> Any:
    """A value that does not change with the setting, and can be compared."""
    if isinstance(setting, Tensor | np.ndarray):
        return tuple(torch.as_tensor(setting).detach().flatten().tolist())
    if isinstance(setting, dict):
        return tuple(setting.items())
    if isinstance(setting, list | tuple):
        return tuple([each if type(each) is float else _constant(each) for each in setting])
    return setting


def _kind(img: Any) -> Hashable:
    """The kind of image of eight bits, each with a table of its own; ``None`` for anything else."""
    if isinstance(img, Image.Image):
        return img.mode if img.mode in ("RGB", "L") else None
    if type(img) not in (Tensor, tv_tensors.Image) or img.dtype != torch.uint8 or img.device.type != "cpu":
        return None
    return (type(img), len(img)) if img.ndim == 3 and len(img) in (1, 3) else None


def _channels(img: Any) -> int:
    return len(img) if isinstance(img, Tensor) else len(img.getbands())


def _size(img: Any) -> tuple[int, ...]:
    return tuple(img.size[::-1] if isinstance(img, Image.Image) else img.shape[1:])


def _convert(img: Any, table: NDArray[np.float32], converted: Tensor) -> None:
    out = converted.numpy().reshape(len(table), -1)
    if isinstance(img, Tensor):
        levels = img.as_subclass(Tensor).contiguous().numpy().reshape(len(img), -1)
        levels.flags.writeable = False  # for a second type, Numba would compile again
        for row, channel, target in zip(levels, table, out, strict=True):
            look_up_channel(row, channel, target)
    elif img.mode == "L":
        look_up_channel(np.frombuffer(img.tobytes(), np.uint8), table[0], out[0])
    else:
        look_up_pixels(np.frombuffer(img.tobytes("raw", "RGBX"), np.uint32), table, out)
