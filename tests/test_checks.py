import math
from fractions import Fraction

import numpy as np
import pytest

from lightning_augmix._checks import boolean, integer, number, one_of, string


@pytest.mark.parametrize("kind", [int, np.int64, np.int8, np.uint16])
@pytest.mark.parametrize("value", [0, 3])
def test_integers_of_any_kind_become_plain_ones(kind, value):
    checked = integer("views", kind(value), at_least=0)
    assert checked == value
    assert type(checked) is int


@pytest.mark.parametrize("kind", [int, float, np.int64, np.float32, np.float64, Fraction])
def test_numbers_of_any_kind_become_plain_ones(kind):
    checked = number("severity", kind(3), at_least=0, at_most=10)
    assert checked == 3
    assert type(checked) is float


@pytest.mark.parametrize("value", [True, False, np.True_, np.False_, None, "1", 1j, [1], np.ones(1)])
def test_booleans_and_what_is_no_number_are_refused(value):
    with pytest.raises(TypeError, match=r"Expected argument `width` to be an integer; got .* of type "):
        integer("width", value)
    with pytest.raises(TypeError, match=r"Expected argument `alpha` to be a real number; got .* of type "):
        number("alpha", value)


def test_a_number_that_is_whole_is_no_integer():
    with pytest.raises(TypeError, match=r"`width` to be an integer, at least 1; got 2\.0 of type float \(use 3\)\."):
        integer("width", 2.0, at_least=1, remedy="use 3")


@pytest.mark.parametrize("value", [-2, 0, np.int64(0)])
def test_integers_out_of_their_range(value):
    with pytest.raises(ValueError, match=r"`depth` to be -1 or an integer, at least 1; got .*\(as the paper\)\."):
        integer("depth", value, at_least=1, also=-1, remedy="as the paper")


def test_an_integer_below_the_range_that_is_permitted():
    assert integer("depth", np.int8(-1), at_least=1, also=-1) == -1


@pytest.mark.parametrize(
    ("bounds", "permitted", "inside", "outside"),
    [
        ({}, "a real number", [-1e300, 0], []),
        ({"at_least": 0}, "a real number, at least 0", [0, 1e300], [-5e-324]),
        ({"above": 0}, "a real number above 0", [5e-324], [0, -1]),
        ({"at_least": 0, "at_most": 10}, r"a real number in \[0, 10\]", [0, 10], [-0.1, 10.01]),
        ({"at_least": 0, "below": 1}, r"a real number in \[0, 1\)", [0, 0.99], [-0.1, 1]),
    ],
)
def test_bounds_of_numbers(bounds, permitted, inside, outside):
    for value in inside:
        assert number("x", value, **bounds) == value
    for value in [*outside, math.nan, math.inf, -math.inf]:
        with pytest.raises(ValueError, match=f"Expected argument `x` to be {permitted}; got "):
            number("x", value, **bounds)


def test_one_of_several_strings():
    assert one_of("engine", "b", ("a", "b", "c")) == "b"
    for value in ("d", None, [], 1):
        with pytest.raises(ValueError, match=r"`engine` to be 'a', 'b' or 'c'; got .*\(use 'a'\)\."):
            one_of("engine", value, ("a", "b", "c"), remedy="use 'a'")


def test_booleans():
    assert boolean("inject", np.True_) is True
    assert boolean("inject", False) is False
    for value in (0, 1, None, "yes"):
        with pytest.raises(TypeError, match="`inject` to be True or False; got "):
            boolean("inject", value)


@pytest.mark.parametrize("value", [None, 3, b"name", ["name"]])
def test_what_is_no_string_is_refused(value):
    assert string("name", "jsd") == "jsd"
    with pytest.raises(TypeError, match=r"Expected argument `name` to be a string; got .* of type "):
        string("name", value)
