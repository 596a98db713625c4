"""A classifier's robustness, as a table, JSON and CSV."""

import csv
import io
import json
import math
import re
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from html import escape
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from lightning_augmix._checks import integer, number, string
from lightning_augmix._extras import require
from lightning_augmix._files import whole_file
from lightning_augmix._text import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from rich.table import Table

__all__ = [
    "ALEXNET_ERRORS",
    "Calibration",
    "RobustnessReport",
    "check_alike",
    "check_comparable",
    "runs_of_each",
]

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

    Raises:
        TypeError: If a value has the wrong type.
        ValueError: If one is out of range, the bins differ in number, or there are no images.
    """

    expected_error: float
    rms_error: float
    counts: tuple[int, ...]
    confidences: tuple[float, ...]
    accuracies: tuple[float, ...]

    def __post_init__(self) -> None:
        number("expected_error", self.expected_error, at_least=0, at_most=1)
        number("rms_error", self.rms_error, at_least=0, at_most=1)
        for count in _listed("counts", self.counts):
            integer("counts", count, at_least=0)
        if not sum(self.counts):
            raise ValueError("Expected argument `counts` to have images; got none.")
        _check_shares("confidences", self.confidences, len(self.counts))
        _check_shares("accuracies", self.accuracies, len(self.counts))


def _check_shares(name: str, values: Any, count: int) -> None:
    if len(_listed(name, values)) != count:
        raise ValueError(f"Expected argument `{name}` to be {count} numbers in [0, 1]; got {len(values)}.")
    for value in values:
        number(name, value, at_least=0, at_most=1)


def _listed(name: str, values: Any) -> Sequence[Any]:
    if not isinstance(values, tuple | list):
        raise TypeError(f"Expected argument `{name}` to be a list; got {values!r} of type {type(values).__name__}.")
    return values


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
        data: Name of the clean test set; ``None`` in reports of before there were names.
        source: Where the corrupted images come from: ``"computed"``, or the name and format of a folder.
        strengths: Whose strengths computed corruptions have; ``None`` for published ones.
        seed: Seed of computed corruptions; ``None`` for published ones.
        versions: Versions of the libraries that measured, and of the one that computed the corruptions.
        digest: Digest of the clean images before corruption, and of their classes, by which they are compared; ``None``
            where it is not known.
        part_of: Number of images of which those measured are a part; ``None`` if all were measured.
        flip_rates: For each perturbation, how often the prediction changes from frame to frame of a sequence (from the
            first frame, if it is a noise), in [0, 1]: the flip probability of ImageNet-P and CIFAR-10-P.
        sequences: Where the sequences come from; ``None`` if there were none.

    Raises:
        TypeError: If a value has the wrong type.
        ValueError: If one is out of range, there is no such corruption, or one has not five errors.
    """

    name: str
    clean_error: float
    errors: Mapping[str, tuple[float, ...]]
    clean: Calibration
    corrupted: Calibration
    operations: tuple[str, ...] = ()
    data: str | None = None
    source: str | None = None
    strengths: str | None = None
    seed: int | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    digest: str | None = None
    part_of: int | None = None
    flip_rates: Mapping[str, float] = field(default_factory=dict)
    sequences: str | None = None

    def __post_init__(self) -> None:
        string("name", self.name)
        number("clean_error", self.clean_error, at_least=0, at_most=1)
        for name in ("errors", "versions", "flip_rates"):
            if not isinstance(getattr(self, name), Mapping):
                raise TypeError(f"Expected argument `{name}` to be a mapping; got {getattr(self, name)!r}.")
        if not self.errors or not self.errors.keys() <= ALEXNET_ERRORS.keys():
            raise ValueError(
                f"Expected argument `errors` to be of: {', '.join(ALEXNET_ERRORS)}; got {list(self.errors) or 'none'}."
            )
        for name, errors in self.errors.items():
            _check_shares(f"errors[{name!r}]", errors, 5)
        for name in ("clean", "corrupted"):
            if not isinstance(getattr(self, name), Calibration):
                raise TypeError(f"Expected argument `{name}` to be a Calibration; got {getattr(self, name)!r}.")
        for operation in _listed("operations", self.operations):
            string("operations", operation)
        for name in ("data", "source", "strengths", "digest", "sequences"):
            if getattr(self, name) is not None:
                string(name, getattr(self, name))
        if self.seed is not None:
            integer("seed", self.seed, at_least=0)
        if self.part_of is not None:
            integer("part_of", self.part_of, at_least=self.images)
        for name, rate in self.flip_rates.items():
            number(f"flip_rates[{name!r}]", rate, at_least=0, at_most=1)
        for name, version in self.versions.items():
            string(f"versions[{name!r}]", version)

    @property
    def images(self) -> int:
        """Number of clean images."""
        return sum(self.clean.counts)

    @property
    def measured_on(self) -> str:
        """The data, the number of images, and where the corruptions come from, in words."""
        images = f"{self.images} images" if self.part_of is None else f"{self.images} of the {self.part_of} images"
        text = f"{images} of {self.data or 'unknown data'}{'' if self.part_of is None else ', stratified'}"
        if self.source == "computed":
            text += f"; corruptions computed at {self.strengths}'s strengths, seed {self.seed}"
        elif self.source is not None:
            text += f"; corruptions from {self.source}"
        if self.sequences is not None:
            text += f"; sequences {'' if self.sequences.startswith('computed') else 'from '}{self.sequences}"
        return printable(text)

    @property
    def mean_corruption_error(self) -> float:
        """The unweighted mean over corruptions and severities, as published for CIFAR-10-C and CIFAR-100-C."""
        return fmean(map(fmean, self.errors.values()))

    @property
    def excess_error(self) -> float:
        """What corruption adds: :attr:`mean_corruption_error` less :attr:`clean_error`, in [-1, 1].

        It tells short trainings apart, in which every error is near the clean one.
        """
        return self.mean_corruption_error - self.clean_error

    @property
    def mean_flip_rate(self) -> float:
        """The unweighted mean of :attr:`flip_rates`, as published for CIFAR-10-P; NaN if there are none."""
        return fmean(self.flip_rates.values()) if self.flip_rates else math.nan

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
        content = asdict(self) | {"images": self.images}
        with whole_file(path) as part:
            # What UTF-8 cannot hold, parts of names of files, is an escape sequence of JSON then.
            part.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8", "backslashreplace")

    @classmethod
    def load(cls, path: str | Path) -> "RobustnessReport":
        """Reads a report that :meth:`save` wrote; old ones do not name their data, and load.

        Args:
            path: The file.

        Raises:
            ValueError: If it is not a report, or not a whole and valid one.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"), object_hook=_with_tuples)
            images = content.pop("images", None)
            for name in ("clean", "corrupted"):
                content[name] = Calibration(**content[name])
            report = cls(**content)
            if images not in (None, report.images):
                raise ValueError(f"its `images` is {images!r}, and its `counts` are of {report.images}")
            return report
        except (OSError, KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise ValueError(printable(f"{path} is not a report of evaluate_robustness ({reason}).")) from None

    def save_csv(self, path: str | Path) -> None:
        """Writes one row for each corruption and severity; the clean images are ``clean``, 0.

        Args:
            path: The file.
        """
        with (
            whole_file(path) as part,
            part.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file,
        ):
            writer = csv.writer(file)
            writer.writerow(["name", "corruption", "severity", "error"])
            writer.writerow([self.name, "clean", 0, self.clean_error])
            for corruption, errors in self.errors.items():
                writer.writerows([self.name, corruption, severity, e] for severity, e in enumerate(errors, start=1))

    def plot(self) -> "tuple[Figure, Axes]":
        """Draws the error on each corruption.

        Returns:
            The figure, which notebooks show, and its axes; pyplot knows neither.
        """
        from lightning_augmix.robustness.charts import plot_errors

        return plot_errors([self])

    def _rows(self) -> list[list[list[str]]]:
        """The cells of the table: corruptions, what sums them up, and flips."""

        def row(label: str, value: float, *severities: float) -> list[str]:
            cells = [f"{100 * error:.1f}" for error in severities] or [""] * 5
            return [label, *cells, f"{100 * value:.1f}"]

        overlapping = self.overlapping
        sums = [row("mean corruption error", self.mean_corruption_error)]
        if overlapping and len(overlapping) < len(self.errors):
            sums.append(row("mean without *", self.mean_without_overlap))
        sums.append(row("over AlexNet's (ImageNet-C's mCE)", self.normalized_corruption_error))
        sums.append(row("clean", self.clean_error))
        sums.append(row("excess over clean", self.excess_error))
        for label, calibration in (("clean", self.clean), ("corrupted", self.corrupted)):
            sums.append(row(f"RMS calibration error, {label}", calibration.rms_error))
            sums.append(row(f"expected calibration error, {label}", calibration.expected_error))
        corruptions = [row(f"{k} *" if k in overlapping else k, fmean(v), *v) for k, v in self.errors.items()]
        flips = [row(f"flips, {name}", rate) for name, rate in self.flip_rates.items()]
        return [corruptions, sums, [*flips, row("mean flip rate", self.mean_flip_rate)] if flips else []]

    def _notes(self) -> list[str]:
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        notes = [f"Measured on {self.measured_on}.", *([printable(f"Versions: {versions}.")] if versions else [])]
        if self.overlapping:
            notes.append(
                "* resembles an operation used in training: not out of distribution, and so no measure of robustness "
                "to unseen corruptions."
            )
        return notes

    def __rich__(self) -> "Table":
        from rich.table import Table
        from rich.text import Text

        caption = Text("\n".join(self._notes()))
        table = Table(title=Text(self._title), title_justify="left", caption=caption, caption_justify="left")
        for column in _COLUMNS:
            table.add_column(column, justify="left" if column == "corruption" else "right")
        for rows in self._rows():
            for row in rows:
                table.add_row(*row)
            table.add_section()
        return table

    @property
    def _title(self) -> str:
        return printable(f"Error in %, {self.name}")

    def __str__(self) -> str:
        require("Printing a report", "robustness", "rich")
        from rich.console import Console

        text = io.StringIO()
        Console(file=text, width=100, force_terminal=False, force_jupyter=False).print(self)
        return text.getvalue()

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{column}</th>" for column in _COLUMNS)
        bodies = (
            "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
            for rows in self._rows()
            if rows
        )
        body = "".join(f"<tbody>{rows}</tbody>" for rows in bodies)
        notes = "".join(f"<p>{escape(note)}</p>" for note in self._notes())
        return f"<table><caption>{escape(self._title)}</caption><thead><tr>{head}</tr></thead>{body}</table>{notes}"


_COLUMNS = ("corruption", *map(str, range(1, 6)), "mean")


def _with_tuples(content: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in content.items()}


def check_comparable(reports: Sequence[RobustnessReport]) -> None:
    """Checks that reports measured the same: corruptions, their source, strengths and seed, data and clean images.

    The version of the library that computed the corruptions has to be the same, too; other versions may differ. What
    older reports lack is not compared: the source, that version and the digest of the clean images; nor are sequences
    with none.

    Args:
        reports: One or more reports.

    Raises:
        ValueError: If there are none, or two differ; the message names in what.
    """
    if not reports:
        raise ValueError("Expected argument `reports` to have at least one report; got none.")
    for report in reports[1:]:
        if report.errors.keys() != reports[0].errors.keys():
            raise ValueError(
                f"Expected argument `reports` to be on the same corruptions; {printable(report.name)} is on "
                f"{list(report.errors)}, {printable(reports[0].name)} on {list(reports[0].errors)}."
            )
    check_alike([(report.name, _facts(report), {}) for report in reports])


def _facts(report: RobustnessReport) -> dict[str, Any]:
    facts = {name: getattr(report, name) for name in ("data", "images", "strengths", "seed")}
    library = "imagecorruptions-imaug"
    later = {
        "digest of clean images": report.digest,
        "part_of": report.part_of,
        "source": report.source,
        "sequences": report.sequences,
        "perturbations": ", ".join(report.flip_rates) or None,
        library: report.versions.get(library),
    }
    return facts | {name: value for name, value in later.items() if value is not None}


def check_alike(measured: Sequence[tuple[str, Mapping[str, Any], Mapping[str, Any]]]) -> None:
    """Checks that classifiers were, or will be, measured on the same.

    Args:
        measured: The name of each classifier; what it is measured on, by name, where names that another lacks are not
            compared; and settings that explain a difference, which are not compared themselves.

    Raises:
        ValueError: If two differ; the message names in what, and the settings in which they differ.
    """
    for (name, facts, settings), (other, other_facts, other_settings) in combinations(measured, 2):
        different = _different(facts, other_facts)
        if different:
            different += _different(settings, other_settings)
            raise ValueError(
                printable(
                    f"Expected classifiers measured on the same images; {name} and {other} differ in "
                    f"{', '.join(different)}: compare those that agree."
                )
            )


def _different(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    return [
        f"{name} ({_known(value)} and {_known(second[name])})"
        for name, value in first.items()
        if name in second and second[name] != value
    ]


def _known(value: Any) -> str:
    if value is None:
        return "unknown"
    return value if isinstance(value, str) else reprlib.repr(value)  # a list can be long


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
