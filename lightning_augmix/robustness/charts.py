"""The two charts of a robustness report: error by corruption, and the reliability diagram."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import numpy as np

from lightning_augmix.robustness.report import RobustnessReport, runs_of_each

__all__ = ["draw_errors", "draw_reliability"]


def draw_errors(reports: Sequence[RobustnessReport], path: str | Path) -> None:
    """Draws the error on each corruption, classifiers side by side; several runs as mean ± standard deviation.

    Args:
        reports: One or more reports, on the same corruptions; see :func:`runs_of_each`.
        path: The PNG file.

    Raises:
        ValueError: If there are no reports, or their corruptions differ.
    """
    from matplotlib.figure import Figure

    names = _corruptions(reports)
    labels = ["clean", *(name.replace("_", " ") for name in names), "mean"]
    positions = np.arange(len(labels)) + np.array([0.0, *[0.5] * len(names), 1.0])
    figure = Figure(figsize=(2 + 0.55 * len(labels), 4), layout="constrained")
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
    axes.legend(frameon=False, ncols=len(of_each), loc="lower left", bbox_to_anchor=(0, 1))
    figure.savefig(path, dpi=150)


def draw_reliability(reports: Sequence[RobustnessReport], path: str | Path) -> None:
    """Draws accuracy against confidence, on clean images and on all corrupted ones together; one line per run.

    Args:
        reports: One or more reports, on the same corruptions.
        path: The PNG file.

    Raises:
        ValueError: If there are no reports, or their corruptions differ.
    """
    from matplotlib.figure import Figure

    _corruptions(reports)
    figure = Figure(figsize=(8, 4.4), layout="constrained")
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
    figure.axes[0].set_ylabel("accuracy")
    figure.savefig(path, dpi=150)


def _label(name: str) -> str:
    """Escapes a name: Matplotlib reads dollars as math and omits labels that begin with an underscore."""
    return f"{' ' if name.startswith('_') else ''}{name}".replace("$", r"\$")


def _corruptions(reports: Sequence[RobustnessReport]) -> list[str]:
    if not reports:
        raise ValueError("Expected argument `reports` to have at least one report; got none.")
    names = list(reports[0].errors)
    for report in reports[1:]:
        if report.errors.keys() != reports[0].errors.keys():
            raise ValueError(
                f"Expected argument `reports` to be on the same corruptions; {report.name} is on "
                f"{list(report.errors)}, {reports[0].name} on {names}."
            )
    return names
