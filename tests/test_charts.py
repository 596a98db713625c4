import pytest
from PIL import Image

from lightning_augmix.charts import draw_errors, draw_reliability
from test_report import report


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
    with pytest.raises(ValueError, match="to have a report at least"):
        draw([], tmp_path / "picture.png")
    with pytest.raises(ValueError, match=r"on the same corruptions; b is on \['fog'\]"):
        draw([report("a"), report("b", errors={"fog": (0.1,) * 5})], tmp_path / "picture.png")
