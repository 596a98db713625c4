"""AugMix for PyTorch Lightning.

Source: Hendrycks et al., "AugMix: A Simple Data Processing Method to Improve Robustness and Uncertainty", ICLR 2020,
https://arxiv.org/abs/1912.02781.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_augmix.callback import AugMixCallback
    from lightning_augmix.consistency import JSDLoss, jsd_consistency
    from lightning_augmix.functional import apply_plan, augmix_image
    from lightning_augmix.injection import augment_dataloader, augment_dataset
    from lightning_augmix.operations import augmentation_sets
    from lightning_augmix.plan import AugMixPlan, sample_plan
    from lightning_augmix.report import RobustnessReport
    from lightning_augmix.robustness import evaluate_robustness
    from lightning_augmix.transform import AugmentAndMixTransform

__all__ = [
    "AugMixCallback",
    "AugMixPlan",
    "AugmentAndMixTransform",
    "JSDLoss",
    "RobustnessReport",
    "apply_plan",
    "augment_dataloader",
    "augment_dataset",
    "augmentation_sets",
    "augmix_image",
    "evaluate_robustness",
    "jsd_consistency",
    "sample_plan",
]

__version__ = "0.1.0"

# Imported on first use: Hydra loads the config schemas within every Hydra application, which must not cost it torch,
# and Lightning comes in with the callback alone.
_MODULES = {
    "AugMixCallback": "callback",
    "AugMixPlan": "plan",
    "AugmentAndMixTransform": "transform",
    "JSDLoss": "consistency",
    "RobustnessReport": "report",
    "apply_plan": "functional",
    "augment_dataloader": "injection",
    "augment_dataset": "injection",
    "augmentation_sets": "operations",
    "augmix_image": "functional",
    "evaluate_robustness": "robustness",
    "jsd_consistency": "consistency",
    "sample_plan": "plan",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
