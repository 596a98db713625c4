import csv
import dataclasses
import json
import math
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from lightning_augmix import RobustnessReport
from lightning_augmix.robustness.published import CORRUPTIONS
from lightning_augmix.robustness.report import ALEXNET_ERRORS, Calibration, check_alike, check_comparable, runs_of_each

BINS = {"counts": (0, 3, 1), "confidences": (0.0, 0.5, 0.9), "accuracies": (0.0, 1 / 3, 1.0)}
CALIBRATION = Calibration(expected_error=0.15, rms_error=0.2, **BINS)


MEASURED = {
    "data": "digits",
    "source": "computed",
    "strengths": "ImageNet-C",
    "seed": 3,
    "versions": {"torch": "2.11.0", "imagecorruptions-imaug": "1.1.5"},
    "digest": "0a1b",
}
OLD = Path(__file__).parents[2] / "results" / "imagenet_strengths" / "fashion_mnist_jsd-seed0.json"


def report(name="augmix", errors=None, operations=(), **measured):
    if errors is None:
        errors = {
            corruption: tuple((number + s) / 40 for s in range(5)) for number, corruption in enumerate(CORRUPTIONS)
        }
    return RobustnessReport(name, 0.05, errors, CALIBRATION, CALIBRATION, operations, **measured)


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
    assert lines["excess over clean"][-1].strip() == "17.5"
    assert lines["RMS calibration error, corrupted"][-1].strip() == "20.0"


def test_only_overlapping_corruptions_have_no_second_mean():
    assert "mean without" not in str(report(errors={"contrast": (0.1,) * 5}, operations=("contrast",)))


def test_if_all_corruptions_overlap_there_is_no_other_mean():
    assert math.isnan(report(errors={"contrast": (0.1,) * 5}, operations=("contrast",)).mean_without_overlap)


def test_json_there_and_back(tmp_path):
    made = report(operations=("rotate", "brightness"), **MEASURED)
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


def test_a_report_says_what_was_measured(tmp_path):
    made = report(**MEASURED)
    text = " ".join(str(made).split())
    assert "Measured on 4 images of digits; corruptions computed at ImageNet-C's strengths, seed 3." in text
    assert "Versions: torch 2.11.0, imagecorruptions-imaug 1.1.5." in text
    made.save(tmp_path / "report.json")
    content = json.loads((tmp_path / "report.json").read_text())
    assert content["images"] == 4
    assert {name: content[name] for name in MEASURED} == MEASURED
    published = report(data="CIFAR10", source="CIFAR-10-C (CIFAR-10-C's format)")
    assert published.measured_on == "4 images of CIFAR10; corruptions from CIFAR-10-C (CIFAR-10-C's format)"


def test_reports_of_before_there_were_names_load():
    old = RobustnessReport.load(OLD)
    assert (old.images, old.data, old.source, old.strengths, old.seed, old.versions) == (10_000, *[None] * 4, {})
    assert old.digest is None
    assert "Measured on 10000 images of unknown data." in str(old)
    assert "Versions" not in str(old)
    check_comparable([old, dataclasses.replace(old, name="other")])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data": "fashion_mnist"}, "differ in data (digits and fashion_mnist):"),
        ({"clean": Calibration(0.1, 0.2, (5,), (0.5,), (0.4,))}, "differ in images (4 and 5):"),
        ({"strengths": "CIFAR-10-C"}, "differ in strengths (ImageNet-C and CIFAR-10-C):"),
        ({"strengths": None, "seed": None}, "differ in strengths (ImageNet-C and unknown), seed (3 and unknown):"),
        ({"data": None, "seed": 0}, "differ in data (digits and unknown), seed (3 and 0):"),
        ({"digest": "77"}, "differ in digest of clean images (0a1b and 77):"),
        ({"source": "c (CIFAR-10-C's format)"}, "differ in source (computed and c (CIFAR-10-C's format)):"),
        ({"versions": {"imagecorruptions-imaug": "1.2"}}, "differ in imagecorruptions-imaug (1.1.5 and 1.2):"),
    ],
)
def test_reports_of_different_images_are_not_compared(changes, words):
    reports = [report(name, **MEASURED) for name in "ab"]
    check_comparable(reports)
    with pytest.raises(ValueError, match="Expected classifiers measured on the same images; a and c differ") as caught:
        check_comparable([*reports, dataclasses.replace(report("c", **MEASURED), **changes)])
    assert words in str(caught.value)


def test_reports_of_different_versions_are_compared():
    versions = {**MEASURED["versions"], "torch": "2.12.0"}
    check_comparable([report(**MEASURED), report(**{**MEASURED, "versions": versions})])


def test_what_older_reports_lack_is_not_compared():
    older = report("old", **{**MEASURED, "versions": {}, "source": None, "digest": None})
    check_comparable([older, report(**MEASURED), older])
    with pytest.raises(ValueError, match="a and b differ in digest"):
        check_comparable([older, report("a", **MEASURED), report("b", **{**MEASURED, "digest": "77"})])


def test_settings_explain_what_differs_and_are_not_compared_themselves():
    measured = [
        (name, {"digest": name[0]}, {"crop": crop}) for name, crop in (("a1", "pad"), ("a2", None), ("b", "pad"))
    ]
    check_alike(measured[:2])
    with pytest.raises(ValueError, match=r"a1 and b differ in digest \(a and b\): compare"):
        check_alike(measured)
    with pytest.raises(ValueError, match=r"a2 and b differ in digest \(a and b\), crop \(unknown and pad\): compare"):
        check_alike(measured[1:])


BROKEN = [
    ({"clean_error": "0.1"}, "`clean_error` to be a real number"),
    ({"clean_error": math.nan}, r"`clean_error` to be a real number in \[0, 1\]; got nan"),
    ({"clean_error": True}, "`clean_error` to be a real number"),
    ({"clean_error": 7}, "`clean_error` .*; got 7"),
    ({"errors": {}}, "`errors` to be of: gaussian_noise.*; got none"),
    ({"errors": "fog"}, "`errors` to be a mapping; got 'fog'"),
    ({"errors": {"smog": [0.1] * 5}}, r"`errors` to be of: gaussian_noise.*; got \['smog'\]"),
    ({"errors": {"fog": [0.1] * 4}}, r"`errors\['fog'\]` to be 5 numbers in \[0, 1\]; got 4"),
    ({"errors": {"fog": "12345"}}, r"`errors\['fog'\]` to be a list; got '12345'"),
    ({"errors": {"fog": [0.1, 0.2, 0.3, None, 0.5]}}, r"`errors\['fog'\]` to be a real number"),
    ({"errors": {"fog": [0.1, 0.2, 0.3, 1.5, 0.5]}}, r"`errors\['fog'\]` .*; got 1.5"),
    ({"name": 3}, "`name` to be a string; got 3"),
    ({"operations": "rotate"}, "`operations` to be a list; got 'rotate'"),
    ({"operations": [1]}, "`operations` to be a string; got 1"),
    ({"data": 3}, "`data` to be a string; got 3"),
    ({"digest": 3}, "`digest` to be a string; got 3"),
    ({"seed": "0"}, "`seed` to be an integer"),
    ({"versions": ["2.11"]}, "`versions` to be a mapping"),
    ({"versions": {"torch": 2.11}}, r"`versions\['torch'\]` to be a string; got 2.11"),
    ({"colour": "red"}, "unexpected keyword argument 'colour'"),
]
CALIBRATIONS = [
    ({"counts": [0, 0, 0]}, "`counts` to have images; got none"),
    ({"counts": [0, 3]}, "`confidences` to be 2 numbers"),
    ({"counts": [0, -3, 1]}, "`counts` to be an integer, at least 0; got -3"),
    ({"counts": 3}, "`counts` to be a list; got 3"),
    ({"accuracies": [0, 1, 2]}, "`accuracies` .*; got 2"),
    ({"rms_error": math.inf}, "`rms_error` .*; got inf"),
    ({"expected_error": None}, "`expected_error` to be a real number"),
]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        *BROKEN,
        *(({"clean": {**dataclasses.asdict(CALIBRATION), **changes}}, words) for changes, words in CALIBRATIONS),
        ({"images": 5}, "its `images` is 5, and its `counts` are of 4"),
        ({"corrupted": []}, "must be a mapping"),
    ],
)
def test_damaged_reports_are_an_error_that_names_the_fault(changes, words, tmp_path):
    path = tmp_path / "report.json"
    report(**MEASURED).save(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(ValueError, match=rf"(?s)report\.json is not a report of evaluate_robustness \(.*{words}"):
        RobustnessReport.load(path)


@pytest.mark.parametrize("name", ["name", "clean_error", "errors", "clean", "corrupted"])
def test_what_a_report_lacks_is_named(name, tmp_path):
    path = tmp_path / "report.json"
    report().save(path)
    content = json.loads(path.read_text())
    del content[name]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"report\.json is not a report .*'{name}'"):
        RobustnessReport.load(path)


def test_lists_in_lists_without_end_are_no_report(tmp_path):
    (tmp_path / "report.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="is not a report"):
        RobustnessReport.load(tmp_path / "report.json")


@pytest.mark.parametrize(("changes", "words"), [*BROKEN[:-1], ({"clean": {}}, "`clean` to be a Calibration")])
def test_a_report_is_made_of_valid_values_only(changes, words):
    with pytest.raises((TypeError, ValueError), match=words):
        dataclasses.replace(report(), **changes)


@pytest.mark.parametrize("environment", [{}, {"FORCE_COLOR": "1"}])
def test_a_report_is_plain_text_in_notebooks_too(environment, monkeypatch, capsys):
    expected = str(report())
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    assert str(report()) == expected
    assert "mean corruption error" in expected
    assert "\x1b" not in expected
    assert capsys.readouterr().out == ""


HOSTILE = "\x1b[2J<script>[red]&\u202e\n"
ESCAPED = r"\x1b[2J<script>[red]&\u202e\n"


def test_a_notebook_shows_a_table():
    html = report(HOSTILE, operations=("brightness",), **{**MEASURED, "data": HOSTILE})._repr_html_()
    root = ET.fromstring(f"<div>{html}</div>")
    assert root.find("table/caption").text == f"Error in %, {ESCAPED}"
    rows = [["".join(cell.itertext()) for cell in row] for row in root.iter("tr")]
    assert rows[0] == ["corruption", "1", "2", "3", "4", "5", "mean"]
    assert rows[1] == ["gaussian_noise", "0.0", "2.5", "5.0", "7.5", "10.0", "5.0"]
    assert rows[-8][0] == "mean without *"
    assert len(rows) == 1 + 15 + 9
    notes = " ".join(note.text for note in root.iter("p"))
    assert f"4 images of {ESCAPED}; corruptions computed" in notes
    assert "not out of distribution" in notes


def test_names_from_others_are_escaped_in_text():
    made = report(HOSTILE, data=HOSTILE, source=HOSTILE, versions={"torch": HOSTILE})
    text = " ".join(str(made).split())
    assert text.count(ESCAPED) == 4
    with pytest.raises(ValueError, match="is on") as caught:
        check_comparable([made, report(HOSTILE, errors={"fog": (0.1,) * 5})])
    assert ESCAPED in str(caught.value)
    with pytest.raises(ValueError, match="differ in data") as caught:
        check_comparable([made, report(HOSTILE, data="digits")])
    assert str(caught.value).isprintable()


def test_names_that_are_not_utf8_are_kept(tmp_path):
    made = report("run-\udcff é")
    made.save(tmp_path / "report.json")
    made.save_csv(tmp_path / "report.csv")
    assert RobustnessReport.load(tmp_path / "report.json") == made
    assert "é" in (tmp_path / "report.json").read_text(encoding="utf-8")
    assert "run-\\udcff é,fog" in (tmp_path / "report.csv").read_text(encoding="utf-8")


@pytest.mark.parametrize("write", ["save", "save_csv"])
@pytest.mark.parametrize("before", [None, "before"])
def test_a_full_disk_leaves_no_part_of_a_report(write, before, tmp_path, request):
    path = tmp_path / "report"
    if before is not None:
        path.write_text(before)
    request.getfixturevalue("full_disk")
    with pytest.raises(OSError, match="too large"):
        getattr(report(), write)(path)
    assert [file.read_text() for file in tmp_path.iterdir()] == ([] if before is None else [before])


def test_a_plot_is_a_figure_that_pyplot_does_not_know():
    import matplotlib.pyplot as plt

    figure, axes = report("augmix").plot()
    assert figure.axes == [axes]
    assert axes.get_legend().get_texts()[0].get_text() == "augmix"
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert plt.get_fignums() == []
