import csv
import dataclasses
import math

import pytest

from lightning_augmix import RobustnessReport
from lightning_augmix.robustness.published import CORRUPTIONS
from lightning_augmix.robustness.report import ALEXNET_ERRORS, Calibration, runs_of_each

BINS = {"counts": (0, 3, 1), "confidences": (0.0, 0.5, 0.9), "accuracies": (0.0, 1 / 3, 1.0)}
CALIBRATION = Calibration(expected_error=0.15, rms_error=0.2, **BINS)


def report(name="augmix", errors=None, operations=()):
    if errors is None:
        errors = {
            corruption: tuple((number + s) / 40 for s in range(5)) for number, corruption in enumerate(CORRUPTIONS)
        }
    return RobustnessReport(name, 0.05, errors, CALIBRATION, CALIBRATION, operations)


def test_means():
    of_two = report(errors={"fog": (0.1, 0.2, 0.3, 0.4, 0.5), "snow": (0.0, 0.0, 0.0, 0.0, 1.0)})
    assert of_two.mean_corruption_error == pytest.approx((0.3 + 0.2) / 2)
    assert of_two.normalized_corruption_error == pytest.approx((0.3 / 0.819 + 0.2 / 0.867) / 2)


def test_alexnet_itself_has_a_normalized_error_of_one():
    assert tuple(ALEXNET_ERRORS) == CORRUPTIONS
    of_alexnet = report(errors={name: (error,) * 5 for name, error in ALEXNET_ERRORS.items()})
    assert of_alexnet.normalized_corruption_error == pytest.approx(1)


@pytest.mark.parametrize(
    ("operations", "overlapping"),
    [
        ((), ()),
        (("rotate", "equalize", "color"), ()),
        (("brightness", "rotate"), ("brightness",)),
        (("contrast_original",), ("contrast",)),
        (("sharpness", "contrast"), ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "contrast")),
    ],
)
def test_corruptions_that_resemble_the_training_are_left_out_of_the_second_mean(operations, overlapping):
    made = report(operations=operations)
    assert made.overlapping == overlapping
    kept = [math.fsum(errors) / 5 for name, errors in made.errors.items() if name not in overlapping]
    assert made.mean_without_overlap == pytest.approx(sum(kept) / len(kept))
    assert ("not out of distribution" in str(made)) is bool(overlapping)
    assert ("mean without *" in str(made)) is bool(overlapping)


def test_the_table():
    text = str(report(operations=("brightness",)))
    lines = {line.split("│")[1].strip(): line.split("│")[2:-1] for line in text.splitlines() if line.startswith("│")}
    assert [cell.strip() for cell in lines["gaussian_noise"]] == ["0.0", "2.5", "5.0", "7.5", "10.0", "5.0"]
    assert lines["brightness *"][-1].strip() == "30.0"
    assert lines["clean"][-1].strip() == "5.0"
    assert lines["mean corruption error"][-1].strip() == "22.5"
    assert lines["RMS calibration error, corrupted"][-1].strip() == "20.0"


def test_only_overlapping_corruptions_have_no_second_mean():
    assert "mean without" not in str(report(errors={"contrast": (0.1,) * 5}, operations=("contrast",)))


def test_if_all_corruptions_overlap_there_is_no_other_mean():
    assert math.isnan(report(errors={"contrast": (0.1,) * 5}, operations=("contrast",)).mean_without_overlap)


def test_json_there_and_back(tmp_path):
    made = report(operations=("rotate", "brightness"))
    made.save(tmp_path / "report.json")
    loaded = RobustnessReport.load(tmp_path / "report.json")
    assert loaded == made
    assert dataclasses.asdict(loaded) == dataclasses.asdict(made)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"clean": 3}', None])
def test_what_is_no_report_is_an_error_that_names_the_file(content, tmp_path):
    path = tmp_path / "report.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=r"report\.json is not a report of evaluate_robustness"):
        RobustnessReport.load(path)


def test_csv(tmp_path):
    made = report()
    made.save_csv(tmp_path / "report.csv")
    with (tmp_path / "report.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 76
    assert rows[0] == {"name": "augmix", "corruption": "clean", "severity": "0", "error": "0.05"}
    found = {(row["corruption"], int(row["severity"])): float(row["error"]) for row in rows[1:]}
    assert found == {(name, s): e for name, errors in made.errors.items() for s, e in enumerate(errors, start=1)}


def test_runs_differ_in_the_seed_at_the_end_of_the_name():
    names = ["jsd-seed0", "standard-seed10", "jsd-seed1", "seed3-old", "jsd", "jsd-seed0-seed1", "jsd-seed0-seed2"]
    runs = runs_of_each([report(name) for name in names])
    assert [(name, [run.name for run in several]) for name, several in runs] == [
        ("jsd", ["jsd-seed0", "jsd-seed1"]),
        ("standard-seed10", ["standard-seed10"]),
        ("seed3-old", ["seed3-old"]),
        ("jsd", ["jsd"]),
        ("jsd-seed0", ["jsd-seed0-seed1", "jsd-seed0-seed2"]),
    ]


@pytest.mark.parametrize("name", ["Classifier", "jsd-seed0"])
def test_reports_of_one_name_are_of_two_classifiers(name):
    assert [(key, len(several)) for key, several in runs_of_each([report(name), report(name)])] == [(name, 1)] * 2


def test_names_are_printed_as_they_are():
    for name in ("set=[rotate]", "x[/b]"):
        assert f"Error in %, {name}" in str(report(name))
