"""Pictures of what AugMix does: the steps of a plan, grids of hyperparameters, and batches."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lightning_augmix._checks import integer
from lightning_augmix._figures import figure_of
from lightning_augmix._images import as_pixels
from lightning_augmix.functional import apply_plan
from lightning_augmix.operations import OPERATIONS
from lightning_augmix.plans.plan import AugMixPlan, sample_plan

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_grid", "draw_pairs", "draw_plan_steps", "tiled_pairs"]

_Levels = NDArray[np.uint8]

_LONGER_SIDE = 1.3  # inches of a picture
_GAP, _CAPTION, _EDGE = 0.55, 0.42, 0.15  # inches between pictures, under each, and around all
_LARGE = 160  # pixels: from here on, pictures are smoothed to the size of the page
_LINE = "0.35"


def draw_plan_steps(image: Any, plan: AugMixPlan) -> "Figure":
    """Draws the paper's Figure 4 for an image and a plan: each chain with its steps, the weights, and the mixture.

    Source: Hendrycks et al., "AugMix", ICLR 2020, https://arxiv.org/abs/1912.02781, Figure 4.

    Args:
        image: One image, of any type that :func:`~lightning_augmix.augmix_image` takes.
        plan: The plan of one image of this size.

    Returns:
        The figure, which notebooks show, and pyplot does not know; ``figure.savefig`` writes it.

    Raises:
        ImportError: If Matplotlib is not installed.
        TypeError: If an argument has the wrong type.
        ValueError: If image and plan do not match.
    """
    levels = _levels(image)
    mixture, augmented = apply_plan(levels, _mixed_alone(plan)), apply_plan(levels, plan)
    chains = plan.chains
    steps = max(map(len, chains))
    width, height = _size_in_inches(levels)
    row, column = height + _CAPTION, width + _GAP
    top = 3 * _EDGE  # room for the way around the chains
    sheet = _Sheet(figure_of(column * (steps + 3) - _GAP + 2 * _EDGE, row * len(chains) + top, layout=None))
    middle = top + (row * len(chains) - _CAPTION - height) / 2
    places = [_EDGE + column * number for number in range(steps + 3)]

    original = sheet.show(levels, places[0], middle, width, height, "original")
    mixed = sheet.show(mixture, places[-2], middle, width, height, "mixture of\nthe chains")
    result = sheet.show(augmented, places[-1], middle, width, height, "AugMix")
    for number, (chain, weight) in enumerate(zip(chains, plan.chain_weights, strict=True)):
        y = top + row * number
        before = original
        for position, (name, value) in enumerate(chain):
            step = apply_plan(levels, _start_of_chain(plan, number, position + 1))
            shown = sheet.show(step, places[1 + position], y, width, height, _caption(name, value))
            sheet.arrow([(before.right, before.middle), (shown.left, shown.middle)])
            before = shown
        corner = (places[-2] - _GAP * 0.7, before.middle)
        sheet.arrow([(before.right, before.middle), corner, (mixed.left, mixed.middle)], 0.6 + 3 * weight)
        is_below = y > middle  # its arrow turns upwards
        shift, vertical = (0.04, "top") if is_below else (-0.04, "bottom")
        sheet.write(f"× {weight:.2f}", before.right + _GAP * 0.1, before.middle + shift, vertical)
    sheet.arrow([(mixed.right, mixed.middle), (result.left, result.middle)], 0.6 + 3 * plan.mixing_weight)
    sheet.write(f"× {plan.mixing_weight:.2f}", mixed.right + _GAP * 0.05, mixed.middle - 0.04)
    corners = [(original.centre, _EDGE), (result.centre, _EDGE)]
    sheet.arrow(
        [(original.centre, original.top), *corners, (result.centre, result.top)], 0.6 + 3 * (1 - plan.mixing_weight)
    )
    sheet.write(f"× {1 - plan.mixing_weight:.2f}", result.centre - 0.08, _EDGE + 0.05, "top", "right")
    return sheet.figure


def draw_grid(
    image: Any,
    key: int = 0,
    *,
    severities: Sequence[float] = (1, 3, 5, 10),
    widths: Sequence[int] = (1, 2, 3, 5),
    hyperparameters: Mapping[str, Any] | None = None,
) -> "Figure":
    """Draws an image augmented with each severity, in rows, and each width, in columns.

    Args:
        image: One image, of any type that :func:`~lightning_augmix.augmix_image` takes.
        key: See :func:`~lightning_augmix.sample_plan`; all pictures have the same.
        severities: One or more severities.
        widths: One or more widths.
        hyperparameters: ``depth``, ``alpha`` and ``augmentation_set``, see :func:`~lightning_augmix.sample_plan`.

    Returns:
        As for :func:`draw_plan_steps`.

    Raises:
        ImportError: If Matplotlib is not installed.
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of range.
    """
    levels = _levels(image)
    pictures = [
        [
            apply_plan(levels, sample_plan(key, levels.shape[:2], severity, width, **(hyperparameters or {})))
            for width in widths
        ]
        for severity in severities
    ]
    figure, axes = _table(pictures)
    for row, severity in zip(axes, severities, strict=True):
        row[0].set_ylabel(f"severity {severity:g}", fontsize=9)
    for top, width in zip(axes[0], widths, strict=True):
        top.set_title(f"width {width}", fontsize=9)
    return figure


def draw_pairs(clean: Sequence[Any], augmented: Sequence[Any], columns: int = 8) -> "Figure":
    """Draws images as a model sees them, clean ones above those with AugMix.

    Images that are not PIL, uint8 or in [0, 1], such as normalised ones, are shown with the clean ones' least value as
    black and their greatest as white, channel by channel.

    Args:
        clean: N images: PIL images, arrays ``[H, W]`` or ``[H, W, C]``, or tensors ``[C, H, W]``, with C of 1 or 3.
        augmented: The same ones with AugMix.
        columns: Most pairs beside one another, at least 1.

    Returns:
        As for :func:`draw_plan_steps`.

    Raises:
        ImportError: If Matplotlib is not installed.
        ValueError: If there are no images, or not equally many.
    """
    figure, axes = _table(_rows_of_pairs(clean, augmented, columns))
    for number, row in enumerate(axes):
        row[0].set_ylabel("AugMix" if number % 2 else "clean", fontsize=9)
    return figure


def tiled_pairs(clean: Sequence[Any], augmented: Sequence[Any], columns: int = 8) -> _Levels:
    """Puts images beside one another, clean ones above those with AugMix, into one image, for loggers.

    Args:
        clean: As for :func:`draw_pairs`.
        augmented: See there.
        columns: See there.

    Returns:
        uint8 ``[H, W, 3]``.

    Raises:
        ValueError: If there are no images, or not equally many.
    """
    rows = _rows_of_pairs(clean, augmented, columns)
    height, width = (max(picture.shape[side] for row in rows for picture in row) for side in (0, 1))
    frame = 2
    sheet = np.full((len(rows) * (height + frame), len(rows[0]) * (width + frame), 3), 255, np.uint8)
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            top, left = y * (height + frame), x * (width + frame)
            channels = picture if picture.ndim == 3 else picture[..., None]
            sheet[top : top + picture.shape[0], left : left + picture.shape[1]] = channels
    return sheet[:-frame, :-frame]


def _rows_of_pairs(clean: Sequence[Any], augmented: Sequence[Any], columns: int) -> list[list[_Levels]]:
    """In turn a row of clean images, and the row of the same ones with AugMix; the last two may be shorter."""
    if not clean or len(clean) != len(augmented):
        raise ValueError(
            f"Expected arguments `clean` and `augmented` to be equally many images, at least one; got {len(clean)} "
            f"and {len(augmented)}."
        )
    columns = min(integer("columns", columns, at_least=1), len(clean))
    shown = _shown([*map(_values, clean), *map(_values, augmented)], len(clean))
    parts = (shown[: len(clean)], shown[len(clean) :])
    return [part[start : start + columns] for start in range(0, len(clean), columns) for part in parts]


def _levels(image: Any) -> _Levels:
    """One image as an array ``[H, W]`` or ``[H, W, 3]``."""
    pixels = as_pixels(image)
    if pixels.is_batch:
        raise ValueError("Expected argument `image` to be one image; got a batch: index it first.")
    levels: _Levels = pixels.levels[0]
    return np.ascontiguousarray(levels[..., :3]) if levels.ndim == 3 else levels


def _mixed_alone(plan: AugMixPlan) -> AugMixPlan:
    weights = plan.weights.copy()
    weights[0] = 1
    return AugMixPlan(plan.image_size, plan.operations, plan.parameters, weights)


def _start_of_chain(plan: AugMixPlan, chain: int, steps: int) -> AugMixPlan:
    """The first steps of a chain, alone and unmixed."""
    part = (slice(chain, chain + 1), slice(steps))
    return AugMixPlan(plan.image_size, plan.operations[part], plan.parameters[part], np.ones(2, np.float32))


_MAGNITUDES = {
    "degrees": "{:+d}°",
    "pixels": "{:+d} pixels",
    "bits": "to {} bits",
    "threshold": "from {} on",
    "shear factor": "{:+.3f}",
    "enhancement factor": "× {:.2f}",
}


def _caption(name: str, value: float | int | None) -> str:
    words = name.replace("_", " ")
    if value is None:
        return words
    return f"{words}\n{_MAGNITUDES[OPERATIONS[name].unit].format(value)}".replace("-", "−")


def _size_in_inches(levels: NDArray[Any]) -> tuple[float, float]:
    height, width = levels.shape[:2]
    return _LONGER_SIDE * width / max(height, width), _LONGER_SIDE * height / max(height, width)


class _Picture:
    """Where a picture lies on the sheet, in inches from its left and top."""

    def __init__(self, left: float, top: float, width: float, height: float) -> None:
        self.left, self.right, self.centre = left, left + width, left + width / 2
        self.top, self.middle = top, top + height / 2


class _Sheet:
    """A figure on which pictures, arrows and words are placed in inches from its left and top."""

    def __init__(self, figure: "Figure") -> None:
        self.figure = figure
        self._width, self._height = figure.get_size_inches()

    def show(
        self, levels: NDArray[Any], left: float, top: float, width: float, height: float, caption: str
    ) -> _Picture:
        bottom = self._height - top - height
        axes = self.figure.add_axes(
            (left / self._width, bottom / self._height, width / self._width, height / self._height)
        )
        _show(axes, levels)
        self.write(caption, left + width / 2, top + height + 0.05, "top", "center")
        return _Picture(left, top, width, height)

    def write(self, text: str, x: float, y: float, vertical: str = "bottom", horizontal: str = "left") -> None:
        self.figure.text(*self._share(x, y), text, va=vertical, ha=horizontal, fontsize=8, linespacing=1.1)

    def arrow(self, points: Sequence[tuple[float, float]], line_width: float = 1.0) -> None:
        from matplotlib.patches import FancyArrowPatch
        from matplotlib.path import Path

        path = Path([self._share(*point) for point in points])
        self.figure.add_artist(
            FancyArrowPatch(
                path=path,
                arrowstyle="-|>",
                mutation_scale=8,
                linewidth=line_width,
                color=_LINE,
                joinstyle="round",
                transform=self.figure.transFigure,
                zorder=0,
            )
        )

    def _share(self, x: float, y: float) -> tuple[float, float]:
        return x / self._width, 1 - y / self._height


def _show(axes: "Axes", levels: NDArray[Any]) -> None:
    axes.imshow(
        levels,
        cmap="gray",
        vmin=0,
        vmax=255,
        interpolation="antialiased" if max(levels.shape[:2]) >= _LARGE else "nearest",
    )
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def _table(rows: Sequence[Sequence[_Levels]]) -> "tuple[Figure, list[list[Axes]]]":
    width, height = _size_in_inches(rows[0][0])
    columns = len(rows[0])
    figure = figure_of((width + 0.06) * columns + 0.35, (height + 0.06) * len(rows) + 0.3)
    layout: Any = figure.get_layout_engine()
    layout.set(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    axes = figure.subplots(len(rows), columns, squeeze=False).tolist()
    for row, of_row in zip(rows, axes, strict=True):
        for picture, place in zip(row, of_row, strict=False):
            _show(place, picture)
        for place in of_row[len(row) :]:
            place.set_axis_off()
    return figure, axes


def _values(image: Any) -> NDArray[Any]:
    """An image as an array ``[H, W]`` or ``[H, W, 3]`` of the values it has."""
    is_tensor = hasattr(image, "detach")
    values: NDArray[Any] = image.detach().cpu().float().numpy() if is_tensor else np.asarray(image)
    if is_tensor and not image.is_floating_point():
        values = values.astype(np.uint8)
    if values.ndim == 3 and (is_tensor or values.shape[2] not in (1, 3)):
        values = values.transpose(1, 2, 0)
    return values[..., 0] if values.ndim == 3 and values.shape[2] == 1 else values


def _shown(values: Sequence[NDArray[Any]], clean: int) -> list[_Levels]:
    """Images as levels; the first of them, the clean ones, decide what is black and white."""
    if all(value.dtype == np.uint8 for value in values):
        return list(values)
    axes = tuple(range(2))
    low = np.min([value.min(axis=axes) for value in values[:clean]], axis=0)
    high = np.max([value.max(axis=axes) for value in values[:clean]], axis=0)
    if np.all(low >= 0) and np.all(high <= 1):
        low, high = np.zeros_like(low), np.ones_like(high)
    span = np.where(high > low, high - low, 1)
    return [np.rint(255 * np.clip((value - low) / span, 0, 1)).astype(np.uint8) for value in values]
