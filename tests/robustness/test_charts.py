from dataclasses import replace
from statistics import fmean, stdev

import numpy as np
import pytest
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from PIL import Image
from test_report import BINS, ESCAPED, HOSTILE, report

from lightning_augmix.robustness.charts import draw_errors, draw_reliability, plot_errors
from lightning_augmix.robustness.published import CORRUPTIONS


@pytest.mark.parametrize("draw", [draw_errors, draw_reliability])
@pytest.mark.parametrize(
    ("names", "classifiers"),
    [(["standard"], 1), (["standard", "AugMix", "AugMix + JSD"], 3), (["a-seed0", "b-seed1", "a-seed2"], 2)],
)
def test_pictures(draw, names, classifiers, tmp_path):
    draw([report(name) for name in names], tmp_path / "picture.png")
    with Image.open(tmp_path / "picture.png") as picture:
        assert picture.width > 800
        colors = {color for _, color in picture.convert("RGB").getcolors(2**24)}
    # Matplotlib's first colours, one for each classifier.
    assert [color in colors for color in ((31, 119, 180), (255, 127, 14), (44, 160, 44))] == [
        number < classifiers for number in range(3)
    ]


@pytest.mark.parametrize("draw", [draw_errors, draw_reliability])
def test_reports_that_cannot_be_compared_are_an_error(draw, tmp_path):
    with pytest.raises(ValueError, match="to have at least one report"):
        draw([], tmp_path / "picture.png")
    with pytest.raises(ValueError, match=r"on the same corruptions; b is on \['fog'\]"):
        draw([report("a"), report("b", errors={"fog": (0.1,) * 5})], tmp_path / "picture.png")
    with pytest.raises(ValueError, match=r"a and b differ in data \(digits and unknown\), seed \(0 and 1\)"):
        draw([report("a", data="digits", seed=0), report("b", seed=1)], tmp_path / "picture.png")


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were saved."""
    figures = []
    save = Figure.savefig

    def saved(self, *args, **kwargs):
        figures.append(self)
        save(self, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", saved)
    return figures


def labels(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_bars_are_means_over_severities_and_runs(drawn, tmp_path):
    rng = np.random.default_rng(0)
    runs = {name: rng.random((15, 5)) for name in ("a-seed0", "b", "a-seed1")}
    reports = [
        replace(report(name, dict(zip(CORRUPTIONS, map(tuple, errors), strict=True))), clean_error=errors[0, 0] / 2)
        for name, errors in runs.items()
    ]
    draw_errors(reports, tmp_path / "errors.png")
    [axes] = drawn[0].axes
    assert labels(axes) == ["a", "b"]
    assert [label.get_text() for label in axes.get_xticklabels()][1:3] == ["gaussian noise", "shot noise"]
    bars = [container for container in axes.containers if isinstance(container, BarContainer)]
    heights = {
        name: [100 * errors[0, 0] / 2, *100 * errors.mean(1), 100 * errors.mean()] for name, errors in runs.items()
    }
    pairs = list(zip(heights["a-seed0"], heights["a-seed1"], strict=True))
    assert [bar.get_height() for bar in bars[0]] == pytest.approx([fmean(pair) for pair in pairs])
    assert [bar.get_height() for bar in bars[1]] == pytest.approx(heights["b"])
    spans = [segment[1, 1] - segment[0, 1] for segment in bars[0].errorbar.lines[2][0].get_segments()]
    assert spans == pytest.approx([2 * stdev(pair) for pair in pairs])
    assert bars[1].errorbar is None


def test_lines_are_accuracy_over_confidence_in_bins_with_images(drawn, tmp_path):
    one = report("a-seed0")
    other = replace(one, name="a-seed1", corrupted=replace(one.corrupted, rms_error=0.3))
    draw_reliability([one, other], tmp_path / "reliability.png")
    for axes, error in zip(drawn[0].axes, ("20.0", "25.0"), strict=True):
        assert labels(axes) == [f"a: RMS {error} %"]
        assert len(axes.lines) == 3
        for line in axes.lines[1:]:
            assert tuple(line.get_xdata()) == BINS["confidences"][1:]
            assert tuple(line.get_ydata()) == BINS["accuracies"][1:]


@pytest.mark.parametrize("draw", [draw_errors, draw_reliability])
def test_names_are_written_as_they_are(draw, drawn, tmp_path):
    draw([report("_base"), report(r"a$\frac$b")], tmp_path / "picture.png")
    texts = [text.split(":")[0].strip() for text in labels(drawn[0].axes[0])]
    assert texts == ["_base", r"a\$\frac\$b"]  # Matplotlib's way to write dollars


@pytest.mark.parametrize("draw", [draw_errors, draw_reliability])
def test_names_from_others_are_escaped_and_shortened(draw, drawn, tmp_path):
    draw([report(HOSTILE), report("n" * 250)], tmp_path / "picture.png")
    texts = [text.split(": RMS")[0] for text in labels(drawn[0].axes[0])]
    assert texts == [ESCAPED, f"{'n' * 15}…{'n' * 14}"]


@pytest.mark.parametrize("corruptions", [1, 15])
def test_many_long_names_leave_room_for_the_bars(corruptions):
    errors = dict.fromkeys(CORRUPTIONS[:corruptions], (0.1,) * 5)
    figure, axes = plot_errors([report(f"{number} {'n' * 250}", errors) for number in range(6)])
    figure.canvas.draw()
    assert axes.get_position().height > 0.3
    assert axes.get_legend().get_window_extent().x1 < 1.1 * figure.bbox.width


@pytest.mark.parametrize("draw", [draw_errors, draw_reliability])
def test_a_full_disk_leaves_no_part_of_a_picture(draw, tmp_path, request):
    draw([report()], tmp_path / "picture.png")
    before = (tmp_path / "picture.png").read_bytes()
    request.getfixturevalue("full_disk")
    with pytest.raises(OSError, match="too large"):
        draw([report()], tmp_path / "picture.png")
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [before]
