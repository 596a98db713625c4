"""The two pictures of a robustness report: error by corruption, and the reliability diagram."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import numpy as np

from lightning_augmix.report import RobustnessReport

__all__ = ["draw_errors", "draw_reliability"]


def draw_errors(reports: Sequence[RobustnessReport], path: str | Path) -> None:
    """Draws the error on each corruption, the reports side by side.

    Args:
        reports: One or more reports, on the same corruptions.
        path: The PNG file.

    Raises:
        ValueError: If there are none, or their corruptions differ.
    """
    from matplotlib.figure import Figure

    names = _corruptions(reports)
    labels = ["clean", *(name.replace("_", " ") for name in names), "mean"]
    positions = np.arange(len(labels)) + np.array([0.0, *[0.5] * len(names), 1.0])
    figure = Figure(figsize=(2 + 0.55 * len(labels), 4), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(reports)
    for number, report in enumerate(reports):
        errors = [report.clean_error, *(fmean(report.errors[name]) for name in names), report.mean_corruption_error]
        shifted = positions + (number - (len(reports) - 1) / 2) * width
        axes.bar(shifted, 100 * np.array(errors), width, label=report.name)
    axes.set_xticks(positions, labels, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_ylabel("error in %")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, ncols=len(reports), loc="lower left", bbox_to_anchor=(0, 1))
    figure.savefig(path, dpi=150)


def draw_reliability(reports: Sequence[RobustnessReport], path: str | Path) -> None:
    """Draws accuracy over confidence, on clean images and on all corrupted ones together.

    Args:
        reports: One or more reports.
        path: The PNG file.

    Raises:
        ValueError: If there are none, or their corruptions differ.
    """
    from matplotlib.figure import Figure

    _corruptions(reports)
    figure = Figure(figsize=(8, 4.4), layout="constrained")
    for axes, images in zip(figure.subplots(1, 2, sharey=True), ("clean", "corrupted"), strict=True):
        axes.plot([0, 1], [0, 1], color="0.7", linestyle="--", linewidth=1)
        for report in reports:
            calibration = getattr(report, images)
            filled = np.array(calibration.counts) > 0
            axes.plot(
                np.array(calibration.confidences)[filled],
                np.array(calibration.accuracies)[filled],
                marker="o",
                markersize=3,
                label=f"{report.name}: RMS {100 * calibration.rms_error:.1f} %",
            )
        axes.set(title=f"{images} images", xlabel="confidence", xlim=(0, 1), ylim=(0, 1), aspect="equal")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, loc="upper left", fontsize="small")
    figure.axes[0].set_ylabel("accuracy")
    figure.savefig(path, dpi=150)


def _corruptions(reports: Sequence[RobustnessReport]) -> list[str]:
    if not reports:
        raise ValueError("Expected argument `reports` to have a report at least; got none.")
    names = list(reports[0].errors)
    for report in reports[1:]:
        if report.errors.keys() != reports[0].errors.keys():
            raise ValueError(
                f"Expected argument `reports` to be on the same corruptions; {report.name} is on "
                f"{list(report.errors)}, {reports[0].name} on {names}."
            )
    return names
