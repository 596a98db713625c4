"""What Lightning notes on loaders: how it builds them anew.

In hooks such as ``train_dataloader``, and in functions that Fabric launches, Lightning notes on every ``DataLoader``
the arguments of its constructor, and each assignment to its attributes after that. It builds loaders anew from these
notes, to put in another sampler. A copy of a loader has the notes of the original, and so would be built over its
dataset.
"""

from typing import Any

from torch.utils.data import DataLoader

__all__ = ["keep_when_built_anew", "separate_notes"]

_ARGUMENTS = "__pl_saved_args"
_ASSIGNMENTS = "__pl_attrs_record"


def separate_notes(loader: DataLoader[Any]) -> None:
    """Keeps what is noted on a shallow copy of a loader apart from what is noted on the original.

    Args:
        loader: The copy.
    """
    if _ASSIGNMENTS in vars(loader):
        vars(loader)[_ASSIGNMENTS] = list(vars(loader)[_ASSIGNMENTS])


def keep_when_built_anew(loader: DataLoader[Any]) -> None:
    """Lets a loader that Lightning builds from the notes on another one have the dataset and collate function of it.

    Args:
        loader: The loader that may have notes.
    """
    if _ARGUMENTS in vars(loader):
        # Among the assignments, which Lightning repeats as `function(loader, *values)`: it does not matter then whether
        # the arguments name the dataset, or a path from which the loader makes it.
        assignments = vars(loader).setdefault(_ASSIGNMENTS, [])
        assignments.append(((loader.dataset, loader.collate_fn), _take_over))


def _take_over(loader: DataLoader[Any], dataset: Any, collate_fn: Any) -> None:
    loader.__dict__["dataset"] = dataset
    loader.collate_fn = collate_fn
    keep_when_built_anew(loader)
