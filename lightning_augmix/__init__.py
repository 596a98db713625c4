"""AugMix for PyTorch Lightning.

Source: Hendrycks et al., "AugMix: A Simple Data Processing Method to Improve Robustness and Uncertainty", ICLR 2020,
https://arxiv.org/abs/1912.02781.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_augmix._errors import PlacementError as PlacementError
    from lightning_augmix.callback import AugMixCallback as AugMixCallback
    from lightning_augmix.functional import apply_plan as apply_plan
    from lightning_augmix.functional import augmix_image as augmix_image
    from lightning_augmix.injection import augment_batch as augment_batch
    from lightning_augmix.injection import augment_dataloader as augment_dataloader
    from lightning_augmix.injection import augment_dataset as augment_dataset
    from lightning_augmix.losses import JSDLoss as JSDLoss
    from lightning_augmix.losses import jsd_consistency as jsd_consistency
    from lightning_augmix.operations import augmentation_sets as augmentation_sets
    from lightning_augmix.plans.plan import AugMixPlan as AugMixPlan
    from lightning_augmix.plans.plan import sample_plan as sample_plan
    from lightning_augmix.robustness.computed import compute_corruptions as compute_corruptions
    from lightning_augmix.robustness.evaluate import evaluate_robustness as evaluate_robustness
    from lightning_augmix.robustness.report import RobustnessReport as RobustnessReport
    from lightning_augmix.robustness.sequences import compute_perturbations as compute_perturbations
    from lightning_augmix.transform import AugmentAndMixTransform as AugmentAndMixTransform

__version__ = "0.2.0"

# Imported on first use: Hydra loads the config schemas within every Hydra application, which must not cost it torch,
# and Lightning comes in with the callback alone.
_MODULES = {
    "AugMixCallback": "callback",
    "AugMixPlan": "plans.plan",
    "AugmentAndMixTransform": "transform",
    "JSDLoss": "losses",
    "PlacementError": "_errors",
    "RobustnessReport": "robustness.report",
    "apply_plan": "functional",
    "augment_batch": "injection",
    "augment_dataloader": "injection",
    "augment_dataset": "injection",
    "augmentation_sets": "operations",
    "augmix_image": "functional",
    "compute_corruptions": "robustness.computed",
    "compute_perturbations": "robustness.sequences",
    "evaluate_robustness": "robustness.evaluate",
    "jsd_consistency": "losses",
    "sample_plan": "plans.plan",
}
__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
