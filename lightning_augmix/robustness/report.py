"""A classifier's robustness, as a table, JSON and CSV."""

import csv
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["ALEXNET_ERRORS", "Calibration", "RobustnessReport", "runs_of_each"]

#: AlexNet's errors on ImageNet-C, which normalise mCE. Source: Hendrycks and Dietterich, ICLR 2019.
ALEXNET_ERRORS = {
    "gaussian_noise": 0.886,
    "shot_noise": 0.894,
    "impulse_noise": 0.923,
    "defocus_blur": 0.820,
    "glass_blur": 0.826,
    "motion_blur": 0.786,
    "zoom_blur": 0.798,
    "snow": 0.867,
    "frost": 0.827,
    "fog": 0.819,
    "brightness": 0.565,
    "contrast": 0.853,
    "elastic_transform": 0.646,
    "pixelate": 0.718,
    "jpeg_compression": 0.607,
}

_BLURS = ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur")
# Sharpness below 1 smooths. Color overlaps with saturate, which is not one of the 15.
_OVERLAPS = {"brightness": ("brightness",), "contrast": ("contrast",), "sharpness": _BLURS}


@dataclass(frozen=True)
class Calibration:
    """How far the confidence of a classifier is from its accuracy.

    Attributes:
        expected_error: Expected calibration error: the mean distance, weighted by the images in each bin.
        rms_error: The root of the mean squared distance, weighted likewise.
        counts: Number of images in each of the equal bins of [0, 1].
        confidences: Mean confidence in each bin, 0 in empty ones.
        accuracies: Accuracy in each bin, 0 in empty ones.
    """

    expected_error: float
    rms_error: float
    counts: tuple[int, ...]
    confidences: tuple[float, ...]
    accuracies: tuple[float, ...]


@dataclass(frozen=True)
class RobustnessReport:
    """A classifier's errors on a clean test set and on its corruptions.

    Attributes:
        name: Name of the classifier.
        clean_error: Error rate on clean images, in [0, 1].
        errors: Error rates on each corruption, for severities 1 to 5.
        clean: Calibration on the clean images.
        corrupted: Calibration on all corrupted images together.
        operations: AugMix's operations in training, if known.
    """

    name: str
    clean_error: float
    errors: Mapping[str, tuple[float, ...]]
    clean: Calibration
    corrupted: Calibration
    operations: tuple[str, ...] = ()

    @property
    def mean_corruption_error(self) -> float:
        """The unweighted mean over corruptions and severities, as published for CIFAR-10-C and CIFAR-100-C."""
        return fmean(map(fmean, self.errors.values()))

    @property
    def normalized_corruption_error(self) -> float:
        """The mean of each corruption's error over AlexNet's, in [0, ∞), as published for ImageNet-C (mCE).

        It is meaningful only for ImageNet-C.
        """
        return fmean(fmean(errors) / ALEXNET_ERRORS[name] for name, errors in self.errors.items())

    @property
    def overlapping(self) -> tuple[str, ...]:
        """The corruptions that resemble an operation used in training, and so are not out of distribution."""
        names = {operation.removesuffix("_original") for operation in self.operations}
        resembled = {corruption for name in names for corruption in _OVERLAPS.get(name, ())}
        return tuple(name for name in self.errors if name in resembled)

    @property
    def mean_without_overlap(self) -> float:
        """:attr:`mean_corruption_error` without the overlapping corruptions; NaN if all overlap."""
        kept = [fmean(errors) for name, errors in self.errors.items() if name not in self.overlapping]
        return fmean(kept) if kept else math.nan

    def save(self, path: str | Path) -> None:
        """Writes the report as JSON.

        Args:
            path: The file.
        """
        Path(path).write_text(json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> "RobustnessReport":
        """Reads a report that :meth:`save` wrote.

        Args:
            path: The file.

        Raises:
            ValueError: If it is not a report.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            for name in ("clean", "corrupted"):
                calibration = content[name]
                calibration |= {key: tuple(calibration[key]) for key in ("counts", "confidences", "accuracies")}
                content[name] = Calibration(**calibration)
            content["errors"] = {name: tuple(errors) for name, errors in content["errors"].items()}
            content["operations"] = tuple(content["operations"])
            return cls(**content)
        except (OSError, KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"{path} is not a report of evaluate_robustness ({error!r}).") from None

    def save_csv(self, path: str | Path) -> None:
        """Writes one row for each corruption and severity; the clean images are ``clean``, 0.

        Args:
            path: The file.
        """
        with Path(path).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["name", "corruption", "severity", "error"])
            writer.writerow([self.name, "clean", 0, self.clean_error])
            for corruption, errors in self.errors.items():
                writer.writerows([self.name, corruption, severity, e] for severity, e in enumerate(errors, start=1))

    def __rich__(self) -> "Table":
        from rich.table import Table
        from rich.text import Text

        table = Table(title=Text(f"Error in %, {self.name}"), title_justify="left", caption_justify="left")
        for column in ("corruption", *map(str, range(1, 6)), "mean"):
            table.add_column(column, justify="left" if column == "corruption" else "right")

        def add(label: str, value: float, *severities: float) -> None:
            cells = [f"{100 * error:.1f}" for error in severities] or [""] * 5
            table.add_row(label, *cells, f"{100 * value:.1f}")

        overlapping = self.overlapping
        for name, errors in self.errors.items():
            add(f"{name} *" if name in overlapping else name, fmean(errors), *errors)
        table.add_section()
        add("mean corruption error", self.mean_corruption_error)
        if overlapping and len(overlapping) < len(self.errors):
            add("mean without *", self.mean_without_overlap)
        add("over AlexNet's (ImageNet-C's mCE)", self.normalized_corruption_error)
        add("clean", self.clean_error)
        for label, calibration in (("clean", self.clean), ("corrupted", self.corrupted)):
            add(f"RMS calibration error, {label}", calibration.rms_error)
            add(f"expected calibration error, {label}", calibration.expected_error)
        if overlapping:
            table.caption = (
                "* resembles an operation used in training: not out of distribution, and so no measure of robustness "
                "to unseen corruptions."
            )
        return table

    def __str__(self) -> str:
        from rich.console import Console

        text = io.StringIO()
        Console(file=text, width=100).print(self)
        return text.getvalue()


def runs_of_each(reports: Sequence[RobustnessReport]) -> list[tuple[str, list[RobustnessReport]]]:
    """Groups the runs of each classifier: reports whose names differ only in a final ``-seed<number>``.

    Args:
        reports: Any number of reports.

    Returns:
        The name and reports of each classifier, in order of first appearance; a single report keeps its name.
    """
    names = [report.name for report in reports]
    runs: dict[str | int, list[RobustnessReport]] = {}
    for position, report in enumerate(reports):
        classifier = re.sub(r"-seed\d+$", "", report.name)
        is_run = classifier != report.name and names.count(report.name) == 1
        runs.setdefault(classifier if is_run else position, []).append(report)
    return [(str(key) if len(several) > 1 else several[0].name, several) for key, several in runs.items()]
