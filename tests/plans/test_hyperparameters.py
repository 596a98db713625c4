import numpy as np
import pytest

from lightning_augmix.plans.hyperparameters import validate

VALID = {"severity": 3, "width": 3, "depth": -1, "alpha": 1.0, "augmentation_set": "all"}


def test_numbers_of_any_kind_become_plain_ones():
    valid = validate(np.float32(2.5), np.int64(4), np.int8(-1), 2, ["rotate"])
    assert valid.arguments() == {"severity": 2.5, "width": 4, "depth": -1, "alpha": 2.0, "augmentation_set": ["rotate"]}
    assert [type(value) for value in valid.arguments().values()] == [float, int, int, float, list]


@pytest.mark.parametrize(("depth", "longest"), [(-1, 3), (1, 1), (7, 7)])
def test_max_depth(depth, longest):
    assert validate(**{**VALID, "depth": depth}).max_depth == longest


@pytest.mark.parametrize(("name", "moves"), [("all", True), ("safe", True), ("photometric", False)])
def test_sets_that_move_pixels_are_told_from_those_that_do_not(name, moves):
    assert validate(**{**VALID, "augmentation_set": name}).moves_pixels is moves


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("severity", -0.1, ValueError),
        ("severity", 10.01, ValueError),
        ("severity", float("nan"), ValueError),
        ("severity", "3", TypeError),
        ("severity", None, TypeError),
        ("severity", [3], TypeError),
        ("severity", True, TypeError),
        ("severity", np.True_, TypeError),
        ("width", 0, ValueError),
        ("width", 2.0, TypeError),
        ("width", True, TypeError),
        ("depth", -1.0, TypeError),
        ("depth", 0, ValueError),
        ("depth", -2, ValueError),
        ("depth", 1.5, TypeError),
        ("alpha", 0, ValueError),
        ("alpha", -1, ValueError),
        ("alpha", float("inf"), ValueError),
        ("alpha", float("nan"), ValueError),
        ("alpha", 1j, TypeError),
        ("augmentation_set", {"rotate"}, TypeError),
    ],
)
def test_errors_name_the_argument_what_is_permitted_what_was_given_and_a_remedy(name, value, error):
    validate(**{**VALID, "width": 1})  # a cached True would be taken for it
    with pytest.raises(error, match=rf"Expected argument `{name}` to be .*; got .*"):
        validate(**{**VALID, name: value})


def test_every_bound_itself_is_permitted():
    for severity in (0, 10):
        assert validate(**{**VALID, "severity": severity}).severity == severity
    assert validate(**{**VALID, "alpha": 5e-324}).alpha == 5e-324
