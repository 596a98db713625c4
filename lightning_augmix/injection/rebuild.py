"""Copies datasets along a decision, once; what does not change is shared."""

import copy
from collections.abc import Callable, Mapping
from itertools import count
from typing import Any

from torch.utils.data import ChainDataset
from torchvision.datasets.vision import StandardTransform

from lightning_augmix.injection.copies import copy_dataset
from lightning_augmix.injection.decide import Decision
from lightning_augmix.injection.pipeline import after_augmix
from lightning_augmix.injection.survey import Node, survey
from lightning_augmix.transform import AugmentAndMixTransform

__all__ = ["rebuild", "throw_away_copy"]


def rebuild(decision: Decision, transform: AugmentAndMixTransform, guarded: Callable[[Any], Any]) -> Any:
    """Returns a copy of the dataset with AugMix in its transforms.

    Args:
        decision: What was decided; it has insertions.
        transform: AugMix; each place has a copy of it, whose keys name the place.
        guarded: Returns a copy of a dataset that guards its samples.

    Raises:
        PlacementError: If the type of a dataset does not allow it.
    """
    places = count(1)

    def changes(node: Node, held: Mapping[Any, Any]) -> dict[str, Any] | None:
        changed = {}
        if node in decision.insertions:
            own = copy.copy(transform)
            own.keys = transform.keys.at(next(places))
            changed[decision.insertions[node].attribute] = decision.inserted(node, own)
        elif not held:
            return None
        elif transform.views or transform.on_device:
            before = vars(node.dataset)
            outer = {*node.pipelines, *node.named} & before.keys()
            changed = {name: after_augmix(transform, before[name]) for name in outer}
        if isinstance(node.dataset, ChainDataset):
            # Each guards its own samples: those of the others would hide that one ignores its transform.
            held = {name: guarded(dataset) for name, dataset in held.items()}
        return changed | _holding(node, held)

    return _copied(decision.root, changes, copy_dataset)


def throw_away_copy(dataset: Any) -> Any:
    """Returns a copy of a dataset and of those it holds, unguarded, for an experiment.

    What they hold otherwise is shared, also lists and dictionaries: these may be large, and worker processes share
    their memory.

    Args:
        dataset: A dataset.
    """

    def changes(node: Node, held: Mapping[Any, Any]) -> dict[str, Any] | None:
        return _holding(node, held) if hasattr(node.dataset, "__dict__") and not node.is_repeated else None

    return _copied(survey(dataset), changes, lambda original: copy_dataset(original, own_containers=False))


_Changes = Callable[[Node, Mapping[Any, Any]], dict[str, Any] | None]


def _copied(root: Node, changes: _Changes, copier: Callable[[Any], Any]) -> Any:
    """Copies each dataset for which ``changes`` tells new attributes, given the copies of those it holds."""
    copies: dict[Node, Any] = {}

    def copied(node: Node) -> Any:
        # A dataset that is twice in a ConcatDataset stays one dataset.
        if node not in copies:
            made = {name: copied(held) for name, held in node.held.items()}
            changed = changes(node, {name: new for name, new in made.items() if new is not node.held[name].dataset})
            copies[node] = node.dataset if changed is None else _with(copier(node.dataset), changed)
        return copies[node]

    return copied(root)


def _holding(node: Node, held: Mapping[Any, Any]) -> dict[str, Any]:
    if not node.is_collection:
        return dict(held)
    members = {name: held.get(name, member.dataset) for name, member in node.held.items()}
    return {"datasets": members if isinstance(node.dataset.datasets, dict) else list(members.values())}


def _with(dataset: Any, changed: dict[str, Any]) -> Any:
    attributes = vars(dataset)
    both = attributes.get("transforms")
    if "transform" in changed and isinstance(both, StandardTransform) and both.transform is attributes.get("transform"):
        changed["transforms"] = StandardTransform(changed["transform"], both.target_transform)
    attributes.update(changed)
    return dataset
