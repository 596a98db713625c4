"""The figures of the README and of the page on robustness are those of the raw reports."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from lightning_augmix.robustness.published import CORRUPTIONS
from lightning_augmix.robustness.report import RobustnessReport

ROOT = Path(__file__).parent.parent
README, PAGE = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/robustness.md"))
LABELS = {"standard": "standard", "augmix": "AugMix", "jsd": "AugMix and `JSDLoss`"}
EARLIER = ROOT / "results" / "imagenet_strengths"
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


@pytest.mark.parametrize("data", SEEDS)
def test_the_text_says_what_the_reports_say(data):
    clean, corrupted = (
        {kind: np.mean([figures(report)[which] for report in reports(kind, data)]) for kind in LABELS}
        for which in (0, 1)
    )
    excess = {kind: corrupted[kind] - clean[kind] for kind in LABELS}
    text = " ".join(section(data).split())
    assert f"{100 * (1 - corrupted['jsd'] / corrupted['standard']):.0f} % less error on corrupted images" in text
    assert f"{100 * (1 - excess['jsd'] / excess['standard']):.0f} % less of what corruptions add" in text
    if data == "cifar10":
        assert f"{clean['jsd'] - clean['standard']:.1f} points more on clean ones" in text
    for page in ("hyperparameters", "how-it-works"):
        words = " ".join((ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8").split())
        if page == "hyperparameters" or data == "cifar10":
            assert f"from {corrupted['augmix']:.1f} to {corrupted['jsd']:.1f} %" in words


def excesses(data):
    """What each corruption adds to the clean error, without AugMix and with `JSDLoss`."""
    return {
        kind: {
            name: np.mean([np.mean(report.errors[name]) - report.clean_error for report in reports(kind, data)])
            for name in CORRUPTIONS
        }
        for kind in ("standard", "jsd")
    }


def test_the_text_says_which_corruptions_are_in_the_way():
    excess = excesses("cifar10")
    cut = {name: round(100 * (1 - excess["jsd"][name] / excess["standard"][name])) for name in CORRUPTIONS}
    well = [
        cut[name] for name in CORRUPTIONS if "noise" in name or name.startswith(("defocus", "motion", "zoom", "pix"))
    ]
    weather = [cut[name] for name in ("fog", "frost", "snow")]
    text = " ".join(section("cifar10").split())
    assert f"falls by {min(well)} to {max(well)} % for noise, defocus, motion and zoom blur and pixelate" in text
    assert f"by {cut['contrast']} % for contrast, {cut['glass_blur']} % for glass blur" in text
    assert f"{min(weather)} to {max(weather)} % for fog, frost and snow" in text


def test_the_text_says_what_the_experiments_say():
    content = json.loads((ROOT / "results" / "cifar10_experiments.json").read_text(encoding="utf-8"))
    clean = {name: 100 * each["clean_error"] for name, each in content.items()}
    corrupted = {name: 100 * np.mean(list(each["errors"].values())) for name, each in content.items()}
    assert all(list(each["errors"]) == list(CORRUPTIONS) for each in content.values())
    excess = {name: corrupted[name] - clean[name] for name in content}
    text = " ".join(section("cifar10").split())
    assert (
        f"was {excess['control']:.1f} points with nothing changed, {excess['severity_6']:.1f} with severity 6, "
        f"{excess['width_6']:.1f} with six chains, {excess['set_all']:.1f} with the set `all`. With three times the "
        f"weight of the loss it was {excess['weight_36']:.1f}, but the clean error rose by "
        f"{clean['weight_36'] - clean['control']:.1f} points, and the error on corrupted images from "
        f"{corrupted['control']:.1f} to {corrupted['weight_36']:.1f} %."
    ) in text
    cut = 100 * (1 - excess["half_as_wide_jsd"] / excess["half_as_wide_standard"])
    assert f"with half as many channels (78,000 parameters) by {cut:.0f} %" in text


def test_the_text_says_what_a_black_background_costs():
    excess = excesses("fashion_mnist")
    lifting, others = (
        1 - sum(excess["jsd"][name] for name in names) / sum(excess["standard"][name] for name in names)
        for names in (LIFTING, sorted(set(CORRUPTIONS) - set(LIFTING)))
    )
    text = " ".join(section("fashion_mnist").split())
    assert f"There the excess falls by {100 * lifting:.0f} %, on the other ten by {100 * others:.0f} %" in text


def test_the_text_says_what_the_earlier_reports_say():
    earlier = {
        kind: [RobustnessReport.load(path) for path in sorted(EARLIER.glob(f"fashion_mnist_{kind}-seed*.json"))]
        for kind in ("standard", "jsd")
    }
    assert all(len(each) == 3 for each in earlier.values())
    without, with_loss = (np.mean([figures(report)[1] for report in each]) for each in earlier.values())
    assert f"{without:.1f} % error without AugMix, {with_loss:.1f} % with `JSDLoss`" in " ".join(PAGE.split())


@pytest.mark.parametrize("data", SEEDS)
@pytest.mark.parametrize("kind", LABELS)
def test_the_reports_are_of_all_test_images(kind, data):
    for report in reports(kind, data):
        assert sum(report.clean.counts) == 10_000
        assert sum(report.corrupted.counts) == 750_000
        assert bool(report.operations) == (kind != "standard")
        assert report.strengths == "CIFAR-10-C"


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
