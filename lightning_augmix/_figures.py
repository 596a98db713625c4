"""Matplotlib figures: without pyplot, shown by notebooks, written whole."""

import io
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from lightning_augmix._extras import require
from lightning_augmix._files import whole_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["figure_of", "save_figure"]


def figure_of(width: float, height: float, *, layout: Literal["constrained"] | None = "constrained") -> "Figure":
    """A figure that notebooks show also where pyplot was never imported.

    Args:
        width: Width in inches.
        height: Height in inches.
        layout: Matplotlib's layout engine; ``None`` where axes are placed by hand.

    Returns:
        The figure.

    Raises:
        ImportError: If Matplotlib is not installed.
    """
    require("Drawing charts", "robustness", "matplotlib")
    from matplotlib.figure import Figure

    class Picture(Figure):
        def _repr_png_(self) -> bytes:
            content = io.BytesIO()
            self.savefig(content, format="png")
            return content.getvalue()

    return Picture(figsize=(width, height), layout=layout)


def save_figure(figure: "Figure", path: str | Path) -> None:
    """Writes a figure, whole or not at all.

    Args:
        figure: The figure.
        path: The file; its ending names the format, PNG without one.
    """
    with whole_file(path) as part:
        figure.savefig(part, dpi=150, format=Path(path).suffix[1:] or "png")
