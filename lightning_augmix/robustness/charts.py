"""The two charts of robustness reports: error by corruption, and the reliability diagram."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np

from lightning_augmix._figures import figure_of, save_figure
from lightning_augmix._text import printable
from lightning_augmix.robustness.report import RobustnessReport, check_comparable, runs_of_each

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_errors", "draw_reliability", "plot_errors", "plot_reliability"]


def plot_errors(reports: Sequence[RobustnessReport]) -> "tuple[Figure, Axes]":
    """Plots the error on each corruption, classifiers side by side; several runs as mean ± standard deviation.

    Args:
        reports: One or more reports, measured on the same; see :func:`runs_of_each`.

    Returns:
        The figure, which pyplot does not know, and its axes.

    Raises:
        ImportError: If Matplotlib is not installed.
        ValueError: If there are no reports, or they differ in what they were measured on.
    """
    check_comparable(reports)
    names = list(reports[0].errors)
    labels = ["clean", *(name.replace("_", " ") for name in names), "mean"]
    positions = np.arange(len(labels)) + np.array([0.0, *[0.5] * len(names), 1.0])
    figure = figure_of(2 + 0.55 * len(labels), 4)
    axes = figure.subplots()
    of_each = runs_of_each(reports)
    width = 0.8 / len(of_each)
    for number, (name, runs) in enumerate(of_each):
        errors = 100 * np.array(
            [[r.clean_error, *(fmean(r.errors[key]) for key in names), r.mean_corruption_error] for r in runs]
        )
        shifted = positions + (number - (len(of_each) - 1) / 2) * width
        deviations = errors.std(axis=0, ddof=1) if len(runs) > 1 else None
        axes.bar(shifted, errors.mean(axis=0), width, yerr=deviations, ecolor="0.3", label=_label(name))
    axes.set_xticks(positions, labels, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_ylabel("error in %")
    axes.spines[["top", "right"]].set_visible(False)
    columns = min(len(of_each), int(figure.get_figwidth() / 3.5))  # inches of the longest names
    axes.legend(frameon=False, ncols=columns, loc="lower left", bbox_to_anchor=(0, 1))
    return figure, axes


def plot_reliability(reports: Sequence[RobustnessReport]) -> "tuple[Figure, tuple[Axes, Axes]]":
    """Plots accuracy against confidence, on clean images and on all corrupted ones together; one line per run.

    Args:
        reports: One or more reports, measured on the same.

    Returns:
        The figure, which pyplot does not know, and its axes.

    Raises:
        ImportError: If Matplotlib is not installed.
        ValueError: If there are no reports, or they differ in what they were measured on.
    """
    check_comparable(reports)
    figure = figure_of(8, 4.4)
    for axes, images in zip(figure.subplots(1, 2, sharey=True), ("clean", "corrupted"), strict=True):
        axes.plot([0, 1], [0, 1], color="0.7", linestyle="--", linewidth=1)
        for number, (name, runs) in enumerate(runs_of_each(reports)):
            calibrations = [getattr(run, images) for run in runs]
            error = 100 * fmean(calibration.rms_error for calibration in calibrations)
            for place, calibration in enumerate(calibrations):
                filled = np.array(calibration.counts) > 0
                axes.plot(
                    np.array(calibration.confidences)[filled],
                    np.array(calibration.accuracies)[filled],
                    color=f"C{number}",
                    marker="o",
                    markersize=3,
                    label=f"{_label(name)}: RMS {error:.1f} %" if place == 0 else None,
                )
        axes.set(title=f"{images} images", xlabel="confidence", xlim=(0, 1), ylim=(0, 1), aspect="equal")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, loc="upper left", fontsize="small")
    clean, corrupted = figure.axes
    clean.set_ylabel("accuracy")
    return figure, (clean, corrupted)


def draw_errors(reports: Sequence[RobustnessReport], path: str | Path) -> None:
    """Writes the picture of :func:`plot_errors`.

    Args:
        reports: One or more reports, measured on the same.
        path: The PNG file.

    Raises:
        ValueError: If there are no reports, or they differ in what they were measured on.
    """
    save_figure(plot_errors(reports)[0], path)


def draw_reliability(reports: Sequence[RobustnessReport], path: str | Path) -> None:
    """Writes the picture of :func:`plot_reliability`.

    Args:
        reports: One or more reports, measured on the same.
        path: The PNG file.

    Raises:
        ValueError: If there are no reports, or they differ in what they were measured on.
    """
    save_figure(plot_reliability(reports)[0], path)


def _label(name: str) -> str:
    """Escapes a name: Matplotlib reads dollars as math and omits labels that begin with an underscore."""
    return f"{' ' if name.startswith('_') else ''}{_short(printable(name))}".replace("$", r"\$")


def _short(text: str) -> str:
    """Leaves out the middle of a long name: names often differ at their end."""
    return text if len(text) <= 30 else f"{text[:15]}…{text[-14:]}"
