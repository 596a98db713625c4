"""Plans: every random choice AugMix makes for an image, drawn from a 64-bit key."""

from lightning_augmix.plans.hyperparameters import Hyperparameters, validate
from lightning_augmix.plans.plan import AugMixPlan, Chain, draw_plan, sample_plan

__all__ = ["AugMixPlan", "Chain", "Hyperparameters", "draw_plan", "sample_plan", "validate"]
