import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lightning_augmix import AugMixPlan, augmentation_sets, sample_plan
from lightning_augmix.operations import OPERATIONS
from strategies import hyperparameters, keys, sizes

PLANS = 100_000
SIZE = (90, 150)
LEAST_P = 1e-4
ENHANCEMENTS = ("color", "contrast", "brightness", "sharpness")
NAMES = list(OPERATIONS)

_drawn: dict = {}


def drawn(**arguments):
    """100,000 plans; the key range is the fixed seed."""
    case = tuple(sorted(arguments.items()))
    if case not in _drawn:
        _drawn[case] = sample_plan(np.arange(PLANS, dtype=np.uint64), SIZE, **arguments)
    return _drawn[case]


def parameters_of(name, **arguments):
    plans = drawn(**arguments)
    return plans.parameters[plans.operations == NAMES.index(name)]


def check_counts(values, probabilities):
    """Chi-square of the counts of discrete values against their probabilities, rare ones pooled."""
    outcomes = np.array(sorted(probabilities))
    observed = np.array([(values == outcome).sum() for outcome in outcomes])
    assert observed.sum() == len(values), "a value that cannot occur"
    expected = np.array([probabilities[outcome] for outcome in outcomes]) * len(values)
    keep = expected >= 20
    observed = np.append(observed[keep], observed[~keep].sum())
    expected = np.append(expected[keep], expected[~keep].sum())
    if expected[-1] < 20:
        assert observed[-1] < 60
        observed, expected = observed[:-1], expected[:-1]
    if len(expected) > 1:
        assert stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue > LEAST_P


def level_probabilities(severity, scale, sign=False, offset=0, direction=1):
    """P(offset + direction * int(scale * L / 10)) for L ~ U(min(0.1, s), s), by the law's definition."""
    low = min(0.1, severity)
    probabilities: dict = {}
    if low == severity:
        probabilities[int(scale * severity / 10)] = 1.0
    else:
        edges = np.arange(0, int(scale * severity / 10) + 2) * 10 / scale
        for term in range(len(edges) - 1):
            share = max(0.0, min(edges[term + 1], severity) - max(edges[term], low)) / (severity - low)
            if share > 0:
                probabilities[term] = share
    if sign:
        signed: dict = {}
        for term, share in probabilities.items():
            for value in (term, -term):
                signed[value] = signed.get(value, 0) + share / 2
        return signed
    return {offset + direction * term: share for term, share in probabilities.items()}


def check_share(values, law):
    """Kolmogorov-Smirnov below one half, where float32 resolves the smallest shares, and how many are above it."""
    below = values[values < 0.5]
    middle = law.cdf(0.5)
    assert stats.binomtest(len(below), len(values), middle).pvalue > LEAST_P
    assert stats.kstest(below, lambda share: law.cdf(share) / middle).pvalue > LEAST_P


SEVERITIES = [0.05, 1, 3, 10]


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize(
    ("name", "law"),
    [
        ("posterize", {"scale": 4, "offset": 4, "direction": -1}),
        ("solarize", {"scale": 256, "offset": 256, "direction": -1}),
        ("rotate", {"scale": 30, "sign": True}),
        ("translate_x", {"scale": SIZE[1] / 3, "sign": True}),
        ("translate_y", {"scale": SIZE[0] / 3, "sign": True}),
    ],
)
def test_whole_parameters_have_the_distribution_of_their_law(name, law, severity):
    check_counts(parameters_of(name, severity=severity), level_probabilities(severity, **law))


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("name", ["shear_x", "shear_y"])
def test_shear_factors_are_uniform_with_a_fair_sign(name, severity):
    values = parameters_of(name, severity=severity)
    low, high = 0.03 * min(0.1, severity), 0.03 * severity
    assert stats.binomtest(int((values > 0).sum()), len(values)).pvalue > LEAST_P
    if low == high:
        np.testing.assert_allclose(np.abs(values), low, rtol=1e-12)
    else:
        assert stats.kstest(np.abs(values), stats.uniform(low, high - low).cdf).pvalue > LEAST_P


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("name", ENHANCEMENTS)
def test_enhancement_factors_come_from_both_branches(name, severity):
    values = parameters_of(name, severity=severity)
    damping = 0.75 if name == "brightness" else 1.0
    high = max(1.0, severity)
    lower = stats.uniform(1 - 0.09 * severity, 0.09 * severity)
    if high == 1.0:  # the upper branch is the constant 1
        raised = values == 1.0
        values = values[~raised]
        assert stats.binomtest(int(raised.sum()), len(raised)).pvalue > LEAST_P
        assert stats.kstest(values, lower.cdf).pvalue > LEAST_P
    else:
        upper = stats.uniform(damping, damping * (high - 1))
        assert stats.kstest(values, lambda f: 0.5 * lower.cdf(f) + 0.5 * upper.cdf(f)).pvalue > LEAST_P


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("name", ENHANCEMENTS)
def test_the_official_codes_enhancement_factors_are_uniform(name, severity):
    values = parameters_of(f"{name}_original", severity=severity, augmentation_set="original")
    low, high = 0.18 * min(0.1, severity) + 0.1, 0.18 * severity + 0.1
    if low == high:
        np.testing.assert_allclose(values, low, rtol=1e-12)
    else:
        assert stats.kstest(values, stats.uniform(low, high - low).cdf).pvalue > LEAST_P


@pytest.mark.parametrize("name", sorted(augmentation_sets))
def test_operations_are_drawn_uniformly_from_the_set(name):
    plans = drawn(augmentation_set=name)
    operations = plans.operations[plans.operations >= 0]
    members = [NAMES.index(operation.name) for operation in augmentation_sets[name]]
    check_counts(operations, {code: 1 / len(members) for code in members})


def test_consecutive_operations_are_independent():
    operations = drawn(depth=2).operations[:, 0]
    table = np.zeros((13, 13))
    np.add.at(table, (operations[:, 0], operations[:, 1]), 1)
    assert stats.chi2_contingency(table).pvalue > LEAST_P


def test_depths_are_uniform_on_one_two_and_three_and_independent():
    depths = (drawn().operations >= 0).sum(axis=2)
    for chain in range(3):
        check_counts(depths[:, chain], {1: 1 / 3, 2: 1 / 3, 3: 1 / 3})
    table = np.zeros((3, 3))
    np.add.at(table, (depths[:, 0] - 1, depths[:, 1] - 1), 1)
    assert stats.chi2_contingency(table).pvalue > LEAST_P


@pytest.mark.parametrize("depth", [1, 4])
def test_a_fixed_depth_is_kept(depth):
    assert ((drawn(depth=depth).operations >= 0).sum(axis=2) == depth).all()


@pytest.mark.parametrize("alpha", [0.05, 0.5, 1.0, 4.0, 1000.0])
@pytest.mark.parametrize("width", [2, 3, 5])
def test_weights_are_dirichlet_and_beta(alpha, width):
    weights = drawn(alpha=alpha, width=width).weights.astype(np.float64)
    check_share(weights[:, 0], stats.beta(alpha, alpha))
    for chain in range(1, width + 1):
        check_share(weights[:, chain], stats.beta(alpha, (width - 1) * alpha))
    np.testing.assert_allclose(weights[:, 1:].sum(axis=1), 1, atol=1e-6)
    # The marginals do not fix the joint law; its covariance does the rest.
    covariance = np.cov(weights[:, 1], weights[:, 2])[0, 1]
    expected = -1 / (width**2 * (width * alpha + 1))
    assert covariance == pytest.approx(expected, rel=0.05)


def test_mixing_and_chain_weights_are_independent():
    weights = drawn().weights
    assert stats.pearsonr(weights[:, 0], weights[:, 1]).pvalue > LEAST_P


@pytest.mark.parametrize("alpha", [5e-324, 1e-100, 1e100, 1e308])
def test_extreme_alphas_give_weights_that_add_up(alpha):
    weights = sample_plan(range(100), (5, 7), alpha=alpha).weights
    assert np.isfinite(weights).all()
    np.testing.assert_allclose(weights[:, 1:].sum(axis=1), 1, atol=1e-6)
    if alpha < 1:  # all on one chain, each equally often
        np.testing.assert_array_equal(np.sort(weights[:, 1:], axis=1), np.tile([0, 0, 1], (100, 1)))
    else:
        np.testing.assert_allclose(weights[:, 1:], 1 / 3, rtol=1e-6)


def test_severity_zero_means_no_mixing():
    assert (drawn(severity=0).weights[:, 0] == 0).all()


@given(st.lists(keys, min_size=1, max_size=4), sizes, hyperparameters)
def test_a_batch_of_plans_is_the_plans_of_its_keys(batch_keys, size, arguments):
    batch = sample_plan(batch_keys, size, **arguments)
    assert len(batch) == len(batch_keys)
    assert list(batch) == [sample_plan(key, size, **arguments) for key in batch_keys]
    assert batch == sample_plan(np.array(batch_keys, np.uint64), size, **arguments)


@given(keys, sizes, hyperparameters)
def test_the_decoded_plan_holds_what_the_arrays_hold(key, size, arguments):
    plan = sample_plan(key, size, **arguments)
    assert len(plan.chains) == len(plan.chain_weights) == arguments["width"]
    assert sum(plan.chain_weights) == pytest.approx(1, abs=1e-6)
    assert 0 <= plan.mixing_weight <= 1
    for chain in plan.chains:
        assert len(chain) == arguments["depth"] if arguments["depth"] > 0 else 1 <= len(chain) <= 3
        for name, parameter in chain:
            operation = OPERATIONS[name]
            expected = type(None) if operation.law == "none" else int if operation.integer else float
            assert type(parameter) is expected


@given(keys, sizes, hyperparameters)
def test_plans_survive_pickling_and_compare_by_value(key, size, arguments):
    plan = sample_plan(key, size, **arguments)
    loaded = pickle.loads(pickle.dumps(plan))
    assert loaded == plan
    assert hash(loaded) == hash(plan)
    assert not loaded.weights.flags.writeable


def test_keys_are_taken_modulo_two_to_the_sixty_four():
    assert sample_plan(-1, (4, 5)) == sample_plan(2**64 - 1, (4, 5))
    assert sample_plan([-1], (4, 5)) == sample_plan(np.array([-1]), (4, 5)) == sample_plan([2**64 - 1], (4, 5))
    assert sample_plan(np.int8(-1), (4, 5)) == sample_plan(-1, (4, 5))


def test_neighbouring_keys_give_different_plans():
    assert len(set(drawn())) == PLANS


def test_plans_are_immutable():
    plan = sample_plan(1, (4, 5))
    with pytest.raises(AttributeError, match="immutable"):
        plan.weights = None
    with pytest.raises(AttributeError, match="immutable"):
        del plan.weights
    with pytest.raises(ValueError, match="read-only"):
        plan.weights[0] = 1


def test_plans_differ_from_other_things():
    assert sample_plan(1, (4, 5)) != sample_plan(1, (5, 4))
    assert sample_plan(1, (4, 5)) != 1


def test_threads_draw_the_plans_that_one_draws():
    keys, before = np.arange(5000).astype(np.uint64), torch.get_num_threads()
    plans = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            plans.append(sample_plan(keys, (32, 48), 10))
    finally:
        torch.set_num_threads(before)
    assert plans[0] == plans[1]
    assert plans[1][4321] == sample_plan(4321, (32, 48), 10)


def test_the_plan_of_one_image_is_no_batch_and_the_reverse():
    one, batch = sample_plan(1, (4, 5)), sample_plan([1, 2], (4, 5))
    with pytest.raises(TypeError, match="no length"):
        len(one)
    with pytest.raises(TypeError, match="indexed"):
        one[0]
    for name in ("chains", "chain_weights", "mixing_weight"):
        with pytest.raises(AttributeError, match=rf"plan\[i\]\.{name}"):
            getattr(batch, name)
    assert repr(batch) == "AugMixPlan for 2 images of 4×5"


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"key": 1.5}, TypeError, "`key`.*1.5"),
        ({"key": True}, TypeError, "`key`.*True"),
        ({"key": np.True_}, TypeError, "`key`.*True"),
        ({"key": [1, True]}, TypeError, "`key`.*True"),
        ({"image_size": (True, 4)}, TypeError, "`image_size`.*True"),
        ({"key": [0.5]}, TypeError, r"`key`.*\[0.5\]"),
        ({"key": np.zeros((2, 2), int)}, TypeError, "`key`.*one-dimensional"),
        ({"image_size": 3}, TypeError, "`image_size`.*3"),
        ({"image_size": (3.0, 4)}, TypeError, "`image_size`"),
        ({"image_size": (3, 4.5)}, TypeError, "`image_size`"),
        ({"image_size": (1, 2, 3)}, (TypeError, ValueError), "`image_size`"),
        ({"image_size": (0, 4)}, ValueError, "`image_size`.*at least 1"),
        ({"severity": 11}, ValueError, "`severity`"),
    ],
)
def test_errors_name_the_argument(arguments, error, words):
    with pytest.raises(error, match=words):
        sample_plan(**{"key": 1, "image_size": (4, 5), **arguments})


def test_sizes_of_any_integer_kind_are_taken():
    assert sample_plan(1, [4, 5]) == sample_plan(1, (np.int64(4), np.int64(5))) == sample_plan(1, (4, 5))


# Plans of fixed keys, as they were when this was written. A change here breaks every user's seeds: it needs a reason
# and a line in the CHANGELOG.
GOLDEN = """\
AugMixPlan for 32×48: 0.586 of the image + 0.414 of
  0.453 solarize(209) → contrast(0.878932) → translate_x(-2)
  0.279 posterize(4) → shear_x(-0.03796359) → brightness(1.997879)
  0.269 posterize(4) → color(0.9433352) → translate_x(-2)
"""
PROGRAM = """
from lightning_augmix import sample_plan
import hashlib
for alpha in (0.7, 1, 3.5):
    plans = sample_plan(range(50), (32, 48), alpha=alpha, width=4)
    for array in (plans.operations, plans.parameters, plans.weights):
        print(hashlib.sha256(array.tobytes()).hexdigest())
"""


def test_golden_plan():
    assert f"{sample_plan(5, (32, 48))}\n" == GOLDEN


@pytest.mark.slow
def test_other_processes_draw_the_same_plans_compiled_or_interpreted():
    def run(**environment):
        command = [sys.executable, "-W", "ignore", "-c", PROGRAM]
        return subprocess.run(command, env={**os.environ, **environment}, check=True, capture_output=True).stdout

    assert run(PYTHONHASHSEED="1") == run(PYTHONHASHSEED="2") == run(NUMBA_DISABLE_JIT="1")


def test_the_type_is_public():
    assert isinstance(sample_plan(1, (2, 3)), AugMixPlan)


def arrays(operations=((0, -1),), parameters=((0.0, 0.0),), weights=(0.5, 1.0)):
    return np.array(operations, np.int8), np.array(parameters, np.float64), np.array(weights, np.float32)


def test_plans_of_ones_own_arrays():
    drawn = sample_plan([1, 2], (3, 4))
    same = AugMixPlan((3, 4), drawn.operations.copy(), drawn.parameters.copy(), drawn.weights.copy())
    assert same == drawn
    assert AugMixPlan((3, 4), *arrays()).chains == ((("autocontrast", None),),)


@pytest.mark.parametrize(
    ("size", "given", "message"),
    [
        ((3, 4), arrays(weights=(0.5,)), r"shapes \[N, width, max_depth\].*got \(1, 2\), \(1, 2\) and \(1,\)"),
        ((3, 4), arrays(parameters=((0.0,),)), r"got \(1, 2\), \(1, 1\)"),
        ((3, 4), arrays(operations=(0, -1)), r"got \(2,\)"),
        ((3, 4), arrays(operations=((17, -1),)), "`operations` to hold codes from −1 to 16"),
        ((3, 4), arrays(operations=((-2, -1),)), "`operations` to hold codes from −1 to 16"),
        (
            (3, 4),
            arrays(((4, -1),), ((45.0, 0.0),)),
            r"whole numbers from -30 to 30 for rotate .*; got 45",
        ),
        ((3, 4), arrays(((4, -1),), ((float("nan"), 0.0),)), "for rotate"),
        ((3, 4), arrays(((2, -1),), ((9.0, 0.0),)), "`parameters` to be whole numbers from 1 to 8 for posterize"),
        ((3, 4), arrays(((2, -1),), ((2.5, 0.0),)), "whole numbers from 1 to 8 for posterize"),
        ((3, 4), arrays(((3, -1),), ((-1.0, 0.0),)), "whole numbers from 0 to 256 for solarize"),
        ((3, 4), arrays(((5, -1),), ((float("inf"), 0.0),)), "numbers from -0.3 to 0.3 for shear_x"),
        ((3, 6), arrays(((7, -1),), ((3.0, 0.0),)), r"from -2 to 2 for translate_x in images of \(3, 6\); got 3"),
        ((6, 3), arrays(((8, -1),), ((3.0, 0.0),)), r"from -2 to 2 for translate_y in images of \(6, 3\); got 3"),
        ((3, 4), arrays(((9, -1),), ((10.5, 0.0),)), "numbers from 0 to 10 for color"),
        ((3, 4), arrays(((0, -1),), ((1.0, 0.0),)), "from 0 to 0 for autocontrast"),
        ((3, 4), arrays(((-1, 0),)), "no operation after the end of a chain"),
        ((3, 4), arrays(weights=(0.5, -0.1)), r"`weights` to be in \[0, 1\]"),
        ((3, 4), arrays(weights=(float("nan"), 1.0)), r"`weights` to be in \[0, 1\]; got others, or NaN"),
        ((3, 4), arrays(weights=(1.5, 1.0)), r"`weights` to be in \[0, 1\]"),
        ((3, 4), arrays(weights=(0.5, 0.9)), r"`weights` of the chains to add up to 1; got \[0\.8999"),
        ((3, 4), arrays(np.empty((0, 2)), np.empty((0, 2)), (0.5,)), "at least one chain; got none"),
        ((0, 4), arrays(), r"`image_size` to be \(height, width\), each at least 1; got \(0, 4\)"),
        ((3, 4), (np.zeros((1, 2), int), *arrays()[1:]), "`operations` to be a int8 array; got int64"),
        ((3, 4), ([[0]], *arrays()[1:]), "`operations` to be a int8 array; got list"),
    ],
)
def test_arrays_that_engines_cannot_read_are_an_error(size, given, message):
    with pytest.raises(ValueError, match=message):
        AugMixPlan(size, *given)
