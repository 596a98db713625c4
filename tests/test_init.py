import importlib
import inspect
import subprocess
import sys

import docstring_parser
import pytest

import lightning_augmix
from lightning_augmix import AugmentAndMixTransform, AugMixCallback, AugMixPlan, JSDLoss, RobustnessReport
from lightning_augmix.operations import Operation

PUBLIC = [
    "AugMixCallback",
    "AugMixPlan",
    "AugmentAndMixTransform",
    "JSDLoss",
    "PlacementError",
    "RobustnessReport",
    "apply_plan",
    "augment_batch",
    "augment_dataloader",
    "augment_dataset",
    "augmentation_sets",
    "augmix_image",
    "compute_corruptions",
    "compute_perturbations",
    "evaluate_robustness",
    "jsd_consistency",
    "sample_plan",
]


def test_the_public_names_are_these_and_exist():
    assert sorted(lightning_augmix.__all__) == sorted(PUBLIC) == sorted(dir(lightning_augmix))
    for name in PUBLIC:
        value = getattr(lightning_augmix, name)
        module = getattr(value, "__module__", "lightning_augmix.operations")
        assert value is getattr(importlib.import_module(module), name)
        assert name == "augmentation_sets" or value.__doc__


@pytest.mark.parametrize(
    "public", [AugMixCallback, AugMixPlan, AugmentAndMixTransform, JSDLoss, Operation, RobustnessReport]
)
def test_every_argument_is_explained_where_tools_look_for_it(public):
    # jsonargparse shows what docstring-parser finds, and of two entries of one name, be it in `Attributes`, the last.
    entries = docstring_parser.parse(public.__doc__).params
    texts = {entry.arg_name: entry.description for entry in entries}
    assert len(texts) == len(entries)
    for parameter in inspect.signature(public).parameters:
        assert len(texts[parameter].split()) > 3
        assert "see above" not in texts[parameter].lower()
        assert texts[parameter].endswith((".", "…"))


def test_any_other_name_is_an_error():
    with pytest.raises(AttributeError, match="no attribute 'AugMix'"):
        lightning_augmix.AugMix  # noqa: B018


@pytest.mark.slow
@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import lightning_augmix", {"torch", "lightning", "numba", "PIL"}),
        ("import hydra_plugins.lightning_augmix_configs", {"torch", "lightning", "numba", "PIL"}),
        ("from lightning_augmix import augmentation_sets", {"torch", "lightning", "numba", "PIL"}),
        ("from lightning_augmix.plans.hyperparameters import Hyperparameters", {"torch", "lightning", "numba", "PIL"}),
        ("from lightning_augmix import augmix_image, augment_dataloader", {"lightning", "sklearn"}),
        ("from lightning_augmix import AugMixCallback", {"sklearn", "hydra"}),
    ],
)
def test_imports_bring_in_no_more_than_they_need(statement, absent):
    program = f"import sys; {statement}; print(*{absent!r} & sys.modules.keys())"
    output = subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True, capture_output=True, text=True)
    assert not output.stdout.strip()
