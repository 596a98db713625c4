"""The figures of the README and of the page on robustness are those of the raw reports."""

import re
from pathlib import Path

import numpy as np
import pytest

from lightning_augmix.robustness.published import CORRUPTIONS
from lightning_augmix.robustness.report import RobustnessReport

ROOT = Path(__file__).parent.parent
README, PAGE = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/robustness.md"))
LABELS = {"standard": "standard", "augmix": "AugMix", "jsd": "AugMix and `JSDLoss`"}
LIFTING = ["fog", "frost", "snow", "brightness", "contrast"]


SEEDS = {"fashion_mnist": 3, "cifar10": 3}
HEADINGS = {"fashion_mnist": "## What it gives on Fashion-MNIST", "cifar10": "## What it gives on CIFAR-10"}


def reports(kind, data="fashion_mnist"):
    paths = sorted((ROOT / "results").glob(f"{data}_{kind}-seed*.json"))
    assert [path.stem for path in paths] == [f"{data}_{kind}-seed{seed}" for seed in range(SEEDS[data])]
    return [RobustnessReport.load(path) for path in paths]


def figures(report):
    """In %: clean error, corruption error, RMS calibration errors."""
    errors = np.array([report.errors[corruption] for corruption in CORRUPTIONS])
    assert errors.shape == (15, 5)
    return 100 * np.array([report.clean_error, errors.mean(), report.clean.rms_error, report.corrupted.rms_error])


def mean_without(kind, corruptions):
    return np.mean(
        [np.mean([r.errors[name] for name in CORRUPTIONS if name not in corruptions]) for r in reports(kind)]
    )


def section(data):
    return PAGE.partition(f"{HEADINGS[data]}\n")[2].partition("\n#")[0]


def row(label, data):
    [line] = re.findall(rf"^\| {re.escape(label)} \|(.*)\|$", section(data), re.MULTILINE)
    return [cell.strip() for cell in line.split("|")]


@pytest.mark.parametrize("data", SEEDS)
@pytest.mark.parametrize("kind", LABELS)
def test_the_tables_say_what_the_reports_say(kind, data):
    values = np.array([figures(report) for report in reports(kind, data)])
    pairs = zip(values.mean(axis=0), values.std(axis=0, ddof=1), strict=True)
    assert row(LABELS[kind], data) == [f"{mean:.1f} ± {deviation:.1f}" for mean, deviation in pairs]


def test_the_readme_says_what_the_reports_say():
    means = {kind: np.mean([figures(report)[:2] for report in reports(kind, "cifar10")], axis=0) for kind in LABELS}
    for kind, (clean, corrupted) in means.items():
        assert f"| {LABELS[kind]} | {clean:.1f} | {corrupted:.1f} |" in README
    text = " ".join(README.split())
    errors = [f"{means[kind][1]:.1f} %" for kind in LABELS]
    assert "fell from {} to {} with the callback alone, and to {} with".format(*errors) in text
    assert f"{['no', 'one', 'two', 'three'][SEEDS['cifar10']]} seeds" in text


def test_the_text_says_what_the_reports_on_cifar_10_say():
    clean, corrupted = (
        {kind: np.mean([figures(report)[which] for report in reports(kind, "cifar10")]) for kind in LABELS}
        for which in (0, 1)
    )
    excess = {kind: corrupted[kind] - clean[kind] for kind in LABELS}
    text = " ".join(section("cifar10").split())
    assert f"{100 * (1 - corrupted['jsd'] / corrupted['standard']):.0f} % less error on corrupted images" in text
    assert f"{100 * (1 - excess['jsd'] / excess['standard']):.0f} % less of what corruptions add" in text
    assert f"{clean['jsd'] - clean['standard']:.1f} points more on clean ones" in text


def test_the_text_says_which_corruptions_are_in_the_way():
    excess = {
        kind: {
            name: np.mean([np.mean(report.errors[name]) - report.clean_error for report in reports(kind, "cifar10")])
            for name in CORRUPTIONS
        }
        for kind in ("standard", "jsd")
    }
    cut = {name: round(100 * (1 - excess["jsd"][name] / excess["standard"][name])) for name in CORRUPTIONS}
    well = [
        cut[name] for name in CORRUPTIONS if "noise" in name or name.startswith(("defocus", "motion", "zoom", "pix"))
    ]
    weather = [cut[name] for name in ("fog", "frost", "snow")]
    text = " ".join(section("cifar10").split())
    assert f"falls by {min(well)} to {max(well)} % for noise, defocus, motion and zoom blur and pixelate" in text
    assert f"by {cut['contrast']} % for contrast, {cut['glass_blur']} % for glass blur" in text
    assert f"{min(weather)} to {max(weather)} % for fog, frost and snow" in text


@pytest.mark.parametrize(
    ("left_out", "place"),
    [
        ((), r"less corruption error by (\d+\.\d) %"),
        (LIFTING, r"on the other ten by (\d+\.\d) %"),
        (set(CORRUPTIONS) - set(LIFTING), r"There the error falls by (\d+\.\d) %"),
    ],
)
def test_the_text_says_what_the_reports_say(left_out, place):
    cut = 1 - mean_without("jsd", left_out) / mean_without("standard", left_out)
    assert re.findall(place, " ".join(PAGE.split())) == [f"{100 * cut:.1f}"]


def test_the_text_says_what_the_report_on_all_operations_says():
    report = RobustnessReport.load(ROOT / "results" / "fashion_mnist_jsd_all-seed0.json")
    assert "contrast" in report.operations
    error = np.mean([report.errors[name] for name in LIFTING])
    instead = mean_without("jsd", set(CORRUPTIONS) - set(LIFTING))
    assert f"these five have {100 * error:.1f} % error instead of {100 * instead:.1f} %" in " ".join(PAGE.split())


@pytest.mark.parametrize("data", SEEDS)
@pytest.mark.parametrize("kind", LABELS)
def test_the_reports_are_of_all_test_images(kind, data):
    for report in reports(kind, data):
        assert sum(report.clean.counts) == 10_000
        assert sum(report.corrupted.counts) == 750_000
        assert bool(report.operations) == (kind != "standard")


# A ResNet of the same size, after 12 epochs too, on corruptions by the script of CIFAR-10-C's authors, in %.
BY_THE_AUTHORS = {
    "gaussian_noise": 34,
    "shot_noise": 31,
    "impulse_noise": 37,
    "defocus_blur": 28,
    "glass_blur": 39,
    "motion_blur": 38,
    "zoom_blur": 32,
    "snow": 30,
    "frost": 30,
    "fog": 32,
    "brightness": 20,
    "contrast": 45,
    "elastic_transform": 29,
    "pixelate": 27,
    "jpeg_compression": 22,
}


def test_a_standard_classifier_has_the_errors_that_it_has_on_the_authors_corruptions():
    report = RobustnessReport.load(ROOT / "results" / "cifar10_standard_12_epochs.json")
    assert report.strengths == "CIFAR-10-C"
    assert report.images == 2000
    errors = {name: 100 * np.mean(each) for name, each in report.errors.items()}
    assert errors == pytest.approx(BY_THE_AUTHORS, abs=3)
    assert 100 * report.clean_error == pytest.approx(17.7, abs=0.5)
