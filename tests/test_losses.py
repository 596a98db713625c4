import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lightning_augmix import JSDLoss, jsd_consistency


def paper_formula(*all_logits):
    """(KL(p₁‖m) + … ) / v in float64, by the definition."""
    distributions = []
    for logits in all_logits:
        shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
        distributions.append(shifted / shifted.sum(axis=1, keepdims=True))
    mixture = sum(distributions) / len(distributions)
    divergences = [np.where(p > 0, p * np.log(p / mixture), 0).sum(axis=1) for p in distributions]
    return float(np.mean(sum(divergences) / len(divergences)))


def random_logits(seed, views, count, classes, scale):
    return np.random.default_rng(seed).normal(scale=scale, size=(views, count, classes)).astype(np.float32)


@given(st.integers(0, 2**32), st.integers(2, 5), st.integers(1, 9), st.integers(1, 12), st.sampled_from([0.1, 1, 8]))
def test_the_consistency_is_the_papers_formula(seed, views, count, classes, scale):
    logits = random_logits(seed, views, count, classes, scale)
    assert float(jsd_consistency(*torch.from_numpy(logits))) == pytest.approx(paper_formula(*logits), abs=1e-5)


def test_the_loss_is_cross_entropy_of_the_clean_images_and_weighted_consistency():
    logits = random_logits(0, 3, 7, 5, 2.0)
    targets = np.arange(7) % 5
    exponentials = np.exp(logits[0].astype(np.float64))
    entropy = -np.log((exponentials / exponentials.sum(1, keepdims=True))[np.arange(7), targets]).mean()
    loss = JSDLoss(weight=12, views=2)(torch.from_numpy(logits).flatten(0, 1), torch.from_numpy(targets))
    assert float(loss) == pytest.approx(entropy + 12 * paper_formula(*logits), abs=1e-5)


def test_gradients():
    logits = torch.from_numpy(random_logits(0, 3, 4, 5, 3.0)).double().flatten(0, 1).requires_grad_()
    targets = torch.tensor([0, 1, 2, 3])
    loss = JSDLoss(weight=3.0, views=2, label_smoothing=0.1)
    assert torch.autograd.gradcheck(lambda each: loss(each, targets), (logits,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_huge_logits_give_finite_losses_and_gradients(dtype):
    logits = torch.tensor([[1e4, -1e4], [-1e4, 1e4], [0, 0]], dtype=dtype, requires_grad=True)
    loss = JSDLoss()(logits, torch.tensor([0]))
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("views", [1, 2, 4])
def test_the_bounds(views):
    same = torch.randn(3, 6)
    assert float(jsd_consistency(*[same] * (1 + views))) == pytest.approx(0, abs=1e-6)
    apart = 1e4 * torch.eye(1 + views).unsqueeze(1)
    assert float(jsd_consistency(*apart)) == pytest.approx(math.log(1 + views), abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_computed_in_float32_under_autocast(dtype):
    logits, targets = torch.randn(9, 5).to(dtype), torch.tensor([0, 1, 2])
    expected = JSDLoss()(logits.float(), targets)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(JSDLoss()(logits, targets), expected)
        assert jsd_consistency(*logits.chunk(3)).dtype == torch.float32


def test_numbers_of_numpy_are_numbers():
    logits, targets = torch.randn(9, 5), torch.tensor([0, 1, 2])
    loss = JSDLoss(weight=np.float32(3), views=np.int64(2))
    assert torch.equal(loss(logits, targets), JSDLoss(weight=3, views=2)(logits, targets))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_as_many_logits_as_targets_give_plain_cross_entropy_in_evaluation(smoothing):
    logits, targets = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 0, 1])
    expected = nn.CrossEntropyLoss(label_smoothing=smoothing)(logits, targets)
    assert torch.equal(JSDLoss(label_smoothing=smoothing).eval()(logits, targets), expected)


def test_as_many_logits_as_targets_are_an_error_in_training():
    with pytest.raises(ValueError, match=r"\[18, K\] for 6 targets; got .*: pass AugMixCallback\(views=2\), or "):
        JSDLoss()(torch.randn(6, 4), torch.arange(6) % 4)


CROSS_ENTROPY = [
    {"class_weight": torch.tensor([1.0, 2, 0.5, 4])},
    {"ignore_index": 1},
    {"class_weight": torch.tensor([1.0, 2, 0.5, 4]), "ignore_index": 3, "label_smoothing": 0.1},
]


@pytest.mark.parametrize("arguments", CROSS_ENTROPY)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("dense", [(), (3, 2)], ids=["images", "pixels"])
def test_the_arguments_of_cross_entropy(arguments, reduction, dense):
    logits, targets = torch.randn(3, 5, 4, *dense), torch.arange(5 * math.prod(dense)).reshape(5, *dense) % 4
    theirs = {"weight" if name == "class_weight" else name: value for name, value in arguments.items()}
    expected = nn.CrossEntropyLoss(**theirs, reduction=reduction)(logits[0], targets)
    loss = JSDLoss(2.0, **arguments, reduction=reduction)(logits.flatten(0, 1), targets)
    pixels = [view.movedim(1, -1).reshape(-1, 4).numpy() for view in logits]
    each = [paper_formula(*[view[[number]] for view in pixels]) for number in range(len(pixels[0]))]
    consistency = torch.tensor(each).reshape(targets.shape)
    if reduction != "none":
        consistency = consistency.mean() if reduction == "mean" else consistency.sum()
    torch.testing.assert_close(loss, expected + 2 * consistency, check_dtype=False)


@pytest.mark.parametrize("members", [2, 3])
def test_an_ensemble_is_the_mean_of_its_members(members):
    logits, targets = torch.randn(members, 3 * 4, 5), torch.tensor([0, 1, 2, 4])
    each = [JSDLoss()(member, targets) for member in logits]
    loss = JSDLoss(members=members)
    torch.testing.assert_close(loss(logits.flatten(0, 1), targets.repeat(members)), torch.stack(each).mean())
    clean = torch.cat([member[:4] for member in logits])
    expected = nn.functional.cross_entropy(clean, targets.repeat(members))
    torch.testing.assert_close(loss.eval()(clean, targets.repeat(members)), expected)
    with pytest.raises(ValueError, match=f"targets of {members} members, "):
        loss(logits.flatten(0, 1), targets.repeat(members)[:-1])


def test_the_arguments_are_printed_within_models():
    assert repr(JSDLoss()) == "JSDLoss(weight=12, views=2, label_smoothing=0)"
    assert repr(JSDLoss(reduction="sum", members=3)).endswith("label_smoothing=0, reduction='sum', members=3)")


def test_the_weights_of_classes_move_with_the_module_and_are_no_part_of_checkpoints():
    loss = JSDLoss(class_weight=torch.ones(4)).double()
    assert loss.class_weight.dtype == torch.float64
    assert not loss.state_dict()


def test_targets_may_be_probabilities_and_outputs_dense():
    probabilities = torch.softmax(torch.randn(2, 5), 1)
    assert JSDLoss()(torch.randn(6, 5), probabilities).ndim == 0
    assert JSDLoss()(torch.randn(6, 5, 4, 3), torch.zeros(2, 4, 3, dtype=torch.long)).ndim == 0


def test_other_numbers_of_logits_are_an_error():
    with pytest.raises(ValueError, match=r"\[12, K\].*\[4, K\]; got logits \[8, 5\] and targets \[4\]: `views` of JSD"):
        JSDLoss(views=2)(torch.randn(8, 5), torch.zeros(4, dtype=torch.long))


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"weight": -1}, ValueError, "`weight` to be a real number, at least 0; got -1"),
        ({"weight": math.nan}, ValueError, "`weight`"),
        ({"weight": math.inf}, ValueError, "`weight`"),
        ({"weight": "12"}, TypeError, "`weight` to be a real number, at least 0; got '12' of type str"),
        ({"views": 0}, ValueError, r"`views` to be an integer, at least 1; got 0 \(CrossEntropyLoss is for none\)"),
        ({"views": True}, TypeError, "`views` to be an integer"),
        ({"weight": np.True_}, TypeError, "`weight` to be a real number"),
        ({"views": 1.5}, TypeError, "`views` to be an integer"),
        ({"class_weight": [1, 2]}, TypeError, r"`class_weight` to be a tensor \[K\]; got \[1, 2\] of type list"),
        ({"reduction": "batchmean"}, ValueError, "`reduction` to be 'mean', 'sum' or 'none'; got 'batchmean'"),
        ({"ignore_index": 1.5}, TypeError, "`ignore_index` to be an integer"),
        ({"members": 0}, ValueError, "`members` to be an integer, at least 1; got 0"),
        ({"label_smoothing": 1.1}, ValueError, r"`label_smoothing` to be a real number in \[0, 1\]"),
    ],
)
def test_bad_arguments(arguments, kind, message):
    with pytest.raises(kind, match=message):
        JSDLoss(**arguments)


@pytest.mark.parametrize(
    ("logits", "kind", "message"),
    [
        ([torch.zeros(2, 3)], ValueError, r"two or more tensors of one shape .*got \[\[2, 3\]\]"),
        ([torch.zeros(2, 3), torch.zeros(3, 3)], ValueError, r"got \[\[2, 3\], \[3, 3\]\]"),
        ([torch.zeros(3), torch.zeros(3)], ValueError, r"got \[\[3\], \[3\]\]"),
        ([torch.zeros(2, 3).long()] * 2, TypeError, "floating-point tensors; got torch.int64, torch.int64"),
        ([[1.0], [2.0]], TypeError, "got list, list"),
    ],
)
def test_bad_logits(logits, kind, message):
    with pytest.raises(kind, match=message):
        jsd_consistency(*logits)


def test_classes_that_are_ruled_out_count_nothing():
    open_logits = torch.randn(9, 4, requires_grad=True)
    logits = torch.cat([open_logits, torch.full((9, 1), -math.inf)], dim=1)
    targets = torch.tensor([0, 1, 2])
    loss = JSDLoss()(logits, targets)
    assert loss.item() == pytest.approx(JSDLoss()(open_logits, targets).item(), abs=1e-5)
    loss.backward()
    assert open_logits.grad.isfinite().all()
