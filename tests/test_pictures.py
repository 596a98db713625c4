"""Pictures of plans, hyperparameters and batches, looked at through Matplotlib's own objects."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image, ImageOps

from lightning_augmix import AugMixPlan, apply_plan, sample_plan
from lightning_augmix._figures import save_figure
from lightning_augmix.operations import OPERATIONS
from lightning_augmix.pictures import draw_grid, draw_pairs, draw_plan_steps, tiled_pairs
from strategies import arrays, hyperparameters, keys
from toy import dim_image

IMAGE = dim_image(3, (40, 28))


def pictures(figure):
    """The arrays that a figure shows."""
    return [np.asarray(axes.images[0].get_array()) for axes in figure.axes if axes.images]


def words(figure):
    return [text.get_text() for text in figure.texts]


def plan_of(*chains, weights=(0.5, 0.25, 0.75), size=(40, 28)):
    names = list(OPERATIONS)
    depth = max(map(len, chains))
    operations = np.full((len(chains), depth), -1, np.int8)
    parameters = np.zeros((len(chains), depth))
    for row, chain in enumerate(chains):
        for column, (name, value) in enumerate(chain):
            operations[row, column], parameters[row, column] = names.index(name), value
    return AugMixPlan(size, operations, parameters, np.array(weights, np.float32))


def test_the_steps_of_a_plan_are_those_of_pillow():
    plan = plan_of([("posterize", 2), ("solarize", 120)], [("equalize", 0)])
    original, first, second, other, mixture, result = shown = _in_order(draw_plan_steps(IMAGE, plan))
    assert len(shown) == 6
    np.testing.assert_array_equal(original, np.asarray(IMAGE))
    np.testing.assert_array_equal(first, np.asarray(ImageOps.posterize(IMAGE, 2)))
    np.testing.assert_array_equal(second, np.asarray(ImageOps.solarize(ImageOps.posterize(IMAGE, 2), 120)))
    np.testing.assert_array_equal(other, np.asarray(ImageOps.equalize(IMAGE)))
    exact = 0.25 * second.astype(float) + 0.75 * other
    np.testing.assert_allclose(mixture, exact, atol=1)
    np.testing.assert_allclose(result, 0.5 * np.asarray(IMAGE) + 0.5 * exact, atol=1)
    np.testing.assert_array_equal(result, np.asarray(apply_plan(IMAGE, plan)))


def _in_order(figure):
    """The original, the steps chain by chain, the mixture and the result."""
    original, mixture, result, *steps = pictures(figure)
    return [original, *steps, mixture, result]


def test_steps_and_weights_are_written_beside_the_pictures():
    plan = plan_of(
        [("rotate", -8), ("translate_x", 2), ("posterize", 4)],
        [("shear_y", 0.0251), ("brightness", 1.2), ("autocontrast", 0)],
        weights=(0.25, 0.4, 0.6),
    )
    assert sorted(words(draw_plan_steps(IMAGE, plan))) == sorted(
        [
            "original",
            "mixture of\nthe chains",
            "AugMix",
            "rotate\n−8°",
            "translate x\n+2 pixels",
            "posterize\nto 4 bits",
            "shear y\n+0.025",
            "brightness\n× 1.20",
            "autocontrast",
            "× 0.40",
            "× 0.60",
            "× 0.25",
            "× 0.75",
        ]
    )


@given(image=arrays(), key=keys, values=hyperparameters)
@settings(max_examples=10)
def test_every_plan_can_be_drawn(image, key, values):
    plan = sample_plan(key, image.shape[:2], **values)
    shown = _in_order(draw_plan_steps(image, plan))
    assert len(shown) == 3 + sum(map(len, plan.chains))
    np.testing.assert_array_equal(shown[-1], apply_plan(image, plan))


def test_nothing_overlaps_and_nothing_is_cut_off():
    figure = draw_plan_steps(IMAGE, sample_plan(7, (40, 28), 10, width=5, depth=4))
    canvas, page = FigureCanvasAgg(figure), figure.bbox
    canvas.draw()
    renderer = canvas.get_renderer()
    boxes = [axes.get_window_extent(renderer) for axes in figure.axes]
    boxes += [text.get_window_extent(renderer) for text in figure.texts]
    for number, box in enumerate(boxes):
        assert page.x0 <= box.x0 < box.x1 <= page.x1
        assert page.y0 <= box.y0 < box.y1 <= page.y1
        assert not any(box.overlaps(other) for other in boxes[:number])


def test_a_plan_shows_itself(tmp_path):
    plan = sample_plan(1, (40, 28))
    figure = plan.show(torch.from_numpy(np.array(IMAGE)).permute(2, 0, 1))
    assert figure._repr_png_().startswith(b"\x89PNG")
    for ending, start in (("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")):
        save_figure(figure, tmp_path / f"plan.{ending}")
        assert (tmp_path / f"plan.{ending}").read_bytes().startswith(start)


def test_a_batch_is_refused():
    with pytest.raises(AttributeError, match=r"no `show`; index it first"):
        sample_plan([1, 2], (40, 28)).show(IMAGE)
    with pytest.raises(ValueError, match="`image` to be one image; got a batch"):
        sample_plan(1, (40, 28)).show(torch.zeros(2, 3, 40, 28, dtype=torch.uint8))
    with pytest.raises(ValueError, match="drawn for the size"):
        sample_plan(1, (28, 40)).show(IMAGE)


def test_the_grid_has_a_row_for_each_severity_and_a_column_for_each_width():
    figure = draw_grid(IMAGE, 5, severities=(0, 2.5), widths=(1, 3, 4), hyperparameters={"augmentation_set": "safe"})
    expected = [
        np.asarray(apply_plan(IMAGE, sample_plan(5, (40, 28), severity, width, augmentation_set="safe")))
        if severity
        else np.asarray(IMAGE)
        for severity in (0, 2.5)
        for width in (1, 3, 4)
    ]
    for shown, image in zip(pictures(figure), expected, strict=True):
        np.testing.assert_array_equal(shown, image)
    assert [axes.get_title() for axes in figure.axes[:3]] == ["width 1", "width 3", "width 4"]
    assert [axes.get_ylabel() for axes in figure.axes[::3]] == ["severity 0", "severity 2.5"]


def test_batches_are_shown_in_rows_of_clean_and_augmented():
    clean = [np.full((4, 6), level, np.uint8) for level in range(5)]
    augmented = [np.full((4, 6, 3), 100 + level, np.uint8) for level in range(5)]
    figure = draw_pairs(clean, augmented, columns=3)
    assert [int(picture.flat[0]) for picture in pictures(figure)] == [0, 1, 2, 100, 101, 102, 3, 4, 103, 104]
    assert [axes.get_ylabel() for axes in figure.axes[::3]] == ["clean", "AugMix", "clean", "AugMix"]


@pytest.mark.parametrize("kind", ["pil", "array", "channels_first", "tensor", "float", "normalised"])
def test_batches_look_as_they_are(kind):
    levels = np.zeros((5, 7, 3), np.uint8)
    levels[:, :3] = 255
    tensor = torch.from_numpy(levels).permute(2, 0, 1)
    image = {
        "pil": Image.fromarray(levels),
        "array": levels,
        "channels_first": levels.transpose(2, 0, 1),
        "tensor": tensor,
        "float": tensor / 255,
        "normalised": (tensor / 255 - torch.tensor([0.5, 0.4, 0.3])[:, None, None]) / 0.25,
    }[kind]
    sheet = tiled_pairs([image], [image])
    np.testing.assert_array_equal(sheet, np.concatenate([levels, np.full((2, 7, 3), 255), levels]))


def test_the_clean_images_decide_what_is_black_and_white():
    clean, augmented = torch.tensor([[[-1.0, 3.0]]]), torch.tensor([[[1.0, 9.0]]])
    assert tiled_pairs([clean], [augmented])[..., 0].tolist() == [[0, 255], [255, 255], [255, 255], [128, 255]]


@settings(max_examples=20)
@given(count=st.integers(1, 9), columns=st.integers(1, 10))
def test_tiles(count, columns):
    tiles = [np.full((3, 2), 10 * number, np.uint8) for number in range(count)]
    sheet = tiled_pairs(tiles, tiles, columns)
    across, down = min(count, columns), 2 * -(-count // columns)
    assert sheet.shape == (down * 5 - 2, across * 4 - 2, 3)
    assert set(np.unique(sheet)) <= {10 * number for number in range(count)} | {255}


def test_images_of_other_sizes_have_room():
    assert tiled_pairs([np.zeros((2, 9), np.uint8)], [np.zeros((4, 3), np.uint8)]).shape == (10, 9, 3)


@pytest.mark.parametrize(("clean", "augmented"), [([], []), ([np.zeros((2, 3), np.uint8)], [])])
def test_pairs_are_pairs(clean, augmented):
    with pytest.raises(ValueError, match="equally many images, at least one; got"):
        draw_pairs(clean, augmented)
